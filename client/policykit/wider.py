"""Whether one part of a bundle allows more than another did. In doubt it does."""

from __future__ import annotations

from collections.abc import Sequence

from crypto.policy.access import ANY as ANY_PURPOSE, Access, Grant
from crypto.policy.fields import MICRO
from crypto.policy.generalise import Bucket, Day, Generaliser, Round, TopK
from crypto.policy.signals import ANY, Reach, Signal
from crypto.policy.values import (
    Boolean,
    Choices,
    Delta,
    Members,
    Number,
    Text,
    Values,
    Vector,
    Whole,
)

_REACH = tuple(Reach)


def values(old: Values, new: Values) -> bool:
    """More values, or finer ones."""
    match old, new:
        case Whole(), Whole():
            return new.low < old.low or new.high > old.high
        case Number(), Whole():
            return new.low * MICRO < old.low_micro or new.high * MICRO > old.high_micro
        case Number(), Number():
            return new.low_micro < old.low_micro or new.high_micro > old.high_micro
        case Choices(), Choices():
            return not set(new.choices) <= set(old.choices)
        case Boolean(), Boolean():
            return False
        case Text(), Text():
            return new.chars_max > old.chars_max
        case Text(), Choices():
            return any(len(choice) > old.chars_max for choice in new.choices)
        case Vector(), Vector():
            return (
                new.size > old.size
                or new.low_micro < old.low_micro
                or new.high_micro > old.high_micro
            )
        case Delta(), Delta():
            return (
                new.low_micro < old.low_micro
                or new.high_micro > old.high_micro
                or new.cap_micro > old.cap_micro
            )
        case Members(), Members():
            return new.members_max > old.members_max
        case _:
            return True


def keys(old: Signal, new: Signal) -> bool:
    """Names that were not the signal's before."""
    if new.keys == (ANY,):
        return old.keys != (ANY,)
    return not all(old.covers(old.collection, key) for key in new.keys)


def less_generalised(old: Sequence[Generaliser], new: Sequence[Generaliser]) -> bool:
    """Some step is gone, finer, or in another place among the others."""
    rest = iter(new)
    return not all(any(_as_coarse(step, one) for one in rest) for step in old)


def _as_coarse(old: Generaliser, new: Generaliser) -> bool:
    match old, new:
        case Bucket(), Bucket():
            return set(new.edges_micro) <= set(old.edges_micro)
        case Round(), Round():
            return new.step_micro % old.step_micro == 0
        case Day(), Day():
            return True
        case TopK(), TopK():
            return new.k <= old.k
        case _:
            return False


def reach(old: Reach, new: Reach) -> bool:
    """Further than before."""
    return _REACH.index(new) > _REACH.index(old)


def grant(old: Access, new: Grant) -> bool:
    """A call, or a purpose of it, that its role had not."""
    before = [
        one
        for one in old.grants
        if one.role == new.role
        and one.method in (new.method, new.method.rpartition("/")[0] + "/*")
    ]  # fmt: skip
    if any(one.purposes == (ANY_PURPOSE,) for one in before):
        return False
    had = {purpose for one in before for purpose in one.purposes}
    return not before or not set(new.purposes) <= had
