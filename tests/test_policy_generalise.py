"""Generalisers: coarser, never finer, and the same again when they are applied again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from crypto.policy import generalise
from crypto.policy.generalise import DAY_MS, Bucket, Day, Round, TopK
from crypto.policy.values import NUMBER_MICRO_MAX

MICRO = 1_000_000
NUMBERS = st.one_of(
    st.integers(-9_000_000_000_000, 9_000_000_000_000),
    st.floats(-1.1e9, 1.1e9),
    st.floats(),
    st.integers(),
)
EDGES = st.lists(
    st.integers(-NUMBER_MICRO_MAX, NUMBER_MICRO_MAX), min_size=1, max_size=8, unique=True
)
BUCKETS = EDGES.map(lambda edges: Bucket(tuple(sorted(edges))))
ROUNDS = st.integers(1, NUMBER_MICRO_MAX).map(Round)
ANYTHING = st.one_of(NUMBERS, st.text(), st.booleans(), st.none(), st.lists(st.integers()))


@settings(deadline=None)
@given(st.one_of(BUCKETS, ROUNDS, st.just(Day()), st.just(TopK(3))), ANYTHING)
def test_twice_is_as_once(one: generalise.Generaliser, value: object) -> None:
    """What was generalised already is left as it is, to the bit."""
    once = one.apply(value)
    again = one.apply(once)
    assert (type(again), repr(again)) == (type(once), repr(once))


@settings(deadline=None)
@given(BUCKETS, st.integers(-1_000_000_000, 1_000_000_000))
def test_a_bucket_gives_one_of_its_edges(bucket: Bucket, value: int) -> None:
    """The largest edge that is not above the value; below all of them, the first one."""
    got = bucket.apply(value)
    assert isinstance(got, int | float)
    below = [edge for edge in bucket.edges_micro if edge <= value * MICRO]
    assert round(got * MICRO) == (max(below) if below else bucket.edges_micro[0])


@settings(deadline=None)
@given(ROUNDS, st.integers(-1_000_000_000, 1_000_000_000))
def test_rounding_gives_the_nearest_multiple(step: Round, value: int) -> None:
    """A multiple of the step, and half a step away at most."""
    got = step.apply(value)
    assert isinstance(got, int | float)
    millionths = round(got * MICRO)
    assert millionths % step.step_micro == 0
    assert abs(millionths - value * MICRO) * 2 <= step.step_micro


def test_examples() -> None:
    """As the documentation has them."""
    ages = Bucket((0, 18 * MICRO, 65 * MICRO))
    assert [ages.apply(age) for age in (0, 17, 18, 64, 65, 99)] == [0, 0, 18, 18, 65, 65]
    assert ages.apply(-5) == 0
    assert [Round(500_000).apply(x) for x in (0.2, 0.25, 1.1, -0.3, 3)] == [0.0, 0.5, 1.0, -0.5, 3]
    assert [Round(10 * MICRO).apply(x) for x in (4, 5, 14, -5)] == [0, 10, 10, 0]


@settings(deadline=None)
@given(st.integers(0, 4_000_000_000_000))
def test_a_time_keeps_its_day_only(at_ms: int) -> None:
    """All times of one day become the same one."""
    day = Day().apply(at_ms)
    assert day == at_ms // DAY_MS * DAY_MS


@pytest.mark.parametrize("value", ["4", True, None, [1], float("nan"), float("inf"), 10**400])
def test_what_can_t_be_made_coarser_is_left_to_the_range_check(value: object) -> None:
    """No error and no other value: what is refused afterwards is what was given."""
    for one in (Bucket((0,)), Round(MICRO)):
        assert one.apply(value) is value


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), st.floats(-9, 9)), st.integers(1, 5))
def test_top_k_keeps_the_largest(ranked: dict[str, float], k: int) -> None:
    """So many as there are, k at most; nothing that stays is smaller than what goes."""
    stay = TopK(k).keep(ranked)
    assert len(stay) == min(k, len(ranked))
    gone = [ranked[key] for key in ranked.keys() - stay]
    assert not gone or max(gone) <= min(ranked[key] for key in stay)
    assert TopK(k).keep({key: ranked[key] for key in stay}) == stay


def test_equal_ones_stay_by_name_on_every_device() -> None:
    """Where scores tie, which keys stay does not hang on the order they came in."""
    assert TopK(2).keep({"c": 1, "a": 1, "b": 1}) == TopK(2).keep({"b": 1, "c": 1, "a": 1})
    assert TopK(2).keep({"c": 1, "a": 1, "b": 1}) == {"a", "b"}


def test_they_are_applied_in_their_order() -> None:
    """Rounded to tens and then put into a bucket is not the other way round."""
    tens, ages = Round(10 * MICRO), Bucket((0, 18 * MICRO))
    assert generalise.apply([tens, ages], 17) == 18
    assert generalise.apply([ages, tens], 17) == 0
