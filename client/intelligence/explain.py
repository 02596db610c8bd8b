"""Why an item stands where it stands: what moved it, by how much, and where that came from.

The amounts are the summands of the score themselves, not an estimate of them: they add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from client.intelligence.facts import Fact
from client.intelligence.ranking import Contribution, Ranked
from client.intelligence.uses import REACHES

_SAID: Final = {
    "setting": "your rating",
    "score": "what you did with it",
    "set": "you put it there",
}
POPULARITY, MODEL = "popularity", "model"
_AGGREGATE_REACH: Final = "came from a joint aggregate; nothing of yours was sent for this ranking"
_MODEL_REACH: Final = "is worked out on this device"


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that moved an item."""

    amount: float
    """Its summand of the score: above 0 it moved the item up."""
    sort: str
    """`setting`, `score`, `set`, `popularity` or `model`."""
    signal: str
    """The signal's name, the result's, or the model's feature."""
    words: str
    reach: str
    """How far what it is made of gets, as a sentence's end."""
    context: str | None = None
    """The feature of the context in which it counts."""
    devices: tuple[int, ...] = ()
    """Indexes of the devices one of which recorded it; none: it is not from the profile."""
    at_ms: int | None = None
    waiting: bool = False
    """It has not left this device yet."""

    def __repr__(self) -> str:
        return f"Reason({self.sort}, content hidden)"

    def data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "amount": self.amount,
            "sort": self.sort,
            "signal": self.signal,
            "what": self.words,
            "reach": self.reach,
            "context": self.context,
            "devices": list(self.devices),
            "at_ms": self.at_ms,
            "waiting": self.waiting,
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """An item's place and why."""

    item: str
    score: float
    place: int
    of: int
    reasons: tuple[Reason, ...]
    """The largest first, whichever way they move it."""

    def __repr__(self) -> str:
        return f"Explanation({len(self.reasons)} reasons, content hidden)"

    @property
    def sentence(self) -> str:
        """The gist."""
        if not self.reasons:
            return f"{self.item}: nothing is known of it that may be used"
        return f"{self.item}: place {self.place} of {self.of}, score {self.score:+.3f}"


def explain(item: str, ranking: Sequence[Ranked]) -> Explanation | None:
    """Of an item of this ranking; None if it is not in it (or hidden)."""
    for place, one in enumerate(ranking, 1):
        if one.item == item:
            reasons = sorted(
                (_reason(each) for each in one.contributions),
                key=lambda reason: (
                    -abs(reason.amount),
                    reason.sort,
                    reason.signal,
                    reason.devices,
                ),
            )
            return Explanation(item, one.score, place, len(ranking), tuple(reasons))
    return None


def by_signal(explanation: Explanation) -> Mapping[str, float]:
    """The amounts of each signal together, largest first."""
    sums: dict[str, float] = {}
    for reason in explanation.reasons:
        sums[reason.signal] = sums.get(reason.signal, 0.0) + reason.amount
    return dict(sorted(sums.items(), key=lambda one: (-abs(one[1]), one[0])))


def _reason(one: Contribution) -> Reason:
    if one.fact is not None:
        return _of_fact(one.amount, one.fact)
    if one.prior is not None:
        return Reason(
            one.amount, POPULARITY, one.prior.source, "what is popular", _AGGREGATE_REACH
        )  # fmt: skip
    assert one.influence is not None
    return Reason(one.amount, MODEL, one.influence.feature, "the model's feature", _MODEL_REACH)


def _of_fact(amount: float, fact: Fact) -> Reason:
    term, origin = fact.term, fact.origin
    return Reason(
        amount=amount,
        sort=term.kind,
        signal=fact.use.signal,
        words=_SAID[term.kind],
        reach=REACHES[fact.use.reach],
        context=term.when,
        devices=origin.devices,
        at_ms=origin.at_ms,
        waiting=origin.waiting,
    )
