"""Whether opened shares belong together, and what they open to (aggregates, sections 1 and 4).

Party i holds f(i). With one share more than the degree needs, one lie shows; with 2t more, up
to t lies are left out. It does no I/O and knows no party but by its number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from crypto.field import Array, Field
from crypto.shares import at_zero, off_line
from mpc.errors import OpeningError

Shares = Mapping[int, Array]
"""Shares of one vector by party number (from 1); all of one shape."""


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """The values; whether a single lie would have shown; the parties whose lie was left out."""

    values: Array
    checked: bool
    liars: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """Which rows lie on a polynomial; for each party, how many of the other rows would
    without it (it is to blame for them, or their authors are)."""

    consistent: NDArray[np.bool_]
    suspects: dict[int, int]


def corrects(parties: int, *, degree: int, t: int) -> bool:
    """Whether that many shares open to the right value although t of them lie."""
    return parties >= degree + 1 + 2 * t


def checks(parties: int, *, degree: int, t: int) -> bool:
    """Whether t lies among that many shares can't stay unseen."""
    return parties >= degree + 1 + t


def interpolate(name: str, field: Field, shares: Shares, *, degree: int, t: int) -> Opened:
    """What the shares open to. OpeningError if they can't be of honest parties and <= t liars
    that can be told from them."""
    count = len(shares)
    if count < degree + 1:
        raise OpeningError("few", name, f"it takes {degree + 1} parties, {count} are present")
    for liars in _exclusions(sorted(shares), t if corrects(count, degree=degree, t=t) else 0):
        honest = {party: share for party, share in shares.items() if party not in liars}
        if not off_line(field, honest, degree).any():
            is_checked = checks(count, degree=degree, t=t)
            return Opened(at_zero(field, honest, degree), is_checked, liars)
    raise OpeningError("lie", name, "a party sent another share than it holds")


def lines(field: Field, shares: Shares, degree: int) -> Lines:
    """Judges each row of shares of shape (rows, repetitions).

    A row with any share off is out, even where the lie could be corrected: a report that was
    spoiled for one party would spoil that party's sum.
    """
    off: NDArray[np.bool_] = np.any(off_line(field, shares, degree), axis=1)
    bad = {party: share[off] for party, share in shares.items()}
    suspects = {}
    if off.any() and len(shares) > degree + 2:
        for party in sorted(bad):
            others = {other: share for other, share in bad.items() if other != party}
            suspects[party] = int(np.sum(~np.any(off_line(field, others, degree), axis=1)))
    return Lines(~off, {party: rows for party, rows in suspects.items() if rows})


def _exclusions(parties: list[int], most: int) -> Iterator[tuple[int, ...]]:
    for size in range(most + 1):
        yield from combinations(parties, size)
