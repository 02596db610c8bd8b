"""Estimates: exact without noise, and with it off by as much as they say."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from client.analyst.estimates import CLOSE, NO_COUNT, Estimate, estimates, worth_a_plot
from crypto.field import FIELD31, FIELD61
from mpc import result as results
from mpc.kinds import Count, Experiment, Histogram, Kind, Mean, Multihot, Quantile, Sum, Vector
from mpc.noise import Law, Mechanism
from mpc.result import Undecided
from mpc.tail_params import AtQuantiles, Threshold, Top, Welch
from tests.analyst_samples import noised_results, result, roomy

ROUNDS = 300
BINS = Histogram(FIELD31, 3, ("thai", "italian", "other"))
TRIAL = Experiment(FIELD61, 2, ("control", "red"), 0, 100)


def told(kind: Kind, values: list[Any], **other: Any) -> list[tuple[str, str, Any]]:
    """Label, statistic and value of each estimate of a round without noise."""
    of = roomy(kind=kind, noise=None, **other)
    found = estimates(of, result(of, values))
    assert all(row.sigma in (None, 0) for row in found)
    return [(row.label, row.what, row.value) for row in found]


def test_without_noise_every_kind_tells_the_truth() -> None:
    """Counts, sums, means and variances are those of the values, exactly."""
    assert told(Count(FIELD31), [True, False, True]) == [("yes", "count", 2)]
    assert told(BINS, [0, 0, 2]) == [
        ("thai", "count", 2), ("italian", "count", 0), ("other", "count", 1),
    ]  # fmt: skip
    assert told(Multihot(FIELD31, 2, 2, ()), [[0, 1], [1]]) == [
        ("bin 0", "count", 1), ("bin 1", "count", 2),
    ]  # fmt: skip
    assert told(Sum(FIELD31, -5, 20), [3, 20, -4]) == [("all reports", "sum", 19)]
    assert told(Mean(FIELD61, 0, 9, False), [1, 2, 4]) == [
        ("all reports", "mean", Fraction(7, 3)),
    ]  # fmt: skip
    assert told(Mean(FIELD61, 0, 9, True), [1, 2, 4], kappa=1) == [
        ("all reports", "mean", Fraction(7, 3)), ("all reports", "variance", Fraction(14, 9)),
    ]  # fmt: skip
    assert told(Vector(FIELD31, 2, 4, 100), [[1, -2], [3, 4]]) == [
        ("[0]", "sum", 4), ("[1]", "sum", 2),
    ]  # fmt: skip
    assert told(Quantile(FIELD31, (0, 10, 11, 20)), [3, 10, 19]) == [
        ("0 to 9", "count", 1), ("10", "count", 1), ("11 to 19", "count", 1),
    ]  # fmt: skip
    assert told(TRIAL, [(0, 10), (0, 20), (1, 50)], kappa=1) == [
        ("control", "count", 2), ("control", "mean", 15), ("control", "variance", 25),
        ("red", "count", 1), ("red", "mean", 50), ("red", "variance", 0),
    ]  # fmt: skip


def test_a_count_says_its_share_of_the_valid_reports() -> None:
    """Not of those that were sent."""
    of = roomy(kind=BINS, noise=None)
    shares = [row.share for row in estimates(of, result(of, [0, 0, 2]))]
    assert shares == [Fraction(2, 3), 0, Fraction(1, 3)]


@pytest.mark.parametrize("mechanism", list(Mechanism))
@pytest.mark.parametrize("kind", [TRIAL, Mean(FIELD61, 0, 100, True), BINS])
def test_noise_moves_estimates_by_as_much_as_they_say(kind: Kind, mechanism: Mechanism) -> None:
    """Over many rounds an estimate is off by its sigma, and its interval holds 95 of 100."""
    rng = random.Random(4)
    numbers = [min(100, max(0, int(rng.gauss(60, 15)))) for _ in range(600)]
    by_kind: dict[str, list[Any]] = {
        "experiment": [(at % 2, number) for at, number in enumerate(numbers)],
        "mean": numbers,
        "histogram": [number % 3 for number in numbers],
    }
    values = by_kind[kind.name]
    sigma_milli = 9_000 if kind is BINS else 8_000_000
    of = roomy(kind=kind, kappa=2 if kind is BINS else 1, noise=Law(mechanism, sigma_milli))
    clear = replace(of, noise=None)
    truth = [float(row.value or 0) for row in estimates(clear, result(clear, values))]
    off: list[list[float]] = [[] for _ in truth]
    held = [0] * len(truth)
    for noised in noised_results(of, values, ROUNDS):
        for at, row in enumerate(estimates(of, noised)):
            assert None not in (row.value, row.sigma, row.low, row.high)
            off[at].append((float(row.value or 0) - truth[at]) / (row.sigma or 1))
            held[at] += (row.low or 0) <= truth[at] <= (row.high or 0)
    for one, inside in zip(off, held, strict=True):
        assert 0.85 < math.sqrt(sum(x * x for x in one) / ROUNDS) < 1.15
        assert 0.91 < inside / ROUNDS < 0.99


def test_a_group_that_drowns_in_noise_says_so() -> None:
    """A count that is close to its noise is no ground for a mean; below zero there is none."""
    of = roomy(kind=TRIAL, kappa=1, noise=Law(Mechanism.GAUSSIAN, 8_000_000))
    plain = result(of, [(0, 50)] * 30 + [(1, 70)] * 3, seed=1)
    rows = {(row.label, row.what): row for row in estimates(of, plain)}
    assert rows["control", "mean"].note == CLOSE
    sums = (30 * 2500, 0, 0, -3 * 2500, 10, 10)
    below = results.make(of, sums, plain.counted, noise_of=(1, 2, 3), checked=True)
    mean = next(row for row in estimates(of, below) if (row.label, row.what) == ("red", "mean"))
    assert (mean.value, mean.note) == (None, NO_COUNT)


def test_a_threshold_names_the_bins_that_it_keeps_back() -> None:
    """With their labels, without a value."""
    of = roomy(kind=BINS, noise=None, tail=Threshold(2))
    assert [(row.label, row.value, row.note) for row in estimates(of, result(of, [0, 0, 2]))] == [
        ("thai", 2, ""),
        ("italian", None, "suppressed: below 2"),
        ("other", None, "suppressed: below 2"),
    ]


def test_top_tells_its_bins_by_size_and_no_other() -> None:
    """What is not among the largest is not there."""
    of = roomy(kind=BINS, noise=None, tail=Top(2))
    rows = estimates(of, result(of, [0, 2, 2]))
    assert [(row.label, row.value) for row in rows] == [
        ("other", Fraction(2)),
        ("thai", Fraction(1)),
    ]


def test_a_quantile_is_a_range_and_the_noise_may_widen_it() -> None:
    """The bin's numbers, and those of the bins that it may lie in."""
    of = roomy(
        kind=Quantile(FIELD31, tuple(range(0, 101, 10))),
        noise=Law(Mechanism.GAUSSIAN, 9_000),
        tail=AtQuantiles((250_000, 500_000)),
    )
    rng = random.Random(5)
    rows = estimates(of, result(of, [rng.randrange(100) for _ in range(900)], seed=2))
    assert [row.label for row in rows] == ["25 %", "50 %"]
    for row, truth in zip(rows, (25, 50), strict=True):
        assert row.low is not None
        assert row.high is not None
        assert row.low <= truth <= row.high
        assert row.shown == f"{int((row.value or 0) - Fraction(9, 2))} to {int(row.value or 0) + 5}"


