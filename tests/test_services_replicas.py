"""Two replicas on one Redis: what holds at one holds at the other."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.redis_process import RedisServer
from tests.served import PULL, PUSH, Refusal, Service, push_request, serving

Pair = tuple[Service, Service]


@pytest.fixture
async def pair(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[Pair]:
    """Two servers with one store and one set of keys."""
    redis_server.flush()
    settings: dict[str, Any] = {
        "redis_url": redis_server.url,
        "records_max": 6,
        "pairing_mailboxes_max": 2,
    }
    async with serving(tmp_path, **settings) as first, serving(tmp_path, **settings) as second:
        yield first, second


async def test_a_push_through_one_wakes_a_stream_at_the_other(pair: Pair) -> None:
    """Whoever listens at replica B hears at once of what was committed through A."""
    first, second = pair
    world = await first.account("woken")
    stream = second.subscribe(world, by=1)
    await stream.caught_up()
    op = world.op()
    await first.push(world, op)
    frame = await stream.next()
    assert frame is not None
    assert list(frame.ops) == [op.raw]


async def test_a_device_revoked_through_one_is_refused_by_the_other(pair: Pair) -> None:
    """The very next call at B knows the chain that A appended to."""
    first, second = pair
    world = await first.account("revoked")
    await second.pull(world, by=1)
    world.rotate(revoke=[1])
    await first.append(world, world.uploads[-1])
    with pytest.raises(Refusal) as refused:
        await second.pull(world, by=1)
    assert refused.value.reason == "UNAUTHENTICATED"


async def test_a_stream_at_one_ends_when_its_device_is_revoked_through_the_other(
    pair: Pair,
) -> None:
    """An open stream is not left open because the news came to another replica."""
    first, second = pair
    world = await first.account("expelled")
    stream = second.subscribe(world, by=1)
    await stream.caught_up()
    world.rotate(revoke=[1])
    await first.append(world, world.uploads[-1])
    assert (await stream.end()).reason == "UNAUTHENTICATED"


@pytest.mark.parametrize("method", ["push", "pull"])
async def test_a_request_used_at_one_is_refused_at_the_other(pair: Pair, method: str) -> None:
    """A captured call is worth nothing at any replica, whichever took it first."""
    first, second = pair
    world = await first.account("replayed")
    path, payload = (
        (PUSH, push_request(world.op()).SerializeToString()) if method == "push" else (PULL, b"")
    )
    auth = first.auth(world.authors[0].identity, world, path, payload)
    await first.raw(path, payload, [auth])
    for replica in (second, first):
        with pytest.raises(Refusal) as refused:
            await replica.raw(path, payload, [auth])
        assert refused.value.reason == "UNAUTHENTICATED"


async def test_quotas_count_what_all_replicas_took(pair: Pair) -> None:
    """The seventh record is one too many, whichever replica it comes to."""
    world = await pair[0].account("quota")
    for number in range(6):
        await pair[number % 2].push(world, world.op(key=f"k{number}"))
    late = world.op(key="k6")
    for replica in pair:
        with pytest.raises(Refusal) as refused:
            await replica.push(world, late)
        assert refused.value.reason == "QUOTA"
    await pair[1].push(world, world.op(1, "k0"), by=1)


async def test_mailboxes_are_one_for_all_replicas(pair: Pair) -> None:
    """A pairing goes on at B with what was posted at A; their number is bounded over all."""
    first, second = pair
    places = [secrets.token_bytes(16) for _ in range(3)]
    await first.post(places[0], 1, b"one")
    assert await second.fetch(places[0], 1) == b"one"
    await second.post(places[0], 2, b"two")
    assert await first.fetch(places[0], 2) == b"two"
    await second.post(places[1], 1, b"other")
    with pytest.raises(Refusal) as refused:
        await first.post(places[2], 1, b"too many")
    assert refused.value.reason == "QUOTA"
    with pytest.raises(Refusal) as taken:
        await first.post(places[0], 1, b"another one")
    assert taken.value.reason == "MAILBOX_TAKEN"


async def test_devices_at_two_replicas_write_one_history(pair: Pair) -> None:
    """Pushes in turn through both: either replica tells the same order, and a cursor of one is
    good at the other."""
    world = await pair[0].account("history")
    for number in range(8):
        op = world.op(number % 2, f"k{number % 3}")
        await pair[number % 2].push(world, op, by=number % 2)
    pages = [await replica.pull(world) for replica in pair]
    assert pages[0].ops == pages[1].ops
    start = await pair[0].pull(world, limit=1)
    rest = await pair[1].pull(world, start.cursor)
    assert [*start.ops, *rest.ops] == list(pages[0].ops)
