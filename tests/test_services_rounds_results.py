"""Results at the relay, retention, restarts, and bytes that nobody honest sends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from rookery.v1 import parties_pb2, rounds_pb2
from tests.relay_worlds import (
    ANALYST,
    BOXES,
    COLLECT,
    CONTRIBUTE,
    FINISH,
    GRACE_MS,
    LIST,
    PARTIES,
    PUBLISH,
    PUBLISHER,
    RESULT,
    ROUND,
    UNARY,
    WINDOW_MS,
    Relay,
    abandonment,
    attached,
    drained,
    opened_shares,
    people,
    refused,
    relaying,
    report,
    result,
    signed_round,
    signed_task,
    task,
)
from tests.served import AUDIENCE, Moment, Refusal, refusal
from tests.service_process import ServiceProcess

DAY_MS = 86_400_000


# --- results ---


async def test_a_result_is_published_once_with_its_signatures(relay: Relay) -> None:
    """Not before the window ends; equal bytes add signatures; devices and analysts read it."""
    [world] = await people(relay, 1)
    opened = await relay.opened()
    await relay.contribute(world, report(opened, 1))
    good = result(opened, b"the result", (1, 3))
    until = {"close_ms": str(opened.close_ms + GRACE_MS)}
    failed = await refused(relay.call(PARTIES[0], FINISH, good))
    assert failed == ("FAILED_PRECONDITION", "ROUND_NOT_CLOSED", until)
    absent = await refusal(relay.result(world, opened.round_id))
    assert (absent.code.name, absent.reason) == ("NOT_FOUND", "RESULT_ABSENT")
    assert absent.retry_ms
    with relay.later(WINDOW_MS + GRACE_MS):
        await relay.call(PARTIES[2], FINISH, good)
        for by in (world, ANALYST, PUBLISHER, PARTIES[1]):
            found = await relay.result(by, opened.round_id)
            assert found.result == b"the result"
            assert list(found.sigs) == list(good.sigs)
        await relay.call(PARTIES[0], FINISH, good)
        await relay.call(PARTIES[1], FINISH, result(opened, b"the result", (1, 2)))
        found = await relay.result(world, opened.round_id)
        assert list(found.sigs) == list(result(opened, b"the result").sigs)
        failed = await refused(relay.call(PARTIES[1], FINISH, result(opened, b"another")))
        assert failed == ("ABORTED", "RESULT_CONFLICT", {})
        failed = await refused(relay.fetch(PARTIES[1], opened.round_id))
        assert failed == ("FAILED_PRECONDITION", "ROUND_OVER", {})
        summary = (await relay.round(world, opened.round_id)).summary
        assert summary.state == rounds_pb2.ROUND_STATE_DONE
        assert not any(box in relay.stored() for box in report_parts(opened, 1))
    failed = await refused(relay.result(world, bytes(16)))
    assert failed == ("NOT_FOUND", "ROUND_UNKNOWN", {})


def report_parts(made: Any, seed: int) -> list[bytes]:
    """What of a report could lie in a file."""
    message = report(made, seed)
    return [message.header, *(part[32:96] for part in message.boxes)]


async def test_a_result_needs_enough_signatures_that_verify(relay: Relay) -> None:
    """t + 1 of distinct parties, each over this round's digest and these bytes, none bad."""
    opened, other = await relay.opened(), await relay.opened("other")
    good = result(opened, b"said")
    foreign = result(replace(other, round_id=opened.round_id), b"said")
    cases = [
        (result(opened, b"said", (1,)), "signatures"),
        (result(opened, b"said", ()), "signatures"),
        (result(opened, b"said", (1, 2, 3, 1)), "signatures"),
        (result(opened, b"said", (2, 2)), "party"),
        (with_sigs(good, [(0, good.sigs[0].sig), (2, good.sigs[1].sig)]), "party"),
        (with_sigs(good, [(1, good.sigs[0].sig), (4, good.sigs[1].sig)]), "party"),
        (with_sigs(good, [(1, good.sigs[1].sig), (2, good.sigs[0].sig)]), "signature"),
        (with_sigs(good, [(1, good.sigs[0].sig), (2, bytes(64))]), "signature"),
        (with_sigs(good, [(1, good.sigs[0].sig), (2, b"")]), "length"),
        (foreign, "signature"),
    ]
    with relay.later(WINDOW_MS + GRACE_MS):
        for message, rule in cases:
            failed = await refused(relay.call(PARTIES[0], FINISH, message))
            assert failed == ("INVALID_ARGUMENT", "RESULT_INVALID", {"rule": rule})
        many = with_sigs(good, [(1, b"")] * 200_000)
        failed = await refused(relay.call(PARTIES[0], FINISH, many))
        assert failed[2] == {"rule": "signatures"}
        failed = await refused(
            relay.call(PARTIES[0], FINISH, result(opened, bytes(1 << 20) + b"x"))
        )
        assert failed[2] == {"limit": "result_bytes", "value": str(1 << 20)}
        absent = await refusal(relay.result(ANALYST, opened.round_id))
        assert absent.reason == "RESULT_ABSENT"


