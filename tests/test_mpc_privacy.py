"""What a release costs in zCDP and as (epsilon, delta), beside dp-accounting."""

from __future__ import annotations

import math
from fractions import Fraction

import dp_accounting  # type: ignore[import-untyped]
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant  # type: ignore[import-untyped]
from dp_accounting.rdp import RdpAccountant  # type: ignore[import-untyped]
from hypothesis import given, settings, strategies as st

from crypto.errors import FormatError
from mpc.noise import Law, Mechanism
from mpc.privacy import MICRO, RHO_MICRO_MAX, cost, delta_of, epsilon_of

GAUSSIAN, LAPLACE = Mechanism.GAUSSIAN, Mechanism.LAPLACE
DELTAS = [1e-3, 1e-6, 1e-9, 1e-12]
ORDERS = 1 + np.geomspace(0.01, 1e5, 3000)


def gaussian_cost(sigma_milli: int, l2_squared: int = 1) -> int:
    """One sum, three parties."""
    law = Law(GAUSSIAN, sigma_milli)
    return cost(law, l1=1, l2_squared=l2_squared, outputs=1, parties=3, t=1)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("sigma_milli", [3_000, 4_001, 10_000, 30_000, 100_000])
def test_epsilon_agrees_with_dp_accounting(sigma_milli: int, delta: float) -> None:
    """A release's epsilon is dp-accounting's by Renyi orders, and no less than the exact one."""
    ours = epsilon_of(gaussian_cost(sigma_milli), delta) / MICRO
    event = dp_accounting.GaussianDpEvent(sigma_milli / 1000)
    # A cost is rounded up to a whole micro-rho, which is much where it is small.
    room = 1 + 1 / gaussian_cost(sigma_milli)
    renyi = RdpAccountant(ORDERS).compose(event).get_epsilon(delta)
    assert renyi * (1 - 1e-5) <= ours <= renyi * room + 1e-5
    exact = PLDAccountant(value_discretization_interval=1e-4).compose(event).get_epsilon(delta)
    assert exact <= ours <= 1.5 * exact


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("rounds", [1, 7, 100, 2000])
def test_composition_agrees_with_dp_accounting(rounds: int, delta: float) -> None:
    """The rho of many rounds is the sum of theirs, and so says dp-accounting."""
    rho_micro = rounds * gaussian_cost(20_000, 2)
    ours = epsilon_of(rho_micro, delta) / MICRO
    event = dp_accounting.SelfComposedDpEvent(
        dp_accounting.ZCDpEvent(rho_micro / rounds / MICRO), rounds
    )
    assert ours == pytest.approx(RdpAccountant(ORDERS).compose(event).get_epsilon(delta), rel=1e-4)


@pytest.mark.parametrize("epsilon_micro", [100_000, 1_000_000, 5_000_000])
@pytest.mark.parametrize("rho_micro", [50, 12_500, 500_000])
def test_delta_agrees_with_dp_accounting(rho_micro: int, epsilon_micro: int) -> None:
    """A release's delta is no less than the exact one of the Gaussian with this rho."""
    sigma = math.sqrt(MICRO / (2 * rho_micro))
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    exact = accountant.compose(dp_accounting.GaussianDpEvent(sigma)).get_delta(
        epsilon_micro / MICRO
    )
    # dp-accounting's own errors are about 1e-15.
    assert delta_of(rho_micro, epsilon_micro) >= exact - 1e-14
    assert delta_of(rho_micro, epsilon_micro) <= 30 * exact + 1e-14


@settings(deadline=None)
@given(st.integers(1, RHO_MICRO_MAX - 1), st.integers(1, 1 << 20), st.integers(1, 40))
def test_epsilon_is_monotone(rho_micro: int, more: int, digits: int) -> None:
    """More rho is more epsilon, a larger delta less of it; the result holds and is the least."""
    delta = 10.0**-digits
    epsilon = epsilon_of(rho_micro, delta)
    assert epsilon_of(min(RHO_MICRO_MAX, rho_micro + more), delta) >= epsilon
    assert epsilon_of(rho_micro, delta / 10) >= epsilon
    assert delta_of(rho_micro, epsilon) <= delta
    assert epsilon == 0 or delta_of(rho_micro, epsilon - 1) > delta


