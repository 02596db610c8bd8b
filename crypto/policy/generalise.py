"""How values are made coarser before they are checked and recorded. Pure; doing it twice is as
doing it once, so that a value that was generalised by one device is left alone by the others.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Final

from crypto.errors import FormatError
from crypto.policy import fields
from crypto.policy.fields import MICRO, Fields
from crypto.policy.values import NUMBER_MICRO_MAX, WHOLE_MAX, is_number, micro

DAY_MS: Final = 86_400_000
EDGES_MAX: Final = 64
_MICRO_MAX: Final = WHOLE_MAX * MICRO


@dataclass(frozen=True, slots=True)
class Bucket:
    """A number becomes the lower edge of its bucket; below the first edge, the first one."""

    type: ClassVar[str] = "bucket"
    edges_micro: tuple[int, ...]

    def __post_init__(self) -> None:
        for edge in self.edges_micro:
            fields.whole("an edge, in millionths,", edge, -_MICRO_MAX, _MICRO_MAX)
        fields.distinct("edges", self.edges_micro, 1, EDGES_MAX)
        if any(low > high for low, high in pairwise(self.edges_micro)):
            raise FormatError("policy-order", "edges must rise; sort them")

    def apply(self, value: object) -> object:
        """The edge; what is no number comes back as it is and is left to the range check."""
        if not _fits(value):
            return value
        assert isinstance(value, int | float)
        at = max(0, bisect_right(self.edges_micro, micro(value)) - 1)
        return _like(value, self.edges_micro[at])

    def as_map(self) -> dict[str, Any]:
        """As it is signed."""
        return {"type": self.type, "edges_micro": list(self.edges_micro)}


@dataclass(frozen=True, slots=True)
class Round:
    """A number becomes the nearest multiple of a step; halfway, the upper one."""

    type: ClassVar[str] = "round"
    step_micro: int

    def __post_init__(self) -> None:
        fields.whole("step, in millionths,", self.step_micro, 1, _MICRO_MAX)

    def apply(self, value: object) -> object:
        """The multiple; what is no number comes back as it is."""
        if not _fits(value):
            return value
        assert isinstance(value, int | float)
        steps = (2 * micro(value) + self.step_micro) // (2 * self.step_micro)
        return _like(value, steps * self.step_micro)

    def as_map(self) -> dict[str, Any]:
        """As it is signed."""
        return {"type": self.type, "step_micro": self.step_micro}


@dataclass(frozen=True, slots=True)
class Day:
    """A time in ms since 1970 becomes the beginning of its day, in UTC."""

    type: ClassVar[str] = "day"

    def apply(self, value: object) -> object:
        """The day; what is no whole number comes back as it is."""
        return value - value % DAY_MS if type(value) is int else value

    def as_map(self) -> dict[str, Any]:
        """As it is signed."""
        return {"type": self.type}


@dataclass(frozen=True, slots=True)
class TopK:
    """Of a collection only the `k` largest scores, or `k` members, stay; see `keep`."""

    type: ClassVar[str] = "top_k"
    k: int

    def __post_init__(self) -> None:
        fields.whole("k", self.k, 1, 1_000)

    def apply(self, value: object) -> object:
        """One value alone is not changed by it."""
        return value

    def keep(self, ranked: Mapping[str, float]) -> frozenset[str]:
        """The keys that stay; of equal ones those whose names come first."""
        order = sorted(ranked, key=lambda key: (-ranked[key], key))
        return frozenset(order[: self.k])

    def as_map(self) -> dict[str, Any]:
        """As it is signed."""
        return {"type": self.type, "k": self.k}


Generaliser = Bucket | Round | Day | TopK
TYPES: Final = tuple(one.type for one in (Bucket, Round, Day, TopK))


def apply(generalisers: Iterable[Generaliser], value: object) -> object:
    """The value after all of them, in their order."""
    for one in generalisers:
        value = one.apply(value)
    return value


def _fits(value: object) -> bool:
    """Whether it is a number of a size that any signal could admit, and that is reckoned with
    exactly: what is beyond is left as it is, for the range check to refuse."""
    if not is_number(value):
        return False
    assert isinstance(value, int | float)
    return abs(micro(value)) <= (_MICRO_MAX if type(value) is int else NUMBER_MICRO_MAX)


def _like(value: float, millionths: int) -> float:
    """A whole number stays one where it can."""
    if type(value) is int and millionths % MICRO == 0:
        return millionths // MICRO
    return millionths / MICRO


def of(value: object) -> Generaliser:
    """From its map; FormatError."""
    read = Fields(value)
    made = _of(read.take("type"), read)
    read.done()
    return made


def _of(kind: object, read: Fields) -> Generaliser:
    match kind:
        case "bucket":
            edges = read.take("edges_micro")
            if type(edges) is not list:
                raise FormatError("policy-type", "edges must be a list")
            return Bucket(tuple(edges))
        case "round":
            return Round(read.take("step_micro"))
        case "day":
            return Day()
        case "top_k":
            return TopK(read.take("k"))
        case _:
            raise FormatError("policy-word", f"type must be one of: {', '.join(TYPES)}")