def with_sigs(
    message: parties_pb2.PublishResultRequest, sigs: list[tuple[int, bytes]]
) -> parties_pb2.PublishResultRequest:
    """The result with other signatures."""
    changed = parties_pb2.PublishResultRequest(round_id=message.round_id, result=message.result)
    changed.sigs.extend(rounds_pb2.PartySignature(party=party, sig=sig) for party, sig in sigs)
    return changed


async def test_a_party_may_give_a_round_up(relay: Relay) -> None:
    """In its own name only, and for good; the others' result outlives it."""
    [world] = await people(relay, 1)
    opened = await relay.opened()
    await relay.contribute(world, report(opened, 1))
    long = abandonment(opened, 2, bytes(5_000))
    both = abandonment(opened, 2, b"x")
    both.result = b"y"
    signed = abandonment(opened, 2, b"x")
    signed.sigs.add(party=2, sig=bytes(64))
    forged = abandonment(opened, 2, b"x")
    forged.abandonment.statement = b"z"
    for by, message, reason, metadata in (
        (0, abandonment(opened, 2, b"x"), "RESULT_INVALID", {"rule": "party"}),
        (1, forged, "RESULT_INVALID", {"rule": "signature"}),
        (1, abandonment(opened, 2, b""), "RESULT_INVALID", {"rule": "length"}),
        (1, both, "MALFORMED", {"field": "result"}),
        (1, signed, "MALFORMED", {"field": "sigs"}),
        (1, parties_pb2.PublishResultRequest(round_id=opened.round_id), "MALFORMED",
         {"field": "result"}),
        (1, long, "QUOTA", {"limit": "statement_bytes", "value": "4096"}),
    ):  # fmt: skip
        failed = await refused(relay.call(PARTIES[by], FINISH, message))
        assert failed[1:] == (reason, metadata)
    given = abandonment(opened, 2, b"disk full")
    for _ in range(2):
        await relay.call(PARTIES[1], FINISH, given)
    failed = await refused(relay.call(PARTIES[1], FINISH, abandonment(opened, 2, b"other")))
    assert failed == ("ABORTED", "RESULT_CONFLICT", {})
    found = await relay.result(world, opened.round_id)
    assert (found.result, list(found.abandonments)) == (b"", [given.abandonment])
    summary = (await relay.round(world, opened.round_id)).summary
    assert summary.state == rounds_pb2.ROUND_STATE_ABANDONED
    with relay.later(WINDOW_MS + GRACE_MS):
        assert len((await relay.fetch(PARTIES[0], opened.round_id)).boxes) == 1
        await relay.call(PARTIES[0], FINISH, result(opened, b"by two", (1, 3)))
        found = await relay.result(world, opened.round_id)
        assert (found.result, len(found.abandonments)) == (b"by two", 1)