def test_no_rho_is_no_epsilon() -> None:
    """What cost nothing tells nothing; what is out of range is refused."""
    assert epsilon_of(0, 1e-6) == 0
    for delta in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(FormatError, match="delta lies"):
            epsilon_of(1, delta)
    for rho_micro, epsilon_micro in ((-1, 0), (RHO_MICRO_MAX + 1, 0), (1, -1)):
        with pytest.raises(FormatError, match="rho is 0 to"):
            delta_of(rho_micro, epsilon_micro)


@settings(deadline=None)
@given(st.integers(2_829, 1 << 40), st.integers(1, 1 << 60), st.integers(1, 65536))
def test_gaussian_cost_is_rounded_up(sigma_milli: int, l2_squared: int, outputs: int) -> None:
    """A Gaussian costs l2^2 / 2 sigma^2, up by less than two micro-rho, or is refused."""
    exact = Fraction(l2_squared * 10**6 * MICRO, 2 * sigma_milli**2)
    law = Law(GAUSSIAN, sigma_milli)
    if exact + 1 > RHO_MICRO_MAX:
        with pytest.raises(FormatError, match="protects nobody"):
            cost(law, l1=1, l2_squared=2 * l2_squared, outputs=outputs, parties=3, t=1)
        return
    micro = cost(law, l1=1, l2_squared=l2_squared, outputs=outputs, parties=3, t=1)
    assert exact < micro < exact + 2


@pytest.mark.parametrize(("parties", "t"), [(3, 1), (4, 1), (5, 1), (5, 2), (9, 1)])
def test_a_sum_of_gaussians_is_charged_for_what_it_is_off(parties: int, t: int) -> None:
    """The cost holds for the least sigma by the published formula, at the largest vector."""
    sharing = parties - t
    law = Law(GAUSSIAN, math.isqrt(4 * sharing * 10**6 - 1) + 1)
    variance = float(law.variance) / sharing
    tau = 10 * sum(math.exp(-2 * math.pi**2 * variance * k / (k + 1)) for k in range(1, sharing))
    exact = Fraction(1) / (2 * law.variance) + Fraction(tau) * 65536 / 4
    micro = cost(law, l1=1, l2_squared=1, outputs=65536, parties=parties, t=t)
    assert exact * MICRO <= micro <= exact * MICRO + 2


@pytest.mark.parametrize("sigma_milli", [500, 1_000, 14_142, 1 << 40])
@pytest.mark.parametrize("l1", [1, 2, 12])
def test_laplace_cost(sigma_milli: int, l1: int) -> None:
    """Discrete Laplace noise is pure epsilon = l1 * arcosh(1 + 1 / sigma^2), so epsilon^2 / 2."""
    micro = cost(Law(LAPLACE, sigma_milli), l1=l1, l2_squared=1, outputs=9, parties=3, t=1)
    # log1p form of arcosh, which keeps its digits where 1 / sigma^2 is small.
    more = (1000 / sigma_milli) ** 2
    epsilon = l1 * math.log1p(more + math.sqrt(more * (more + 2)))
    assert micro == math.ceil(epsilon**2 / 2 * MICRO)
    if epsilon > 0.01:
        event = dp_accounting.LaplaceDpEvent(1 / epsilon)
        assert (
            RdpAccountant(ORDERS).compose(event).get_epsilon(1e-6)
            <= epsilon_of(micro, 1e-6) / MICRO
        )


def test_cost_refuses_what_is_no_release() -> None:
    """No outputs, no sensitivity, or Gaussians that don't add up have no cost."""
    law = Law(GAUSSIAN, 10_000)
    good = {"l1": 1, "l2_squared": 1, "outputs": 1}
    for name in good:
        with pytest.raises(FormatError, match="release has outputs"):
            cost(law, **{**good, name: 0}, parties=3, t=1)
    with pytest.raises(FormatError, match="at least 2829"):
        gaussian_cost(2_828)