def test_welch_tells_a_verdict_with_its_p_and_nothing_of_a_group() -> None:
    """The error is of sampling and noise."""
    of = roomy(
        kind=TRIAL, kappa=1, noise=Law(Mechanism.GAUSSIAN, 2_000_000), tail=Welch(50_000)
    )  # fmt: skip
    rng = random.Random(6)
    values = [(at % 2, int(rng.gauss(40 + 20 * (at % 2), 20)) % 101) for at in range(4_000)]
    [row] = estimates(of, result(of, values, seed=3))
    assert (row.label, row.what) == ("red less control", "difference")
    assert row.note.startswith("higher (p = ")
    assert row.sigma is not None
    assert 0.3 < row.sigma < 2


def test_an_undecided_result_has_no_estimates() -> None:
    """Its sums are too close to their noise for what the task asks."""
    of = roomy(kind=TRIAL, kappa=1, noise=Law(Mechanism.GAUSSIAN, 8_000_000), tail=Welch(50_000))
    undecided = result(of, [(0, 1), (1, 2)], seed=1)
    assert undecided.outcome == Undecided()
    assert estimates(of, undecided) == ()


def test_what_is_drawn_is_of_one_sort() -> None:
    """Of an experiment the means; of one number nothing."""
    of = roomy(kind=TRIAL, kappa=1, noise=None)
    drawn = worth_a_plot(estimates(of, result(of, [(0, 10), (1, 50)])))
    assert [(row.label, row.what) for row in drawn] == [("control", "mean"), ("red", "mean")]
    assert worth_a_plot([Estimate("yes", "count", Fraction(1))]) == ()
