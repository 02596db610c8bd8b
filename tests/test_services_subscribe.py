"""Subscribe over gRPC: catching up, live frames, heartbeats, and how streams end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from crypto.request import CallKind
from rookery.v1 import sync_pb2
from services.errors import RateLimited
from services.hub import BEAT, POKE, Hub, Stream as OpenStream
from tests.served import SUBSCRIBE, Service, refusal, serving
from tests.worlds import World

Event = sync_pb2.SubscribeResponse


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A server with a small backlog, so that RESYNC is within reach."""
    async with serving(tmp_path, backlog_ops_max=600) as started:
        yield started


@pytest.fixture
async def world(service: Service) -> World:
    """An account with two devices, known to the server."""
    return await service.account("subscribe")


async def test_a_stream_catches_up_and_goes_live(service: Service, world: World) -> None:
    """What was stored comes first, then CAUGHT_UP, then each push as it is committed."""
    stored = world.ops(2)
    await service.push(world, *stored)
    stream = service.subscribe(world, by=1)
    assert await stream.caught_up() == [row.raw for row in stored]
    for _ in range(3):
        live = world.ops(2, keys="live")
        await service.push(world, *live)
        frame = await stream.next()
        assert frame is not None
        assert frame.event == Event.EVENT_OPS
        assert list(frame.ops) == [row.raw for row in live]
        assert frame.info.chain_seq == 1
        page = await service.pull(world, frame.cursor)
        assert (list(page.ops), page.cursor) == ([], frame.cursor)


async def test_a_stream_goes_on_from_its_cursor(service: Service, world: World) -> None:
    """From the cursor of a frame or page, only what came later is sent."""
    await service.push(world, *world.ops(3))
    page = await service.pull(world)
    later = world.op(1, "later")
    await service.push(world, later, by=1)
    assert await service.subscribe(world, page.cursor).caught_up() == [later.raw]


async def test_no_commit_falls_between_catching_up_and_live(service: Service, world: World) -> None:
    """While a device pushes, streams that open at any moment see every op once, in order."""
    pushed: list[bytes] = []

    async def push_all() -> None:
        for number in range(40):
            row = world.op(0, f"storm/{number}")
            pushed.append(row.raw)
            await service.push(world, row)

    async def follow() -> list[bytes]:
        stream = service.subscribe(world, by=1)
        seen: list[bytes] = []
        while len(seen) < 40:
            frame = await stream.next()
            assert frame is not None
            seen += frame.ops
        stream.call.cancel()
        return seen

    pushing = asyncio.create_task(push_all())
    following = []
    for _ in range(10):
        following.append(asyncio.create_task(follow()))
        await service.pull(world)
    await pushing
    assert await asyncio.gather(*following) == [pushed] * 10


async def test_a_new_link_is_an_event(service: Service, world: World) -> None:
    """CHAIN comes when the chain grew, with its new seq; ops of the new epoch come after."""
    stream = service.subscribe(world, by=1)
    await stream.caught_up()
    await service.append(world, world.rotate())
    frame = await stream.next()
    assert frame is not None
    assert (frame.event, frame.info.chain_seq) == (Event.EVENT_CHAIN, 2)
    row = world.op()
    await service.push(world, row)
    frame = await stream.next()
    assert frame is not None
    assert (frame.event, list(frame.ops)) == (Event.EVENT_OPS, [row.raw])


async def test_far_behind_is_told_to_pull(service: Service, world: World) -> None:
    """A backlog larger than configured ends with RESYNC, and its cursor loses nothing."""
    ops = [world.ops(250, keys=f"bulk{number}") for number in range(6)]
    for batch in ops:
        await service.push(world, *batch)
    stream = service.subscribe(world, by=1)
    seen: list[bytes] = []
    frame = await stream.next()
    while frame is not None and frame.event == Event.EVENT_OPS:
        seen += frame.ops
        frame = await stream.next()
    assert frame is not None
    assert frame.event == Event.EVENT_RESYNC
    assert await stream.next() is None
    cursor = frame.cursor
    while True:
        page = await service.pull(world, cursor, by=1)
        seen += page.ops
        cursor = page.cursor
        if not page.more:
            break
    assert seen == [row.raw for batch in ops for row in batch]
    assert await service.subscribe(world, cursor, by=1).caught_up() == []


