"""Whole numbers of a range as bits, so that no number outside it has an encoding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from crypto.errors import FormatError
from mpc.kinds.equations import Form

LIMIT = 1 << 53
"""Bounds lie within it, so that every language's numbers hold them exactly."""


@dataclass(frozen=True)
class Range:
    """low..high, both included, written as weighted bits.

    The weights are 1, 2, 4 and so on, but the last is what makes all of them together
    `high - low`: whatever bits are set, the number is in the range. Slack bits and an
    equation for them are not needed, at the price that some numbers have two encodings.
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        for bound in (self.low, self.high):
            if type(bound) is not int or abs(bound) > LIMIT:
                raise FormatError("bounds", "bounds are whole numbers of at most 53 bits")
        if self.low >= self.high:
            raise FormatError("bounds", "the lower bound must be below the upper bound")

    @cached_property
    def weights(self) -> tuple[int, ...]:
        """One for each bit; their sum is `high - low`."""
        width = self.high - self.low
        doubling = [1 << at for at in range(width.bit_length() - 1)]
        return (*doubling, width - sum(doubling))

    @property
    def bits(self) -> int:
        """How many bits a number takes."""
        return len(self.weights)

    @property
    def centre(self) -> int:
        """The middle, rounded down: sums of distances from it wrap last."""
        return (self.low + self.high) // 2

    @property
    def reach(self) -> int:
        """The largest distance from the centre."""
        return self.high - self.centre

    def encode(self, value: object) -> list[int]:
        """The bits; FormatError for what is no whole number of the range."""
        if type(value) is not int or not self.low <= value <= self.high:
            raise FormatError(
                "value", f"the value must be a whole number from {self.low} to {self.high}"
            )
        rest = value - self.low
        low_bits = self.bits - 1
        top = rest >> low_bits
        if top:
            rest -= self.weights[-1]
        return [rest >> at & 1 for at in range(low_bits)] + [top]

    def form(self, start: int, *, minus: int = 0, times: int = 1) -> Form:
        """(number - minus) * times, of bits that stand from `start` on."""
        terms = [(start + at, weight * times) for at, weight in enumerate(self.weights)]
        return Form(terms, (self.low - minus) * times)
