"""Shamir's sharing of a vector, with seeds for t of the shares (aggregates, section 3).

Party i holds f(i) of a polynomial f of degree t with f(0) the vector. Any t shares are
uniform, so t of them can be what a seed expands to, and the others follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crypto.errors import FormatError, ShareError
from crypto.field import Array, Field
from crypto.primitives import need

PARTIES_MAX = 16
SEED_BYTES = 32
ELEMENTS, SEED = 0, 1
"""The forms of a share."""


class Share(NamedTuple):
    """What one party gets: elements as they travel, or the seed that they come from."""

    party: int
    form: int
    payload: bytes

    def __repr__(self) -> str:
        return f"Share(party={self.party}, form={self.form})"

    def elements(self, field: Field, length: int) -> Array:
        """The share itself; FormatError `form`, `length` or `range`."""
        self.check(field, length)
        if self.form == SEED:
            return field.prg(self.payload, length)
        return field.from_bytes(self.payload, length)

    def check(self, field: Field, length: int) -> None:
        """FormatError `form`, `length` or `range` unless `elements` would give the share."""
        if self.form == SEED:
            need("seed", self.payload, SEED_BYTES)
        elif self.form == ELEMENTS:
            field.words(self.payload, length)
        else:
            raise FormatError("form", "a share is elements or a seed")


def check_parties(m: int, t: int) -> None:
    """FormatError unless t of m parties may lie or look: checks of degree 2t need 2t + 1."""
    if not (t >= 1 and 2 * t + 1 <= m <= PARTIES_MAX):
        raise FormatError("parties", f"t must be from 1 and m from 2t + 1 up to {PARTIES_MAX}")


@lru_cache(maxsize=256)
def seeded(m: int, t: int, offset: int) -> tuple[int, ...]:
    """The t parties that get seeds; an `offset` one higher moves them on by one party."""
    return tuple(sorted(1 + (offset + step) % m for step in range(t)))


def split(
    field: Field, values: Array, m: int, t: int, rand: Callable[[int], bytes], offset: int = 0
) -> list[Share]:
    """One share for each party 1 to m. `rand` must be a CSPRNG."""
    check_parties(m, t)
    if values.ndim != 1 or not values.size or int(values.max()) >= field.p:
        raise FormatError("range", "what is shared is a row of elements below the modulus")
    seeds = {party: rand(SEED_BYTES) for party in seeded(m, t, offset % m)}
    points = {0: values} | {x: field.prg(seed, values.size) for x, seed in seeds.items()}
    shares = []
    for party in range(1, m + 1):
        if party in seeds:
            shares.append(Share(party, SEED, seeds[party]))
        else:
            elements = combine(field, points, list(points), party)
            shares.append(Share(party, ELEMENTS, field.to_bytes(elements)))
    return shares


@lru_cache(maxsize=4096)
def _weights(field: Field, base: tuple[int, ...], at: int) -> list[int]:
    return field.lagrange(base, at)


def combine(field: Field, shares: Mapping[int, Array], base: Sequence[int], at: int) -> Array:
    """f(at) by the shares at the points `base`, one more than f's degree."""
    terms = zip(base, _weights(field, tuple(base), at), strict=True)
    first, weight = next(terms)
    total = field.scale(shares[first], weight)
    for point, weight in terms:
        total = field.add(total, field.scale(shares[point], weight))
    return total


def at_zero(field: Field, shares: Mapping[int, Array], degree: int) -> Array:
    """f(0) by the first `degree + 1` shares, unchecked."""
    return combine(field, shares, sorted(shares)[: degree + 1], 0)


def off_line(field: Field, shares: Mapping[int, Array], degree: int) -> NDArray[np.bool_]:
    """For each element, whether its shares lie on no polynomial of that degree."""
    parties = sorted(shares)
    base = parties[: degree + 1]
    off = np.zeros(shares[parties[0]].shape, np.bool_)
    for party in parties[degree + 1 :]:
        off |= combine(field, shares, base, party) != shares[party]
    return off


def reconstruct(field: Field, shares: Mapping[int, Array], t: int) -> Array:
    """The vector; FormatError for fewer than t + 1 shares, ShareError if they disagree.

    With t + 1 shares nothing can disagree: one more detects a lie, two more name it.
    """
    if len(shares) <= t:
        raise FormatError("few", f"it takes {t + 1} shares, {len(shares)} are here")
    if off_line(field, shares, t).any():
        raise ShareError(next(_explanations(field, shares, t), ()))
    return at_zero(field, shares, t)


def _explanations(field: Field, shares: Mapping[int, Array], t: int) -> Iterator[tuple[int, ...]]:
    """The one set of parties without which the rest agree, if it is small enough to be unique."""
    for size in range(1, (len(shares) - t - 1) // 2 + 1):
        for out in combinations(sorted(shares), size):
            rest = {party: share for party, share in shares.items() if party not in out}
            if not off_line(field, rest, t).any():
                yield out
