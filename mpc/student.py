"""Student's t: the chance of a value at least this far from zero, without scipy."""

from __future__ import annotations

import math
from typing import Final

_DF_MAX: Final = 1e6
"""More are taken for so many: the tails differ by less than their sixth digit and can only be
wider, and the gamma functions' difference below keeps nine digits."""
_STEPS_MAX: Final = 10_000
_PRECISION: Final = 1e-15
_TINY: Final = 1e-300


def two_sided(t: float, df: float) -> float:
    """P(|T| >= |t|) for `df` > 0 degrees of freedom, which need not be whole."""
    if t == 0:
        return 1.0
    df = min(df, _DF_MAX)
    # x and 1 - x each without cancellation.
    return _beta(df / 2, 0.5, df / (df + t * t), t * t / (df + t * t))


def _beta(a: float, b: float, x: float, rest: float) -> float:
    """The regularised incomplete beta function I_x(a, b), with rest = 1 - x."""
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, rest, x)
    if x == 0:
        return 0.0
    log = a * math.log(x) + b * math.log(rest)
    log += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log) / a * _fraction(a, b, x)


def _fraction(a: float, b: float, x: float) -> float:
    """Its continued fraction, by Lentz's method (DLMF 8.17.22)."""
    c, d = 1.0, 1 / _nonzero(1 - (a + b) * x / (a + 1))
    result = d
    for m in range(1, _STEPS_MAX):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = 1.0
        for term in (even, odd):
            d = 1 / _nonzero(1 + term * d)
            c = _nonzero(1 + term / c)
            step = c * d
            result *= step
        if abs(step - 1) < _PRECISION:
            break
    return result


def _nonzero(x: float) -> float:
    return x if abs(x) > _TINY else _TINY
