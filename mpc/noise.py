"""A party's share of the noise that an opened sum carries (docs/aggregation.md, 4).

Of `present` parties up to t may add nothing and tell the others' shares from their own, so
`present - t` shares alone already have the law: each has the variance sigma^2 / (present - t).

Parameters are whole thousandths: a task's CBOR then has one form for each sigma, equal sigmas
are equal everywhere, and the budget is counted exactly. Draws are whole numbers that come out
of integer comparisons (mpc/draw.py): no float whose low bits could tell what it was added to.

Statistical distance from the exact law: below 2^-108 for a number that is drawn, so below 2^-92
for the largest vector, whatever sigma is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor, isqrt
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from crypto.errors import FormatError
from mpc.draw import NEGLIGIBLE, Decay, Ints, Rand, Table, decimal_of, fill, precisely, words

MILLI: Final = 1000
SIGMA_MILLI_MAX: Final = 1 << 56
"""Sigma below 2^47. Noise beyond it would leave the larger field anyway."""
GAUSSIAN_SHARE_VARIANCE_MIN: Final = 4
"""Discrete Gaussians add up to one closely only if each of them is wide (`mpc.budget`)."""
_TABLE_SIGMA_BITS = 5


class Mechanism(StrEnum):
    """The law of the noise."""

    GAUSSIAN = "gaussian"
    """P(x) ~ exp(-x^2 / 2 sigma^2) over the integers: measured by squared Euclidean distance."""
    LAPLACE = "laplace"
    """P(x) ~ q^|x|: measured by the sum of magnitudes; sigma^2 = 2q / (1-q)^2."""


@dataclass(frozen=True, slots=True)
class Law:
    """The noise of a task: its mechanism and its standard deviation in thousandths."""

    mechanism: Mechanism
    sigma_milli: int

    def __post_init__(self) -> None:
        if not isinstance(self.mechanism, Mechanism):
            raise FormatError("noise", f"noise must be one of: {', '.join(Mechanism)}")
        if type(self.sigma_milli) is not int or not 1 <= self.sigma_milli <= SIGMA_MILLI_MAX:
            raise FormatError("noise", f"sigma must be 1 to {SIGMA_MILLI_MAX} thousandths")

    @property
    def variance(self) -> Fraction:
        """sigma^2, which `present - t` parties' shares have together."""
        return Fraction(self.sigma_milli, MILLI) ** 2

    def opened_variance(self, *, present: int, t: int) -> Fraction:
        """What an opened sum has if all present parties are honest: more than is needed."""
        return self.variance * present / needed(present, t)

    @property
    def decay(self) -> Decimal:
        """Of Laplace noise: -ln q = arcosh(1 + 1 / sigma^2), what a step by 1 costs; 100 digits."""
        with precisely() as context:
            more = 1 / decimal_of(self.variance)
            return context.ln(1 + more + context.sqrt(more * (more + 2)))

    def check(self, *, parties: int, t: int) -> None:
        """FormatError if so many parties' shares would not add up to this law."""
        sharing = needed(parties, t)
        least = GAUSSIAN_SHARE_VARIANCE_MIN * sharing
        if self.mechanism is Mechanism.GAUSSIAN and self.variance < least:
            sigma = isqrt(least * MILLI**2 - 1) + 1
            raise FormatError(
                "noise", f"with {parties} parties sigma must be at least {sigma} thousandths"
            )

    def share(self, count: int, *, present: int, t: int, rand: Rand) -> Ints:
        """One party's share for `count` sums: drawn once, and stored before any of it leaves."""
        self.check(parties=present, t=t)
        return _sampler(self, needed(present, t)).draw(count, rand)

    def reach(self, *, present: int, t: int) -> int:
        """The noise in an opened sum is larger than this with less than 2^-120."""
        if self.mechanism is Mechanism.GAUSSIAN:
            # Sub-Gaussian: P(|X| > x) <= 2 exp(-x^2 / 2v), so x^2 = 2v * 121 ln 2 and more.
            return isqrt(ceil(self.opened_variance(present=present, t=t) * 170)) + 1
        # Chernoff at 63/64 of the decay: P(|X| > x) <= 2 exp(-63/64 decay x) / (1 - (63/64)^2)^r
        # for r full draws; 121 ln 2 < 84, and each draw's factor is below exp(3.5).
        draws = Fraction(present, needed(present, t))
        with precisely():
            return ceil(decimal_of(Fraction(64, 63) * (84 + Fraction(7, 2) * draws)) / self.decay)


def needed(present: int, t: int) -> int:
    """How many of the present parties' shares must have the law together; FormatError if none."""
    if not 0 <= t < present:
        raise FormatError("parties", "more parties than t must be present")
    return present - t


class _Sampler(Protocol):
    def draw(self, count: int, rand: Rand) -> Ints: ...


@lru_cache(maxsize=64)
def _sampler(law: Law, sharing: int) -> _Sampler:
    if law.mechanism is Mechanism.GAUSSIAN:
        return Gaussian(law.variance / sharing)
    return PolyaDifference(law.decay, Fraction(1, sharing))


def _half_gaussian(variance: Fraction) -> Iterator[Decimal]:
    """exp(-k^2 / 2 variance) for k = 0, 1, 2..."""
    rate = decimal_of(1 / (2 * variance))
    k, weight = 0, Decimal(1)
    while weight > NEGLIGIBLE:
        yield weight
        k += 1
        weight = (-rate * k * k).exp()


