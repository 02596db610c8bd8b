"""The running service: limits, overload, deadlines, drain, health, restored stores, logs."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services import listed
from services.call import SignedUnary
from services.edge import Caller, Refused
from services.keeping.current import Trusted
from services.server import ALIVE, SERVED
from services.store.sqlite import SqliteStore
from tests import certificates
from tests.metered import calls
from tests.served import (
    PULL,
    PUSH,
    RECEIPT,
    Refusal,
    Service,
    nonce,
    push_request,
    refusal,
    serving,
)
from tests.worlds import World

RENDEZVOUS = b"r" * 16


@contextmanager
def verifiers_busy(service: Service) -> Iterator[threading.Event]:
    """While the block runs, pushes of foreign ops wait until the event is set."""
    release = threading.Event()
    service.server.verifiers.submit(release.wait)
    try:
        yield release
    finally:
        release.set()


async def until(service: Service, inside: int) -> None:
    """Returns when so many pushes are inside."""
    gate = service.server.push_gate
    while gate.inside != inside:  # noqa: ASYNC110 - nobody tells the caller
        await asyncio.sleep(0)


# --- how much ---


async def test_an_address_that_calls_unsigned_too_often_waits(tmp_path: Path) -> None:
    """RATE_LIMITED names the bucket and when to come back; then it passes."""
    async with serving(tmp_path, ip_unsigned_per_s=1.0, ip_unsigned_burst=3) as service:
        for number in (1, 2, 3):
            await service.post(RENDEZVOUS, number, b"x")
        refused = await refusal(service.fetch(RENDEZVOUS, 1))
        assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (refused.reason, refused.metadata) == ("RATE_LIMITED", {"limit": "unsigned_calls"})
        assert refused.retry_ms is not None
        service.moment.offset_ms += refused.retry_ms
        assert await service.fetch(RENDEZVOUS, 1) == b"x"


async def test_an_address_that_can_not_sign_waits(tmp_path: Path) -> None:
    """Failed signatures empty a bucket of the address; good calls don't."""
    async with serving(tmp_path, ip_failures_per_s=1.0, ip_failures_burst=3) as service:
        world = await service.account("server")
        for _ in range(10):
            await service.pull(world)
        for _ in range(3):
            assert (await refusal(service.raw(PULL, b""))).reason == "UNAUTHENTICATED"
        refused = await refusal(service.raw(PULL, b""))
        assert (refused.reason, refused.metadata) == ("RATE_LIMITED", {"limit": "failed_calls"})
        service.moment.offset_ms += 2_000
        await service.pull(world)


async def test_behind_a_proxy_each_caller_has_a_bucket(tmp_path: Path) -> None:
    """With a trusted header, what the proxy saw counts, not what the client claims."""
    async with serving(
        tmp_path,
        ip_failures_per_s=1.0,
        ip_failures_burst=1,
        client_ip_header="X-Forwarded-For",
    ) as service:

        async def reason(header: str) -> str:
            extra = [("x-forwarded-for", header)]
            return (await refusal(service.raw(PULL, b"", extra=extra))).reason

        assert await reason("203.0.113.1") == "UNAUTHENTICATED"
        assert await reason("198.51.100.9, 203.0.113.1") == "RATE_LIMITED"
        assert await reason("203.0.113.2") == "UNAUTHENTICATED"


async def test_an_account_has_a_rate_of_calls_and_ops(tmp_path: Path) -> None:
    """account_calls and account_ops; one account's greed is not another's."""
    async with serving(
        tmp_path, account_calls_per_s=1.0, account_calls_burst=8,
        account_ops_per_s=1.0, account_ops_burst=256,
    ) as service:  # fmt: skip
        greedy, modest = await service.account("greedy"), await service.account("modest")
        await service.push(greedy, *greedy.ops(250))
        refused = await refusal(service.push(greedy, *greedy.ops(7, keys="more")))
        assert (refused.reason, refused.metadata) == ("RATE_LIMITED", {"limit": "account_ops"})
        reasons = set()
        for _ in range(8):
            try:
                await service.pull(greedy)
            except Refusal as refused:
                reasons.add((refused.reason, refused.metadata["limit"]))
        assert reasons == {("RATE_LIMITED", "account_calls")}
        await service.push(modest, *modest.ops(200))


async def test_more_at_once_than_there_is_room_for_is_shed(tmp_path: Path) -> None:
    """OVERLOADED for the push too many; answers hint at the load; pulls have room of their own."""
    async with serving(tmp_path, pushes_max=2) as service:
        world = await service.account("server")
        other = await service.account("other")
        with verifiers_busy(service) as release:
            waiting = [asyncio.create_task(service.push(one, one.op(1))) for one in (world, other)]
            await until(service, 2)
            refused = await refusal(service.push(world, world.op()))
            assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refused.reason == "OVERLOADED"
            assert refused.retry_ms is not None
            assert (await service.pull(world)).info.backoff_ms == 1_000
            release.set()
            for answer in await asyncio.gather(*waiting):
                assert answer.committed == 1
        assert (await service.pull(world)).info.backoff_ms == 0


# --- deadlines ---


