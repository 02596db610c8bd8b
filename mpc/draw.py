"""Draws of whole numbers from a CSPRNG's bytes, many at once, without floats.

Chances come from `decimal`, whose exp and ln are correctly rounded, at 100 digits, and are
rounded down to multiples of 2^-128 once; draws compare integers. So a bound of a table or the
chance of an event is off by less than 2^-127, on every machine alike, and each class states
what follows for its law. Nothing here runs in constant time: it must not share a clock with
those who may not know the noise.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from crypto.primitives import need

Rand = Callable[[int], bytes]
"""So many bytes of a CSPRNG: `os.urandom`, in tests a seeded stream."""
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

PRECISION_BITS = 128
NEGLIGIBLE = Decimal(2) ** -(PRECISION_BITS + 8)
"""Where tables end: all that lies beyond has less than 2^-127 of their weight."""
_LOW = (1 << 64) - 1
_DIGITS = 100


@contextmanager
def precisely() -> Iterator[Context]:
    """Decimal arithmetic to 100 digits, whatever context the caller has."""
    with localcontext(Context(prec=_DIGITS)) as context:
        yield context


def decimal_of(ratio: Fraction) -> Decimal:
    """The ratio, rounded to the digits of the context."""
    return Decimal(ratio.numerator) / Decimal(ratio.denominator)


def words(count: int, rand: Rand) -> Words:
    """Uniform 64-bit words; FormatError if `rand` gives too few bytes or too many."""
    return np.frombuffer(need("randomness", rand(8 * count), 8 * count), "<u8")


def below(chance: int, count: int, rand: Rand) -> NDArray[np.bool_]:
    """`count` events of chance `chance / 2^128` each."""
    high, low = np.uint64(chance >> 64), np.uint64(chance & _LOW)
    drawn = words(count, rand)
    happens = drawn < high
    tied = np.flatnonzero(drawn == high)
    if tied.size:
        happens[tied] = words(tied.size, rand) < low
    return happens


class Table:
    """Draws 0, 1, 2... in proportion to weights: an inversion of their sums, to 128 bits.

    Statistical distance from the exact law below (entries + 1) / 2^128, besides the weight of
    what the caller left out.
    """

    def __init__(self, weights: Iterable[Decimal]) -> None:
        with precisely():
            sums = list(accumulate(weights))
            # Only inner bounds are kept: the last index has all that is left.
            self._bounds = [int(one / sums[-1] * (1 << PRECISION_BITS)) for one in sums[:-1]]
        self._high = np.array([bound >> 64 for bound in self._bounds], np.uint64)

    def draw(self, count: int, rand: Rand) -> Ints:
        """`count` indices."""
        drawn = words(count, rand)
        indices = np.searchsorted(self._high, drawn, side="left").astype(np.int64)
        tied = np.flatnonzero(np.searchsorted(self._high, drawn, side="right") != indices)
        for row, low in zip(tied.tolist(), words(tied.size, rand).tolist(), strict=True):
            indices[row] = bisect_right(self._bounds, int(drawn[row]) << 64 | low)
        return indices


class Decay:
    """Events of chance exp(-rate * x) for whole x: one event for each bit of x, all must happen.

    Off by less than 2^-127 for each bit of x.
    """

    def __init__(self, rate: Decimal, bits: int) -> None:
        most = (1 << PRECISION_BITS) - 1
        with precisely():
            chances = ((-rate * (1 << bit)).exp() for bit in range(bits))
            self._chances = [min(most, int(one * (1 << PRECISION_BITS))) for one in chances]

    def survives(self, x: Ints, rand: Rand, shift: int = 0) -> NDArray[np.bool_]:
        """For each of `x`, not below 0, whether an event of chance exp(-rate * x * 2^shift) was."""
        alive = np.ones(x.size, np.bool_)
        for bit in range(int(x.max(initial=0)).bit_length()):
            rows = np.flatnonzero(alive & ((x >> bit) & 1).astype(np.bool_))
            if rows.size:
                alive[rows] = below(self._chances[bit + shift], rows.size, rand)
        return alive


def fill(count: int, attempt: Callable[[int], Ints]) -> Ints:
    """The first `count` that `attempt(n)`, which keeps some of n independent tries, accepts."""
    got = np.empty(0, np.int64)
    while got.size < count:
        missing = count - got.size
        # A few more than needed: a second pass over one row costs as much as over all.
        got = np.concatenate((got, attempt(missing + missing // 8 + 8)))
    return got[:count]
