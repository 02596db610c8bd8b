"""More calls at once than a proxy lets through: what is refused there, how, and what is not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from bench import frames, processes
from bench.accounts import Account
from bench.flood import Device, Generator
from bench.frames import Connection
from bench.mesh import UNBOUND
from bench.subscribers import DEFAULTS, enrol
from bench.sync import AUDIENCE
from client import methods, remoteerrors as reasons
from client.backoff import Backoff
from client.endpoint import Endpoint
from client.remoteerrors import RemoteError
from client.transport import Transport
from rookery.v1 import sync_pb2
from tests.mesh_processes import Mesh, channel, refused
from tests.scripted import Seen, scripted
from tests.served import FETCH, PULL, PUSH, SUBSCRIBE

HEALTHY = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
HEALTH = "/grpc.health.v1.Health/Check"
RESULT = "/rookery.v1.Parties/PublishResult"
HELD = (PUSH, FETCH, SUBSCRIBE)


@dataclass(slots=True)
class Slow:
    """A server that answers pushes, waiting calls and streams when it is told to, and all else
    at once."""

    target: str = ""
    calls: Counter[str] = field(default_factory=Counter)
    reached: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    go_on: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def slow() -> AsyncIterator[Slow]:
    """One of them, for the time of the block."""
    server = Slow()

    async def reply(seen: Seen, context: Any) -> bytes:
        del context
        if seen.method == HEALTH:
            return HEALTHY.SerializeToString()
        server.calls[seen.method] += 1
        if seen.method in HELD:
            server.reached.release()
            await server.go_on.wait()
        return b""

    async with scripted(reply) as script:
        server.target = script.target
        yield server
        server.go_on.set()


@pytest.mark.parametrize("bounded", ["edge", "sidecar"])
async def test_one_call_too_many_is_refused_before_the_service_hears_of_it(
    mesh: Mesh, bounded: str
) -> None:
    """At once, once, with ErrorInfo and RetryInfo that the client library takes for what they
    are; when there is room again, the next is taken."""
    async with slow() as service:
        bound = {"CALLS_AT_ONCE": "1"}
        sidecar = await mesh.sidecar(service.target, **(bound if bounded == "sidecar" else {}))
        edge = await mesh.edge(sidecar, **(bound if bounded == "edge" else {}))
        endpoint = Endpoint((edge.address,), "test", b"\1" * 32, mesh.authority.cert.read_bytes())
        calls = Transport(endpoint, backoff=Backoff(tries_max=1))
        async with channel(edge, mesh) as dialled:
            push: Any = dialled.unary_unary(PUSH)
            first = push(b"", timeout=60)
            await service.reached.acquire()
            refusal = await refused(push(b"", timeout=20))
            assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (refusal.reason, refusal.retry_ms) == ("OVERLOADED", 1000)
            assert not refusal.untaken
            with pytest.raises(RemoteError) as typed:
                await calls.call(methods.PULL, sync_pb2.PullRequest())
            assert (typed.value.reason, typed.value.retry_ms) == (reasons.OVERLOADED, 1000)
            assert typed.value.transient
            assert service.calls == {PUSH: 1}
            service.go_on.set()
            await first
            await push(b"", timeout=20)
        await calls.close()
    at = edge if bounded == "edge" else sidecar
    assert at.stat(r"cluster\.service_unary\.upstream_rq_active_overflow") == 2
    # A crowd that is too large must not be made larger.
    assert edge.stat(r"cluster\.service_unary\.upstream_rq_retry") == 0


async def test_what_waits_by_design_has_a_bound_of_its_own(mesh: Mesh) -> None:
    """Streams, pairings that wait for each other, health and what parties say: a crowd of calls
    does not shut them out, and they take no room from it."""
    async with slow() as service:
        sidecar = await mesh.sidecar(service.target, CALLS_AT_ONCE="1")
        edge = await mesh.edge(sidecar, CALLS_AT_ONCE="1", HEALTH_INTERVAL="0.05s")
        party = mesh.workload("party-1")
        async with channel(edge, mesh) as dialled, channel(sidecar, mesh, party) as theirs:
            subscribe: Any = dialled.unary_stream(SUBSCRIBE)
            unary: Any = dialled.unary_unary
            fetch, push, pull = (unary(name) for name in (FETCH, PUSH, PULL))
            waiting = [call(b"", timeout=60) for call in (subscribe, fetch) for _ in range(3)]
            waiting.append(push(b"", timeout=60))
            for _ in waiting:
                await service.reached.acquire()
            assert (await refused(pull(b"", timeout=20))).reason == "OVERLOADED"
            publish: Any = theirs.unary_unary(RESULT)
            await publish(b"", timeout=20)
            checks = r"cluster\.service_unary\.health_check\.attempt"
            asked = edge.stat(checks)
            while edge.stat(checks) < asked + 3:  # noqa: ASYNC110 - the proxy tells nobody
                await asyncio.sleep(0.02)
            assert edge.stat(r"cluster\.service_unary\.health_check\.failure") == 0
            for call in waiting:
                call.cancel()


async def test_a_replica_that_is_full_is_passed_by(mesh: Mesh) -> None:
    """The edge sends a call to whoever has the fewest: none is refused while one has room."""
    async with slow() as stuck, slow() as other:
        other.go_on.set()
        sidecars = [
            await mesh.sidecar(service.target, CALLS_AT_ONCE="1") for service in (stuck, other)
        ]
        edge = await mesh.edge(*sidecars)
        await edge.until(r"cluster\.service_unary\.membership_healthy", 2)
        async with channel(edge, mesh) as dialled:
            push: Any = dialled.unary_unary(PUSH)
            held: list[Any] = []
            while not stuck.calls:
                held.append(asyncio.ensure_future(push(b"", timeout=60)))
                reached = [asyncio.ensure_future(one.reached.acquire()) for one in (stuck, other)]
                _, late = await asyncio.wait(reached, return_when=asyncio.FIRST_COMPLETED)
                for waiter in late:
                    waiter.cancel()
            taken = other.calls[PUSH]
            for _ in range(30):
                await push(b"", timeout=20)
            assert other.calls[PUSH] == taken + 30
            stuck.go_on.set()
            await asyncio.gather(*held)


async def test_those_who_hang_up_cost_others_nothing(mesh: Mesh) -> None:
    """The edge's connection carries everybody's calls: it outlives thousands that are cancelled
    (devices that went away, calls refused before they were whole)."""
    async with slow() as service:
        sidecar = await mesh.sidecar(service.target)
        async with channel(sidecar, mesh, mesh.workload("edge")) as dialled:
            subscribe: Any = dialled.unary_stream(SUBSCRIBE)
            stays = subscribe(b"", timeout=60)
            await service.reached.acquire()
            for _ in range(20):
                leaving = [subscribe(b"", timeout=60) for _ in range(100)]
                for _ in leaving:
                    await service.reached.acquire()
                for call in leaving:
                    call.cancel()
                await sidecar.until(r"cluster\.service_streams\.upstream_rq_active", 1)
            service.go_on.set()
            assert await stays.read() == b""
            assert sidecar.stat(r"listener\.inbound\.downstream_cx_total") == 1
            stays.cancel()


async def test_a_flood_at_the_edge_is_refused_in_words_and_passes(
    mesh: Mesh, tmp_path: Path
) -> None:
    """Far more than is let through at once, whole requests or not: some are taken, all others
    refused with details and in no other way; afterwards everybody gets in."""
    devices = [Device(Account.make(AUDIENCE), batch=16) for _ in range(150)]
    with processes.service(tmp_path, settings=DEFAULTS) as service:
        await enrol(service, [device.account for device in devices])
        sidecar = await mesh.sidecar(service.address, CALLS_AT_ONCE="8")
        edge = await mesh.edge(
            sidecar,
            **dict.fromkeys(("CALLS_BURST", "CALLS_PER_S", "ADDRESS_CALLS_BURST"), UNBOUND),
            ADDRESS_CALLS_PER_S=UNBOUND,
        )
        tls = frames.trusting(str(mesh.authority.cert))
        connections = [await Connection.open(edge.address, tls=tls) for _ in range(16)]
        generator = Generator(service, devices, connections, (edge, sidecar))
        flood = await generator.lanes(100, 1.0)
        assert flood.taken_s
        assert set(flood.outcomes) == {"RESOURCE_EXHAUSTED in words"}
        waiting = {id(device) for device in devices if device.message}
        while waiting:
            await generator.lanes(4, 0.2)
            waiting &= {id(device) for device in devices if device.message}
        for connection in connections:
            await connection.close()
