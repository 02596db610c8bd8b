"""Kinds of every sort and size with values for them, and what parties would open."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from crypto.field import FIELD31, FIELD61, Array
from mpc import kinds
from mpc.kinds import Count, Experiment, Histogram, Kind, Mean, Multihot, Quantile, Sum, Vector
from mpc.kinds.ranges import LIMIT

FIELDS = st.sampled_from([FIELD31, FIELD61])
Case = tuple[Kind, Callable[[random.Random], Any]]


def bounds(draw: st.DrawFn, width_max: int) -> tuple[int, int]:
    """Some low and high."""
    low = draw(st.integers(-10_000, 10_000))
    return low, low + draw(st.integers(1, width_max))


@st.composite
def cases(draw: st.DrawFn, names: Sequence[str] = tuple(kinds.KINDS)) -> Case:
    """Some kind of some size, and what draws an allowed value for it."""
    field, bins = draw(FIELDS), draw(st.integers(2, 20))
    match draw(st.sampled_from(names)):
        case "count":
            return Count(field), lambda rand: rand.random() < 0.5
        case "histogram":
            return Histogram(field, bins, ()), lambda rand: rand.randrange(bins)
        case "multihot":
            most = draw(st.integers(1, bins))
            return Multihot(field, bins, most, ()), lambda rand: rand.sample(
                range(bins), rand.randint(0, most)
            )
        case "sum":
            low, high = bounds(draw, 100_000)
            return Sum(field, low, high), lambda rand: rand.randint(low, high)
        case "mean":
            low, high = bounds(draw, 2_000)
            return Mean(field, low, high, draw(st.booleans())), lambda rand: rand.randint(low, high)
        case "vector":
            bits = draw(st.integers(2, 8))
            norm2 = draw(st.integers(1, bins << 2 * (bits - 1)))
            return Vector(field, bins, bits, norm2), lambda rand: short(rand, bins, bits, norm2)
        case "experiment":
            low, high = bounds(draw, 2_000)
            return Experiment(field, bins, (), low, high), lambda rand: (
                rand.randrange(bins),
                rand.randint(low, high),
            )
        case _:
            edges = draw(st.lists(st.integers(-LIMIT, LIMIT), min_size=3, max_size=20, unique=True))
            kind = Quantile(field, tuple(sorted(edges)))
            return kind, lambda rand: rand.randrange(kind.edges[0], kind.edges[-1])


def short(rand: random.Random, size: int, bits: int, norm2: int) -> list[int]:
    """A vector within the bound."""
    half, left, out = 1 << (bits - 1), norm2, [0] * size
    for at in rand.sample(range(size), size):
        reach = min(half - 1, int(left**0.5))
        out[at] = rand.randint(-min(half, int(left**0.5)), reach)
        left -= out[at] ** 2
    return out


def rows(kind: Kind, values: Sequence[Any]) -> Array:
    """Encodings of values, one a row."""
    return np.stack([kind.encode(value) for value in values])


def opened(kind: Kind, encoded: Array) -> list[int]:
    """What the parties open over some rows, without noise."""
    sums = kind.project(kind.field.sum(encoded), len(encoded))
    return [int(one) for one in kind.field.decode(sums)]


def failing(kind: Kind, row: Array) -> list[int]:
    """Which residues of one row are not 0."""
    return [int(at) for at in np.flatnonzero(kind.equations.residues(row[None])[0])]


def as_row(kind: Kind, values: Sequence[int]) -> Array:
    """A crafted vector of signed numbers."""
    assert len(values) == kind.length
    return kind.field.encode(list(values))
