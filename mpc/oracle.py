"""The answer in the clear: what a round over known values must give, by simple arithmetic.

Shares no code with the encodings but the bounds: it adds values up where the parties add
encodings up. For tests and for the demonstration's column of truth; it sees every value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from crypto.errors import FormatError
from mpc.kinds import Count, Experiment, Histogram, Kind, Mean, Multihot, Quantile, Sum, Vector
from mpc.kinds.results import Counts, Groups, Moments, Quantiles, Result, Sums


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What a round without noise opens: the sums, over how many reports, how many refused."""

    sums: tuple[int, ...]
    reports: int
    refused: int


def truth(kind: Kind, values: Iterable[Any]) -> Result:
    """The exact result over values that are all allowed."""
    return _TRUTHS[type(kind)](kind, list(values))


def aggregate(kind: Kind, values: Iterable[Any]) -> Aggregate:
    """Sums as the circuit opens them, values that the kind refuses left out and counted."""
    allowed, refused = [], 0
    for value in values:
        try:
            kind.encode(value)
        except FormatError:
            refused += 1
        else:
            allowed.append(value)
    return Aggregate(_sums(kind, truth(kind, allowed)), len(allowed), refused)


def _counts(total: int, bins: Iterable[int]) -> tuple[int, ...]:
    counts = [0] * total
    for one in bins:
        counts[one] += 1
    return tuple(counts)


def _moments(numbers: Sequence[int], squares: bool) -> Moments:
    return Moments(
        Fraction(len(numbers)),
        Fraction(sum(numbers)),
        Fraction(sum(x * x for x in numbers)) if squares else None,
    )


def _count(_kind: Count, values: list[bool]) -> Result:
    return Counts(len(values), (sum(values),))


def _histogram(kind: Histogram, values: list[int]) -> Result:
    return Counts(len(values), _counts(kind.bins, values))


def _multihot(kind: Multihot, values: list[Sequence[int]]) -> Result:
    return Counts(len(values), _counts(kind.bins, (one for value in values for one in value)))


def _sum(_kind: Sum, values: list[int]) -> Result:
    return Sums(len(values), (sum(values),))


def _mean(kind: Mean, values: list[int]) -> Result:
    return Groups(len(values), (_moments(values, kind.variance),))


def _vector(kind: Vector, values: list[Sequence[int]]) -> Result:
    sums = tuple(sum(int(value[at]) for value in values) for at in range(kind.size))
    return Sums(len(values), sums)


def _experiment(kind: Experiment, values: list[tuple[int, int]]) -> Result:
    groups = (
        [number for variant, number in values if variant == at] for at in range(kind.variants)
    )
    return Groups(len(values), tuple(_moments(group, True) for group in groups))


def _quantile(kind: Quantile, values: list[int]) -> Result:
    counts = tuple(
        sum(low <= value < high for value in values) for low, high in pairwise(kind.edges)
    )
    return Quantiles(len(values), counts, kind.edges)


_TRUTHS: dict[type[Kind], Callable[[Any, list[Any]], Result]] = {
    Count: _count,
    Histogram: _histogram,
    Multihot: _multihot,
    Sum: _sum,
    Mean: _mean,
    Vector: _vector,
    Experiment: _experiment,
    Quantile: _quantile,
}


def _sums(kind: Kind, result: Result) -> tuple[int, ...]:
    """The opened sums that mean this result: about the centre of the range, and scaled."""
    match kind, result:
        case (_, Counts(counts=counts)):
            return counts
        case (Vector(), Sums(sums=sums)):
            return sums
        case (Sum(range=bounds), Sums(sums=(total,))):
            return (total - bounds.centre * result.reports,)
        case (Mean(range=bounds) | Experiment(range=bounds), Groups(groups=groups)):
            flat = [one for group in groups for one in _centred(group, bounds.centre)]
            if isinstance(kind, Mean):
                flat = flat[1:]  # how many there are is known without being opened
            return tuple(int(one * by) for one, by in zip(flat, kind.scales, strict=True))
        case _:
            raise AssertionError(kind.name)


def _centred(group: Moments, centre: int) -> list[Fraction]:
    centred = [group.count, group.total - centre * group.count]
    if group.squares is None:
        return centred
    square = group.squares - 2 * centre * group.total + centre * centre * group.count
    return [*centred, square]
