"""Kinds: what can be measured. One small class each; `make` reads one from a task."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from crypto.errors import FormatError
from crypto.field import FIELD31, FIELD61, Field
from mpc.kinds.base import Kind
from mpc.kinds.counting import Count, Histogram, Multihot, Quantile
from mpc.kinds.experiment import Experiment
from mpc.kinds.numbers import Mean, Sum
from mpc.kinds.vector import Vector

KINDS: Final[Mapping[str, type[Kind]]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (Count, Histogram, Multihot, Sum, Mean, Vector, Experiment, Quantile)
    }
)
__all__ = [
    "KINDS",
    "Count",
    "Experiment",
    "Histogram",
    "Kind",
    "Mean",
    "Multihot",
    "Quantile",
    "Sum",
    "Vector",
    "check_sums",
    "make",
    "smallest_field",
]


def make(params: Mapping[str, Any], field: Field) -> Kind:
    """The kind of a task's map; FormatError for one that is unknown, not whole or too large."""
    rest = dict(params)
    name = rest.pop("name", None)
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise FormatError("kind", f"the kind must be one of: {', '.join(KINDS)}")
    return kind.of(rest, field)


def check_sums(kind: Kind, reports_max: int, noise_max: int) -> None:
    """FormatError `wrap` unless `reports_max * output_max + noise_max <= (p - 1) / 2`.

    Then no sum of valid reports, noise included, leaves the field's signed range.
    """
    if reports_max * kind.output_max + noise_max > kind.field.p // 2:
        advice = "use field 61" if kind.field.bits == 31 else "narrow the bounds"
        raise FormatError("wrap", f"sums could leave the field; allow fewer reports or {advice}")


def smallest_field(params: Mapping[str, Any], reports_max: int, noise_max: int) -> Field:
    """The smallest field in which neither an equation nor a sum can wrap; FormatError if none."""
    try:
        check_sums(make(params, FIELD31), reports_max, noise_max)
    except FormatError as error:
        if error.rule not in ("wrap", "field"):
            raise
        check_sums(make(params, FIELD61), reports_max, noise_max)
        return FIELD61
    return FIELD31
