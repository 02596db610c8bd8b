"""services/party/states.py: what may follow what, and section 7, under any order of events."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from crypto.errors import FormatError
from services.party import states
from services.party.states import (
    ANSWERS,
    TRANSITIONS,
    Answer,
    Due,
    Event,
    IllegalTransition,
    Progress,
    Reason,
    State,
    Step,
    Terms,
    Trouble,
)

TERMS = Terms(m=3, t=1, me=1, until_ms=1_000, retain_until_ms=9_000, k_min=5, patience_ms=500)
ALL = frozenset((1, 2, 3))
SET = b"s" * 32


def reach(state: State, terms: Terms = TERMS) -> Progress:
    """A round that went straight to `state`."""
    path: list[Callable[[Progress], Progress]] = [
        lambda p: states.ingested(p, terms, terms.until_ms),
        lambda p: states.verified(states.agreed(p, SET), terms.k_min, 2_000),
        lambda p: states.summed(p, terms),
        states.noised,
        states.opened,
        lambda p: states.signed(p, terms, terms.everyone),
    ]
    progress = Progress()
    for step in path[: state - 1]:
        progress = step(progress)
    assert progress.state is state
    return progress


STATES_WITH_WORK = [state for state in State if not state.ended]


def test_the_straight_path_passes_every_state() -> None:
    """OPEN to SIGNED, with the step that is due in each."""
    due = [
        states.due(reach(state), TERMS, now_ms=2_000, alive=ALL).step
        for state in State
        if state is not State.ABANDONED
    ]
    assert due == [
        Step.INGEST, Step.AGREE, Step.SUM, Step.NOISE, Step.OPEN, Step.SIGN, Step.NOTHING,
    ]  # fmt: skip


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", list(Event))
def test_only_the_table_moves_a_round(state: State, event: Event) -> None:
    """What stands in no row of TRANSITIONS is refused, by every function."""
    if state is State.ABANDONED:
        progress = states.abandoned(Progress(), Reason.RETENTION)
    else:
        progress = reach(state)
    if (state, event) == (State.ABANDONED, Event.ABANDONED):
        assert states.abandoned(progress, Reason.TOO_FEW) == progress
        return
    if (state, event) in TRANSITIONS:
        return
    calls: dict[Event, Callable[[], Progress]] = {
        Event.INGESTED: lambda: states.ingested(progress, TERMS, 2_000),
        Event.AGREED: lambda: states.agreed(progress, SET),
        Event.VERIFIED: lambda: states.verified(progress, 9, 2_000),
        Event.SUMMED: lambda: states.summed(progress, TERMS),
        Event.NOISED: lambda: states.noised(progress),
        Event.OPENED: lambda: states.opened(progress),
        Event.SIGNED: lambda: states.signed(progress, TERMS, ALL),
        Event.LEARNED: lambda: states.learned(progress, TERMS, ALL),
        Event.ABANDONED: lambda: states.abandoned(progress, Reason.RETENTION),
    }
    with pytest.raises(IllegalTransition):
        calls[event]()


def test_a_window_is_not_closed_before_its_time() -> None:
    with pytest.raises(IllegalTransition):
        states.ingested(Progress(), TERMS, TERMS.until_ms - 1)


def test_a_second_set_is_refused_and_the_same_one_again_is_not() -> None:
    once = states.agreed(reach(State.CLOSED), SET)
    assert states.agreed(once, SET) == once
    with pytest.raises(IllegalTransition):
        states.agreed(once, b"t" * 32)


def test_too_few_valid_reports_end_the_round_and_are_never_summed() -> None:
    """k_min: ABANDONED, nothing opened."""
    few = replace(reach(State.VERIFIED), valid=4)
    assert states.due(few, TERMS, now_ms=2_000, alive=ALL) == Due(
        Step.ABANDON, reason=Reason.TOO_FEW
    )
    with pytest.raises(IllegalTransition):
        states.summed(few, TERMS)


@pytest.mark.parametrize("state", [State.OPEN, State.CLOSED])
def test_a_party_down_before_verified_is_waited_for_until_retention_ends(state: State) -> None:
    progress, alive = reach(state), frozenset((1, 2))
    waiting = states.due(progress, TERMS, now_ms=8_999, alive=alive).step
    assert waiting in (Step.WAIT, Step.INGEST)
    assert ANSWERS[Trouble.PARTY_DOWN, state] is Answer.WAIT
    assert states.due(progress, TERMS, now_ms=9_000, alive=alive) == Due(
        Step.ABANDON, reason=Reason.PARTY_MISSING
    )


def test_a_party_down_after_verified_is_done_without_once_patience_ends() -> None:
    """What each holds by itself is summed at once; opening waits, and then takes who is left."""
    alive = frozenset((1, 2))
    for state, step in ((State.VERIFIED, Step.SUM), (State.SUMMED, Step.NOISE)):
        assert states.due(reach(state), TERMS, now_ms=2_000, alive=alive).step is step
    noised = reach(State.NOISED)
    assert states.due(noised, TERMS, now_ms=2_499, alive=alive).step is Step.WAIT
    assert states.due(noised, TERMS, now_ms=2_500, alive=alive) == Due(Step.OPEN, alive)
    assert states.due(noised, TERMS, now_ms=2_000, alive=ALL) == Due(Step.OPEN, ALL)


def test_alone_nobody_opens() -> None:
    alone = states.due(reach(State.NOISED), TERMS, now_ms=8_000, alive=frozenset((1,)))
    assert alone.step is Step.WAIT


@pytest.mark.parametrize("state", [State.OPEN, State.CLOSED])
def test_before_verified_one_party_that_gives_up_ends_the_round(state: State) -> None:
    """All are needed, and it will not come: nothing is gained by waiting."""
    due = states.due(reach(state), TERMS, now_ms=2_000, alive=ALL, gave_up=frozenset((3,)))
    assert due == Due(Step.ABANDON, reason=Reason.PARTY_GAVE_UP)
    assert ANSWERS[Trouble.PARTY_GAVE_UP, state] is Answer.ABANDON


def test_after_verified_those_who_gave_up_are_done_without_if_enough_are_left() -> None:
    """As if they were down, though they can be reached."""
    noised = reach(State.NOISED)
    one, two = frozenset((3,)), frozenset((2, 3))
    without = states.due(noised, TERMS, now_ms=2_500, alive=ALL, gave_up=one)
    assert without == Due(Step.OPEN, frozenset((1, 2)))
    alone = states.due(noised, TERMS, now_ms=2_500, alive=ALL, gave_up=two)
    assert alone == Due(Step.ABANDON, reason=Reason.PARTY_GAVE_UP)
    # What it says of itself is its own to act on.
    assert states.due(noised, TERMS, now_ms=2_000, alive=ALL, gave_up=frozenset((1,))) == Due(
        Step.OPEN, ALL
    )


def test_every_unended_state_has_an_answer_to_a_party_that_is_down_or_lies() -> None:
    for state in STATES_WITH_WORK:
        assert (Trouble.PARTY_DOWN, state) in ANSWERS
        assert (Trouble.PARTY_GAVE_UP, state) in ANSWERS
        assert ANSWERS[Trouble.PARTY_LIED, state] is Answer.ABANDON
    for state in State:
        assert ANSWERS[Trouble.OTHER_MANIFEST, state] is Answer.REFUSE


def test_terms_that_give_no_secrecy_are_refused() -> None:
    for m, t in ((2, 1), (3, 0), (3, 2), (17, 8)):
        with pytest.raises(FormatError):
            Terms(m=m, t=t, me=1, until_ms=1, retain_until_ms=2, k_min=1)
    with pytest.raises(ValueError, match="one of the m"):
        Terms(m=3, t=1, me=4, until_ms=1, retain_until_ms=2, k_min=1)


parties = st.frozensets(st.integers(1, 3))


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("ingested"), st.integers(0, 9_999)),
            st.tuples(st.just("agreed"), st.sampled_from((SET, b"t" * 32))),
            st.tuples(st.just("verified"), st.integers(0, 9)),
            st.tuples(st.sampled_from(("signed", "learned")), parties),
            st.tuples(st.sampled_from(("summed", "noised", "opened")), st.none()),
            st.tuples(st.just("abandoned"), st.sampled_from(list(Reason))),
        ),
        max_size=40,
    )
)
def test_no_order_of_events_breaks_a_rule(events: list[tuple[str, object]]) -> None:
    """One set, one number of valid reports, no sum under k_min, no way out of an ended round."""
    progress = Progress()
    with_terms = ("ingested", "summed", "signed", "learned")
    for name, value in events:
        before = progress
        arguments: list[object] = [TERMS] if name in with_terms else []
        arguments += [] if value is None else [value]
        arguments += [2_000] if name == "verified" else []
        with contextlib.suppress(IllegalTransition):
            progress = getattr(states, name)(progress, *arguments)
        if before.state.ended:
            assert progress == before
        if before.agreed is not None:
            assert progress.agreed == before.agreed
        if before.valid is not None:
            assert progress.valid == before.valid
        assert progress.state >= before.state
        if "learned" in [name for name, _ in events]:
            continue
        if State.SUMMED <= progress.state <= State.SIGNED:
            assert progress.valid is not None
            assert progress.valid >= TERMS.k_min


@given(
    st.sampled_from(STATES_WITH_WORK),
    st.integers(0, 20_000),
    st.frozensets(st.integers(-1, 9)),
)
def test_after_retention_every_round_is_abandoned(
    state: State, now_ms: int, alive: frozenset[int]
) -> None:
    """And before, what is due only ever names parties of the round, this one among them."""
    due = states.due(reach(state), TERMS, now_ms=now_ms, alive=alive)
    assert (due.step is Step.ABANDON) == (now_ms >= TERMS.retain_until_ms)
    assert (due.reason is not None) == (due.step is Step.ABANDON)
    if due.parties:
        assert 1 in due.parties
        assert due.parties <= ALL
