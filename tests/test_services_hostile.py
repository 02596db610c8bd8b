"""Bytes that nobody honest sends: each gets a clear status, and nobody else notices."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from crypto.request import CallKind
from rookery.v1 import accounts_pb2, common_pb2, pairing_pb2, sync_pb2
from tests.served import (
    APPEND,
    CHAIN,
    CREATE,
    DELETE,
    FETCH,
    POST,
    PULL,
    PUSH,
    RECEIPT,
    SUBSCRIBE,
    UNARY,
    Refusal,
    Service,
    Stream,
    append_request,
    push_request,
    refusal,
    serving,
)
from tests.worlds import World

BAD = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
HUGE = (1 << 64) - 1


@pytest.fixture
async def world(service: Service) -> AsyncIterator[World]:
    """An account with an op; after the test it is still there and nothing was a defect."""
    made = await service.account("hostile")
    kept = made.op(key="kept")
    await service.push(made, kept)
    yield made
    assert kept.raw in list((await service.pull(made)).ops)
    assert "defect" not in service.log.getvalue()


async def answered(service: Service, world: World, method: str, payload: bytes) -> str:
    """The reason (or code) that a signed call is answered with; OK if it passes."""
    call = (
        opened(service, world, payload).caught_up()
        if method == SUBSCRIBE
        else service.signed(world, method, payload)
    )
    refused = await outcome(call)
    if refused is None:
        return "OK"
    assert refused.code not in BAD, (method, payload[:80], refused)
    return refused.reason or refused.code.name


async def outcome(call: Awaitable[object]) -> Refusal | None:
    """What a call is refused with, or None."""
    try:
        await call
    except Refusal as refused:
        return refused
    return None


def opened(service: Service, world: World, payload: bytes) -> Stream:
    """A stream opened with these bytes, signed."""
    identity = world.authors[0].identity
    value = service.auth(identity, world, SUBSCRIBE, payload, kind=CallKind.STREAM)
    return service.open(payload, value)


def valid(service: Service, world: World) -> dict[str, Message]:
    """A good message for each method, to be broken."""
    fork = world.fork()
    checkpoint = push_request(fork.op(), fork.cover(), fork.op(1).stub)
    checkpoint.checkpoint.op_index = 1
    return {
        PUSH: checkpoint,
        PULL: sync_pb2.PullRequest(cursor=bytes(32), limit=5),
        SUBSCRIBE: sync_pb2.SubscribeRequest(cursor=bytes(32)),
        RECEIPT: sync_pb2.GetReceiptRequest(),
        CREATE: service.proof(World.create("new")),
        APPEND: append_request(fork.add()),
        CHAIN: accounts_pb2.GetChainRequest(after_seq=0, all_grants=True),
        DELETE: accounts_pb2.DeleteAccountRequest(account_id=bytes(32)),
        POST: pairing_pb2.PostMessageRequest(rendezvous=b"r" * 16, number=1, body=b"x"),
        FETCH: pairing_pb2.FetchMessageRequest(rendezvous=b"r" * 16, number=1),
    }


def broken(good: bytes, rng: random.Random) -> bytes:
    """The message cut, lengthened, or with a few bytes changed."""
    data = bytearray(good)
    match rng.randrange(5):
        case 0:
            del data[rng.randrange(len(data) + 1) :]
        case 1:
            data += rng.randbytes(rng.randrange(1, 40))
        case 2:
            at = rng.randrange(len(data) + 1)
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        case _:
            for _ in range(rng.randrange(1, 4)):
                if data:
                    data[rng.randrange(len(data))] = rng.choice((0, 0xFF, rng.randrange(256)))
    return bytes(data)


@pytest.mark.parametrize("method", [*UNARY, SUBSCRIBE])
async def test_random_bytes_are_answered_clearly(
    service: Service, world: World, method: str
) -> None:
    """Signed, so that they reach the parser, and of many lengths."""
    rng = random.Random(f"random {method}")
    for size in (0, 1, 2, 3, 5, 8, 33, 144, 208, 1_000, 40_000) * 3:
        await answered(service, world, method, rng.randbytes(size))
    for payload in (b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f", b"\x0b" * 200, b"\0"):
        await answered(service, world, method, payload)


@pytest.mark.parametrize("method", [*UNARY, SUBSCRIBE])
async def test_broken_messages_are_answered_clearly(
    service: Service, world: World, method: str
) -> None:
    """Good messages cut off, lengthened and altered; several calls at once."""
    rng = random.Random(f"broken {method}")
    good = valid(service, world)[method].SerializeToString()
    for _ in range(15):
        calls = [answered(service, world, method, broken(good, rng)) for _ in range(8)]
        await asyncio.gather(*calls)


@pytest.mark.parametrize("method", [*UNARY, SUBSCRIBE])
async def test_unsigned_garbage_is_answered_clearly(
    service: Service, world: World, method: str
) -> None:
    """Without a signature, or with random bytes in its place."""
    rng = random.Random(f"unsigned {method}")
    for size in (0, 16, 207, 208, 209, 3_000):
        values = [rng.randbytes(size)]
        if method == SUBSCRIBE:
            refused = await service.open(rng.randbytes(50), *values).end()
        else:
            refused = await refusal(service.raw(method, rng.randbytes(50), values))
        assert refused.code not in BAD
        assert refused.reason in ("UNAUTHENTICATED", "MALFORMED", "CLOCK_SKEW", "LINK_INVALID")


@pytest.mark.parametrize("method", [*UNARY, SUBSCRIBE])
async def test_messages_larger_than_the_service_reads_are_refused(
    service: Service, world: World, method: str
) -> None:
    """3 MiB and 20 MiB end with RESOURCE_EXHAUSTED before anybody parses them."""
    for size in (3 << 20, 20 << 20):
        if method == SUBSCRIBE:
            refused = await opened(service, world, bytes(size)).end()
        else:
            refused = await refusal(service.signed(world, method, bytes(size)))
        assert refused.code in (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            # The connection may be gone before the answer was read.
            grpc.StatusCode.UNAVAILABLE,
        )


async def test_numbers_beyond_all_counting_are_answered_clearly(
    service: Service, world: World
) -> None:
    """The largest value of every number field, alone and together."""
    reasons = {}
    genesis = valid(service, world)[CREATE]
    assert isinstance(genesis, accounts_pb2.CreateAccountRequest)
    genesis.proof.hour = genesis.proof.counter = HUGE
    mark = push_request(world.fork().cover())
    mark.checkpoint.op_index = (1 << 32) - 1
    grant = append_request(world.fork().add())
    grant.grants[0].epoch = (1 << 32) - 1
    for method, message in (
        (CREATE, genesis),
        (PUSH, mark),
        (APPEND, grant),
        (CHAIN, accounts_pb2.GetChainRequest(after_seq=HUGE)),
        (PULL, sync_pb2.PullRequest(limit=(1 << 32) - 1)),
        (POST, pairing_pb2.PostMessageRequest(rendezvous=b"r" * 16, number=(1 << 32) - 1)),
        (
            FETCH,
            pairing_pb2.FetchMessageRequest(rendezvous=b"r" * 16, number=1, wait_ms=(1 << 32) - 1),
        ),
    ):
        reasons[method] = await answered(service, world, method, message.SerializeToString())
    assert reasons == {
        CREATE: "PROOF_REQUIRED",
        PUSH: "MALFORMED",
        APPEND: "GRANTS_INVALID",
        CHAIN: "OK",
        PULL: "MALFORMED",
        POST: "MALFORMED",
        FETCH: "MALFORMED",
    }


async def test_a_push_of_nothing_many_times_over_is_refused(service: Service, world: World) -> None:
    """Half a million empty ops fit into a message; they are counted before they are read."""
    payload = sync_pb2.PushRequest(ops=[b""] * 500_000).SerializeToString()
    assert await answered(service, world, PUSH, payload) == "QUOTA"
    grants = accounts_pb2.AppendLinkRequest(
        link=common_pb2.SignedLink(link=b"x"), grants=[common_pb2.Grant()] * 200_000
    )
    assert await answered(service, world, APPEND, grants.SerializeToString()) == "GRANTS_INVALID"


@pytest.mark.parametrize("size", [17_000, 100_000])
async def test_metadata_has_a_bound(service: Service, world: World, size: int) -> None:
    """Headers beyond it are refused by gRPC; the connection goes on for others."""
    refused = await refusal(service.raw(PULL, b"", extra=[("x-padding", "a" * size)]))
    assert refused.code not in BAD
    await service.pull(world)


async def test_a_compressed_request_is_not_read(service: Service, world: World) -> None:
    """Only identity is spoken; what is compressed is refused, and answers never are."""
    async with grpc.aio.insecure_channel(
        service.server.address,
        options=[("grpc.use_local_subchannel_pool", 1)],
        compression=grpc.Compression.Gzip,
    ) as channel:
        payload = sync_pb2.PullRequest(cursor=bytes(2_000)).SerializeToString()
        value = service.auth(world.authors[0].identity, world, PULL, payload)
        stub: Any = channel.unary_unary(PULL)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub(payload, metadata=(("rookery-auth-bin", value),))
        assert refused.value.code() not in BAD


async def test_health_and_reflection_take_garbage_too(tmp_path: Path) -> None:
    """The methods that are not ours answer what does not parse as clearly as ours."""
    async with serving(tmp_path, reflection=True) as service:
        refused = await refusal(service.raw("/grpc.health.v1.Health/Check", b"\xff\xff"))
        assert (refused.reason, refused.metadata) == ("MALFORMED", {"field": "message"})
        watch: Any = service.channel.unary_stream("/grpc.health.v1.Health/Watch")
        refused = await Stream(watch(b"\xff\xff")).end()
        assert refused.reason == "MALFORMED"
        method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        reflecting: Any = service.channel.stream_stream(method)
        call = reflecting(iter([b"\xff\xff", b"\x3a\x00"]))
        assert b"rookery.v1.Sync" in await call.read() + await call.read()


async def test_a_method_called_in_another_shape_is_refused(service: Service, world: World) -> None:
    """A stream of messages where one is due, and one where none comes before the deadline."""
    shaped: Any = service.channel.stream_unary(PULL)
    for requests in ([b"a", b"b"], []):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await shaped(iter(requests), timeout=0.5)
        assert refused.value.code() not in BAD
    await service.pull(world)
