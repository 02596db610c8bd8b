"""What every kind of aggregate says of itself (docs/aggregation.md, 4)."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import Any, ClassVar, Self

from crypto.errors import FormatError
from crypto.field import Array, Field
from mpc.checks import whole
from mpc.kinds.equations import Equations, Form, Forms
from mpc.kinds.results import Result

LENGTH_MAX = 1 << 16
"""Elements of a shared vector: half a megabyte in field 61."""
D_MAX = 4096
LABEL_CHARS_MAX = 64


@dataclass(frozen=True)
class Kind(ABC):
    """How a value is encoded, what makes a report valid, and how opened sums are decoded.

    A report's `length` elements are shared. The sum of all valid rows is brought to `d`
    outputs by linear forms, and only these get noise and are opened. The fields of a
    subclass, but for `field`, are the parameters that a task carries.
    """

    field: Field
    name: ClassVar[str]

    def __post_init__(self) -> None:
        self._check()
        if not 1 <= self.length <= LENGTH_MAX:
            raise FormatError(
                "kind-length", f"a report would take {self.length} elements; {LENGTH_MAX} at most"
            )
        if self.equation_max >= self.field.p:
            raise FormatError("field", "an equation of this kind could wrap; use field 61")

    # What a subclass says

    @abstractmethod
    def _check(self) -> None:
        """FormatError for parameters that make no sense."""

    @property
    @abstractmethod
    def length(self) -> int:
        """L, the elements of a report."""

    @property
    @abstractmethod
    def d(self) -> int:
        """How many sums are opened."""

    @property
    @abstractmethod
    def output_max(self) -> int:
        """The largest magnitude of one output of one valid report."""

    @property
    @abstractmethod
    def equation_max(self) -> int:
        """The largest magnitude of an equation, over the integers, if all bits are bits."""

    @property
    @abstractmethod
    def l1(self) -> int:
        """The most that one report, replaced by another, moves the outputs: sum of magnitudes."""

    @property
    @abstractmethod
    def l2_squared(self) -> int:
        """The same in squared Euclidean length: what Gaussian noise is measured against."""

    @cached_property
    @abstractmethod
    def equations(self) -> Equations:
        """What a valid report satisfies."""

    @abstractmethod
    def _output_forms(self) -> Sequence[Form]:
        """The `d` outputs as forms of one report's vector."""

    @abstractmethod
    def encode(self, value: Any) -> Array:
        """The `length` elements for one value; FormatError `value` for one that is not allowed.

        The error names the bounds and never the value.
        """

    @abstractmethod
    def decode(self, sums: Sequence[int], reports: int) -> Result:
        """What the `d` opened (and mostly noised) sums over so many reports mean."""

    # What follows

    @property
    def scales(self) -> tuple[int, ...]:
        """Output j is so many times what it measures, so that one sigma serves all outputs.

        The noise of the statistic is sigma over its scale.
        """
        return (1,) * self.d

    @cached_property
    def _outputs(self) -> Forms:
        return Forms(self.field, self._output_forms())

    def project(self, row_sums: Array, reports: int) -> Array:
        """The sum of so many rows of `length` elements to the `d` outputs; alike on shares."""
        outputs: Array = self._outputs.of(row_sums.reshape(1, -1), reports)[0]
        return outputs

    def params(self) -> dict[str, Any]:
        """The map that a task carries: the name and every parameter."""
        own = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        del own["field"]
        return {"name": self.name} | {
            key: list(value) if isinstance(value, tuple) else value for key, value in own.items()
        }

    @classmethod
    def of(cls, params: Mapping[str, Any], field: Field) -> Self:
        """From the map of a task, without its name: each parameter once, nothing else."""
        names = {one.name for one in dataclasses.fields(cls)} - {"field"}
        if set(params) != names:
            raise FormatError(
                "kind-params", f"{cls.name} takes exactly: {', '.join(sorted(names)) or 'nothing'}"
            )
        return cls(
            field=field,
            **{key: tuple(val) if isinstance(val, list) else val for key, val in params.items()},
        )

    def _opened(self, sums: Sequence[int], reports: int) -> None:
        if len(sums) != self.d or reports < 0:
            raise FormatError("sums", f"{self.name} has {self.d} sums over some reports")


def param(what: str, value: object, low: int, high: int) -> None:
    """FormatError `kind-params` unless it is a whole number from low to high."""
    whole(what, value, low, high, rule="kind-params")


def check_labels(labels: object, count: int) -> None:
    """FormatError unless it is `count` different printable texts, or none."""
    if not isinstance(labels, tuple) or len(labels) not in (0, count):
        raise FormatError("labels", f"give {count} labels, one for each, or an empty list")
    for label in labels:
        if type(label) is not str or not 1 <= len(label) <= LABEL_CHARS_MAX:
            raise FormatError("labels", f"a label is a text of 1 to {LABEL_CHARS_MAX} characters")
        if not label.isprintable():
            raise FormatError("labels", "a label has printable characters only")
    if len(set(labels)) != len(labels):
        raise FormatError("labels", "two labels are the same")


def root_above(square: int) -> int:
    """The square root, rounded up."""
    root = isqrt(square)
    return root if root * root == square else root + 1
