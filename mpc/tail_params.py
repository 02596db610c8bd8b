"""What is done with noised sums before they are published, as a task states it.

How it is computed is the affair of `mpc.tail`; here is what may be asked for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar

from crypto.errors import FormatError
from mpc.checks import whole
from mpc.kinds import Experiment, Histogram, Kind, Multihot, Quantile

QUANTILES_MAX = 99


@dataclass(frozen=True, slots=True)
class AsTheyAre:
    """The noised sums."""

    name: ClassVar[str] = "none"

    def check(self, kind: Kind) -> None:
        """Goes with every kind."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """Bins whose noised count is below tau are suppressed. That alone is not privacy."""

    name: ClassVar[str] = "threshold"
    tau: int

    def check(self, kind: Kind) -> None:
        """For bins, with a tau that some sum could reach."""
        _need_kind(self.name, kind, Histogram, Multihot)
        _param("tau", self.tau, 1, kind.field.p // 2)


@dataclass(frozen=True, slots=True)
class Top:
    """The bins with the largest noised counts, so many of them."""

    name: ClassVar[str] = "top"
    count: int

    def check(self, kind: Kind) -> None:
        """For bins, and fewer than all of them."""
        _need_kind(self.name, kind, Histogram, Multihot)
        _param("count", self.count, 1, kind.d - 1)


@dataclass(frozen=True, slots=True)
class AtQuantiles:
    """Quantiles by millionths, ascending, read off the noised counts."""

    name: ClassVar[str] = "quantile"
    at_micro: tuple[int, ...]

    def check(self, kind: Kind) -> None:
        """For the kind `quantile`."""
        _need_kind(self.name, kind, Quantile)
        points: object = self.at_micro
        if not isinstance(points, tuple) or not 1 <= len(points) <= QUANTILES_MAX:
            raise FormatError("tail-params", f"at_micro is a list of 1 to {QUANTILES_MAX} numbers")
        for point in points:
            _param("at_micro", point, 1, 999_999)
        if any(low >= high for low, high in pairwise(points)):
            raise FormatError("tail-params", "each at_micro must be above the one before it")


@dataclass(frozen=True, slots=True)
class Welch:
    """Only whether each further variant's mean differs from the first's, at this level.

    `alpha_micro` / 10^6 is the chance of any verdict if all means are equal.
    """

    name: ClassVar[str] = "welch"
    alpha_micro: int

    def check(self, kind: Kind) -> None:
        """For the kind `experiment`."""
        _need_kind(self.name, kind, Experiment)
        _param("alpha_micro", self.alpha_micro, 1, 500_000)


Tail = AsTheyAre | Threshold | Top | AtQuantiles | Welch
_TAILS: dict[str, type[Tail]] = {
    tail.name: tail for tail in (AsTheyAre, Threshold, Top, AtQuantiles, Welch)
}


def tail_of(params: object) -> Tail:
    """The tail of a task's map: its name and exactly its parameters. FormatError."""
    rest = dict(params) if type(params) is dict else {}
    name = rest.pop("name", None)
    tail = _TAILS.get(name) if isinstance(name, str) else None
    if tail is None:
        raise FormatError("tail", f"the tail must be one of: {', '.join(_TAILS)}")
    names = [one.name for one in fields(tail)]
    if set(rest) != set(names):
        raise FormatError(
            "tail-params", f"{tail.name} takes exactly: {', '.join(names) or 'nothing'}"
        )
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in rest.items()
    }
    return tail(**given)


def params_of(tail: Tail) -> dict[str, Any]:
    """The map that a task carries."""
    return {"name": tail.name} | {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(tail).items()
    }


def check_tail(tail: Tail, kind: Kind) -> None:
    """FormatError unless the tail can be computed of this kind's sums."""
    tail.check(kind)


def _param(what: str, value: object, low: int, high: int) -> None:
    whole(what, value, low, high, rule="tail-params")


def _need_kind(name: str, kind: Kind, *allowed: type[Kind]) -> None:
    if not isinstance(kind, allowed):
        names = " or ".join(one.name for one in allowed)
        raise FormatError("tail-kind", f"the tail {name} is for the kind {names}")
