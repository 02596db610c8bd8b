"""What a signal's values may be. Whatever lies outside is refused before it is recorded.

Whole numbers bear their own unit. Numbers that need not be whole have bounds in millionths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Final

from crypto.errors import FormatError
from crypto.policy import fields
from crypto.policy.fields import MICRO, Fields

WHOLE_MAX: Final = 9_000_000_000_000
"""Times in ms until the year 2255; in millionths it still has 64 bits."""
NUMBER_MICRO_MAX: Final = 1 << 50
"""Up to here a float tells all millionths apart: going there and back changes none."""
CHOICES_MAX: Final = 128
CHARS_MAX: Final = 4_096
SIZE_MAX: Final = 4_096
MEMBERS_MAX: Final = 10_000


def micro(value: float) -> int:
    """A finite number in millionths, the nearest one."""
    return round(Fraction(value) * MICRO)


def is_number(value: object) -> bool:
    """Whether it is a whole number or a finite float; no boolean."""
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _within(value: object, low_micro: int, high_micro: int) -> bool:
    if not is_number(value):
        return False
    assert isinstance(value, int | float)
    # The float nearest to a bound counts as the bound, though most are not exactly it.
    return low_micro <= micro(value) <= high_micro


def _ordered(low: object, high: object, most: int, unit: str = "") -> None:
    fields.whole(f"low{unit}", low, -most, most)
    fields.whole(f"high{unit}", high, -most, most)
    assert isinstance(low, int)
    assert isinstance(high, int)
    if low > high:
        raise FormatError("policy-range", "low must not be above high")


@dataclass(frozen=True, slots=True)
class Whole:
    """A setting: a whole number from `low` to `high`."""

    type: ClassVar[str] = "whole"
    low: int
    high: int

    def __post_init__(self) -> None:
        _ordered(self.low, self.high, WHOLE_MAX)

    def admits(self, value: object) -> bool:
        """Whether a value is one of these."""
        return type(value) is int and self.low <= value <= self.high

    def as_map(self) -> dict[str, Any]:
        """As it is signed."""
        return {"type": self.type, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Number:
    """A setting: any number between two bounds."""

    type: ClassVar[str] = "number"
    low_micro: int
    high_micro: int

    def __post_init__(self) -> None:
        _ordered(self.low_micro, self.high_micro, NUMBER_MICRO_MAX, "_micro")

    def admits(self, value: object) -> bool:
        """Whether a value is one of these."""
        return _within(value, self.low_micro, self.high_micro)

    def as_map(self) -> dict[str, Any]:
        """As it is signed."""
        return {"type": self.type, "low_micro": self.low_micro, "high_micro": self.high_micro}


@dataclass(frozen=True, slots=True)
class Choices:
    """A setting: one of some texts."""

    type: ClassVar[str] = "choices"
    choices: tuple[str, ...]

    def __post_init__(self) -> None:
        fields.distinct("choices", self.choices, 1, CHOICES_MAX)
        for one in self.choices:
            fields.text("a choice", one, 128)

    def admits(self, value: object) -> bool:
        """Whether a value is one of these."""
        return type(value) is str and value in self.choices

    def as_map(self) -> dict[str, Any]:
        """As it is signed."""
        return {"type": self.type, "choices": list(self.choices)}


@dataclass(frozen=True, slots=True)
class Boolean:
    """A setting: true or false."""

    type: ClassVar[str] = "boolean"

    def admits(self, value: object) -> bool:
        """Whether a value is one of these."""
        return type(value) is bool

    def as_map(self) -> dict[str, Any]:
        """As it is signed."""
        return {"type": self.type}


@dataclass(frozen=True, slots=True)
class Text:
    """A setting: a free text. Nothing about it can be generalised."""

    type: ClassVar[str] = "text"
    chars_max: int

    def __post_init__(self) -> None:
        fields.whole("chars_max", self.chars_max, 1, CHARS_MAX)

    def admits(self, value: object) -> bool:
        """Whether a value is one of these."""
        return type(value) is str and len(value) <= self.chars_max

    def as_map(self) -> dict[str, Any]:
        """As it is signed."""
        return {"type": self.type, "chars_max": self.chars_max}


@dataclass(frozen=True, slots=True)
class Vector:
    """A setting: a list of exactly `size` numbers between two bounds, as of a model."""

    type: ClassVar[str] = "vector"
    size: int
    low_micro: int
    high_micro: int

    def __post_init__(self) -> None:
        fields.whole("size", self.size, 1, SIZE_MAX)
        _ordered(self.low_micro, self.high_micro, NUMBER_MICRO_MAX, "_micro")

    def admits(self, value: object) -> bool:
        """Whether a value is one of these."""
        return (
            type(value) is list
            and len(value) == self.size
            and all(_within(item, self.low_micro, self.high_micro) for item in value)
        )

    def as_map(self) -> dict[str, Any]:
        """As it is signed."""
        return {
            "type": self.type,
            "size": self.size,
            "low_micro": self.low_micro,
            "high_micro": self.high_micro,
        }


@dataclass(frozen=True, slots=True)
class Delta:
    """A score: how much may be added at once, and how far from 0 its total may come."""

    type: ClassVar[str] = "delta"
    low_micro: int
    high_micro: int
    cap_micro: int

    def __post_init__(self) -> None:
        _ordered(self.low_micro, self.high_micro, NUMBER_MICRO_MAX, "_micro")
        fields.whole("cap_micro", self.cap_micro, 1, NUMBER_MICRO_MAX)

    def admits(self, value: object) -> bool:
        """Whether so much may be added at once; the cap is not looked at."""
        return _within(value, self.low_micro, self.high_micro)

    def admits_total(self, total: object) -> bool:
        """Whether a score may stand so."""
        return _within(total, -self.cap_micro, self.cap_micro)

    def as_map(self) -> dict[str, Any]:
        """As it is signed."""
        return {
            "type": self.type,
            "low_micro": self.low_micro,
            "high_micro": self.high_micro,
            "cap_micro": self.cap_micro,
        }


@dataclass(frozen=True, slots=True)
class Members:
    """A set: how many members it may have. Which ones, the signal's keys say."""

    type: ClassVar[str] = "members"
    members_max: int

    def __post_init__(self) -> None:
        fields.whole("members_max", self.members_max, 1, MEMBERS_MAX)

    def admits(self, value: object) -> bool:
        """Membership itself is all that is ever recorded."""
        return value is True

    def as_map(self) -> dict[str, Any]:
        """As it is signed."""
        return {"type": self.type, "members_max": self.members_max}


Values = Whole | Number | Choices | Boolean | Text | Vector | Delta | Members
OF_KIND: Final = {
    "setting": (Whole, Number, Choices, Boolean, Text, Vector),
    "score": (Delta,),
    "set": (Members,),
}
TYPES: Final = tuple(one.type for kind in OF_KIND.values() for one in kind)


def of(value: object) -> Values:
    """From its map; FormatError."""
    read = Fields(value)
    made = _of(read.take("type"), read)
    read.done()
    return made


def _of(kind: object, read: Fields) -> Values:
    match kind:
        case "whole":
            return Whole(read.take("low"), read.take("high"))
        case "number":
            return Number(read.take("low_micro"), read.take("high_micro"))
        case "choices":
            return Choices(fields.texts("choices", read.take("choices")))
        case "boolean":
            return Boolean()
        case "text":
            return Text(read.take("chars_max"))
        case "vector":
            return Vector(read.take("size"), read.take("low_micro"), read.take("high_micro"))
        case "delta":
            return Delta(
                read.take("low_micro"), read.take("high_micro"), read.take("cap_micro")
            )  # fmt: skip
        case "members":
            return Members(read.take("members_max"))
        case _:
            raise FormatError("policy-word", f"type must be one of: {', '.join(TYPES)}")
