"""What a ranking is made of: which parts of the profile speak for an item, and how much.

Each term gives evidence: so much of it, for or against. A rating of 5 on a scale of 1 to 5 is
one unit for, a rating of 1 one unit against, a score of 3 is three units for, and membership of
a set one unit. Weights are multiples of that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from client.errors import UserError
from client.gate import Kind
from client.intelligence.context import FEATURES

STRENGTH_MAX: Final = 50.0
"""More evidence than this of one term counts as so much: no single habit decides alone."""
CONTEXT_WEIGHT: Final = 0.5
HIDDEN: Final = ".hidden"
"""Behind a collection's name: the set of its items that are not to be seen."""


@dataclass(frozen=True, slots=True)
class Term:
    """One collection whose keys are items."""

    kind: Kind
    collection: str
    weight: float = 1.0
    """Units of evidence; below 0 it speaks against where it would speak for."""
    centre: float = 3.0
    """Of a setting that is a number: what speaks neither for nor against."""
    reach: float = 2.0
    """So far from the centre it is one whole unit."""
    when: str | None = None
    """It counts in this context only."""

    def __post_init__(self) -> None:
        if self.reach <= 0 or not abs(self.weight) <= STRENGTH_MAX:
            raise UserError(f"a term has a reach above 0 and a weight up to {STRENGTH_MAX:g}")
        if self.when is not None and self.when not in FEATURES:
            raise UserError(f"a term's context is one of: {', '.join(FEATURES)}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The terms of a ranking, and what is never in it."""

    terms: tuple[Term, ...]
    hidden: str | None = None
    """A set of items that the person does not want to see."""
    calm: float = 1.0
    """Units of evidence that the popularity prior weighs, where it says nothing itself; without
    any prior they speak neither for nor against, so that a single click is no passion."""

    def __post_init__(self) -> None:
        if not self.terms or self.calm <= 0:
            raise UserError("a recipe has at least one term, and its calm is above 0")

    @classmethod
    def of(cls, collection: str) -> Recipe:
        """What fits most apps: ratings of 1 to 5, scores and set members under one collection's
        name; scores of `COLLECTION.at.FEATURE` in that context; `COLLECTION.hidden` left out."""
        return cls(
            (
                Term("setting", collection),
                Term("score", collection),
                Term("set", collection),
                *(
                    Term("score", at_context(collection, feature), CONTEXT_WEIGHT, when=feature)
                    for feature in FEATURES
                ),
            ),
            hidden=collection + HIDDEN,
        )

    def active(self, features: tuple[str, ...]) -> Iterator[Term]:
        """The terms that count in a context."""
        return (term for term in self.terms if term.when is None or term.when in features)


def at_context(collection: str, feature: str) -> str:
    """Where the scores of a context are kept, beside those of all."""
    return f"{collection}.at.{feature}"