async def test_an_idle_stream_has_a_heartbeat(tmp_path: Path) -> None:
    """HEARTBEAT carries clock and cursor and no ops."""
    async with serving(tmp_path, heartbeat_s=0.05) as service:
        world = World.create("beat")
        await service.create(world)
        await service.push(world, world.op())
        stream = service.subscribe(world)
        await stream.caught_up()
        for _ in range(3):
            frame = await stream.next()
            assert frame is not None
            assert (frame.event, list(frame.ops)) == (Event.EVENT_HEARTBEAT, [])
            assert frame.info.server_ms
            assert (await service.pull(world, frame.cursor)).ops == []


async def test_a_revoked_device_loses_its_stream_at_once(service: Service, world: World) -> None:
    """Its stream ends with UNAUTHENTICATED; the other device's goes on."""
    theirs, ours = service.subscribe(world, by=1), service.subscribe(world)
    await theirs.caught_up()
    await ours.caught_up()
    await service.append(world, world.rotate([1]))
    ended = await theirs.end()
    assert (ended.code, ended.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    frame = await ours.next()
    assert frame is not None
    assert frame.event == Event.EVENT_CHAIN
    refused = await service.subscribe(world, by=1).end()
    assert refused.reason == "UNAUTHENTICATED"


async def test_a_revoked_device_that_reads_nothing_loses_its_stream_too(
    service: Service, world: World
) -> None:
    """A stream in the middle of a message that nobody takes is ended all the same."""
    value = bytes(30_000)
    for start in range(2):
        ops = [world.op(0, f"big/{start}/{number}", value) for number in range(30)]
        await service.push(world, *ops)
    stream = service.subscribe(world, by=1)
    await stream.call.wait_for_connection()
    (held,) = await until_stuck(service, 1)
    await service.append(world, world.rotate([1]))
    task = held.task
    assert task is not None
    await asyncio.wait([task])
    assert not len(service.server.hub)


async def until_stuck(service: Service, count: int) -> tuple[OpenStream, ...]:
    """The open streams, once so many wait for their client to take a message."""
    while True:
        stuck = tuple(row for row in service.server.hub if row.writing_since_s)
        if len(stuck) == count:
            for _ in range(200):
                await asyncio.sleep(0)
            if all(row.writing_since_s for row in stuck):
                return stuck
        await asyncio.sleep(0)


async def test_the_service_says_good_bye(service: Service, world: World) -> None:
    """When the process ends, streams are told DRAINING with a time to come back, at once."""
    streams = [service.subscribe(world, by=by) for by in (0, 1)]
    for stream in streams:
        await stream.caught_up()
    stopping = asyncio.create_task(service.server.stop())
    for stream in streams:
        ended = await stream.end()
        assert (ended.code, ended.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert ended.retry_ms is not None
        assert ended.retry_ms > 0
    await stopping


async def test_a_client_that_leaves_leaves_nothing_behind(service: Service, world: World) -> None:
    """A cancelled stream is forgotten by the hub."""
    stream = service.subscribe(world)
    await stream.caught_up()
    (held,) = service.server.hub
    stream.call.cancel()
    assert held.task is not None
    await asyncio.wait([held.task])
    assert not len(service.server.hub)


async def test_streams_of_an_account_are_bounded(tmp_path: Path) -> None:
    """One more than configured is RATE_LIMITED; the others go on."""
    async with serving(tmp_path, streams_per_account_max=2) as service:
        world = World.create("crowd")
        await service.create(world)
        kept = [service.subscribe(world) for _ in range(2)]
        for stream in kept:
            await stream.caught_up()
        refused = await service.subscribe(world).end()
        assert refused.reason == "RATE_LIMITED"
        assert refused.metadata == {"limit": "streams_per_account"}
        await service.push(world, world.op())
        for stream in kept:
            frame = await stream.next()
            assert frame is not None
            assert len(frame.ops) == 1


async def test_a_cursor_of_another_account_opens_no_stream(service: Service, world: World) -> None:
    """CURSOR_INVALID for pull and stream alike; a made-up one as well."""
    other = World.create("other")
    await service.create(other)
    await service.push(other, other.op())
    theirs = (await service.pull(other)).cursor
    for cursor in (theirs, theirs[:-1], theirs + b"\0", bytes(32), b"x"):
        assert (await service.subscribe(world, cursor).end()).reason == "CURSOR_INVALID"
        refused = await refusal(service.pull(world, cursor))
        assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refused.reason == "CURSOR_INVALID"


async def test_an_opening_message_that_does_not_parse_is_malformed(
    service: Service, world: World
) -> None:
    """Parsed only after it was verified, and named."""
    payload = b"\xff" * 9
    identity = world.authors[0].identity
    value = service.auth(identity, world, SUBSCRIBE, payload, kind=CallKind.STREAM)
    ended = await service.open(payload, value).end()
    assert (ended.reason, ended.metadata) == ("MALFORMED", {"field": "message"})
    assert (await service.open(payload).end()).reason == "UNAUTHENTICATED"


# --- the hub by itself ---


def hub(now: list[float], per_account_max: int = 4) -> Hub:
    """A hub whose clock the test holds."""
    return Hub(
        heartbeat_s=45,
        stall_s=60,
        per_account_max=per_account_max,
        monotonic_s=lambda: now[0],
        jitter=lambda: 0.5,
    )


async def test_one_turn_of_the_hand_wakes_every_stream_once() -> None:
    """After a whole interval each stream had one heartbeat, wherever it was opened."""
    tested = hub([1.0], 100)
    account = World.create("hub").account_id
    device = World.create("hub").authors[0].device_id
    streams = []
    for _ in range(40):
        streams.append(tested.open(account, device))
        tested.beat()
    for stream in streams:
        stream.wakes = 0
    for _ in range(64):
        before = [stream.wakes for stream in streams]
        tested.beat()
        assert sum(stream.wakes for stream in streams) - sum(before) <= BEAT
    assert [stream.wakes for stream in streams] == [BEAT] * 40


async def test_reasons_to_wake_are_kept_until_they_are_taken() -> None:
    """A poke before the stream waits is not lost, and reasons come together."""
    tested = hub([1.0])
    world = World.create("hub")
    stream = tested.open(world.account_id, world.authors[0].device_id)
    tested.poke(world.account_id)
    tested.poke(World.create("elsewhere").account_id)
    assert await stream.woken() == POKE
    waiting = asyncio.create_task(stream.woken())
    await asyncio.sleep(0)
    stream.wake(POKE)
    stream.wake(BEAT)
    assert await waiting == POKE | BEAT


async def test_a_stream_that_stalls_is_ended() -> None:
    """Whose client takes nothing for a minute is ended at its next beat; others are not."""
    now = [100.0]
    tested = hub(now)
    world = World.create("hub")

    async def stuck() -> OpenStream:
        stream = tested.open(world.account_id, world.authors[0].device_id)
        stream.writing_since_s = now[0]
        try:
            await asyncio.Event().wait()
        finally:
            tested.close(stream)
        return stream

    task = asyncio.create_task(stuck())
    await asyncio.sleep(0)
    for now[0] in (100.0, 159.0):
        for _ in range(64):
            tested.beat()
        await asyncio.sleep(0)
        assert not task.done()
    now[0] = 161.0
    for _ in range(64):
        tested.beat()
    await asyncio.wait([task])
    assert task.cancelled()
    assert not len(tested)


async def test_a_full_account_opens_no_stream() -> None:
    """RateLimited names the limit; closing one makes room."""
    tested = hub([1.0], 1)
    world = World.create("hub")
    stream = tested.open(world.account_id, world.authors[0].device_id)
    with pytest.raises(RateLimited) as refused:
        tested.open(world.account_id, world.authors[0].device_id)
    assert refused.value.limit == "streams_per_account"
    tested.close(stream)
    tested.close(tested.open(world.account_id, world.authors[0].device_id))
