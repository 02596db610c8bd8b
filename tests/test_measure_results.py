"""What comes back to devices: verified, kept, and said as it is when there is no result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from client.measure.core import KEPT_MS
from client.measure.errors import Ineligible
from client.measure.participant import Participant
from client.measure.records import Shown
from client.measure.results import UNKNOWN, WAIT_MS, Results, State
from client.rounds import GivenUp, RelayedResult
from client.vault import MemoryVault
from crypto import canonical, labels
from mpc.manifest import Manifest
from mpc.result import Sums
from mpc.task import Task
from tests.measure_worlds import (
    POLICY,
    Meter,
    meter,
    meters,
    signed_task,
    sums_of,
    taking_part,
    together,
)
from tests.relay_worlds import (
    FINISH,
    GRACE_MS,
    PARTIES,
    PUBLISHER,
    WINDOW_MS,
    Relay,
    abandonment,
    manifest,
    result,
    task,
)
from tests.shell_worlds import Clock, endpoint_of, fleet, put

CLOSED_MS = WINDOW_MS + GRACE_MS


def relayed(made: Manifest, said: bytes, by: Iterable[int] = (1, 2, 3)) -> RelayedResult:
    """A result as the relay hands it out."""
    sigs = {
        at: PARTIES[at - 1].as_party.sign(labels.RESULT, made.digest + said) for at in by
    }  # fmt: skip
    return RelayedResult(said, sigs, ())


def gave_up(made: Manifest, party: int, reason: str) -> GivenUp:
    """A party's word that it did."""
    said = canonical.encode({"version": 1, "reason": reason})
    sig = PARTIES[party - 1].as_party.sign(labels.ABANDONMENT, made.digest + said)
    return GivenUp(party, said, sig)


def shelf(one: Meter) -> Results:
    """What a device keeps, from its rows."""
    return Results(one.measuring, one.phone.rows)


def answered(one: Meter, made: Task) -> tuple[Manifest, Shown]:
    """A round that the device took part in, and its clock after it."""
    round_ = manifest(made, one.now_ms - 1_000)
    one.answer(made, round_, 1)
    one.phone.now_ms += CLOSED_MS
    [shown] = shelf(one).due(now_ms=one.now_ms)
    return round_, shown


def stored(one: Meter, kept: Results) -> Results:
    """The same after a restart."""
    for name, row in kept.take_changes().items():
        assert row is not None
        one.phone.rows[name] = row
    one.reload()
    return shelf(one)


def test_a_result_is_kept_if_enough_parties_of_the_round_signed_it() -> None:
    """It survives a restart; then it is not asked for again."""
    one, made = meter(), task()
    round_, shown = answered(one, made)
    kept = shelf(one)
    taken = kept.take(signed_task(made), shown, relayed(round_, sums_of(made), (1, 3)))
    assert taken.state is State.DONE
    kept = stored(one, kept)
    assert kept.ended[round_.digest] == taken
    assert taken.result is not None
    assert isinstance(taken.result.outcome, Sums)
    assert taken.signers == (1, 3)
    assert not kept.due(now_ms=one.now_ms)


def test_what_does_not_verify_is_not_kept() -> None:
    """Too few signatures, another's, another round's bytes, no result at all, a publisher or a
    panel that is trusted no more."""
    one, made = meter(), task()
    round_, shown = answered(one, made)
    kept, data = shelf(one), sums_of(made)
    good = relayed(round_, data)
    other = manifest(made, round_.open_ms, "other")
    for said, rule in (
        (replace(good, sigs={1: good.sigs[1]}), "signatures"),
        (replace(good, sigs={**good.sigs, 2: good.sigs[1]}), "signature"),
        (relayed(other, data), "signature"),
        (relayed(round_, b"sums"), "cbor"),
    ):
        with pytest.raises(Ineligible) as caught:
            kept.take(signed_task(made), shown, said)
        assert caught.value.rule == rule
    with pytest.raises(Ineligible) as caught:
        kept.take(signed_task(task("another")), shown, good)
    assert caught.value.rule == "round-task"
    for key, rule in ((PUBLISHER.public, "publisher"), (PARTIES[0].public, "panel")):
        one.measuring.set_policy(POLICY.without(key))
        with pytest.raises(Ineligible) as caught:
            kept.take(signed_task(made), shown, good)
        assert caught.value.rule == rule
    assert not kept.ended
    assert not kept.take_changes()


def test_a_round_that_parties_give_up_says_so_and_may_still_end() -> None:
    """One of three: the others may end it. Two: there is no result to come; if it comes all the
    same, it counts."""
    one, made = meter(), task()
    round_, shown = answered(one, made)
    kept = shelf(one)
    words = [gave_up(round_, 3, "budget"), gave_up(round_, 1, "too_few_valid")]
    taken = kept.take(signed_task(made), shown, RelayedResult(b"", {}, tuple(words[:1])))
    assert (taken.state, taken.given_up) == (State.WAITING, {3: "budget"})
    taken = kept.take(signed_task(made), shown, RelayedResult(b"", {}, tuple(words)))
    assert taken.state is State.ABANDONED
    kept = stored(one, kept)
    assert kept.ended[round_.digest].given_up == {3: "budget", 1: "too_few_valid"}
    assert kept.due(now_ms=one.now_ms) == [shown]
    late = replace(relayed(round_, sums_of(made), (1, 2)), given_up=tuple(words[:1]))
    assert kept.take(signed_task(made), shown, late).state is State.DONE


