"""What is made of noised sums: thresholds, ranks, quantiles and the verdict of an experiment."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from crypto.errors import FormatError
from mpc import student, tail
from mpc.noise import Law, Mechanism
from mpc.tail import Comparison, Quantile, Ranked, Sample, Undecidable, Verdict, samples, welch

RUNS = 2000
PRESENT, T = 3, 1
SCALES = (4, 2, 1)
"""An experiment's on values from -2 to 2 (`mpc.kinds`)."""
QUIET = Fraction(0)
many_sums = st.lists(st.integers(-50, 200), min_size=1, max_size=40)


def test_none_gives_whole_numbers() -> None:
    """Sums come out as they are, as Python's integers."""
    told = tail.none(np.array([3, -1], np.int64))
    assert told == (3, -1)
    assert {type(one) for one in told} == {int}


@settings(deadline=None)
@given(many_sums, st.integers(1, 100))
def test_threshold_suppresses_what_is_below(sums: list[int], tau: int) -> None:
    """A sum below tau is told as None, any other as it is; places stay."""
    told = tail.threshold(sums, tau)
    assert len(told) == len(sums)
    for one, was in zip(told, sums, strict=True):
        assert one == (was if was >= tau else None)


@settings(deadline=None)
@given(many_sums, st.data())
def test_top_holds_the_largest(sums: list[int], data: st.DataObject) -> None:
    """No bin left out is larger than one told, and equal ones come in the order of bins."""
    k = data.draw(st.integers(1, len(sums)))
    told = tail.top(sums, k)
    assert [one.value for one in told] == sorted(sums, reverse=True)[:k]
    assert all(sums[one.bin] == one.value for one in told)
    assert list(told) == sorted(told, key=lambda one: (-one.value, one.bin))
    assert len({one.bin for one in told}) == k


