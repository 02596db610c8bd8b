"""What a result says of each statistic, and how far the noise may have moved it. Pure.

Noise goes through means and variances to first order; where a count is so close to its own
noise that this no longer holds, the estimate says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, assert_never

from mpc.kinds import Count, Experiment, Histogram, Kind, Mean, Multihot, Quantile, Sum, Vector
from mpc.kinds.results import Counts, Groups, Moments, Sums as KindSums
from mpc.noise import Mechanism
from mpc.result import Bins, Comparisons, Quantiles, RoundResult, Sums, Undecided
from mpc.tail import MICRO, Comparison, Verdict
from mpc.tail_params import AtQuantiles, Threshold
from mpc.task import Task

_Z: Final = {Mechanism.GAUSSIAN: 1.96, Mechanism.LAPLACE: 2.12}
"""Standard deviations to each side that hold 95 of 100 draws. Of Laplace noise that is the
single draw's; what several parties add up to is nearer to a Gaussian, so it holds for that."""
_COUNT_SIGMAS_MIN: Final = 10
"""Below, a mean over a noised count is not close to linear in the noise (as in mpc.tail)."""
CLOSE: Final = "the count is close to its noise: more a guess than an estimate"
NO_COUNT: Final = "no count above zero"


@dataclass(frozen=True, slots=True)
class Estimate:
    """One statistic. `value` is None where the tail or the noise leaves none."""

    label: str
    what: str
    """`count`, `sum`, `mean`, `variance`, `quantile` or `difference`."""
    value: Fraction | None
    sigma: float | None = None
    """Standard deviation of the noise in it; of a difference, of the sampling as well."""
    low: float | None = None
    high: float | None = None
    """What noise leaves open in 95 of 100 rounds. The reports' own sampling is not in it."""
    share: Fraction | None = None
    """Of a count: of all valid reports."""
    shown: str = ""
    """In place of the value, where that is a range."""
    note: str = ""


def labels_of(kind: Kind) -> tuple[str, ...]:
    """A name for each bin, variant or coordinate; one for kinds of a single number."""
    match kind:
        case Count():
            return ("yes",)
        case Histogram() | Multihot():
            return kind.labels or tuple(f"bin {at}" for at in range(kind.bins))
        case Experiment():
            return kind.labels or tuple(f"variant {at}" for at in range(kind.variants))
        case Quantile():
            return tuple(_span(kind, at, at) for at in range(kind.d))
        case Vector():
            return tuple(f"[{at}]" for at in range(kind.size))
        case Sum() | Mean():
            return ("all reports",)
        case _:
            raise AssertionError(kind.name)


def estimates(task: Task, result: RoundResult) -> tuple[Estimate, ...]:
    """All that the result says, in the task's order; of `top`, largest first."""
    match result.outcome:
        case Sums():
            return tuple(_decoded(task, result))
        case Bins():
            return tuple(_bins(task, result, result.outcome))
        case Quantiles():
            return tuple(_quantiles(task, result.outcome))
        case Comparisons():
            return tuple(_comparisons(task, result.outcome))
        case Undecided():
            return ()
        case _:
            assert_never(result.outcome)


def z(task: Task) -> float:
    """Standard deviations to each side that hold 95 of 100 draws of the task's noise."""
    return _Z[task.noise.mechanism] if task.noise else 0.0


# --- sums as the kind decodes them ---


def _decoded(task: Task, result: RoundResult) -> Iterator[Estimate]:
    kind, variances = task.kind, result.variances(task)
    labels = labels_of(kind)
    match result.statistics(task):
        case Counts(counts=counts, reports=reports):
            for label, count, variance in zip(labels, counts, variances, strict=True):
                yield _count(task, label, Fraction(count), variance, reports)
        case KindSums(sums=sums):
            for label, total, variance in zip(labels, sums, variances, strict=True):
                yield _linear(task, label, "sum", Fraction(total), variance)
        case Groups(groups=(only,)) if isinstance(kind, Mean):
            noise = _Noise(Fraction(0), variances[0], variances[1] if kind.variance else None)
            yield from _moments(task, labels[0], only, noise, kind.range.centre)
        case Groups(groups=groups) if isinstance(kind, Experiment):
            for at, (label, group) in enumerate(zip(labels, groups, strict=True)):
                noise = _Noise(*variances[3 * at : 3 * at + 3])
                yield _linear(task, label, "count", group.count, noise.count)
                yield from _moments(task, label, group, noise, kind.range.centre)
        case _:
            raise AssertionError(kind.name)


@dataclass(frozen=True, slots=True)
class _Noise:
    """Variances of the noise in a group's count, sum and sum of squares, from the centre."""

    count: Fraction
    total: Fraction
    squares: Fraction | None


