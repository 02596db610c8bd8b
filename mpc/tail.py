"""What is done with noised sums before they are told: post-processing, which costs no privacy.

It may never see a sum without noise: an exact threshold, rank or verdict tells of one device.
Results are whole numbers, so that all parties sign the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final, NamedTuple

from crypto.errors import CryptoError, FormatError
from mpc import student

MICRO: Final = 1_000_000
_COUNT_SIGMAS_MIN: Final = 10
"""Below, a mean over a noised count is no longer close to linear in the noise."""
_VARIANCE_SIGMAS_MIN: Final = 4
"""Below, the spread of the values can't be told from the noise."""


class Undecidable(CryptoError):
    """The noised sums are too close to the noise for what was asked. More reports may help."""

    def __init__(self, message: str) -> None:
        super().__init__("undecidable", message)


def none(sums: Iterable[int]) -> tuple[int, ...]:
    """The sums as they are."""
    return tuple(int(one) for one in sums)


def threshold(sums: Iterable[int], tau: int) -> tuple[int | None, ...]:
    """The sums, but None for each below `tau`, which is at least 1.

    It hides nothing that the noise does not: it keeps readers from taking noise for people.
    """
    if tau < 1:
        raise FormatError("tail", "tau must be at least 1")
    return tuple(one if one >= tau else None for one in none(sums))


class Ranked(NamedTuple):
    """A bin among the largest."""

    bin: int
    value: int


def top(sums: Iterable[int], k: int) -> tuple[Ranked, ...]:
    """The k largest, largest first; of equal ones, the lower bin first."""
    ranked = [Ranked(bin_, value) for bin_, value in enumerate(none(sums))]
    if not 1 <= k <= len(ranked):
        raise FormatError("tail", f"k must be 1 to {len(ranked)}")
    return tuple(sorted(ranked, key=lambda one: (-one.value, one.bin))[:k])


class Quantile(NamedTuple):
    """The bin that a quantile lies in, and the bins that it lies between despite the noise."""

    bin: int
    low: int
    high: int


def quantile(
    counts: Iterable[int], at_micro: int, *, variance: Fraction, sigmas: int = 2
) -> Quantile:
    """The first bin up to which a share of at least `at_micro` / 10^6 of all reports lies.

    `variance` is that of each count's noise; `low` and `high` take it `sigmas` times its
    deviation. Counts below zero are used as they are: to raise them to zero would pull the
    quantile towards empty bins. Undecidable if the total is not above its own noise.
    """
    bins = none(counts)
    if not bins or not 0 < at_micro < MICRO or sigmas < 0:
        raise FormatError("tail", "a quantile lies between 0 and 1 of some bins")
    total = sum(bins)
    if total <= 0 or total**2 <= _COUNT_SIGMAS_MIN**2 * variance * len(bins):
        raise Undecidable("the total is too close to the noise for a quantile")
    excess, low, high, found = -at_micro * total, None, 0, None
    for bin_, count in enumerate(bins):
        excess += MICRO * count
        margin = sigmas**2 * variance * _spread(bin_ + 1, len(bins), at_micro)
        if found is None and excess >= 0:
            found = bin_
        if low is None and (excess >= 0 or excess**2 <= margin):
            low = bin_
        if excess < 0 or excess**2 < margin:
            high = bin_ + 1
    # Behind the last bin lies nothing: the excess there is (1 - q) of a total above zero.
    assert found is not None
    assert low is not None
    return Quantile(found, low, min(high, len(bins) - 1))


def _spread(below: int, bins: int, at_micro: int) -> int:
    """By which the excess (count below - q * total, in millionths) carries one count's variance."""
    return below * (MICRO - at_micro) ** 2 + (bins - below) * at_micro**2


@dataclass(frozen=True, slots=True)
class Sample:
    """One variant's noised count, sum and sum of squares, and the variance of each one's noise.

    The values can be counted from any centre; the nearer it is to the mean, the less the noise
    of the count weighs.
    """

    count: Fraction
    total: Fraction
    squares: Fraction
    count_noise: Fraction
    total_noise: Fraction
    squares_noise: Fraction