def push_of(service: Service, world: World) -> tuple[SignedUnary, bytes, Caller]:
    """A push of a foreign op, ready to be handed to the edge."""
    route = service.server.edge.routes[PUSH]
    assert isinstance(route, SignedUnary)
    payload = push_request(world.op(1)).SerializeToString()
    value = service.auth(world.authors[0].identity, world, PUSH, payload)
    return route, payload, Caller("192.0.2.1", [value], None)


async def test_a_call_whose_deadline_passed_does_nothing(service: Service) -> None:
    """Before it is taken up, and before the store is asked: DEADLINE_EXCEEDED, no row."""
    world = await service.account("server")
    route, payload, caller = push_of(service, world)
    caller.remaining_s = -0.001
    with pytest.raises(Refused) as refused:
        await service.server.edge.unary(route, payload, caller)
    assert refused.value.answer.reason == "DEADLINE_EXCEEDED"
    caller.remaining_s = 5.0
    with verifiers_busy(service) as release:
        running = asyncio.create_task(service.server.edge.unary(route, payload, caller))
        await until(service, 1)
        service.moment.offset_ms += 5_001
        release.set()
        with pytest.raises(Refused) as refused:
            await running
    assert refused.value.answer.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await service.pull(world)).ops == []


async def test_a_cancelled_call_does_nothing(service: Service) -> None:
    """A client that leaves before the store accepted its push has pushed nothing."""
    world = await service.account("server")
    with verifiers_busy(service) as release:
        payload = push_request(world.op(1)).SerializeToString()
        value = service.auth(world.authors[0].identity, world, PUSH, payload)
        running = asyncio.create_task(service.raw(PUSH, payload, [value]))
        await until(service, 1)
        running.cancel()
        await until(service, 0)
        release.set()
    assert (await service.pull(world)).ops == []
    assert calls(service.server.metrics, PUSH, "CANCELLED") == 1


# --- ends and returns ---


async def test_a_closed_store_is_unavailable_and_no_defect(service: Service) -> None:
    """STORE_UNAVAILABLE with a time to try again."""
    world = await service.account("server")
    await service.server.store.close()
    for call in (service.push(world, world.op()), service.signed(world, RECEIPT, b"")):
        refused = await refusal(call)
        assert refused.code is grpc.StatusCode.UNAVAILABLE
        assert refused.reason == "STORE_UNAVAILABLE"
        assert refused.retry_ms is not None


async def test_a_restored_store_says_that_its_generation_changed(tmp_path: Path) -> None:
    """An old cursor is GENERATION_CHANGED for pull, stream and mark; from empty all is there,
    and what is missing can be pushed again."""
    async with serving(tmp_path) as service:
        world = await service.account("server")
        row = world.op()
        await service.push(world, row)
        cursor = (await service.pull(world)).cursor
    async with serving(tmp_path) as service:
        assert (await service.pull(world, cursor)).ops == []
    store = await SqliteStore.open(tmp_path / "rookery.db")
    await store.new_generation()
    await store.close()
    async with serving(tmp_path) as service:
        refused = await refusal(service.pull(world, cursor))
        assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
        assert refused.reason == "GENERATION_CHANGED"
        assert (await service.subscribe(world, cursor).end()).reason == "GENERATION_CHANGED"
        assert list((await service.pull(world)).ops) == [row.raw]
        assert (await service.push(world, row)).committed == 0


async def test_calls_in_flight_finish_and_new_ones_are_sent_elsewhere(service: Service) -> None:
    """While it drains, a push that is inside commits; what comes new is DRAINING; who waits
    for a pairing message is let go."""
    world = await service.account("server")
    await service.post(RENDEZVOUS, 1, b"x")
    with verifiers_busy(service) as release:
        inside = asyncio.create_task(service.push(world, world.op(1)))
        pairing = asyncio.create_task(refusal(service.fetch(RENDEZVOUS, 2, 25_000)))
        await until(service, 1)
        while not service.server.pairing.waiting:  # noqa: ASYNC110 - nobody tells the caller
            await asyncio.sleep(0)
        service.server.edge.draining = True
        service.server.pairing.drain()
        waited = await pairing
        assert waited.reason == "DRAINING"
        # It was looked at: a proxy must not send a signed call like it a second time.
        assert not waited.untaken
        for late in (service.pull(world), service.post(RENDEZVOUS, 2, b"y")):
            refused = await refusal(late)
            assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            assert refused.untaken
        assert (await service.subscribe(world).end()).reason == "DRAINING"
        stopping = asyncio.create_task(service.server.stop())
        release.set()
        assert (await inside).committed == 1
        await stopping


async def test_health_is_watched_within_the_bounds_of_unsigned_calls(tmp_path: Path) -> None:
    """Watch stays open, so it wants room like any stream and a token like any unsigned call;
    Check is answered all the same."""
    request = health_pb2.HealthCheckRequest()
    async with serving(tmp_path, guests_max=2) as service:
        stub: Any = health_pb2_grpc.HealthStub(service.channel)
        watches = [stub.Watch(request) for _ in range(2)]
        for watch in watches:
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Watch(request).read()
        assert Refusal.of(refused.value).reason == "OVERLOADED"
        assert await stub.Check(request)
        for watch in watches:
            watch.cancel()
    async with serving(tmp_path, ip_unsigned_per_s=0.01, ip_unsigned_burst=1) as service:
        stub = health_pb2_grpc.HealthStub(service.channel)
        watch = stub.Watch(request)
        assert await watch.read()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Watch(request).read()
        assert Refusal.of(refused.value).reason == "RATE_LIMITED"
        assert await stub.Check(request)
        watch.cancel()