def test_results_are_asked_for_between_the_windows_end_and_a_while_after() -> None:
    """And what was kept is forgotten long after."""
    one, made = meter(), task()
    round_ = manifest(made, one.now_ms - 1_000)
    one.look(made, round_)
    kept = shelf(one)
    assert not kept.due(now_ms=round_.close_ms - 1)
    assert len(kept.due(now_ms=round_.close_ms)) == 1
    assert not kept.due(now_ms=round_.close_ms + WAIT_MS)
    [shown] = kept.due(now_ms=round_.close_ms)
    kept.take(signed_task(made), shown, relayed(round_, sums_of(made)))
    kept = stored(one, kept)
    kept.prune(now_ms=round_.close_ms + KEPT_MS - 1)
    assert kept.ended
    kept.prune(now_ms=round_.close_ms + KEPT_MS)
    assert not kept.ended
    assert list(kept.take_changes().values()) == [None]


def test_a_device_that_did_not_take_part_knows_the_round_from_the_others() -> None:
    """Results are for all devices of the account."""
    a, b = meters()
    made = task()
    round_, _ = answered(a, made)
    together(a, b)
    b.phone.now_ms = a.now_ms
    [shown] = shelf(b).due(now_ms=b.now_ms)
    assert shown.manifest == round_
    taken = shelf(b).take(signed_task(made), shown, relayed(round_, sums_of(made)))
    assert taken.state is State.DONE


def test_one_party_that_speaks_nonsense_keeps_no_result_from_anybody() -> None:
    """A word in no form that is known says that it gave up; another's signature says nothing."""
    one, made = meter(), task()
    round_, shown = answered(one, made)
    rude = b"\xff\x00"
    sig = PARTIES[2].as_party.sign(labels.ABANDONMENT, round_.digest + rude)
    words = (
        GivenUp(3, rude, sig),
        replace(gave_up(round_, 1, "budget"), party=2),
        replace(gave_up(round_, 1, "budget"), party=4),
    )
    said = replace(relayed(round_, sums_of(made), (1, 2)), given_up=words)
    taken = shelf(one).take(signed_task(made), shown, said)
    assert taken.state is State.DONE
    assert taken.given_up == {3: UNKNOWN}


async def test_results_come_back_from_the_relay_to_every_device(relay: Relay) -> None:
    """One took part and the other did not; a round without a result yet is asked for again."""
    made = task("food/bin")
    await relay.publish(made)
    opened = manifest(made, relay.now_ms - 1_000)
    await relay.collect(opened)
    later = Clock()
    async with fleet(endpoint_of(relay.service)) as devices:
        a = await devices.first(clock=later)
        b = await devices.another(a, clock=later)
        put(a, "bin", 0, "food")
        both = [taking_part(a), taking_part(b, allow=False)]
        await both[0].contribute_once()
        later.offset_ms = CLOSED_MS
        with relay.later(CLOSED_MS):
            for one in both:
                assert await one.fetch_results() == []
                assert not one.results.ended
            word = abandonment(opened, 3, canonical.encode({"version": 1, "reason": "budget"}))
            await relay.call(PARTIES[2], FINISH, word)
            assert await both[0].fetch_results() == []
            assert both[0].results.ended[opened.digest].given_up == {3: "budget"}
            await relay.call(PARTIES[0], FINISH, result(opened, sums_of(made), by=(1, 2)))
            for one in both:
                assert await one.fetch_results() == []
                again = Participant(devices.again(one.synced, MemoryVault(one.synced.vault.load())))
                [kept] = again.results.ended.values()
                assert (kept.state, kept.signers) == (State.DONE, (1, 2))
                assert kept.given_up == {3: "budget"}


async def test_a_signed_lie_of_the_parties_is_not_shown_as_a_result(relay: Relay) -> None:
    """The relay checks who signed, the device what they signed."""
    made = task("food/bin")
    await relay.publish(made)
    opened = manifest(made, relay.now_ms - 1_000)
    await relay.collect(opened)
    later = Clock()
    async with fleet(endpoint_of(relay.service)) as devices:
        one = taking_part(await devices.first(clock=later))
        await one.contribute_once(only=made.task_id, said=3)
        later.offset_ms = CLOSED_MS
        with relay.later(CLOSED_MS):
            cheap = canonical.encode(canonical.decode(sums_of(made)) | {"micro_rho": 1})
            await relay.call(PARTIES[0], FINISH, result(opened, cheap))
            [(shown, error)] = await one.fetch_results()
    assert (shown.manifest.digest, error.rule) == (opened.digest, "result-task")
    assert not one.results.ended