def samples(sums: Iterable[int], scales: Sequence[int], variance: Fraction) -> list[Sample]:
    """Opened (count, sum, sum of squares) of each variant, each `scale` times what it measures.

    `variance` is that of each opened sum's noise, from `Law.opened_variance`.
    """
    opened = none(sums)
    if len(opened) != len(scales) or len(opened) % 3 or not opened:
        raise FormatError("tail", "an experiment opens three sums for each variant")
    values = [Fraction(one, scale) for one, scale in zip(opened, scales, strict=True)]
    noises = [variance / scale**2 for scale in scales]
    return [
        Sample(*values[at : at + 3], *noises[at : at + 3]) for at in range(0, len(opened), 3)
    ]  # fmt: skip


class Verdict(StrEnum):
    """What an experiment says of a variant beside the first."""

    HIGHER = "higher"
    LOWER = "lower"
    UNDECIDED = "undecided"
    """The means may be equal, for all that these reports and this noise can tell."""


class Comparison(NamedTuple):
    """A variant's mean less the first one's; millionths, the p-value rounded up."""

    verdict: Verdict
    difference_micro: int
    error_micro: int
    """The standard error of the difference, noise included."""
    df: int
    p_micro: int


def welch(variants: Sequence[Sample], *, alpha_micro: int) -> tuple[Comparison, ...]:
    """Welch's test of each further variant's mean against the first one's, two-sided.

    The standard error contains the noise's variance, and the degrees of freedom what the noise
    does to the estimated variances. `alpha_micro` / 10^6 is the chance of a verdict if all means
    are equal: it is divided among the comparisons. Undecidable if a variant's count or variance
    is too close to the noise.
    """
    if len(variants) < 2 or not 0 < alpha_micro < MICRO:
        raise FormatError("tail", "a test has two variants and an alpha between 0 and 1")
    first, *others = [_Estimate.of(place, one) for place, one in enumerate(variants)]
    alpha = alpha_micro / MICRO / len(others)
    return tuple(_compare(first, one, alpha) for one in others)


class _Estimate(NamedTuple):
    mean: Fraction
    error_squared: Fraction
    """The variance of the mean, sampling and noise."""
    error_squared_variance: Fraction
    """How well `error_squared` itself is known."""

    @classmethod
    def of(cls, place: int, one: Sample) -> _Estimate:
        n = one.count
        if n < 2 or n**2 < _COUNT_SIGMAS_MIN**2 * one.count_noise:
            raise Undecidable(f"variant {place} has too few reports for this noise")
        mean, square = one.total / n, one.squares / n
        variance = (square - mean**2) * n / (n - 1)
        # To first order in the noise of count, sum and sum of squares.
        mean_noise = (one.total_noise + mean**2 * one.count_noise) / n**2
        variance_noise = (
            one.squares_noise
            + 4 * mean**2 * one.total_noise
            + (2 * mean**2 - square) ** 2 * one.count_noise
        ) / n**2
        if variance <= 0 or variance**2 < _VARIANCE_SIGMAS_MIN**2 * variance_noise:
            raise Undecidable(f"the values of variant {place} vary too little for this noise")
        sampling = variance / n
        return cls(mean, sampling + mean_noise, 2 * sampling**2 / (n - 1) + variance_noise / n**2)


def _compare(first: _Estimate, other: _Estimate, alpha: float) -> Comparison:
    difference = other.mean - first.mean
    squared = first.error_squared + other.error_squared
    # Satterthwaite: a chi-square of df degrees has variance 2 df.
    df = float(2 * squared**2 / (first.error_squared_variance + other.error_squared_variance))
    error = math.sqrt(squared)
    p = student.two_sided(float(difference) / error, df)
    verdict = Verdict.UNDECIDED
    if p < alpha:
        verdict = Verdict.HIGHER if difference > 0 else Verdict.LOWER
    return Comparison(
        verdict,
        round(difference * MICRO),
        round(error * MICRO),
        math.floor(df),
        math.ceil(p * MICRO),
    )
