"""The relay's calls as a client makes them, against a real relay."""

from __future__ import annotations

import pytest

from client.backoff import Backoff
from client.remoteerrors import RemoteError
from client.rounds import RelayedRound, Rounds, RoundState
from client.transport import Signer, Transport
from crypto.request import NO_ACCOUNT
from tests.relay_worlds import (
    ANALYST,
    FINISH,
    GRACE_MS,
    PARTIES,
    PUBLISHER,
    WINDOW_MS,
    Relay,
    abandonment,
    manifest,
    people,
    report,
    result,
    signed_round,
    task,
)
from tests.shell_worlds import endpoint_of


def rounds(relay: Relay, signer: Signer) -> tuple[Transport, Rounds]:
    """A line to the relay and the calls on it."""
    transport = Transport(endpoint_of(relay.service), backoff=Backoff(first_ms=1, tries_max=2))
    return transport, Rounds(transport, signer)


async def test_tasks_rounds_and_results_come_as_they_were_signed(relay: Relay) -> None:
    """For a device and for a key without an account; pages are put together."""
    [person] = await people(relay, 1)
    tasks = [task(f"task-{number:03}") for number in range(66)]
    for made in tasks:
        await relay.publish(made)
    opened = manifest(tasks[65], relay.now_ms - 1_000)
    await relay.collect(opened)
    device = Signer(person.authors[0].identity, person.account_id)
    for signer in (device, Signer(ANALYST.identity, NO_ACCOUNT)):
        transport, calls = rounds(relay, signer)
        try:
            found = [one async for one in calls.tasks()]
            assert [one.task.body for one in found] == [made.encoded for made in tasks]
            assert {one.task.publisher for one in found} == {PUBLISHER.public}
            assert found[0].task.published == tasks[0].sign(PUBLISHER.as_publisher)
            [summary] = found[65].rounds
            assert (summary.round_id, summary.state) == (opened.round_id, RoundState.OPEN)
            assert summary.close_ms == opened.close_ms + GRACE_MS
            held = await calls.round(opened.round_id)
            assert held.task == found[65].task
            assert held.published == opened.signed(signed_round(opened).sigs)
            assert not held.contributed
        finally:
            await transport.close()


async def test_a_report_is_given_once_and_its_result_comes_back(relay: Relay) -> None:
    """Equal bytes are one report; a result that is not there yet is not waited for."""
    [person] = await people(relay, 1)
    opened = await relay.opened()
    message = report(opened, 1)
    transport, calls = rounds(relay, Signer(person.authors[0].identity, person.account_id))
    try:
        for _ in range(2):
            await calls.contribute(message.round_id, message.header, message.boxes)
        other = report(opened, 2)
        with pytest.raises(RemoteError, match="has contributed") as caught:
            await calls.contribute(other.round_id, other.header, other.boxes)
        assert caught.value.reason == "CONTRIBUTED_ALREADY"
        held: RelayedRound = await calls.round(opened.round_id)
        assert held.contributed
        with pytest.raises(RemoteError) as caught:
            await calls.result(opened.round_id)
        assert (caught.value.reason, caught.value.transient) == ("RESULT_ABSENT", False)
        with pytest.raises(RemoteError, match="no such round"):
            await calls.result(bytes(16))
        with relay.later(WINDOW_MS + GRACE_MS):
            await relay.call(PARTIES[2], FINISH, abandonment(opened, 3, b"tired"))
            said = result(opened, b"sums", by=(1, 2))
            await relay.call(PARTIES[0], FINISH, said)
            got = await calls.result(opened.round_id)
        assert got.result == b"sums"
        assert got.sigs == {row.party: row.sig for row in said.sigs}
        [given_up] = got.given_up
        assert (given_up.party, given_up.statement) == (3, b"tired")
    finally:
        await transport.close()
