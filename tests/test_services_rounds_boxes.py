"""Contributions at the relay, and their way to the parties: once, in time, to whom they are for."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from crypto.field import FIELD61
from crypto.request import CallKind
from mpc.kinds import Histogram
from rookery.v1 import accounts_pb2, parties_pb2, rounds_pb2
from services.metrics import Metrics
from services.rounds.boxes import FRAME_BYTES_MAX
from tests.relay_worlds import (
    ANALYST,
    BOXES,
    COLLECT,
    CONTRIBUTE,
    GRACE_MS,
    PARTIES,
    PUBLISHER,
    STRANGER,
    WINDOW_MS,
    Actor,
    Relay,
    drained,
    manifest,
    opened_shares,
    people,
    refused,
    relaying,
    report,
    shape,
    signed_round,
    task,
)
from tests.served import DELETE, Refusal

DAY_MS = 86_400_000


WIDE = task("wide", kind=Histogram(FIELD61, 4_096, ()), kappa=1)
"""Reports of 64 KiB."""

# --- contributions ---


async def test_boxes_go_to_the_party_they_are_sealed_for(relay: Relay) -> None:
    """Each party gets its own, with the header, in one order; it can open them."""
    worlds = await people(relay, 5)
    opened = await relay.opened()
    sent = [report(opened, number) for number in range(5)]
    for world, message in zip(worlds, sent, strict=True):
        await relay.contribute(world, message)
    with relay.later(WINDOW_MS + GRACE_MS):
        for number, party in enumerate(PARTIES):
            fetched = await relay.fetch(party, opened.round_id)
            assert (fetched.last.complete, fetched.last.total) == (True, 5)
            assert [box.header for box in fetched.boxes] == [message.header for message in sent]
            for box, message in zip(fetched.boxes, sent, strict=True):
                _, share = party.box.open(shape(opened), box.header, box.sealed)
                assert share == opened_shares(opened, message)[number]


async def test_an_account_contributes_once_to_a_round(relay: Relay) -> None:
    """From whichever device. Equal bytes are fine, also after the window; others are refused."""
    world = await relay.service.account("two devices")
    opened = await relay.opened()
    message = report(opened, 1)
    assert not (await relay.round(world, opened.round_id)).contributed
    await asyncio.gather(*(relay.contribute(world, message) for _ in range(10)))
    other = rounds_pb2.ContributeRequest.FromString(message.SerializeToString())
    other.boxes[1] = bytes(len(other.boxes[1]))
    for sent in (report(opened, 2), other):
        for by in (0, 1):
            call = relay.service.signed(world, CONTRIBUTE, sent, by=by)
            assert await refused(call) == ("ABORTED", "CONTRIBUTED_ALREADY", {})
    with relay.later(WINDOW_MS + GRACE_MS):
        await relay.service.signed(world, CONTRIBUTE, message, by=1)
        assert len((await relay.fetch(PARTIES[0], opened.round_id)).boxes) == 1
    assert (await relay.round(world, opened.round_id)).contributed
    assert not (await relay.round(ANALYST, opened.round_id)).contributed
    # Another round of another task is another matter.
    await relay.contribute(world, report(await relay.opened("second"), 1))


async def test_a_window_has_two_ends(relay: Relay) -> None:
    """Before it opens, in the grace after it closes, and after that; and no such round."""
    worlds = await people(relay, 2)
    made = task()
    await relay.publish(made)
    coming = manifest(made, relay.now_ms + 5 * WINDOW_MS)
    await relay.collect(coming)
    message = report(coming, 1)
    failed = await refused(relay.contribute(worlds[0], message))
    assert failed == ("FAILED_PRECONDITION", "ROUND_NOT_OPEN", {"open_ms": str(coming.open_ms)})
    with relay.later(6 * WINDOW_MS + GRACE_MS - 5_000):
        await relay.contribute(worlds[0], message)
    with relay.later(6 * WINDOW_MS + GRACE_MS):
        failed = await refused(relay.contribute(worlds[1], report(coming, 2)))
    until = {"close_ms": str(coming.close_ms + GRACE_MS)}
    assert failed == ("FAILED_PRECONDITION", "ROUND_CLOSED", until)
    unknown = report(replace(coming, round_id=bytes(16)), 1)
    failed = await refused(relay.contribute(worlds[1], unknown))
    assert failed == ("NOT_FOUND", "ROUND_UNKNOWN", {})


async def test_nothing_is_taken_behind_a_complete_frame(relay: Relay) -> None:
    """Once a party was told that this is all, an earlier clock changes nothing."""
    worlds = await people(relay, 2)
    opened = await relay.opened()
    await relay.contribute(worlds[0], report(opened, 0))
    assert not (await relay.fetch(PARTIES[0], opened.round_id)).last.complete
    with relay.later(WINDOW_MS + GRACE_MS):
        assert (await relay.fetch(PARTIES[0], opened.round_id)).last.complete
    failed = await refused(relay.contribute(worlds[1], report(opened, 1)))
    assert failed[1] == "ROUND_CLOSED"
    assert (await relay.round(ANALYST, opened.round_id)).summary.state == (
        rounds_pb2.ROUND_STATE_CLOSED
    )


async def test_a_contribution_of_another_form_is_refused(relay: Relay) -> None:
    """Header, round, number and sizes of boxes: each has its rule, and nothing is stored."""
    [world] = await people(relay, 1)
    opened = await relay.opened()
    elsewhere = await relay.opened("elsewhere")
    good = report(opened, 1)
    header, boxes = good.header, list(good.boxes)

    def sent(head: bytes, sealed: list[bytes]) -> rounds_pb2.ContributeRequest:
        return rounds_pb2.ContributeRequest(round_id=opened.round_id, header=head, boxes=sealed)

    cases = [
        (sent(header[:-1], boxes), "length"),
        (sent(header + b"\0", boxes), "length"),
        (sent(b"", boxes), "length"),
        (sent(b"PSA2" + header[4:], boxes), "header"),
        (sent(header[:4] + b"\2" + header[5:], boxes), "header"),
        (sent(header[:5] + b"\2" + header[6:], boxes), "mode"),
        (sent(header[:6] + b"\4" + header[7:], boxes), "parties"),
        (sent(header[:6] + b"\0" + header[7:], boxes), "parties"),
        (sent(header[:7] + b"\1" + header[8:], boxes), "header"),
        (sent(report(elsewhere, 1).header, boxes), "round"),
        (sent(header, boxes[:2]), "parties"),
        (sent(header, [*boxes, boxes[0]]), "parties"),
        (sent(header, []), "parties"),
        (sent(header, [b""] * 600_000), "parties"),
        (sent(header, [boxes[0][:-1], *boxes[1:]]), "length"),
        (sent(header, [boxes[0], boxes[1] + b"\0", boxes[2]]), "length"),
        # Sizes that are right, at the wrong parties: the report id says who gets the seed.
        (sent(header, [boxes[1], boxes[2], boxes[0]]), "length"),
        (sent(header, [boxes[2], boxes[0], boxes[1]]), "length"),
        (sent(header, [min(boxes, key=len)] * 3), "length"),
        (sent(header, [max(boxes, key=len)] * 3), "length"),
        (sent(header, [b"", b"", b""]), "length"),
        (sent(header, [bytes(600_000)] * 3), "length"),
    ]
    for message, rule in cases:
        failed = await refused(relay.contribute(world, message))
        assert failed == ("INVALID_ARGUMENT", "CONTRIBUTION_INVALID", {"rule": rule})
    for round_id in (b"", bytes(15), bytes(17), bytes(100_000)):
        good.round_id = round_id
        failed = await refused(relay.contribute(world, good))
        assert failed == ("INVALID_ARGUMENT", "MALFORMED", {"field": "round_id"})
    assert not (await relay.fetch(PARTIES[0], opened.round_id)).boxes


async def test_a_round_takes_no_more_than_its_task_allows(relay: Relay) -> None:
    """One report more could wrap a sum; the bound is said."""
    worlds = await people(relay, 3)
    opened = await relay.opened(reports_max=2)
    for number in range(2):
        await relay.contribute(worlds[number], report(opened, number))
    failed = await refused(relay.contribute(worlds[2], report(opened, 2)))
    assert failed == ("RESOURCE_EXHAUSTED", "QUOTA", {"limit": "contributions", "value": "2"})


async def test_a_revoked_device_contributes_no_more(relay: Relay) -> None:
    """It gets the answer of all strangers."""
    world = await relay.service.account("revoking")
    opened = await relay.opened()
    gone = world.authors[1].identity
    await relay.service.append(world, world.rotate([1]))
    payload = report(opened, 1).SerializeToString()
    call = relay.service.raw(
        CONTRIBUTE, payload, [relay.service.auth(gone, world, CONTRIBUTE, payload)]
    )
    assert await refused(call) == ("UNAUTHENTICATED", "UNAUTHENTICATED", {})


async def test_deleting_an_account_deletes_its_contributions(relay: Relay) -> None:
    """A party that comes later does not get them, and the file does not hold them."""
    worlds = await people(relay, 3)
    opened = await relay.opened()
    sent = [report(opened, number) for number in range(3)]
    for world, message in zip(worlds, sent, strict=True):
        await relay.contribute(world, message)
    assert all(box in relay.stored() for message in sent for box in message.boxes)
    delete = accounts_pb2.DeleteAccountRequest(account_id=worlds[1].account_id)
    # Signed after the server started, by its own clock.
    with relay.later(1_000):
        await relay.call(worlds[1], DELETE, delete)
    with relay.later(WINDOW_MS + GRACE_MS):
        for number, party in enumerate(PARTIES):
            fetched = await relay.fetch(party, opened.round_id)
            assert [box.sealed for box in fetched.boxes] == [
                sent[0].boxes[number], sent[2].boxes[number],
            ]  # fmt: skip
            assert fetched.last.total == 2
    stored = relay.stored()
    assert not any(part in stored for part in (sent[1].header, *sent[1].boxes))
    assert all(box in stored for box in sent[0].boxes)


async def test_a_party_that_came_before_is_told_what_was_erased(relay: Relay) -> None:
    """From whichever cursor it goes on, and as often as it asks; by where the relay had it."""
    worlds = await people(relay, 4)
    opened = await relay.opened()
    for number, world in enumerate(worlds):
        await relay.contribute(world, report(opened, number))
    fetched = await relay.fetch(PARTIES[0], opened.round_id)
    assert [at for frame in fetched.frames for at in frame.positions] == [1, 2, 3, 4]
    assert not fetched.last.erased
    with relay.later(1_000):
        for gone in (3, 1):
            delete = accounts_pb2.DeleteAccountRequest(account_id=worlds[gone].account_id)
            await relay.call(worlds[gone], DELETE, delete)
    for cursor in (fetched.last.cursor, b"", fetched.last.cursor):
        again = await relay.fetch(PARTIES[0], opened.round_id, cursor)
        assert list(again.last.erased) == [2, 4]
    later = await relay.fetch(PARTIES[1], opened.round_id)
    assert [at for frame in later.frames for at in frame.positions] == [1, 3]


# --- the parties' side ---


async def test_only_a_party_of_the_round_gets_boxes(relay: Relay) -> None:
    """Not a stranger, publisher, analyst or device, nor the party of another round."""
    [world] = await people(relay, 1)
    opened = await relay.opened()
    made = task("theirs")
    await relay.publish(made)
    outsider = Actor("outsider")
    theirs = manifest(made, relay.now_ms, "theirs")
    theirs = replace(
        theirs, parties=(*theirs.parties[:2], replace(theirs.parties[2], ik_pk=outsider.public))
    )
    members = [PARTIES[0], PARTIES[1], outsider]
    await relay.call(PUBLISHER, COLLECT, signed_round(theirs, members))
    assert not (await relay.fetch(outsider, theirs.round_id)).boxes
    for by in (PUBLISHER, ANALYST, outsider):
        failed = await refused(relay.fetch(by, opened.round_id))
        assert failed == ("PERMISSION_DENIED", "ROLE_MISSING", {"role": "party"})
    failed = await refused(relay.fetch(STRANGER, opened.round_id))
    assert failed == ("UNAUTHENTICATED", "UNAUTHENTICATED", {})
    failed = await refused(relay.fetch(PARTIES[2], theirs.round_id))
    assert failed == ("PERMISSION_DENIED", "ROLE_MISSING", {"role": "party"})
    payload = parties_pb2.StreamBoxesRequest(round_id=opened.round_id).SerializeToString()
    identity = world.authors[0].identity
    value = relay.service.auth(identity, world, BOXES, payload, kind=CallKind.STREAM)
    failed = await refused(drained(relay.open(PARTIES[0], payload, value)))
    assert failed == ("PERMISSION_DENIED", "ROLE_MISSING", {"role": "party"})


async def test_a_stream_goes_on_where_it_ended(relay: Relay) -> None:
    """In frames of bounded size, from any frame's cursor, with nothing twice or left out."""
    worlds = await people(relay, 40)
    opened = await relay.opened(kind=WIDE.kind, kappa=1)
    sent = [report(opened, number, WIDE) for number in range(40)]
    for world, message in zip(worlds[:30], sent, strict=False):
        await relay.contribute(world, message)
    party = PARTIES[1]
    first = await relay.fetch(party, opened.round_id)
    assert len(first.frames) > 1
    assert all(frame.ByteSize() <= FRAME_BYTES_MAX + 1_000 for frame in first.frames)
    assert not first.last.complete
    for world, message in zip(worlds[30:], sent[30:], strict=True):
        await relay.contribute(world, message)
    with relay.later(WINDOW_MS + GRACE_MS):
        for number, frame in enumerate(first.frames):
            held = [box for before in first.frames[: number + 1] for box in before.boxes]
            rest = await relay.fetch(party, opened.round_id, frame.cursor)
            assert [box.sealed for box in held + rest.boxes] == [row.boxes[1] for row in sent]
            assert (rest.last.complete, rest.last.total) == (True, 40)
            assert not any(frame.complete for frame in rest.frames[:-1])
        done = await relay.fetch(party, opened.round_id, rest.last.cursor)
        assert (len(done.frames), done.boxes, done.last.complete) == (1, [], True)


