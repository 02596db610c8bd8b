"""A ranking of items out of facts and a prior: a weighted mean of evidence, and nothing hidden.

For each item: score = (sum of units + k * prior) / (sum of strengths + k), the mean of what the
person's devices say and what is popular, where the prior weighs as much as k units of evidence.
That is the posterior mean of a normal model (an item's value varies between people about its
popularity, and what one says of it varies about their value), so it is between -1 and 1.

Deterministic: equal inputs give equal rankings on every device; of equal scores the first name
comes first. Every contribution is a summand, so that an explanation is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from client.intelligence.facts import Fact, Facts
from client.intelligence.recipe import Recipe

MODEL_MAX: Final = 1.0
"""The model's influences together move an item by so much at most: as far as a whole unit."""


@dataclass(frozen=True, slots=True)
class Prior:
    """What is popular, of one item; see `client.intelligence.blend`."""

    mean: float
    """From -1 to 1, already drawn towards what holds for all items as its noise demands."""
    weight: float
    """Units of evidence that it is worth."""
    source: str
    """Which result it comes from, in words."""


@dataclass(frozen=True, slots=True)
class Influence:
    """One summand of a model's logit for an item."""

    feature: str
    amount: float


@dataclass(frozen=True, slots=True)
class Contribution:
    """One summand of an item's score."""

    amount: float
    fact: Fact | None = None
    prior: Prior | None = None
    influence: Influence | None = None

    def __repr__(self) -> str:
        return "Contribution(content hidden)"


@dataclass(frozen=True, slots=True)
class Ranked:
    """An item, its score, and the summands of the score."""

    item: str = field(repr=False)
    score: float = field(repr=False)
    contributions: tuple[Contribution, ...] = field(repr=False)

    @property
    def total(self) -> float:
        """What the contributions add up to: the score, but for the last digit of a float."""
        return math.fsum(one.amount for one in self.contributions)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What is not from the profile: both may be empty."""

    priors: Mapping[str, Prior] = field(default_factory=dict)
    influences: Mapping[str, Sequence[Influence]] = field(default_factory=dict)
    """By item, as `Model.influences` gives them."""
    model_weight: float = 0.25
    """Score for one unit of the model's logit."""


NOTHING_ELSE: Final = Elsewhere()


def rank(
    facts: Facts,
    recipe: Recipe,
    *,
    items: Iterable[str] | None = None,
    elsewhere: Elsewhere = NOTHING_ELSE,
) -> list[Ranked]:
    """The items, best first. `items`: what there is to rank; by default all that the profile, the
    prior or the model knows of. Hidden ones are never among them."""
    every = facts.by_item.keys() | elsewhere.priors.keys() | elsewhere.influences.keys()
    known = every if items is None else set(items)
    scored = [score(item, facts, recipe, elsewhere) for item in known - facts.hidden]
    return sorted(scored, key=lambda one: (-one.score, one.item))


def score(
    item: str, facts: Facts, recipe: Recipe, elsewhere: Elsewhere = NOTHING_ELSE
) -> Ranked:  # fmt: skip
    """One item's score with its summands."""
    said = facts.by_item.get(item, ())
    prior = elsewhere.priors.get(item)
    weight = recipe.calm if prior is None else prior.weight
    whole = math.fsum(fact.strength for fact in said) + weight
    summands = [Contribution(fact.units / whole, fact=fact) for fact in said]
    if prior is not None:
        summands.append(Contribution(prior.weight * prior.mean / whole, prior=prior))
    summands += _model(elsewhere.influences.get(item, ()), elsewhere.model_weight)
    return Ranked(item, math.fsum(one.amount for one in summands), tuple(summands))


def _model(influences: Sequence[Influence], weight: float) -> list[Contribution]:
    """Each influence by its weight; all shrunk alike where they would move an item too far."""
    total = abs(weight * math.fsum(one.amount for one in influences))
    shrink = weight * min(1.0, MODEL_MAX / total) if total else weight
    return [Contribution(one.amount * shrink, influence=one) for one in influences]
