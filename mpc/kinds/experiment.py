"""The kind `experiment`: for each variant its count, sum and sum of squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar

from crypto.errors import FormatError
from crypto.field import Array
from mpc.kinds.base import Kind, check_labels, param
from mpc.kinds.counting import bin_of
from mpc.kinds.equations import Equation, Equations, Form, element, total
from mpc.kinds.ranges import Range
from mpc.kinds.results import Groups, moments

VARIANTS_MAX = 64


@dataclass(frozen=True)
class Experiment(Kind):
    """Which variant the device was shown, and a whole number from `low` to `high`.

    Elements: a bit for each variant, the number's bits, then for each variant z = bit * c and
    for each w = z^2, where c is the number's distance from the centre of its range. So z and
    w are c and c^2 for the device's own variant and 0 for the others.
    """

    name: ClassVar[str] = "experiment"
    variants: int
    labels: tuple[str, ...]
    low: int
    high: int

    def _check(self) -> None:
        param("variants", self.variants, 2, VARIANTS_MAX)
        check_labels(self.labels, self.variants)
        _ = self.range

    @cached_property
    def range(self) -> Range:
        """The bounds of the number."""
        return Range(self.low, self.high)

    @property
    def _bits(self) -> int:
        return self.variants + self.range.bits

    @property
    def d(self) -> int:
        return 3 * self.variants

    @property
    def length(self) -> int:
        return self._bits + 2 * self.variants

    @property
    def scales(self) -> tuple[int, ...]:
        """Counts, sums and sums of squares are brought to one magnitude, reach^2."""
        reach = self.range.reach
        return (reach**2, reach, 1) * self.variants

    @property
    def output_max(self) -> int:
        return self.range.reach**2

    @property
    def equation_max(self) -> int:
        return max(self.variants, self.range.reach**2)

    @property
    def l1(self) -> int:
        return 6 * self.range.reach**2  # from one variant to another, three outputs each

    @property
    def l2_squared(self) -> int:
        return 6 * self.range.reach**4

    @cached_property
    def equations(self) -> Equations:
        """One variant; each z is bit * c, each w is z^2."""
        centred = self.range.form(self.variants, minus=self.range.centre)
        equations = [Equation(total(0, self.variants, -1))]
        for at in range(self.variants):
            bit, z = element(at), self._bits + at
            equations.append(Equation(element(z, -1), [(bit, centred)]))
            squared = element(z)
            equations.append(Equation(element(z + self.variants, -1), [(squared, squared)]))
        return Equations(self.field, self._bits, equations)

    def _output_forms(self) -> Sequence[Form]:
        places = [
            place
            for at in range(self.variants)
            for place in (at, self._bits + at, self._bits + self.variants + at)
        ]
        return [element(at, scale) for at, scale in zip(places, self.scales, strict=True)]

    def encode(self, value: Any) -> Array:
        """Takes (variant's number, number)."""
        if not isinstance(value, tuple | list) or len(value) != 2:
            raise FormatError("value", "the value must be a variant's number and a number")
        variant, number = bin_of(value[0], self.variants), value[1]
        bits = self.range.encode(number)
        distance = number - self.range.centre
        chosen = [int(at == variant) for at in range(self.variants)]
        return self.field.encode(
            [
                *chosen,
                *bits,
                *(distance * one for one in chosen),
                *(distance**2 * one for one in chosen),
            ]
        )

    def decode(self, sums: Sequence[int], reports: int) -> Groups:
        """Moments of each variant."""
        self._opened(sums, reports)
        opened = [Fraction(one, scale) for one, scale in zip(sums, self.scales, strict=True)]
        triples = zip(opened[::3], opened[1::3], opened[2::3], strict=True)
        return Groups(
            reports,
            tuple(moments(count, c, squares, self.range.centre) for count, c, squares in triples),
        )