def test_top_of_equal_bins() -> None:
    """All parties tell the same bins where sums are equal."""
    assert tail.top([5, 9, 9, 5], 3) == (Ranked(1, 9), Ranked(2, 9), Ranked(0, 5))


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any), st.integers(1, 999_999))
def test_quantile_without_noise_is_exact(counts: list[int], at_micro: int) -> None:
    """Without noise it is the bin of the value of that rank."""
    values = np.repeat(np.arange(len(counts)), counts)
    rank = -(-at_micro * values.size // 1_000_000)
    told = tail.quantile(counts, at_micro, variance=QUIET)
    assert told.bin == values[rank - 1]
    assert told.low == told.bin
    assert told.low <= told.high


@pytest.mark.parametrize("at_micro", [100_000, 500_000, 900_000])
def test_quantile_despite_noise(at_micro: int) -> None:
    """The range holds the true bin in nearly all runs, and is far smaller than all bins."""
    law = Law(Mechanism.GAUSSIAN, 20_000)
    bins, runs = 64, 500
    counts = np.round(10_000 * stats.norm.pdf(np.arange(bins), 30, 8)).astype(np.int64)
    true = tail.quantile(counts, at_micro, variance=QUIET).bin
    noise = opened_noise(law, runs * bins, seed=at_micro).reshape(runs, bins)
    variance = law.opened_variance(present=PRESENT, t=T)
    told = [tail.quantile(counts + one, at_micro, variance=variance) for one in noise]
    assert all(one.low <= one.bin <= one.high for one in told)
    # Two sigmas at each end.
    assert sum(one.low <= true <= one.high for one in told) >= 0.97 * runs
    assert float(np.mean([one.high - one.low for one in told])) < bins / 8


def test_quantile_of_empty_bins_is_not_pulled_down() -> None:
    """Counts below zero are kept: hundreds of empty bins around a peak move its median nowhere."""
    law = Law(Mechanism.GAUSSIAN, 30_000)
    counts = np.zeros(512, np.int64)
    counts[100] = 30_000
    noise = opened_noise(law, 200 * 512, seed=5).reshape(200, 512)
    variance = law.opened_variance(present=PRESENT, t=T)
    told = {tail.quantile(counts + one, 500_000, variance=variance).bin for one in noise}
    assert told == {100}


def test_quantile_of_noise_is_refused() -> None:
    """Where the total could be noise alone there is no quantile."""
    with pytest.raises(Undecidable, match="total is too close to the noise"):
        tail.quantile([30, 40, 29], 500_000, variance=Fraction(36))
    with pytest.raises(Undecidable):
        tail.quantile([0, 0], 500_000, variance=QUIET)
    with pytest.raises(Undecidable):
        tail.quantile([-500, 2], 500_000, variance=QUIET)
    assert tail.quantile([400, 400, 400], 500_000, variance=Fraction(36)) == Quantile(1, 1, 1)


def test_what_a_tail_refuses() -> None:
    """Parameters that make no sense are refused and named."""
    for bad in (0, -3):
        with pytest.raises(FormatError, match="tau must be"):
            tail.threshold([1], bad)
    for k in (0, 3):
        with pytest.raises(FormatError, match="k must be 1 to 2"):
            tail.top([1, 2], k)
    for at_micro in (0, 1_000_000):
        with pytest.raises(FormatError, match="a quantile lies between"):
            tail.quantile([1], at_micro, variance=QUIET)
    with pytest.raises(FormatError, match="three sums for each variant"):
        samples([1, 2, 3, 4], (1, 1, 1, 1), QUIET)
    with pytest.raises(FormatError, match="two variants"):
        welch(samples([9, 9, 99], SCALES, QUIET), alpha_micro=50_000)


# The verdict


@pytest.mark.parametrize("df", [0.7, 1.0, 2.5, 30.0, 1234.5, 9e5])
def test_students_t_is_scipys(df: float) -> None:
    """Tail chances agree with scipy's to nine digits."""
    for t in (0.0, 1e-9, 0.3, 1.0, -1.96, 2.0, 4.7, 11.0, 40.0):
        assert student.two_sided(t, df) == pytest.approx(2 * stats.t.sf(abs(t), df), rel=1e-9)


def test_students_t_at_many_degrees_is_the_normal() -> None:
    """From a million degrees on it is the normal law to five digits, and no smaller."""
    for t in (0.5, 2.0, 5.0):
        normal = 2 * stats.norm.sf(t)
        assert normal < student.two_sided(t, 1e12) < normal * 1.001


def opened_noise(law: Law, count: int, seed: int) -> NDArray[np.int64]:
    """What all parties' shares are together."""
    rand = random.Random(seed).randbytes
    shares = [law.share(count, present=PRESENT, t=T, rand=rand) for _ in range(PRESENT)]
    noise: NDArray[np.int64] = np.sum(shares, axis=0, dtype=np.int64)
    return noise


def opened_runs(
    chances: list[list[float]], reports: list[int], law: Law | None, seed: int
) -> NDArray[np.int64]:
    """For each run the noised, scaled (count, sum, squares) of each variant, on -2 to 2."""
    rng, values = np.random.default_rng(seed), np.arange(-2, 3)
    variants = []
    for chance, n in zip(chances, reports, strict=True):
        drawn = rng.multinomial(n, chance, RUNS)
        for power, scale in enumerate(SCALES):
            variants.append(scale * (drawn @ values**power))
    sums: NDArray[np.int64] = np.stack(variants, axis=1)
    return sums if law is None else sums + opened_noise(law, sums.size, seed).reshape(sums.shape)


def verdicts(sums: NDArray[np.int64], variance: Fraction) -> list[Comparison]:
    """The first comparison of each run at 5 %."""
    scales = SCALES * (sums.shape[1] // 3)
    return [welch(samples(run, scales, variance), alpha_micro=50_000)[0] for run in sums]


def rate(told: list[Comparison], *which: Verdict) -> float:
    """In what part of the runs."""
    return sum(one.verdict in which for one in told) / len(told)


EVEN = [0.2] * 5
PEAKED = [0.05, 0.15, 0.6, 0.15, 0.05]
SHIFTED = [0.14, 0.17, 0.19, 0.22, 0.28]
"""Mean 0.33 above EVEN's."""
NOISE = Law(Mechanism.GAUSSIAN, 48_000)
VARIANCE = NOISE.opened_variance(present=PRESENT, t=T)


def test_welch_without_noise_is_scipys() -> None:
    """Without noise, difference, error and p-value are those of scipy's Welch test."""
    for run in opened_runs([EVEN, SHIFTED], [150, 400], None, seed=1)[:50]:
        (told,) = welch(samples(run, SCALES * 2, QUIET), alpha_micro=50_000)
        n, total, squares = (run.reshape(2, 3) / np.array(SCALES)).T
        means = total / n
        deviations = np.sqrt((squares / n - means**2) * n / (n - 1))
        due = stats.ttest_ind_from_stats(
            means[1], deviations[1], n[1], means[0], deviations[0], n[0], equal_var=False
        )
        assert told.p_micro == pytest.approx(due.pvalue * 1e6, abs=1.01)
        assert told.difference_micro == pytest.approx((means[1] - means[0]) * 1e6, abs=1)
        assert told.verdict == (
            (Verdict.HIGHER if due.statistic > 0 else Verdict.LOWER)
            if due.pvalue < 0.05
            else Verdict.UNDECIDED
        )


@pytest.mark.parametrize("spread", [EVEN, PEAKED])
@pytest.mark.parametrize("reports", [[400, 400], [300, 1200]])
@pytest.mark.parametrize("mechanism", Mechanism)
def test_false_verdicts_are_as_rare_as_stated(
    mechanism: Mechanism, reports: list[int], spread: list[float]
) -> None:
    """Of runs with equal means 5 % have a verdict, within four standard errors (2 %)."""
    law = Law(mechanism, 20_000 if spread is PEAKED else 40_000)
    sums = opened_runs([EVEN, spread], reports, law, seed=reports[0])
    told = verdicts(sums, law.opened_variance(present=PRESENT, t=T))
    assert 0.03 <= rate(told, Verdict.HIGHER, Verdict.LOWER) <= 0.07


def test_without_the_noise_in_it_the_test_would_lie() -> None:
    """The same runs, told that there is no noise, have twice as many false verdicts or more."""
    sums = opened_runs([EVEN, EVEN], [400, 400], NOISE, seed=3)
    assert rate(verdicts(sums, VARIANCE), Verdict.HIGHER, Verdict.LOWER) <= 0.07
    assert rate(verdicts(sums, QUIET), Verdict.HIGHER, Verdict.LOWER) >= 0.14


@pytest.mark.parametrize("reports", [[400, 400], [600, 1200]])
def test_planted_effects_are_found_as_often_as_stated(reports: list[int]) -> None:
    """The power is that of the normal law at difference over error, and the sign is right."""
    told = verdicts(opened_runs([EVEN, SHIFTED], reports, NOISE, seed=4), VARIANCE)
    values = np.arange(-2, 3)
    effect = float(values @ SHIFTED)
    error = float(np.mean([one.error_micro for one in told])) / 1e6
    stated = stats.norm.sf(1.96 - effect / error)
    assert 0.5 < stated < 0.999
    assert rate(told, Verdict.HIGHER) == pytest.approx(stated, abs=0.04)
    assert rate(told, Verdict.LOWER) < 0.002
    # The error is that which the differences really have.
    seen = float(np.std([one.difference_micro for one in told])) / 1e6
    assert seen == pytest.approx(error, rel=0.07)


def test_several_variants_share_one_alpha() -> None:
    """With three variants beside the first, a run has any false verdict in 5 % at most."""
    sums = opened_runs([EVEN] * 4, [500] * 4, NOISE, seed=6)
    runs = [welch(samples(run, SCALES * 4, VARIANCE), alpha_micro=50_000) for run in sums]
    assert {len(run) for run in runs} == {3}
    any_ = sum(any(one.verdict is not Verdict.UNDECIDED for one in run) for run in runs)
    assert 0.02 <= any_ / RUNS <= 0.07


def sample(count: int, total: int, squares: int, noise: int = 0) -> Sample:
    """One variant's numbers and one variance of all their noise."""
    variance = Fraction(noise)
    return Sample(Fraction(count), Fraction(total), Fraction(squares), variance, variance, variance)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (sample(1, 1, 1), "too few reports"),
        (sample(-40, 3, 60), "too few reports"),
        (sample(90, 3, 60, noise=100), "too few reports"),
        (sample(100, 0, 0), "vary too little"),
        (sample(100, 200, 400), "vary too little"),
        (sample(100, 200, 300), "vary too little"),
        (sample(1000, 0, 30, noise=100), "vary too little"),
    ],
)
def test_what_can_not_be_decided_is_refused(other: Sample, why: str) -> None:
    """A count or a spread within the noise gives a refusal that names the variant."""
    good = sample(500, 3, 900, noise=100)
    with pytest.raises(Undecidable, match="variant 1") as refusal:
        welch([good, other], alpha_micro=50_000)
    assert why in str(refusal.value)
    with pytest.raises(Undecidable, match="variant 0"):
        welch([other, good], alpha_micro=50_000)


def test_verdict_is_the_same_numbers_everywhere() -> None:
    """A pinned example, in whole numbers: what all parties sign."""
    told = welch(
        [sample(1000, -20, 2000, noise=900), sample(1100, 250, 2300, noise=900)],
        alpha_micro=50_000,
    )
    assert told == (Comparison(Verdict.HIGHER, 247273, 74429, 2795, 905),)
