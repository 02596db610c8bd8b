"""Edge, two sidecars, two processes of the service: what the chain does as one."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from tests.mesh_processes import EDGE, PARTIES, Mesh, Proxy, channel, refused
from tests.redis_process import RedisServer
from tests.scripted import Seen, scripted
from tests.served import AUDIENCE, CREATE, PULL, Moment, Refusal, Service, config, serving
from tests.service_process import ServiceProcess
from tests.shell_worlds import endpoint_of, fleet, put
from tests.worlds import World

HEALTHY = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
HEALTH = "/grpc.health.v1.Health/Check"
FORGED = f'By=x;URI="{EDGE}"'


@asynccontextmanager
async def upstream() -> AsyncIterator[tuple[str, list[Seen]]]:
    """A healthy server that takes every call, and the calls that are not about its health."""
    calls: list[Seen] = []

    async def reply(seen: Seen, context: Any) -> bytes:
        del context
        if seen.method == HEALTH:
            return HEALTHY.SerializeToString()
        calls.append(seen)
        return b""

    async with scripted(reply) as script:
        yield script.target, calls


def uris(seen: Seen) -> list[str]:
    """Whose certificates were shown, by the header that arrived."""
    return re.findall("(?<=[;,]URI=)[^;,]+", seen.metadata["x-forwarded-client-cert"])


def caller(folder: Path, dialled: grpc.aio.Channel) -> Service:
    """Devices that sign for a service process which runs with the settings of `tests.served`."""
    server: Any = SimpleNamespace(config=config(folder))
    return Service(server, folder, Moment(), dialled, io.StringIO())


@dataclass(slots=True)
class Replicas:
    """Two processes of the service, `sidecars` beside them, and the `edge` before both."""

    processes: list[ServiceProcess]
    sidecars: list[Proxy]
    edge: Proxy
    calls: Service
    world: World


@asynccontextmanager
async def replicas(mesh: Mesh, tmp_path: Path, **edge: str) -> AsyncIterator[Replicas]:
    """On one Redis, with an account."""
    world = World.create("edge")
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(RedisServer(tmp_path / "redis"))
        processes, sidecars = [], []
        for _ in range(2):
            process = ServiceProcess(
                tmp_path,
                ROOKERY_REDIS_URL=redis.url,
                ROOKERY_AUDIENCE=AUDIENCE,
                ROOKERY_POW_BITS="0",
                ROOKERY_DRAIN_DELAY_S="1.5",
            )
            processes.append(stack.enter_context(process))
            sidecars.append(await mesh.sidecar(process.listen))
        async with grpc.aio.insecure_channel(processes[0].listen) as direct:
            await caller(tmp_path, direct).create(world)
        proxy = await mesh.edge(*sidecars, **edge)
        dialled = await stack.enter_async_context(channel(proxy, mesh))
        yield Replicas(processes, sidecars, proxy, caller(tmp_path, dialled), world)


async def test_what_a_caller_claims_to_be_goes_no_further(mesh: Mesh) -> None:
    """The service sees the sidecar's word on the workload and the edge's on the address."""
    async with upstream() as (target, calls):
        edge = await mesh.edge(await mesh.sidecar(target))
        async with channel(edge, mesh) as dialled:
            stub: Any = dialled.unary_unary(PULL)
            await stub(
                b"",
                timeout=20,
                metadata=(
                    ("x-forwarded-client-cert", FORGED),
                    ("x-forwarded-for", "192.0.2.1"),
                    ("x-forwarded-for", "192.0.2.2, 10.0.0.1"),
                    ("x-envoy-retry-on", "5xx"),
                    ("x-envoy-upstream-rq-timeout-ms", "1"),
                ),
            )
    [seen] = calls
    assert uris(seen) == [EDGE]
    assert seen.metadata["x-forwarded-for"] == "127.0.0.1"
    assert not [name for name in seen.metadata if name.startswith("x-envoy-")]


async def test_a_workload_s_own_claims_are_replaced_too(mesh: Mesh) -> None:
    """The edge may say who called, and cannot say who it is; a party speaks for itself only."""
    async with upstream() as (target, calls):
        sidecar = await mesh.sidecar(target)
        for workload, method in (("edge", PULL), ("party-1", "/rookery.v1.Parties/PublishResult")):
            async with channel(sidecar, mesh, mesh.workload(workload)) as dialled:
                stub: Any = dialled.unary_unary(method)
                await stub(
                    b"",
                    timeout=20,
                    metadata=(
                        ("x-forwarded-client-cert", FORGED),
                        # A private one: of somebody who could be taken for one of us.
                        ("x-forwarded-for", "10.0.0.1"),
                        ("x-envoy-retry-on", "5xx"),
                    ),
                )
    edge, party = calls
    assert uris(edge) == [EDGE]
    assert edge.metadata["x-forwarded-for"] == "10.0.0.1"
    assert uris(party) == [PARTIES[0]]
    assert "x-forwarded-for" not in party.metadata
    for seen in calls:
        assert not [name for name in seen.metadata if name.startswith("x-envoy-")]


async def test_the_service_limits_callers_and_not_the_edge(mesh: Mesh, tmp_path: Path) -> None:
    """Rates are kept by the address that the edge names (client_ip_header)."""
    async with serving(
        tmp_path,
        client_ip_header="x-forwarded-for",
        ip_unsigned_per_s=0.001,
        ip_unsigned_burst=1,
    ) as service:
        sidecar = await mesh.sidecar(service.server.address)
        async with channel(sidecar, mesh, mesh.workload("edge")) as dialled:

            async def call(address: str) -> Refusal:
                stub: Any = dialled.unary_unary(CREATE)
                return await refused(
                    stub(b"", timeout=20, metadata=(("x-forwarded-for", address),))
                )

            answers = [await call(f"192.0.2.{number}") for number in (1, 1, 2)]
    assert [row.reason for row in answers] == ["MALFORMED", "RATE_LIMITED", "MALFORMED"]


async def test_one_address_cannot_have_it_all(mesh: Mesh, tmp_path: Path) -> None:
    """Over the edge's limit: RESOURCE_EXHAUSTED with RetryInfo, as clients know it, and the
    service does not hear of it."""
    async with upstream() as (target, calls):
        edge = await mesh.edge(
            await mesh.sidecar(target), ADDRESS_CALLS_BURST="3", ADDRESS_CALLS_PER_S="1"
        )
        async with channel(edge, mesh) as dialled:
            stub: Any = dialled.unary_unary(PULL)
            answers: list[Refusal | bytes] = []
            for _ in range(12):
                try:
                    answers.append(await stub(b"", timeout=20))
                except grpc.aio.AioRpcError as error:
                    answers.append(Refusal.of(error))
    refusals = [row for row in answers if isinstance(row, Refusal)]
    assert 3 <= len(calls) == len(answers) - len(refusals) < 12
    for row in refusals:
        assert row.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (row.reason, row.metadata, row.retry_ms) == ("RATE_LIMITED", {"limit": "edge"}, 1000)
    assert edge.stat(r"edge\.http_local_rate_limit\.rate_limited") == len(refusals)


async def test_a_killed_replica_costs_no_call(mesh: Mesh, tmp_path: Path) -> None:
    """Before any health check tells of it: calls that meet it are sent to the other one, and
    the proxy counts them."""
    async with replicas(mesh, tmp_path, HEALTH_INTERVAL="300s") as both:
        both.processes[0].kill()
        # What is written to a connection that is already dead may have been taken, for all that
        # a proxy knows; clients send that again. Here its sidecar has heard of it.
        await both.sidecars[0].until(r"cluster\.service_\w+\.upstream_cx_active", 0)
        for _ in range(40):
            await both.calls.chain(both.world)
        assert both.edge.stat(r"cluster\.service_unary\.upstream_rq_retry_success") > 0
        # The edge saw enough of it, and will find out that it is back by trying.
        assert both.edge.stat(r"cluster\.service_unary\.outlier_detection\.ejections_active") == 1


async def test_a_drained_replica_costs_no_call(mesh: Mesh, tmp_path: Path) -> None:
    """SIGTERM: the health says so, the edge moves on, no call is lost all the while; streams
    there end with DRAINING, the others stay, and a new one finds the other replica."""
    async with replicas(mesh, tmp_path, HEALTH_INTERVAL="0.1s") as both:
        healthy = r"cluster\.service_unary\.membership_healthy"
        await both.edge.until(healthy, 2)
        streams = [both.calls.subscribe(both.world) for _ in range(6)]
        for stream in streams:
            await stream.caught_up()
        at_a = both.sidecars[0].stat(r"cluster\.service_streams\.upstream_rq_active")
        assert 0 < at_a < 6
        stopping = asyncio.create_task(asyncio.to_thread(both.processes[0].stop))
        answered = 0
        while not stopping.done():
            try:
                await both.calls.chain(both.world)
            except Refusal as refusal:
                # On a busy machine the edge may hear of it too late: what meets the very end is
                # cancelled unread, and a client sends it again.
                if refusal.code not in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE):
                    raise
                await both.calls.chain(both.world)
            answered += 1
        assert answered > 10
        await both.edge.until(healthy, 1)
        ends = {asyncio.create_task(stream.end()) for stream in streams}
        done, left = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < at_a:
            more, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        assert [end.result().reason for end in done] == ["DRAINING"] * at_a
        again = both.calls.subscribe(both.world)
        assert await again.caught_up() == []
        assert len(left) == 6 - at_a
        for end in left:
            assert not end.done()
            end.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def test_devices_need_no_certificate_at_the_edge(mesh: Mesh, tmp_path: Path) -> None:
    """The client library, over TLS, through edge and sidecar."""
    async with serving(tmp_path) as service:
        edge = await mesh.edge(await mesh.sidecar(service.server.address))
        endpoint = endpoint_of(service)
        secure = type(endpoint)(
            (edge.address,), endpoint.audience, endpoint.server_key,
            mesh.authority.cert.read_bytes(),
        )  # fmt: skip
        async with fleet(secure) as devices:
            device = await devices.first()
            put(device, "theme", "dark")
            await device.sync_once()
    assert edge.access() == []


async def test_what_is_not_for_devices_is_not_at_the_edge(mesh: Mesh) -> None:
    """Parties' calls, health and reflection end there."""
    async with upstream() as (target, calls):
        edge = await mesh.edge(await mesh.sidecar(target))
        async with channel(edge, mesh) as dialled:
            for method in (
                "/rookery.v1.Parties/PublishResult",
                HEALTH,
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            ):
                stub: Any = dialled.unary_unary(method)
                assert (await refused(stub(b"", timeout=20))).code is grpc.StatusCode.UNIMPLEMENTED
        assert calls == []
