"""Kinds: what is not allowed breaks an equation, whoever evaluates it."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from crypto.field import FIELD31, FIELD61, Array, Field
from mpc.kinds import Count, Experiment, Histogram, Kind, Mean, Multihot, Quantile, Sum, Vector
from mpc.kinds.equations import Form, Forms, segment_sums
from mpc.kinds.ranges import LIMIT, Range
from tests.mpc_kind_cases import FIELDS, Case, as_row, cases, failing, opened

# --- cheats


def cheats() -> list[tuple[str, Kind, list[int]]]:
    """Vectors that no allowed value has, each with its name."""
    three = Histogram(FIELD31, 3, ())
    two_of_four = Multihot(FIELD31, 4, 2, ())
    rating, varied = Sum(FIELD31, 1, 6), Mean(FIELD31, 1, 5, True)
    update = Vector(FIELD31, 2, 3, 4)
    test = Experiment(FIELD31, 2, (), -2, 2)
    honest = [int(one) for one in FIELD31.decode(test.encode((0, 2)))]
    assert honest == [1, 0, 1, 1, 1, 2, 0, 4, 0]
    return [
        ("count: two", Count(FIELD31), [2]),
        ("count: minus one", Count(FIELD31), [-1]),
        ("histogram: two ones", three, [1, 1, 0]),
        ("histogram: none", three, [0, 0, 0]),
        ("histogram: weight 5", three, [5, 0, 0]),
        ("histogram: weights that make one", three, [5, -4, 0]),
        ("quantile: two ones", Quantile(FIELD31, (0, 5, 9)), [1, 1]),
        ("multihot: three of two", two_of_four, [1, 1, 1, 0, 0, 0]),
        ("multihot: negative slack", two_of_four, [1, 1, 1, 0, -1, 0]),
        ("multihot: too little slack", two_of_four, [1, 0, 0, 0, 0, 0]),
        ("multihot: weight 2", two_of_four, [2, 0, 0, 0, 0, 0]),
        ("sum: a bit of 2", rating, [0, 2, 0]),
        ("sum: a bit of -1", rating, [0, 0, -1]),
        ("mean: wrong square", varied, [1, 1, 1, 5]),
        ("mean: no square", varied, [1, 1, 1, 0]),
        ("vector: over the norm", update, [*bits(4, 2), *bits(4, 3), 0, 0, 0]),
        ("vector: over the norm, slack -9", update, [*bits(4, 2), *bits(4, 3), -9, 0, 0]),
        ("vector: over the norm, other slack", update, [*bits(4, 3), *bits(4, 3), 1, 1, 1]),
        ("vector: a weight 3 in a coordinate", update, [3, 0, 0, *bits(4, 0), 0, 0, 0]),
        ("experiment: both variants", test, [1, 1, *honest[2:]]),
        ("experiment: no variant", test, [0, 0, *honest[2:5], 0, 0, 0, 0]),
        ("experiment: counted here, summed there", test, [0, 1, *honest[2:]]),
        ("experiment: another sum", test, [*honest[:5], 1, 0, 1, 0]),
        ("experiment: another square", test, [*honest[:7], 9, 0]),
        ("experiment: a sum in two variants", test, [*honest[:6], 2, 4, 4]),
    ]


def bits(count: int, value: int) -> list[int]:
    """Three bits of a coordinate from -4 to 3, whose last weight is 4 as the width is 7."""
    rising = value + count
    return [rising >> at & 1 for at in range(3)]


@pytest.mark.parametrize(
    ("kind", "vector"), [pytest.param(k, v, id=name) for name, k, v in cheats()]
)
def test_a_cheat_breaks_an_equation(kind: Kind, vector: list[int]) -> None:
    """A vector that is no encoding leaves a residue, in either field, and random r sees it."""
    for field in (FIELD31, FIELD61):
        other = replace(kind, field=field)
        row = as_row(other, vector)
        assert failing(other, row)
        residues = other.equations.residues(np.stack([row] * 200))
        # Each of 200 draws of r misses it with probability 1/p: 1e-7 for all of them.
        r = field.random(residues.size, random.Random(7).randbytes).reshape(residues.shape)
        assert field.dot(residues, r).all()


@settings(max_examples=300, deadline=None)
@given(cases(), st.data(), st.randoms(use_true_random=False))
def test_an_element_that_is_changed_breaks_an_equation_or_is_another_allowed_value(
    case: Case, data: st.DataObject, rand: random.Random
) -> None:
    """No change of an element to what it can't be goes through: only bits of a number may be
    flipped alone, and the number is then another of the range (of the same square, if there is
    an equation of it)."""
    kind, draw = case
    row = kind.encode(draw(rand))
    at = data.draw(st.integers(0, kind.length - 1))
    old = int(row[at])
    row[at] = data.draw(st.integers(0, kind.field.p - 1).filter(lambda new: new != old))
    if not failing(kind, row):
        assert at < kind.equations.bits
        assert int(row[at]) == 1 - old
        assert isinstance(kind, Count | Sum | Mean | Vector)
        assert max(map(abs, opened(kind, row[None]))) <= kind.output_max


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        cases(["count", "histogram", "multihot", "sum", "mean"]),
        cases(["vector", "experiment", "quantile"]),
    ),
    st.randoms(use_true_random=False),
)
def test_any_bits_that_pass_stay_inside_the_bounds(case: Case, rand: random.Random) -> None:
    """Whatever valid vector a cheater makes, its outputs are those of an allowed report."""
    kind, _ = case
    row = np.zeros(kind.length, np.uint64)
    row[: kind.equations.bits] = [rand.randint(0, 1) for _ in range(kind.equations.bits)]
    if not failing(kind, row):
        assert max(map(abs, opened(kind, row[None]))) <= kind.output_max


@settings(max_examples=100, deadline=None)
@given(FIELDS, st.randoms(use_true_random=False))
def test_residues_are_linear_in_their_randomness_and_miss_one_in_p(
    field: Field, rand: random.Random
) -> None:
    """A cheat's Q is r_j times its residues: it is 0 for exactly one r_j of the field."""
    kind = Histogram(field, 3, ())
    residues = kind.equations.residues(field.encode([2, -1, 0])[None])
    r = field.random(kind.equations.count, rand.randbytes).reshape(1, -1)
    others = int(field.dot(residues[:, 1:], r[:, 1:])[0])
    hit = -others * field.inverse(int(residues[0, 0])) % field.p
    for first in (hit, (hit + 1) % field.p, rand.randrange(field.p)):
        r[0, 0] = first
        assert (int(field.dot(residues, r)[0]) == 0) == (first == hit)