class Gaussian:
    """Discrete Gaussian of this variance parameter over the integers.

    A table for steps of 2^shift, a uniform remainder, and a rejection that gives their sum its
    exact weight (as BLISS does); then a sign, with one of the two zeros refused.
    """

    def __init__(self, variance: Fraction) -> None:
        self._shift = max(0, isqrt(floor(variance)).bit_length() - _TABLE_SIGMA_BITS)
        with precisely():
            self._steps = Table(_half_gaussian(variance / 4**self._shift))
            rate = decimal_of(1 / (2 * variance))
        # Steps stay below 2^9 + 1, so no exponent (below) passes 2^(2 shift + 11).
        self._decay = Decay(rate, 2 * self._shift + 11)

    def draw(self, count: int, rand: Rand) -> Ints:
        """`count` numbers."""
        return fill(count, lambda tries: self._attempt(tries, rand))

    def _attempt(self, tries: int, rand: Rand) -> Ints:
        steps = self._steps.draw(tries, rand)
        random = words(tries, rand)
        rest = (random & np.uint64((1 << self._shift) - 1)).astype(np.int64)
        negative = (random >> np.uint64(63)).astype(np.bool_)
        size = (steps << self._shift) + rest
        second_zero: NDArray[np.bool_] = negative & (size == 0)
        kept = self._weighed(steps, rest, rand) & ~second_zero
        size[negative] *= -1
        return size[kept]

    def _weighed(self, steps: Ints, rest: Ints, rand: Rand) -> NDArray[np.bool_]:
        """An event of chance exp(-(rest^2 + 2 * rest * steps * 2^shift) / 2 variance)."""
        kept = np.ones(rest.size, np.bool_)
        for x, shift in exponent_parts(steps, rest, self._shift):
            kept &= self._decay.survives(np.where(kept, x, 0), rand, shift)
        return kept


def exponent_parts(steps: Ints, rest: Ints, shift: int) -> Iterator[tuple[Ints, int]]:
    """(steps * 2^shift + rest)^2 - (steps * 2^shift)^2 as a sum of x * 2^shift, x in 63 bits.

    The whole can take 104 bits, and rest^2 alone 94: it is put together from halves of rest.
    """
    half = (shift + 1) // 2
    high, low = rest >> half, rest & ((1 << half) - 1)
    yield steps * rest, shift + 1
    yield high * high, 2 * half
    yield high * low, half + 1
    yield low * low, 0


def _poisson(mean: Decimal) -> Iterator[Decimal]:
    """mean^k / k! for k = 0, 1, 2..."""
    k, weight = 0, Decimal(1)
    while weight > NEGLIGIBLE or k < mean:
        yield weight
        k += 1
        weight *= mean / k


class LogSeries:
    """P(k) ~ q^k / k for k = 1, 2..., q = exp(-decay).

    An octave 2^j <= k < 2^(j+1) with weight q^(2^j), a uniform k in it, and a rejection with
    2^j / k (exact) and q^(k - 2^j). More than half of all tries are kept, whatever q is.
    """

    def __init__(self, decay: Decimal) -> None:
        weights: list[Decimal] = []
        with precisely():
            while not weights or weights[-1] > NEGLIGIBLE * weights[0]:
                weights.append((-decay * (1 << len(weights))).exp())
        self._octaves = Table(weights)
        self._decay = Decay(decay, len(weights))

    def draw(self, count: int, rand: Rand) -> Ints:
        """`count` numbers."""
        return fill(count, lambda tries: self._attempt(tries, rand))

    def _attempt(self, tries: int, rand: Rand) -> Ints:
        octave = np.left_shift(1, self._octaves.draw(tries, rand))
        rest = words(tries, rand).astype(np.int64) & (octave - 1)
        kept = _uniform(octave, octave + rest, rand) < octave
        kept &= self._decay.survives(np.where(kept, rest, 0), rand)
        sizes: Ints = octave + rest
        return sizes[kept]


def _uniform(octave: Ints, limit: Ints, rand: Rand) -> Ints:
    """Uniform in 0 <= x < limit, where octave <= limit < 2 * octave."""
    mask = 2 * octave - 1
    x = words(limit.size, rand).astype(np.int64) & mask
    while (over := np.flatnonzero(x >= limit)).size:
        x[over] = words(over.size, rand).astype(np.int64) & mask[over]
    return x


class Polya:
    """Negative binomial of a real shape: 1/shape of them sum to a geometric number of P(k) ~ q^k.

    Drawn as a Poisson number of log-series terms, which works for every q.
    """

    def __init__(self, decay: Decimal, shape: Fraction) -> None:
        with precisely() as context:
            mean = -decimal_of(shape) * context.ln(1 - context.exp(-decay))
            self._terms = Table(_poisson(mean))
        self._sizes = LogSeries(decay)

    def draw(self, count: int, rand: Rand) -> Ints:
        """`count` numbers."""
        terms = self._terms.draw(count, rand)
        ends = np.cumsum(terms)
        sizes = self._sizes.draw(int(terms.sum()), rand)
        # Sums may wrap in a long vector; their differences are right all the same.
        sums: Ints = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))
        numbers: Ints = sums[ends] - sums[ends - terms]
        return numbers


class PolyaDifference:
    """Difference of two Polya numbers: 1/shape of them sum to exactly one discrete Laplace."""

    def __init__(self, decay: Decimal, shape: Fraction) -> None:
        self._polya = Polya(decay, shape)

    def draw(self, count: int, rand: Rand) -> Ints:
        """`count` numbers."""
        return self._polya.draw(count, rand) - self._polya.draw(count, rand)
