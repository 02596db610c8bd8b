"""Kinds of one bounded whole number: `sum` and `mean`, the latter with its variance if asked.

What is summed are distances from the middle of the range, which wrap last. How many reports
there are is known exactly, so the middle is added back when the sums are decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import ClassVar

from crypto.errors import FormatError
from crypto.field import Array
from mpc.kinds.base import Kind
from mpc.kinds.equations import Equation, Equations, Form, element
from mpc.kinds.ranges import Range
from mpc.kinds.results import Groups, Sums, moments


@dataclass(frozen=True)
class _Bounded(Kind):
    """A whole number from `low` to `high`, as the bits of a `Range`."""

    low: int
    high: int

    @cached_property
    def range(self) -> Range:
        """The bounds."""
        return Range(self.low, self.high)

    def _check(self) -> None:
        _ = self.range

    @property
    def d(self) -> int:
        return 1

    @property
    def length(self) -> int:
        return self.range.bits

    @property
    def output_max(self) -> int:
        return self.range.reach

    @property
    def equation_max(self) -> int:
        return 1  # bits and nothing else

    @property
    def l1(self) -> int:
        return self.high - self.low

    @property
    def l2_squared(self) -> int:
        return (self.high - self.low) ** 2

    @cached_property
    def equations(self) -> Equations:
        """Bits, which can't make a number outside the range."""
        return Equations(self.field, self.range.bits)

    def _output_forms(self) -> Sequence[Form]:
        return [self.range.form(0, minus=self.range.centre)]

    def encode(self, value: object) -> Array:
        """The number's bits."""
        return self.field.encode(self.range.encode(value))


@dataclass(frozen=True)
class Sum(_Bounded):
    """The sum of whole numbers from `low` to `high`."""

    name: ClassVar[str] = "sum"

    def decode(self, sums: Sequence[int], reports: int) -> Sums:
        """One sum."""
        self._opened(sums, reports)
        return Sums(reports, (sums[0] + self.range.centre * reports,))


@dataclass(frozen=True)
class Mean(_Bounded):
    """The mean of whole numbers from `low` to `high`, and their variance on request.

    With it, the square of the distance from the centre is one more element, tied to the
    bits by an equation. The outputs are then reach * distance and distance^2, which have
    the same magnitude.
    """

    name: ClassVar[str] = "mean"
    variance: bool

    def _check(self) -> None:
        if type(self.variance) is not bool:
            raise FormatError("kind-params", "variance is true or false")
        _ = self.range

    @property
    def _scale(self) -> int:
        return self.range.reach if self.variance else 1

    @property
    def d(self) -> int:
        return 1 + self.variance

    @property
    def length(self) -> int:
        return self.range.bits + self.variance

    @property
    def scales(self) -> tuple[int, ...]:
        return (self._scale, 1) if self.variance else (1,)

    @property
    def output_max(self) -> int:
        return self.range.reach * self._scale

    @property
    def equation_max(self) -> int:
        return self.range.reach**2

    @property
    def l1(self) -> int:
        # From the far end to half-way on the other side: (1 + 1/2) + (1 - 1/4) reaches squared.
        return -(-9 * self.range.reach**2 // 4) if self.variance else super().l1

    @property
    def l2_squared(self) -> int:
        # From end to end, where the squares are the same.
        return 4 * self.range.reach**4 if self.variance else super().l2_squared

    @cached_property
    def equations(self) -> Equations:
        """Bits; and the last element is the square of what they say."""
        if not self.variance:
            return super().equations
        bits = self.range.bits
        centred = self.range.form(0, minus=self.range.centre)
        return Equations(self.field, bits, [Equation(element(bits, -1), [(centred, centred)])])

    def _output_forms(self) -> Sequence[Form]:
        first = self.range.form(0, minus=self.range.centre, times=self._scale)
        return [first, element(self.range.bits)] if self.variance else [first]

    def encode(self, value: object) -> Array:
        """The number's bits, then the square of its distance from the centre."""
        bits = self.range.encode(value)
        assert isinstance(value, int)
        square = [(value - self.range.centre) ** 2] if self.variance else []
        return self.field.encode([*bits, *square])

    def decode(self, sums: Sequence[int], reports: int) -> Groups:
        """Moments of the one group."""
        self._opened(sums, reports)
        squares = Fraction(sums[1]) if self.variance else None
        centred = Fraction(sums[0], self._scale)
        return Groups(reports, (moments(Fraction(reports), centred, squares, self.range.centre),))