# --- on shares


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(1, 2), st.randoms(use_true_random=False))
def test_shares_give_shares(case: Case, t: int, rand: random.Random) -> None:
    """Residues of degree-t shares lie on a polynomial of degree 2t whose value at 0 is 0, and
    outputs of shares on one of degree t whose value at 0 is the output."""
    kind, draw = case
    field = kind.field
    row = kind.encode(draw(rand))
    slopes = [field.random(kind.length, rand.randbytes) for _ in range(t)]

    def share(x: int) -> Array:
        out = row
        for power, slope in enumerate(slopes, 1):
            out = field.add(out, field.scale(slope, x**power))
        return out

    def at_zero(shares: dict[int, Array]) -> Array:
        xs = list(shares)
        parts = [field.scale(shares[x], c) for x, c in zip(xs, field.lagrange(xs), strict=True)]
        return field.sum(np.stack(parts))

    points = range(1, 2 * t + 2)
    residues = {x: kind.equations.residues(share(x)[None])[0] for x in points}
    assert not at_zero(residues).any()
    outputs = {x: kind.project(share(x), 1) for x in range(1, t + 2)}
    assert np.array_equal(at_zero(outputs), kind.project(row, 1))


# --- forms and ranges


@given(st.integers(-LIMIT, LIMIT - 1), st.integers(1, LIMIT), st.data())
def test_every_setting_of_a_ranges_bits_is_in_the_range(
    low: int, width: int, data: st.DataObject
) -> None:
    """All bits 0 is the lowest number, all bits 1 the highest, and values come back."""
    high = min(low + width, LIMIT)
    span = Range(low, high)
    assert sum(span.weights) == high - low
    assert all(weight > 0 for weight in span.weights)
    value = data.draw(st.integers(low, high))
    made = zip(span.weights, span.encode(value), strict=True)
    assert low + sum(weight * bit for weight, bit in made) == value
    assert max(high - span.centre, span.centre - low) == span.reach


@settings(max_examples=50)
@given(FIELDS, st.integers(1, 40), st.randoms(use_true_random=False))
def test_forms_are_exact(field: Field, length: int, rand: random.Random) -> None:
    """Sums of products of full-size elements and coefficients never overflow."""
    top = field.p // 2
    forms = [
        Form(
            [
                (rand.randrange(length), rand.choice([top, -top, 1, rand.randint(-top, top)]))
                for _ in range(rand.randint(1, 30))
            ],
            rand.randint(-top, top),
        )
        for _ in range(5)
    ]
    vectors = np.full((2, length), field.p - 1, np.uint64)
    vectors[1] = field.random(length, rand.randbytes)
    got = Forms(field, forms).of(vectors, 3)
    for row, results in zip(vectors, got, strict=True):
        for form, result in zip(forms, results, strict=True):
            plain = 3 * form.constant + sum(by * int(row[at]) for at, by in form.terms)
            assert int(result) == plain % field.p


@pytest.mark.parametrize("field", [FIELD31, FIELD61])
def test_segments_of_many_large_elements_are_exact(field: Field) -> None:
    """A run of 100,000 elements of p - 1 sums to -100,000."""
    values = np.full((1, 100_001), field.p - 1, np.uint64)
    sums = segment_sums(field, values, np.array([0, 1]))
    assert [int(one) for one in field.decode(sums[0])] == [-1, -100_000]
