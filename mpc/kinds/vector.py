"""The kind `vector`: bounded whole numbers with a bound on their Euclidean length.

For model updates: each device's influence is bounded as a whole, not only by coordinate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import Any, ClassVar

import numpy as np

from crypto.errors import FormatError
from crypto.field import Array
from mpc.kinds.base import D_MAX, Kind, param, root_above
from mpc.kinds.equations import Equation, Equations, Form
from mpc.kinds.ranges import Range
from mpc.kinds.results import Sums

BITS_MAX = 24


@dataclass(frozen=True)
class Vector(Kind):
    """`size` whole numbers of `bits` bits (two's complement), squares at most `norm2_max` together.

    Slack bits make up what is missing to the bound. They can't make more than the bound, so
    a vector that is too long has no encoding.
    """

    name: ClassVar[str] = "vector"
    size: int
    bits: int
    norm2_max: int

    def _check(self) -> None:
        param("size", self.size, 1, D_MAX)
        param("bits", self.bits, 2, BITS_MAX)
        param("norm2_max", self.norm2_max, 1, self.size << 2 * (self.bits - 1))

    @property
    def _half(self) -> int:
        return 1 << (self.bits - 1)

    @cached_property
    def _coordinate(self) -> Range:
        return Range(-self._half, self._half - 1)

    @cached_property
    def _slack(self) -> Range:
        return Range(0, self.norm2_max)

    @property
    def d(self) -> int:
        return self.size

    @property
    def length(self) -> int:
        return self.size * self.bits + self._slack.bits

    @property
    def output_max(self) -> int:
        return min(self._half, isqrt(self.norm2_max))

    @property
    def equation_max(self) -> int:
        return self.size * self._half**2 + self.norm2_max

    @property
    def l1(self) -> int:
        return min(root_above(4 * self.norm2_max * self.size), self.size * (2 * self._half - 1))

    @property
    def l2_squared(self) -> int:
        return min(4 * self.norm2_max, self.size * (2 * self._half - 1) ** 2)

    @cached_property
    def equations(self) -> Equations:
        """Squares of all coordinates and the slack are the bound together."""
        squares = [(form, form) for form in self._output_forms()]
        slack = self._slack.form(self.size * self.bits, minus=self.norm2_max)
        return Equations(self.field, self.length, [Equation(slack, squares)])

    def _output_forms(self) -> Sequence[Form]:
        return [self._coordinate.form(at * self.bits) for at in range(self.size)]

    def encode(self, value: Any) -> Array:
        """Bits of each coordinate, then the slack. Takes a sequence or an array of integers."""
        rising = self._coordinates(value) + self._half
        norm2 = int(((rising - self._half) ** 2).sum())
        if norm2 > self.norm2_max:
            raise FormatError(
                "value", f"the squares make more than {self.norm2_max}; scale the vector down"
            )
        row = np.empty(self.length, np.uint64)
        bits = rising[:, None] >> np.arange(self.bits) & 1
        row[: self.size * self.bits] = bits.ravel()
        row[self.size * self.bits :] = self._slack.encode(self.norm2_max - norm2)
        return row

    def _coordinates(self, value: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
        numbers = None
        if isinstance(value, list | tuple) and all(type(one) is int for one in value):
            try:
                numbers = np.array(value, np.int64)
            except OverflowError:
                numbers = None
        elif isinstance(value, np.ndarray) and value.dtype.kind == "i":
            numbers = value.astype(np.int64)
        if numbers is None or numbers.shape != (self.size,):
            raise FormatError("value", f"the value must be {self.size} whole numbers")
        if numbers.min() < -self._half or numbers.max() >= self._half:
            raise FormatError(
                "value", f"each number must be from {-self._half} to {self._half - 1}"
            )
        return numbers

    def decode(self, sums: Sequence[int], reports: int) -> Sums:
        """A sum for each coordinate."""
        self._opened(sums, reports)
        return Sums(reports, tuple(sums))