async def test_a_cursor_is_for_one_round_and_generation(tmp_path: Path) -> None:
    """Another round's, a made-up and a cut one are refused; one of before a restore, too."""
    async with relaying(tmp_path) as relay:
        opened, other = await relay.opened(), await relay.opened("other")
        [world] = await people(relay, 1)
        await relay.contribute(world, report(opened, 1))
        cursor = (await relay.fetch(PARTIES[0], opened.round_id)).last.cursor
        foreign = (await relay.fetch(PARTIES[0], other.round_id)).last.cursor
        for bad in (foreign, cursor[:-1], bytes(32), bytes(100_000)):
            failed = await refused(relay.fetch(PARTIES[0], opened.round_id, bad))
            assert failed == ("INVALID_ARGUMENT", "CURSOR_INVALID", {})
        await relay.service.server.store.new_generation()
    async with relaying(tmp_path) as relay:
        failed = await refused(relay.fetch(PARTIES[0], opened.round_id, cursor))
        assert failed == ("FAILED_PRECONDITION", "GENERATION_CHANGED", {})
        assert len((await relay.fetch(PARTIES[0], opened.round_id)).boxes) == 1


class Left(Metrics):
    """Tells when a stream of boxes was left."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = asyncio.Event()

    def called(self, method: str, reason: str, seconds: float, *, is_stream: bool = False) -> None:
        """See `CallMetrics.called`."""
        super().called(method, reason, seconds, is_stream=is_stream)
        if (method, reason) == (BOXES, "OVERLOADED"):
            self.seen.set()


async def read_on(call: Any, frames: list[parties_pb2.StreamBoxesResponse]) -> None:
    """Reads until the end, or the error."""
    while (raw := await call.read()) is not grpc.aio.EOF:
        frames.append(parties_pb2.StreamBoxesResponse.FromString(raw))


async def test_a_party_that_takes_nothing_is_left(tmp_path: Path) -> None:
    """After stall_s its stream ends; others are served all the while."""
    async with relaying(tmp_path, stall_s=1.0) as relay:
        worlds = await people(relay, 60)
        opened = await relay.opened(kind=WIDE.kind, kappa=1)
        for number, world in enumerate(worlds):
            await relay.contribute(world, report(opened, number, WIDE))
        payload = parties_pb2.StreamBoxesRequest(round_id=opened.round_id).SerializeToString()
        left = relay.service.server.telemetry.metrics = Left()
        stalled = relay.open(PARTIES[0], payload)
        await stalled.read()
        assert len((await relay.fetch(PARTIES[2], opened.round_id)).boxes) == 60
        await left.seen.wait()
        # What lies in the client's buffers can still be read; then the call is over.
        with pytest.raises(grpc.aio.AioRpcError):
            await read_on(stalled, [])


async def test_a_stream_ends_when_the_service_does(tmp_path: Path) -> None:
    """Between two frames it is told to connect elsewhere, and goes on there from its cursor."""
    async with relaying(tmp_path) as relay:
        worlds = await people(relay, 60)
        opened = await relay.opened(kind=WIDE.kind, kappa=1)
        for number, world in enumerate(worlds):
            await relay.contribute(world, report(opened, number, WIDE))
        payload = parties_pb2.StreamBoxesRequest(round_id=opened.round_id).SerializeToString()
        stream = relay.open(PARTIES[1], payload)
        frames = [parties_pb2.StreamBoxesResponse.FromString(await stream.read())]
        await relay.service.server.hub.drain(0)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await read_on(stream, frames)
        assert Refusal.of(ended.value).reason == "DRAINING"
    async with relaying(tmp_path) as relay:
        rest = await relay.fetch(PARTIES[1], opened.round_id, frames[-1].cursor)
        sent = [box.sealed for frame in frames for box in frame.boxes]
        assert sent + [box.sealed for box in rest.boxes] == [
            report(opened, number, WIDE).boxes[1] for number in range(60)
        ]
