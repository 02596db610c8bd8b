"""Noise shares have the law that they claim, alone, together and without t of them.

Seeds are fixed and a test fails below a p-value of 1e-4, so that it passes always or never.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray
from scipy import signal, stats  # type: ignore[import-untyped]

from crypto.errors import FormatError
from mpc.draw import Decay, Table, below, decimal_of, precisely
from mpc.noise import Gaussian, Law, LogSeries, Mechanism, Polya, exponent_parts

SIGNIFICANCE = 1e-4
DRAWS = 200_000
TOPOLOGIES = [(3, 1), (2, 1), (4, 1), (5, 1), (5, 2), (3, 2)]
GAUSSIAN, LAPLACE = Mechanism.GAUSSIAN, Mechanism.LAPLACE
Pmf = NDArray[np.float64]


def seeded(seed: int) -> Callable[[int], bytes]:
    """A stream that is the same in each run."""
    return random.Random(seed).randbytes


def gaussian_pmf(variance: float, reach: int) -> Pmf:
    """The discrete Gaussian on -reach..reach."""
    weights = np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / (2 * variance))
    normal: Pmf = weights / weights.sum()
    return normal


def laplace_pmf(sigma: float, reach: int) -> Pmf:
    """The discrete Laplace on -reach..reach."""
    q = np.exp(-np.arccosh(1 + 1 / sigma**2))
    pmf: Pmf = (1 - q) / (1 + q) * q ** np.abs(np.arange(-reach, reach + 1.0))
    return pmf


def polya_difference_pmf(sigma: float, shape: float, reach: int) -> Pmf:
    """The difference of two negative binomials, by scipy's law."""
    q = np.exp(-np.arccosh(1 + 1 / sigma**2))
    one = stats.nbinom.pmf(np.arange(4 * reach), shape, 1 - q)
    both = signal.fftconvolve(one, one[::-1])
    middle = one.size - 1
    pmf: Pmf = np.maximum(both[middle - reach : middle + reach + 1], 0)
    return pmf


