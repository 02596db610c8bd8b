"""What a release costs in zCDP, in whole micro-rho, and what that is as (epsilon, delta).

Costs add up exactly, because they are integers; each is rounded up once, when it is computed.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final

from crypto.errors import FormatError
from mpc.draw import precisely
from mpc.noise import Law, Mechanism, needed

MICRO: Final = 1_000_000
RHO_MICRO_MAX: Final = 1000 * MICRO
"""Far beyond what protects anybody; up to here floats hold the conversion's precision."""
_APART: Final = Fraction(1, 10**16)
"""Twice what one more Gaussian summand adds to tau (`_gaussian`), if each has a variance of 4."""
_DELTA_MIN: Final = 1e-300
"""Below, a float would be rounded to zero, and that is not up."""
_SLACK: Final = 1e-9
"""Kept of delta for the rounding of floats, which is a thousand times smaller."""


def cost(
    law: Law, *, l1: int, l2_squared: int, outputs: int, parties: int, t: int
) -> int:  # fmt: skip
    """Micro-rho of opening `outputs` sums that one device moves by `l1` and `l2_squared`.

    `l1` is the sum of magnitudes and `l2_squared` the squared Euclidean length of the largest
    move. Holds for every number of present parties that a round can be opened with.
    """
    if l1 < 1 or l2_squared < 1 or outputs < 1:
        raise FormatError("noise", "a release has outputs, and a device moves them")
    law.check(parties=parties, t=t)
    if law.mechanism is Mechanism.GAUSSIAN:
        rho = _gaussian(law, l2_squared, outputs, needed(parties, t))
    else:
        rho = _laplace(law, l1)
    if (micro := math.ceil(rho * MICRO)) > RHO_MICRO_MAX:
        raise FormatError("noise", "so little noise protects nobody: raise sigma")
    return micro


def _gaussian(law: Law, l2_squared: int, outputs: int, sharing: int) -> Fraction:
    """rho = l2^2 / 2 sigma^2 + tau d / 4 (Kairouz, Liu, Steinke 2021, Proposition 14).

    tau = 10 sum_(k < sharing) exp(-2 pi^2 s^2 k / (k + 1)), s^2 >= 4 the variance of a share,
    is for what a sum of discrete Gaussians is off a discrete Gaussian.
    """
    return l2_squared / (2 * law.variance) + _APART * (sharing - 1) * outputs / 4


def _laplace(law: Law, l1: int) -> Fraction:
    """Pure epsilon is epsilon^2 / 2 of zCDP (Bun, Steinke 2016, Proposition 1.4)."""
    with precisely():
        # 100 digits and one unit of the 60th up: no less than the true value.
        decay = Fraction(law.decay) + Fraction(1, 10**60)
    return (l1 * decay) ** 2 / 2


def delta_of(rho_micro: int, epsilon_micro: int) -> float:
    """The smallest delta that this many micro-epsilon can be stated with; rounded up.

    delta = min over a > 1 of exp((a - 1)(a rho - epsilon)) / (a - 1) * (1 - 1/a)^a
    (Canonne, Kamath, Steinke 2020, Corollary 13). Each `a` gives a bound that holds, so the
    search for the best one can't make a result wrong, only larger.
    """
    if not (0 <= rho_micro <= RHO_MICRO_MAX and epsilon_micro >= 0):
        raise FormatError("budget", f"rho is 0 to {RHO_MICRO_MAX} micro, epsilon not below 0")
    if rho_micro == 0:
        return 0.0
    rho, epsilon = rho_micro / MICRO, epsilon_micro / MICRO
    low, high = 1.0, (epsilon + 1) / (2 * rho) + 2
    while low < (order := (low + high) / 2) < high:
        if (2 * order - 1) * rho - epsilon + math.log1p(-1 / order) < 0:
            low = order
        else:
            high = order
    log = (high - 1) * (high * rho - epsilon) + high * math.log1p(-1 / high) - math.log(high - 1)
    return min(1.0, max(_DELTA_MIN, math.exp(min(0.0, log)) * (1 + _SLACK)))


def epsilon_of(rho_micro: int, delta: float) -> int:
    """The least whole micro-epsilon for which `rho_micro` is (epsilon, delta); delta >= 1e-300."""
    if not _DELTA_MIN <= delta < 1:
        raise FormatError("budget", "delta lies between 0 and 1")
    low, high = -1, 1
    while delta_of(rho_micro, high) > delta:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if delta_of(rho_micro, middle) > delta:
            low = middle
        else:
            high = middle
    return high
