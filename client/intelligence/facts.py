"""What the profile says of items, with where each saying comes from: all that a ranking sees.

Taken once, so that a ranking is a pure function of it. What may not be used is not in it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from client.device import Device
from client.intelligence.recipe import STRENGTH_MAX, Recipe, Term
from client.intelligence.uses import Use, Uses
from client.origins import Origin


@dataclass(frozen=True, slots=True)
class Fact:
    """One saying of one device: a rating, a membership, or its share of a score."""

    term: Term
    use: Use
    origin: Origin
    units: float
    """Evidence, weighed: above 0 it speaks for the item."""

    @property
    def strength(self) -> float:
        """How much evidence it is, whichever way it speaks. A rating that is in the middle is
        evidence too: that the item is in the middle."""
        return abs(self.term.weight) if self.term.kind == "setting" else abs(self.units)

    def __repr__(self) -> str:
        return f"Fact({self.use.signal}, content hidden)"


@dataclass(frozen=True, slots=True)
class Facts:
    """By item, in a fixed order."""

    by_item: Mapping[str, tuple[Fact, ...]]
    hidden: frozenset[str] = frozenset()

    @property
    def items(self) -> tuple[str, ...]:
        """What is known of, sorted; what is hidden is left out."""
        return tuple(sorted(self.by_item.keys() - self.hidden))

    def __repr__(self) -> str:
        return f"Facts({len(self.by_item)} items, content hidden)"


def take(
    device: Device, recipe: Recipe, uses: Uses, *, features: tuple[str, ...] = (), now_ms: int
) -> Facts:
    """What the profile says for a recipe in a context, of what may be used now."""
    found: dict[str, list[Fact]] = defaultdict(list)
    for term in recipe.active(features):
        for item, fact in _of_term(device, term, uses, now_ms):
            found[item].append(fact)
    return Facts(
        {item: tuple(found[item]) for item in sorted(found)}, _hidden(device, recipe, uses)
    )


def _hidden(device: Device, recipe: Recipe, uses: Uses) -> frozenset[str]:
    if recipe.hidden is None:
        return frozenset()
    members = device.members(recipe.hidden)
    return frozenset(one for one in members if uses.use_of("set", recipe.hidden, one))


def _of_term(
    device: Device, term: Term, uses: Uses, now_ms: int
) -> Iterator[tuple[str, Fact]]:  # fmt: skip
    if term.kind == "score":
        yield from _scores(device, term, uses, now_ms)
        return
    origins = device.origins
    for item, value in device.list(term.collection).items():
        units = _units(term, value)
        use = None if units is None else uses.use_of(term.kind, term.collection, item)
        origin = None if use is None else origins.setting(term.collection, item)
        if units is None or use is None or origin is None:
            continue
        if use.counts(origin.at_ms, now_ms=now_ms):
            yield item, Fact(term, use, origin, units)


def _units(term: Term, value: object) -> float | None:
    """None for what is no rating, or no member."""
    if term.kind == "set":
        return term.weight if value is True else None
    if type(value) not in (int, float):
        return None
    assert isinstance(value, int | float)
    return term.weight * max(-1.0, min(1.0, (value - term.centre) / term.reach))


def _scores(
    device: Device, term: Term, uses: Uses, now_ms: int
) -> Iterator[tuple[str, Fact]]:  # fmt: skip
    origins = device.origins
    for item in device.scores(term.collection, now_ms=now_ms):
        use = uses.use_of("score", term.collection, item)
        if use is None:
            continue
        parts = [
            (part.at(now_ms, use.half_life_ms), origin)
            for part, origin in origins.parts(term.collection, item)
            if use.counts(origin.at_ms, now_ms=now_ms)
        ]
        total = math.fsum(value for value, _ in parts)
        # Beyond the most that counts, each device's share shrinks alike.
        shrink = min(1.0, STRENGTH_MAX / abs(total)) if total else 1.0
        for value, origin in parts:
            if value:
                yield item, Fact(term, use, origin, term.weight * value * shrink)