def p_value(draws: NDArray[np.int64], pmf: Pmf) -> float:
    """Chi-square of draws against a law on -reach..reach; the lesser of fine and of wide cells.

    Fine cells see a single number's chance, wide ones see what is a little off everywhere.
    """
    return min(_p_value(draws, pmf, least) for least in (20, draws.size // 100))


def _p_value(draws: NDArray[np.int64], pmf: Pmf, least: int) -> float:
    reach = pmf.size // 2
    inside = draws[np.abs(draws) <= reach]
    seen = np.bincount(inside + reach, minlength=pmf.size)
    due, got = [0.0], [0]
    for chance, times in zip(pmf.tolist(), seen.tolist(), strict=True):
        if due[-1] >= least:
            due.append(0.0)
            got.append(0)
        due[-1] += chance * draws.size
        got[-1] += times
    # What is left over joins its neighbour, as does all that lies beyond the reach.
    due[-2:] = [draws.size - sum(due[:-2])]
    got[-2:] = [draws.size - sum(got[:-2])]
    return float(stats.chisquare(got, due).pvalue)


@pytest.mark.parametrize(("present", "t"), TOPOLOGIES)
@pytest.mark.parametrize("sigma_milli", [5_000, 50_000, 400_000])
def test_gaussian_share_has_its_part_of_the_variance(
    sigma_milli: int, present: int, t: int
) -> None:
    """A share is a discrete Gaussian of sigma^2 / (present - t), by chi-square."""
    law = Law(GAUSSIAN, sigma_milli)
    draws = law.share(DRAWS, present=present, t=t, rand=seeded(sigma_milli + present))
    variance = (sigma_milli / 1000) ** 2 / (present - t)
    assert p_value(draws, gaussian_pmf(variance, int(8 * variance**0.5))) > SIGNIFICANCE


@pytest.mark.parametrize(("present", "t"), TOPOLOGIES)
@pytest.mark.parametrize("sigma_milli", [300, 2_000, 30_000])
def test_laplace_share_is_a_difference_of_polyas(sigma_milli: int, present: int, t: int) -> None:
    """A share has the law of two negative binomials' difference, by chi-square."""
    draws = Law(LAPLACE, sigma_milli).share(
        DRAWS, present=present, t=t, rand=seeded(sigma_milli + present)
    )
    sigma = sigma_milli / 1000
    pmf = polya_difference_pmf(sigma, 1 / (present - t), int(12 * sigma) + 8)
    assert p_value(draws, pmf) > SIGNIFICANCE


@pytest.mark.parametrize(("present", "t"), TOPOLOGIES)
@pytest.mark.parametrize("mechanism", Mechanism)
def test_shares_suffice_without_t_of_them(mechanism: Mechanism, present: int, t: int) -> None:
    """With t parties adding nothing, the sum still has the whole law: sigma^2, exactly."""
    law, rand = Law(mechanism, 6_000), seeded(present * 10 + t)
    honest = sum(law.share(DRAWS, present=present, t=t, rand=rand) for _ in range(present - t))
    pmf = gaussian_pmf(36, 60) if mechanism is GAUSSIAN else laplace_pmf(6, 90)
    assert p_value(np.asarray(honest), pmf) > SIGNIFICANCE


@pytest.mark.parametrize(("present", "t"), TOPOLOGIES)
@pytest.mark.parametrize("mechanism", Mechanism)
def test_sum_of_all_shares_has_the_stated_variance(
    mechanism: Mechanism, present: int, t: int
) -> None:
    """With all honest, the sum has sigma^2 * present / (present - t) and mean zero."""
    law, rand = Law(mechanism, 7_000), seeded(present * 20 + t)
    everyone = np.asarray(
        sum(law.share(DRAWS, present=present, t=t, rand=rand) for _ in range(present))
    )
    due = law.opened_variance(present=present, t=t)
    assert due == Fraction(49 * present, present - t)
    # Their own standard errors, the kurtosis of a Laplace share (3 (present - t)) included.
    excess = 0 if mechanism is GAUSSIAN else 3 * (present - t) / present
    assert abs(everyone.var() / float(due) - 1) < 4 * ((2 + excess) / DRAWS) ** 0.5
    assert abs(everyone.mean()) < 4 * (float(due) / DRAWS) ** 0.5


@pytest.mark.parametrize("bits", [9, 12, 30, 46])
def test_wide_gaussian_share(bits: int) -> None:
    """A share that is made of steps, remainder and rejection is normal."""
    draws = Law(GAUSSIAN, 1000 << bits).share(DRAWS, present=3, t=1, rand=seeded(bits + 7))
    scaled = (draws + np.random.default_rng(bits).uniform(-0.5, 0.5, DRAWS)) / 2.0**bits
    assert stats.kstest(scaled, stats.norm(scale=0.5**0.5).cdf).pvalue > SIGNIFICANCE
    assert abs(2 * scaled.var() - 1) < 4 * (2 / DRAWS) ** 0.5


@pytest.mark.parametrize("bits", [12, 30, 46])
@pytest.mark.parametrize("mechanism", Mechanism)
def test_wide_noise(mechanism: Mechanism, bits: int) -> None:
    """Up to the largest sigma the sum follows the smooth law, by KS, and low bits are uniform."""
    law, rand = Law(mechanism, 1000 << bits), seeded(bits)
    draws = np.asarray(sum(law.share(50_000, present=3, t=1, rand=rand) for _ in range(2)))
    smooth = stats.norm() if mechanism is GAUSSIAN else stats.laplace(scale=2**-0.5)
    assert stats.kstest((draws + 0.5) / 2.0**bits, smooth.cdf).pvalue > SIGNIFICANCE
    low = np.bincount(draws & 255, minlength=256)
    assert stats.chisquare(low).pvalue > SIGNIFICANCE


def test_polya_shares_make_a_geometric() -> None:
    """Three Polya numbers of shape 1/3 are one geometric number, by chi-square."""
    polya, rand = Polya(Decimal("0.1"), Fraction(1, 3)), seeded(1)
    draws = sum(polya.draw(DRAWS, rand) for _ in range(3))
    pmf = np.zeros(401)
    pmf[200:] = (1 - np.exp(-0.1)) * np.exp(-0.1 * np.arange(201))
    assert p_value(np.asarray(draws), pmf) > SIGNIFICANCE


@pytest.mark.parametrize("decay", ["3", "0.2", "0.01"])
def test_log_series(decay: str) -> None:
    """Terms of a Polya number follow scipy's logarithmic law."""
    draws = LogSeries(Decimal(decay)).draw(DRAWS, seeded(2))
    reach = int(20 / float(decay)) + 4
    pmf = np.zeros(2 * reach + 1)
    pmf[reach + 1 :] = stats.logser.pmf(np.arange(1, reach + 1), np.exp(-float(decay)))
    assert p_value(draws, pmf) > SIGNIFICANCE


@settings(deadline=None)
@given(
    st.integers(0, 46).flatmap(
        lambda shift: st.tuples(
            st.just(shift), st.integers(0, 511), st.integers(0, (1 << shift) - 1)
        )
    )
)
def test_parts_of_the_exponent_add_up(case: tuple[int, int, int]) -> None:
    """What a Gaussian rejection weighs is exactly (step + rest)^2 - step^2, in 63-bit parts."""
    shift, steps, rest = case
    parts = list(exponent_parts(np.array([steps]), np.array([rest]), shift))
    step = steps << shift
    assert sum(int(x[0]) << by for x, by in parts) == (step + rest) ** 2 - step**2
    assert all((int(x[0]) << by).bit_length() <= 2 * shift + 11 for x, by in parts)


def test_table_is_within_its_statistical_distance() -> None:
    """A table's chances are within (entries + 1) / 2^128 of the weights, at twice its digits."""
    weights = [Decimal(-k * k * 7).scaleb(-3).exp() for k in range(60)]
    bounds = [0, *Table(weights)._bounds, 1 << 128]
    with precisely() as context:
        context.prec = 200
        total = sum(weights)
        off = sum(
            abs(Decimal(high - low) - weight / total * (1 << 128))
            for low, high, weight in zip(bounds, bounds[1:], weights, strict=False)
        )
        assert off / 2 < len(weights) + 1


@settings(deadline=None)
@given(st.data())
def test_table_compares_all_128_bits(data: st.DataObject) -> None:
    """Where the high halves are equal, the low halves decide, as in one comparison."""
    table = Table([Decimal(1), Decimal(2), Decimal(4), Decimal(3)])
    bound = data.draw(st.sampled_from(table._bounds))
    drawn = (bound >> 64) << 64 | data.draw(
        st.sampled_from([0, (bound - 1) % 2**64, bound % 2**64, (bound + 1) % 2**64, 2**64 - 1])
    )
    halves = iter([drawn >> 64, drawn % 2**64])
    index = table.draw(
        1, lambda size: b"".join(next(halves).to_bytes(8, "little") for _ in range(size // 8))
    )
    assert index.tolist() == [bisect_right(table._bounds, drawn)]


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_chance_compares_all_128_bits(off: int) -> None:
    """An event of chance c / 2^128 happens for exactly the draws below c."""
    chance = (5 << 64) + 7
    halves = iter([5, 7 + off])
    happens = below(chance, 1, lambda _: next(halves).to_bytes(8, "little"))
    assert happens.tolist() == [off < 0]


@pytest.mark.parametrize("x", [1, 6, 37])
def test_decay(x: int) -> None:
    """An event of chance exp(-rate * x * 2^shift) happens that often."""
    decay = Decay(Decimal("0.01"), 12)
    happened = int(decay.survives(np.full(DRAWS, x), seeded(x), shift=2).sum())
    assert stats.binomtest(happened, DRAWS, np.exp(-0.04 * x)).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("rate", [Decimal(2) ** -100, Decimal("0.3"), Decimal(9)])
def test_chances_of_a_decay_are_rounded_down_once(rate: Decimal) -> None:
    """Each bit's chance is the floor of exp(-rate * 2^bit) * 2^128."""
    with precisely() as context:
        context.prec = 200
        for bit, chance in enumerate(Decay(rate, 20)._chances):
            assert 0 <= (-rate * 2**bit).exp() * 2**128 - chance < 1


@pytest.mark.parametrize(("present", "t"), [(2, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("sigma_milli", [500, 3_000])
def test_reach_of_laplace(sigma_milli: int, present: int, t: int) -> None:
    """Noise passes its reach with less than 2^-120, by the exact law of the sum."""
    law = Law(LAPLACE, sigma_milli)
    reach = law.reach(present=present, t=t)
    with precisely():
        q, shape = (-law.decay).exp(), decimal_of(Fraction(present, present - t))
        pmf = [(shape * (1 - q).ln()).exp()]
        for k in range(1, 3 * reach):
            pmf.append(pmf[-1] * q * (k - 1 + shape) / k)
        beyond = sum(
            (one * sum(pmf[low + reach + 1 :]) for low, one in enumerate(pmf[: 2 * reach])),
            Decimal(0),
        )
        assert 2 * beyond < Decimal(2) ** -120


@pytest.mark.parametrize("mechanism", Mechanism)
def test_same_bytes_give_the_same_noise(mechanism: Mechanism) -> None:
    """Noise depends on the bytes alone; 1,024 numbers take less than half a megabyte of them."""
    law, taken = Law(mechanism, 80_000), 0

    def counting(size: int) -> bytes:
        nonlocal taken
        taken += size
        return stream(size)

    stream = seeded(3)
    first = law.share(1024, present=3, t=1, rand=counting)
    again = law.share(1024, present=3, t=1, rand=seeded(3))
    assert first.dtype == np.int64
    assert np.array_equal(first, again)
    assert taken < 1 << 19


def test_no_numbers() -> None:
    """A share for no sums is empty."""
    for mechanism in Mechanism:
        assert Law(mechanism, 9_000).share(0, present=3, t=1, rand=seeded(0)).size == 0


@pytest.mark.parametrize("sigma_milli", [0, -1, (1 << 56) + 1, 2.5, True])
def test_sigma_out_of_range(sigma_milli: int) -> None:
    """A sigma that is no whole number of thousandths in range is refused."""
    with pytest.raises(FormatError, match="sigma must be"):
        Law(GAUSSIAN, sigma_milli)


def test_too_narrow_gaussians_do_not_add_up() -> None:
    """A Gaussian share below variance 4 is refused, naming the least sigma; that one is taken."""
    with pytest.raises(FormatError, match="at least 2829 thousandths"):
        Law(GAUSSIAN, 2_828).check(parties=3, t=1)
    Law(GAUSSIAN, 2_829).check(parties=3, t=1)
    with pytest.raises(FormatError, match="at least 4000 thousandths"):
        Law(GAUSSIAN, 3_999).share(1, present=5, t=1, rand=seeded(0))
    Law(LAPLACE, 100).check(parties=3, t=1)


@pytest.mark.parametrize(("present", "t"), [(1, 1), (0, 0), (2, 3), (3, -1)])
def test_too_few_present(present: int, t: int) -> None:
    """Noise that t parties alone could know is refused."""
    with pytest.raises(FormatError, match="more parties than t"):
        Law(GAUSSIAN, 9_000).share(1, present=present, t=t, rand=seeded(0))


def test_short_randomness() -> None:
    """A source that gives fewer bytes than asked for is refused."""
    with pytest.raises(FormatError, match="randomness must be"):
        Gaussian(Fraction(9)).draw(4, lambda size: bytes(size - 1))