async def test_retention_ends(tmp_path: Path) -> None:
    """Boxes go after theirs, the result after its own; the task stays."""
    async with relaying(tmp_path, box_retention_days=1, result_retention_days=2) as relay:
        store = relay.service.server.store
        [world] = await people(relay, 1)
        opened = await relay.opened()
        await relay.contribute(world, report(opened, 1))
        with relay.later(DAY_MS + WINDOW_MS + GRACE_MS):
            await store.sweep(now_ms=relay.now_ms)
            assert not any(part in relay.stored() for part in report_parts(opened, 1))
            summary = (await relay.round(ANALYST, opened.round_id)).summary
            assert summary.state == rounds_pb2.ROUND_STATE_EXPIRED
            failed = await refused(relay.fetch(PARTIES[0], opened.round_id))
            assert failed == ("FAILED_PRECONDITION", "ROUND_OVER", {})
            await relay.call(PARTIES[0], FINISH, result(opened, b"late"))
        with relay.later(2 * DAY_MS + WINDOW_MS + GRACE_MS):
            assert (await relay.result(ANALYST, opened.round_id)).result == b"late"
            await store.sweep(now_ms=relay.now_ms)
            failed = await refused(relay.result(ANALYST, opened.round_id))
            assert failed == ("NOT_FOUND", "ROUND_UNKNOWN", {})
            # A party of no round is a stranger again.
            failed = await refused(relay.fetch(PARTIES[0], opened.round_id))
            assert failed == ("UNAUTHENTICATED", "UNAUTHENTICATED", {})
            failed = await refused(
                relay.call(PUBLISHER, PUBLISH, signed_task(task("task-0", k_min=3)))
            )
            assert failed[1] == "TASK_CONFLICT"


# --- the process ---


async def test_everything_survives_a_restart(tmp_path: Path) -> None:
    """Task, round, boxes, cursor, "once" and result are there when the server comes back."""
    moment = Moment()
    async with relaying(tmp_path, moment=moment) as relay:
        worlds = await people(relay, 2)
        opened = await relay.opened()
        await relay.contribute(worlds[0], report(opened, 0))
        cursor = (await relay.fetch(PARTIES[0], opened.round_id)).last.cursor
        await relay.contribute(worlds[1], report(opened, 1))
    async with relaying(tmp_path, moment=moment) as relay:
        assert (await relay.round(worlds[0], opened.round_id)).contributed
        await relay.contribute(worlds[0], report(opened, 0))
        failed = await refused(relay.contribute(worlds[0], report(opened, 5)))
        assert failed[1] == "CONTRIBUTED_ALREADY"
        assert len((await relay.fetch(PARTIES[1], opened.round_id)).boxes) == 2
        rest = await relay.fetch(PARTIES[0], opened.round_id, cursor)
        assert [box.header for box in rest.boxes] == [report(opened, 1).header]
        with relay.later(WINDOW_MS + GRACE_MS):
            await relay.call(PARTIES[0], FINISH, result(opened, b"kept", (1, 2)))
    async with relaying(tmp_path, moment=moment) as relay:
        assert (await relay.result(worlds[0], opened.round_id)).result == b"kept"
        assert await relay.publish(task("task-0")) == opened.spec_hash


async def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    """SIGKILL in the middle of thirty contributions: those that were answered are there."""
    keys = {"ROOKERY_PUBLISHERS": PUBLISHER.public.hex(), "ROOKERY_AUDIENCE": AUDIENCE}
    with ServiceProcess(tmp_path, ROOKERY_ANALYSTS=ANALYST.public.hex(), **keys) as process:
        async with attached(process) as relay:
            worlds = await people(relay, 30)
            opened = await relay.opened()
            sent = [report(opened, number) for number in range(30)]
            calls = [
                asyncio.ensure_future(outcome(relay.contribute(world, message)))
                for world, message in zip(worlds, sent, strict=True)
            ]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            process.kill()
            outcomes = await asyncio.gather(*calls)
        process.start()
        async with attached(process) as relay:
            fetched = await relay.fetch(PARTIES[0], opened.round_id)
            held = {box.header for box in fetched.boxes}
            answered = {
                message.header
                for message, failed in zip(sent, outcomes, strict=True)
                if failed is None
            }
            assert answered
            assert answered <= held
            for world, message in zip(worlds, sent, strict=True):
                await relay.contribute(world, message)
            assert len((await relay.fetch(PARTIES[1], opened.round_id)).boxes) == 30