def _moments(
    task: Task, label: str, group: Moments, noise: _Noise, centre: int
) -> Iterator[Estimate]:
    """Mean, and variance if it was measured."""
    mean, n = group.mean, group.count
    if mean is None:
        yield Estimate(label, "mean", None, note=NO_COUNT)
        return
    note = CLOSE if n**2 < _COUNT_SIGMAS_MIN**2 * noise.count else ""
    # From the centre, as the sums are that carry the noise.
    m = mean - centre
    mean_noise = (noise.total + m**2 * noise.count) / n**2
    yield _linear(task, label, "mean", mean, mean_noise, note=note)
    variance = group.variance
    if variance is None or noise.squares is None:
        return
    square = variance + m**2
    variance_noise = (
        noise.squares + 4 * m**2 * noise.total + (2 * m**2 - square) ** 2 * noise.count
    ) / n**2
    yield _linear(task, label, "variance", variance, variance_noise, note=note)


def _count(
    task: Task, label: str, count: Fraction, variance: Fraction, reports: int
) -> Estimate:  # fmt: skip
    share = count / reports if reports else None
    return _linear(task, label, "count", count, variance, share=share)


def _linear(
    task: Task,
    label: str,
    what: str,
    value: Fraction,
    variance: Fraction,
    *,
    share: Fraction | None = None,
    note: str = "",
) -> Estimate:
    sigma = math.sqrt(variance)
    low, high = float(value) - z(task) * sigma, float(value) + z(task) * sigma
    return Estimate(label, what, value, sigma, low, high, share, note=note)


# --- what the other tails tell ---


def _bins(task: Task, result: RoundResult, told: Bins) -> Iterator[Estimate]:
    labels, variances, reports = labels_of(task.kind), result.variances(task), result.counted.valid
    found = {
        one.bin: _count(task, labels[one.bin], Fraction(one.value), variances[one.bin], reports)
        for one in told.bins
    }
    if not isinstance(task.tail, Threshold):
        yield from found.values()
        return
    suppressed = f"suppressed: below {task.tail.tau}"
    for bin_, label in enumerate(labels):
        yield found.get(bin_) or Estimate(label, "count", None, note=suppressed)


def _quantiles(task: Task, told: Quantiles) -> Iterator[Estimate]:
    kind, tail = task.kind, task.tail
    assert isinstance(kind, Quantile)
    assert isinstance(tail, AtQuantiles)
    for at_micro, one in zip(tail.at_micro, told.quantiles, strict=True):
        first, last = _ends(kind, one.bin, one.bin)
        low, high = _ends(kind, one.low, one.high)
        yield Estimate(
            f"{at_micro / 10_000:g} %",
            "quantile",
            Fraction(first + last, 2),
            low=float(low),
            high=float(high),
            shown=_span(kind, one.bin, one.bin),
        )


def _ends(kind: Quantile, first: int, last: int) -> tuple[int, int]:
    """The lowest and the highest whole number of some bins."""
    return kind.edges[first], kind.edges[last + 1] - 1


def _span(kind: Quantile, first: int, last: int) -> str:
    low, high = _ends(kind, first, last)
    return str(low) if low == high else f"{low} to {high}"


def _comparisons(task: Task, told: Comparisons) -> Iterator[Estimate]:
    first, *others = labels_of(task.kind)
    for label, one in zip(others, told.comparisons, strict=True):
        value, error = Fraction(one.difference_micro, MICRO), one.error_micro / MICRO
        yield Estimate(
            f"{label} less {first}",
            "difference",
            value,
            error,
            float(value) - _Z[Mechanism.GAUSSIAN] * error,
            float(value) + _Z[Mechanism.GAUSSIAN] * error,
            note=_verdict(one),
        )


_VERDICTS: Final = {
    Verdict.HIGHER: "higher",
    Verdict.LOWER: "lower",
    Verdict.UNDECIDED: "undecided: the means may be equal",
}


def _verdict(one: Comparison) -> str:
    return (
        f"{_VERDICTS[one.verdict]} (p = {one.p_micro / MICRO:.2g}, {one.df:,} degrees of freedom)"
    )


def worth_a_plot(rows: Sequence[Estimate]) -> tuple[Estimate, ...]:
    """The rows to be drawn beside each other: of one sort, and more than one of them."""
    by_what = {what: tuple(row for row in rows if row.what == what) for what in _DRAWN}
    return next((found for found in by_what.values() if len(found) > 1), ())


_DRAWN: Final = ("mean", "count", "sum", "quantile", "difference")
