"""The sidecar's shipped configuration in the real Envoy, before the real service."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from client.remoteerrors import RemoteError
from deploy.certificates import Authority
from tests.mesh_processes import Mesh, Proxy, channel, refused, through
from tests.served import PULL
from tests.service_process import ServiceProcess
from tests.shell_worlds import fleet, put, shown

STREAM_BOXES = "/rookery.v1.Parties/StreamBoxes"
HEALTH = "/grpc.health.v1.Health/Check"


@pytest.fixture(scope="module")
def sidecar(mesh: Mesh, server: ServiceProcess) -> Proxy:
    """The proxy beside the module's service."""
    return mesh.start_sidecar(server.listen)


async def test_devices_work_over_mutual_tls(
    mesh: Mesh, sidecar: Proxy, server: ServiceProcess
) -> None:
    """The client library with a client certificate: enrolment, push, pairing, pull, streams."""
    endpoint = through(sidecar, server, mesh, mesh.workload("edge"))
    async with fleet(endpoint) as devices:
        a = await devices.first()
        put(a, "theme", "dark")
        await a.sync_once()
        assert shown(await devices.another(a)) == {"ui/theme": "dark"}
    assert sidecar.stat(r"http\.inbound\.rbac\.workloads\.allowed") > 0
    assert sidecar.stat(r"http\.inbound\.rbac\.workloads\.denied") == 0


async def test_no_certificate_or_a_stranger_s_is_refused(
    mesh: Mesh, sidecar: Proxy, server: ServiceProcess, tmp_path: Path
) -> None:
    """Without a certificate, or with one of another authority, not a byte reaches the service."""
    stranger = mesh.workload("stranger", by=Authority.create(tmp_path / "other"))
    before = sidecar.stat(r"cluster\.service_\w+\.upstream_rq_total")
    for shown_cert in (None, stranger):
        endpoint = through(sidecar, server, mesh, shown_cert)
        async with fleet(endpoint) as devices:
            with pytest.raises(RemoteError, match="can't be reached"):
                await devices.first()
    assert sidecar.stat(r"cluster\.service_\w+\.upstream_rq_total") == before
    assert sidecar.stat(r"listener\.inbound\.ssl\.fail_verify_no_cert") > 0
    assert sidecar.stat(r"listener\.inbound\.ssl\.fail_verify_error") > 0


@pytest.mark.parametrize(
    ("workload", "method", "answer"),
    [
        ("edge", PULL, grpc.StatusCode.UNAUTHENTICATED),
        ("edge", HEALTH, None),
        ("edge", STREAM_BOXES, grpc.StatusCode.PERMISSION_DENIED),
        ("party-2", STREAM_BOXES, grpc.StatusCode.UNAUTHENTICATED),
        ("party-2", PULL, grpc.StatusCode.PERMISSION_DENIED),
        ("party-4", STREAM_BOXES, grpc.StatusCode.PERMISSION_DENIED),
        ("edge/other", PULL, grpc.StatusCode.PERMISSION_DENIED),
    ],
)
async def test_a_workload_makes_its_own_calls_only(
    mesh: Mesh, sidecar: Proxy, workload: str, method: str, answer: grpc.StatusCode | None
) -> None:
    """UNAUTHENTICATED is the service's word on the missing signature: the call got through.
    PERMISSION_DENIED is the proxy's."""
    async with channel(sidecar, mesh, mesh.workload(workload)) as dialled:
        streams = method == STREAM_BOXES
        stub: Any = dialled.unary_stream(method) if streams else dialled.unary_unary(method)
        call = stub(b"", timeout=20)
        answered = call.read() if streams else call
        if answer is None:
            await answered
        else:
            assert (await refused(answered)).code is answer


async def test_reflection_and_unknown_methods_are_not_routed(mesh: Mesh, sidecar: Proxy) -> None:
    """What stands in no policy is denied before anything looks at it."""
    async with channel(sidecar, mesh, mesh.workload("edge")) as dialled:
        for method in ("/rookery.v1.Sync2/Pull", "/grpc.reflection.v1.ServerReflection/X", "/x"):
            stub: Any = dialled.unary_unary(method)
            assert (await refused(stub(b"", timeout=20))).code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_certificate_is_replaced_without_a_restart(mesh: Mesh, sidecar: Proxy) -> None:
    """A new connection gets the new one; what is open stays open."""
    host, _, port = sidecar.address.rpartition(":")

    async def serial() -> bytes:
        shown_cert = mesh.folder / "tls-edge"
        context = ssl.create_default_context(cafile=str(mesh.authority.cert))
        context.load_cert_chain(shown_cert / "tls.crt", shown_cert / "tls.key")
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return found

    edge = mesh.workload("edge")
    async with channel(sidecar, mesh, edge) as dialled:
        stub: Any = dialled.unary_unary(HEALTH)
        await stub(b"", timeout=20)
        before = await serial()
        mesh.workload("service")
        while await serial() == before:  # noqa: ASYNC110 - the proxy tells nobody
            await asyncio.sleep(0.02)
        await stub(b"", timeout=20)