async def test_neither_file_nor_log_holds_a_share(relay: Relay) -> None:
    """Nor a report id, a nullifier or a key's id in a log; and no share in any error."""
    worlds = await people(relay, 3)
    opened = await relay.opened()
    for number, world in enumerate(worlds):
        await relay.contribute(world, report(opened, number))
        await refusal(relay.contribute(world, report(opened, number + 10)))
    with relay.later(WINDOW_MS + GRACE_MS):
        for party in PARTIES:
            await relay.fetch(party, opened.round_id)
    stored, log = relay.stored(), relay.service.log.getvalue()
    for number in range(3):
        message = report(opened, number)
        for share in opened_shares(opened, message):
            assert share.payload[:16] not in stored
            assert share.payload[-16:] not in stored
            assert share.payload[:16].hex() not in log
        for part in (message.header[40:56], message.header[56:], opened.round_id, opened.digest):
            assert part.hex() not in log
        assert bytes(worlds[number].account_id).hex() not in log
    assert all(bytes(one.identity.device_id).hex() not in log for one in (*PARTIES, PUBLISHER))


# --- hostile bytes ---


@pytest.mark.parametrize("method", [*UNARY, BOXES])
async def test_broken_bytes_are_answered_clearly(relay: Relay, method: str) -> None:
    """Random bytes, and good messages cut, lengthened and altered, by somebody who may call:
    never INTERNAL or UNKNOWN, and the round is none the worse for it."""
    worlds = await people(relay, 1)
    opened = await relay.opened()
    get = rounds_pb2.GetRoundRequest(round_id=opened.round_id).SerializeToString()
    who: dict[str, tuple[Any, bytes]] = {
        PUBLISH: (PUBLISHER, signed_task(task("other")).SerializeToString()),
        LIST: (ANALYST, rounds_pb2.ListTasksRequest(after=1).SerializeToString()),
        COLLECT: (PUBLISHER, signed_round(opened).SerializeToString()),
        ROUND: (ANALYST, get),
        CONTRIBUTE: (worlds[0], report(opened, 1).SerializeToString()),
        RESULT: (ANALYST, get),
        FINISH: (PARTIES[0], result(opened, b"said").SerializeToString()),
        BOXES: (PARTIES[0], get),
    }
    by, good = who[method]
    rng = random.Random(f"broken {method}")
    payloads = [rng.randbytes(size) for size in (0, 1, 2, 3, 16, 88, 1_000, 100_000)]
    payloads += [altered(good, rng) for _ in range(100)]
    payloads += [b"\x08" + b"\xff" * 9 + b"\x01", b"\x0a\xff\xff\xff\xff\x0f", b"\x0b" * 200]
    for payload in payloads:
        call = (
            drained(relay.open(by, payload)) if method == BOXES else relay.call(by, method, payload)
        )
        failed = await outcome(call)
        if failed is not None:
            assert failed.code not in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
            assert failed.reason
    for size in (0, 16, 207, 208, 209):
        value = rng.randbytes(size)
        call = (
            drained(relay.open(PARTIES[0], good, value))
            if method == BOXES
            else relay.service.raw(method, good, [value])
        )
        assert (await refused(call))[1] in ("UNAUTHENTICATED", "MALFORMED", "CLOCK_SKEW")
    assert (await relay.round(ANALYST, opened.round_id)).manifest == opened.encoded


async def outcome(call: Awaitable[object]) -> Refusal | None:
    """What a call is refused with, or None."""
    try:
        await call
    except Refusal as failed:
        return failed
    return None


def altered(good: bytes, rng: random.Random) -> bytes:
    """The message cut off, lengthened, or with a few bytes changed."""
    data = bytearray(good)
    match rng.randrange(4):
        case 0:
            del data[rng.randrange(len(data) + 1) :]
        case 1:
            data += rng.randbytes(rng.randrange(1, 40))
        case _:
            for _ in range(rng.randrange(1, 4)):
                if data:
                    data[rng.randrange(len(data))] = rng.choice((0, 0xFF, rng.randrange(256)))
    return bytes(data)


async def test_messages_larger_than_the_service_reads_are_refused(relay: Relay) -> None:
    """3 MiB end with RESOURCE_EXHAUSTED before anybody parses them."""
    opened = await relay.opened()
    big = result(opened, bytes(3 << 20)).SerializeToString()
    for method in UNARY:
        failed = await refusal(relay.call(PARTIES[0], method, big))
        assert failed.code in (
            grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE,
        )  # fmt: skip
