"""Kinds: what is allowed is encoded as specified, and adds up to the truth exactly."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from crypto.errors import FormatError
from crypto.field import FIELD31, FIELD61
from mpc import kinds, oracle
from mpc.kinds import Count, Experiment, Histogram, Kind, Mean, Multihot, Quantile, Sum, Vector
from tests.mpc_kind_cases import Case, cases, opened, rows

# --- truth


@settings(max_examples=300, deadline=None)
@given(cases(), st.integers(1, 12), st.randoms(use_true_random=False))
def test_sums_of_encodings_decode_to_the_truth(case: Case, n: int, rand: random.Random) -> None:
    """For every kind the decoded sum of encodings is what plain arithmetic gives, exactly."""
    kind, draw = case
    values = [draw(rand) for _ in range(n)]
    encoded = rows(kind, values)
    assert encoded.shape == (n, kind.length)
    assert encoded.max() < kind.field.p
    assert not kind.equations.residues(encoded).any()
    sums = opened(kind, encoded)
    assert kind.decode(sums, n) == oracle.truth(kind, values)
    assert oracle.aggregate(kind, values) == oracle.Aggregate(tuple(sums), n, 0)


@settings(max_examples=200, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_a_report_moves_the_outputs_no_more_than_the_kind_says(
    case: Case, rand: random.Random
) -> None:
    """Magnitude and both sensitivities bound every pair of allowed reports."""
    kind, draw = case
    one, other = (opened(kind, rows(kind, [draw(rand)])) for _ in range(2))
    moved = [abs(a - b) for a, b in zip(one, other, strict=True)]
    assert max(map(abs, one)) <= kind.output_max
    assert sum(moved) <= kind.l1
    assert sum(by * by for by in moved) <= kind.l2_squared


@pytest.mark.parametrize(
    ("kind", "pair", "l1", "l2_squared"),
    [
        (Count(FIELD31), (False, True), 1, 1),
        (Histogram(FIELD31, 5, ()), (0, 4), 2, 2),
        (Multihot(FIELD31, 5, 2, ()), ([0, 1], [2, 3]), 4, 4),
        (Multihot(FIELD31, 5, 4, ()), ([0, 1, 2, 3], [4]), 5, 5),
        (Sum(FIELD31, 1, 5), (1, 5), 4, 16),
        (Mean(FIELD31, 1, 5, False), (1, 5), 4, 16),
        (Mean(FIELD31, 1, 5, True), (1, 5), None, 64),
        (Mean(FIELD31, 1, 5, True), (1, 4), 9, None),
        (Vector(FIELD31, 1, 4, 25), ([5], [-5]), 10, 100),
        (Experiment(FIELD31, 2, (), 1, 5), ((0, 1), (1, 5)), 24, 96),
        (Quantile(FIELD31, (0, 1, 2)), (0, 1), 2, 2),
    ],
)
def test_sensitivities_are_reached(
    kind: Kind, pair: tuple[Any, Any], l1: int | None, l2_squared: int | None
) -> None:
    """The stated sensitivities are those of a pair that exists: no noise is wasted."""
    one, other = (opened(kind, rows(kind, [value])) for value in pair)
    moved = [abs(a - b) for a, b in zip(one, other, strict=True)]
    if l1 is not None:
        assert (sum(moved), kind.l1) == (l1, l1)
    if l2_squared is not None:
        assert (sum(by * by for by in moved), kind.l2_squared) == (l2_squared, l2_squared)


def test_a_mean_and_its_variance() -> None:
    """Ratings 1, 4 and 5: mean 10/3, variance 26/9."""
    kind = Mean(FIELD31, 1, 5, True)
    result = kind.decode(opened(kind, rows(kind, [1, 4, 5])), 3)
    assert (result.groups[0].mean, result.groups[0].variance) == (Fraction(10, 3), Fraction(26, 9))


def test_what_noise_took_away_is_none() -> None:
    """A group whose noised count is not above zero has neither mean nor variance."""
    kind = Experiment(FIELD31, 2, ("a", "b"), 0, 2)
    empty = kind.decode([0, 1, 1, -1, 0, 0], 0).groups
    assert [(group.mean, group.variance) for group in empty] == [(None, None)] * 2


def test_the_oracle_counts_what_the_kind_refuses() -> None:
    """Values that are not allowed are left out of the sums and counted."""
    kind = Histogram(FIELD31, 3, ())
    assert oracle.aggregate(kind, [0, 2, 2, 3, -1, True]) == oracle.Aggregate((1, 0, 2), 3, 3)


ENCODINGS: list[tuple[Kind, Any, list[int]]] = [
    (Count(FIELD31), True, [1]),
    (Histogram(FIELD31, 4, ()), 2, [0, 0, 1, 0]),
    # Slack of range 0..3: 1 and 2. One of three is chosen, so it is 2.
    (Multihot(FIELD31, 4, 3, ()), [3], [0, 0, 0, 1, 0, 1]),
    # Width 9: weights 1, 2, 4 and 2. Below 8 the last is unused; 8 is 2 and 4 and 2.
    (Sum(FIELD31, -4, 5), 3, [1, 1, 1, 0]),
    (Sum(FIELD31, -4, 5), 4, [0, 1, 1, 1]),
    (Sum(FIELD31, -4, 5), 5, [1, 1, 1, 1]),
    # Ratings: weights 1, 2 and 1 from 1 on; 5 is 2 from the centre 3, and the square 4.
    (Mean(FIELD31, 1, 5, False), 5, [1, 1, 1]),
    (Mean(FIELD31, 1, 5, True), 5, [1, 1, 1, 4]),
    # Coordinates from -4 on: weights 1, 2 and 4. Slack 9 - 1 - 4 = 4: weights 1, 2, 4 and 2.
    (Vector(FIELD31, 2, 3, 9), [-1, 2], [1, 1, 0, 0, 1, 1, 0, 0, 1, 0]),
    # Variant 1; 0 is 0 - 0 from the bottom and -2 from the centre 2 of weights 1, 2 and 1.
    (Experiment(FIELD31, 2, (), 0, 4), (1, 0), [0, 1, 0, 0, 0, 0, -2, 0, 4]),
    (Quantile(FIELD31, (0, 5, 9)), 5, [0, 1]),
]


@pytest.mark.parametrize(("kind", "value", "vector"), ENCODINGS)
def test_encodings_are_those_of_the_specification(
    kind: Kind, value: Any, vector: list[int]
) -> None:
    """Vectors worked out by hand from docs/aggregation.md, 4."""
    for field in (FIELD31, FIELD61):
        row = replace(kind, field=field).encode(value)
        assert [int(one) for one in field.decode(row)] == vector


# --- bounds


def test_the_smallest_field_that_cannot_wrap_is_chosen() -> None:
    """Field 31 up to the last report that fits with the noise, field 61 above, then a refusal."""
    half31, half61 = FIELD31.p // 2, FIELD61.p // 2
    params = Histogram(FIELD31, 4, ()).params()
    for reports, noise_max, bits in (
        (half31, 0, 31),
        (half31 + 1, 0, 61),
        (half31 - 96, 96, 31),
        (half31 - 96, 97, 61),
        (half61, 0, 61),
    ):
        assert kinds.smallest_field(params, reports, noise_max).bits == bits
    with pytest.raises(FormatError) as caught:
        kinds.smallest_field(params, half61 + 1, 0)
    assert caught.value.rule == "wrap"
    assert kinds.smallest_field(Experiment(FIELD61, 2, (), 0, 1 << 20).params(), 9, 0) is FIELD61
    with pytest.raises(FormatError, match="kind-params"):
        kinds.smallest_field({"name": "sum"}, 1, 0)


@settings(max_examples=100, deadline=None)
@given(cases(["sum", "mean", "vector", "experiment"]), st.randoms(use_true_random=False))
def test_a_full_round_of_extremes_does_not_wrap(case: Case, rand: random.Random) -> None:
    """At the most reports that the bound allows, all alike, sums still decode to the truth."""
    kind, draw = case
    value = draw(rand)
    most = (kind.field.p // 2) // kind.output_max
    kinds.check_sums(kind, most, 0)
    with pytest.raises(FormatError, match="wrap"):
        kinds.check_sums(kind, most + 1, 0)
    row_sums = kind.field.scale(kind.encode(value), most)
    sums = [int(one) for one in kind.field.decode(kind.project(row_sums, most))]
    [single] = [opened(kind, rows(kind, [value]))]
    assert sums == [most * one for one in single]