async def test_health_follows_the_server(service: Service) -> None:
    """SERVING for the whole and for each service, NOT_SERVING once it drains."""
    stub: Any = health_pb2_grpc.HealthStub(service.channel)
    for name in ("", *SERVED):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="rookery.v1.Sync"))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    stopping = asyncio.create_task(service.server.stop())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()
    await stopping


async def test_while_it_is_not_yet_heard_that_it_drains_calls_are_taken(tmp_path: Path) -> None:
    """For drain_delay_s the health says NOT_SERVING and everything is served; the process is
    alive until it ends."""
    async with serving(tmp_path, drain_delay_s=0.5) as service:
        world = await service.account("delay")
        stub: Any = health_pb2_grpc.HealthStub(service.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(service.server.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await service.push(world, world.op(1))).committed == 1
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=ALIVE))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        await stopping


@pytest.mark.parametrize("on", [False, True])
async def test_reflection_is_served_only_if_wanted(tmp_path: Path, on: bool) -> None:
    """Off: UNIMPLEMENTED, as any method that is not ours."""
    async with serving(tmp_path, reflection=on) as service:
        channel: Any = service.channel
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        if on:
            answer = await call.read()
            names = {row.name for row in answer.list_services_response.service}
            assert names >= set(SERVED)
        else:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call.read()
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        refusing = await refusal(service.raw("/rookery.v1.Sync/Nothing", b""))
        assert refusing.code is grpc.StatusCode.UNIMPLEMENTED


async def test_a_governed_service_reflects_to_nobody(tmp_path: Path) -> None:
    """Whatever the setting: no policy can grant it. Health is answered all the same. What is open
    when the first policy key comes is ended."""
    async with serving(tmp_path, reflection=True) as service:
        channel: Any = service.channel
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        watching = health.Watch(health_pb2.HealthCheckRequest())
        await watching.read()
        call = stub.ServerReflectionInfo()
        await call.write(asked)
        await call.read()
        server = service.server
        server.keys.trusted = Trusted(policy=listed.parse("policy_keys", ("ab" * 32,)))
        server.keys_taken()
        for one in (call, stub.ServerReflectionInfo(iter([asked]))):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await one.read()
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert not watching.done()
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


# --- what it says ---


async def test_logs_hold_no_id_tag_nonce_or_address(service: Service) -> None:
    """Every call of a busy session is logged, and no line has anything of a person in it."""
    world = await service.account("server")
    rows = world.ops(3)
    await service.push(world, *rows)
    stream = service.subscribe(world)
    await stream.caught_up()
    once = nonce()
    identity = world.authors[0].identity
    value = service.auth(identity, world, PULL, b"", once=once)
    await service.raw(PULL, b"", [value])
    await refusal(service.raw(PULL, b"", [value]))
    await refusal(service.push(world, rows[0].raw[:-1]))
    clone = world.fork()
    clone.authors[0].dev_seq, clone.authors[0].head = 0, None
    await refusal(service.push(clone, clone.op()))
    await service.post(RENDEZVOUS, 1, b"x")
    await service.append(world, world.rotate([1]))
    stream.call.cancel()
    log = service.log.getvalue()
    assert log.count('"method": "/rookery.v1.Sync/Push"') >= 3
    secrets = [world.account_id, identity.device_id, identity.ik_pk, RENDEZVOUS, once]
    secrets += [part for row in rows for part in (row.header.tag, row.op_hash, row.header.kc)]
    for secret in secrets:
        for form in (secret.hex(), secret[:4].hex(), base64.b64encode(secret).decode()[:12]):
            assert form not in log
    assert "127.0.0.1" not in log
    assert "defect" not in log
    sizes = {len(row.raw) for row in rows}
    for line in map(json.loads, log.splitlines()):
        told = {name: value for name, value in line.items() if name not in ("timestamp", "ms")}
        assert not sizes & {int(number) for number in re.findall(r"\b\d+\b", str(told))}


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """Certificate and key of a server called localhost."""
    return certificates.certificate(tmp_path, "service")


async def test_tls_is_spoken_with_the_configured_certificate(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    """With a certificate the port speaks TLS and nothing else."""
    cert, key = certificate
    async with serving(tmp_path, tls_cert_file=str(cert), tls_key_file=str(key)) as service:
        credentials = grpc.ssl_channel_credentials(cert.read_bytes())
        options = [("grpc.ssl_target_name_override", "localhost")]
        async with grpc.aio.secure_channel(
            service.server.address, credentials, options=options
        ) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        plain = await refusal(service.raw(PULL, b""))
        assert plain.code is grpc.StatusCode.UNAVAILABLE
