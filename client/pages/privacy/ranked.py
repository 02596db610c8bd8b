"""What is shown to the person, in which order and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from client.device import Device
from client.intelligence import explain
from client.intelligence.explain import Explanation, Reason
from client.intelligence.ranking import Ranked
from client.intelligence.recipe import HIDDEN
from client.intelligence.uses import Uses
from client.pages.privacy import words

ITEMS_MAX = 25
_SHOWN_MIN = 0.0005
"""A smaller part of a score than this is not worth a line."""


@dataclass(frozen=True, slots=True)
class Why:
    """One thing that moved an item."""

    amount: str
    up: bool
    what: str
    reach: str
    source: str


@dataclass(frozen=True, slots=True)
class Place:
    """One item of a list."""

    item: str = field(repr=False)
    score: str
    whys: tuple[Why, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class RankedList:
    """One collection's items, best first."""

    name: str
    purpose: str
    places: tuple[Place, ...]
    more: int


def lists(
    device: Device, rankings: Mapping[str, Sequence[Ranked]], *, purpose: str
) -> list[RankedList]:
    """Each ranking for a page, by its collection's name."""
    found = []
    for name, ranked in rankings.items():
        places = [_place(device, item.item, ranked) for item in ranked[:ITEMS_MAX]]
        more = max(0, len(ranked) - ITEMS_MAX)
        found.append(RankedList(name, purpose, tuple(filter(None, places)), more))
    return found


def _place(device: Device, item: str, ranked: Sequence[Ranked]) -> Place | None:
    explanation = explain.explain(item, ranked)
    if explanation is None:
        return None
    return Place(item, f"{explanation.score:+.2f}", tuple(_whys(device, explanation)))


def _whys(device: Device, explanation: Explanation) -> list[Why]:
    return [
        Why(
            amount=f"{reason.amount:+.3f}",
            up=reason.amount > 0,
            what=_what(reason),
            reach=f"It {reason.reach}.",
            source=source(device, reason),
        )
        for reason in explanation.reasons
        if abs(reason.amount) >= _SHOWN_MIN
    ]


def _what(reason: Reason) -> str:
    when = f", counted only in the context {reason.context}, as now" if reason.context else ""
    return f"{reason.words} ({reason.signal}){when}"


def source(device: Device, reason: Reason) -> str:
    """Which device a reason comes from, and when."""
    if not reason.devices:
        return "not from your profile"
    return f"{words.written_by(device, reason.devices)}, {words.day(reason.at_ms)}"


def moved(rankings: Iterable[Sequence[Ranked]]) -> Mapping[tuple[str, str], str]:
    """What each value did to the rankings, by collection and key, in words."""
    sums: dict[tuple[str, str], float] = {}
    for ranked in rankings:
        for item in ranked:
            for each in item.contributions:
                if each.fact is not None:
                    name = (each.fact.term.collection, item.item)
                    sums[name] = sums.get(name, 0.0) + each.amount
    return {name: _move(name[1], amount) for name, amount in sums.items()}


def hides(device: Device, collections: Iterable[str], uses: Uses) -> Mapping[tuple[str, str], str]:
    """What each member of the `.hidden` sets keeps out of the rankings, by collection and key;
    what may not be used hides nothing."""
    asides = [collection + HIDDEN for collection in collections]
    return {
        (aside, item): f"hides {item}"
        for aside in asides
        for item in device.members(aside)
        if uses.use_of("set", aside, item) is not None
    }


def _move(item: str, amount: float) -> str:
    if abs(amount) < _SHOWN_MIN:
        return ""
    return f"moved {item} {'up' if amount > 0 else 'down'} by {abs(amount):.2f}"
