"""Streams through the sidecar: heartbeats keep them, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from rookery.v1 import sync_pb2
from tests.mesh_processes import Mesh, channel
from tests.served import serving

IDLE_S = 1.0
_BEAT = sync_pb2.SubscribeResponse.EVENT_HEARTBEAT


@pytest.mark.parametrize(("heartbeat_s", "lives"), [(0.25, True), (60.0, False)])
async def test_a_stream_outlives_the_idle_timeout_by_heartbeats(
    mesh: Mesh, tmp_path: Path, heartbeat_s: float, lives: bool
) -> None:
    """The shipped ratio, four heartbeats to one time-out, 180 times faster; without them the
    proxy cuts it."""
    async with serving(tmp_path, heartbeat_s=heartbeat_s) as service:
        world = await service.account("streams")
        proxy = await mesh.sidecar(service.server.address, STREAM_IDLE=f"{IDLE_S}s")
        await service.channel.close()
        service.channel = channel(proxy, mesh, mesh.workload("edge"))
        stream = service.subscribe(world)
        assert await stream.caught_up() == []
        cut = r"http\.inbound\.downstream_rq_idle_timeout"
        if not lives:
            refusal = await stream.end()
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "")
            assert proxy.stat(cut) == 1
            return
        for _ in range(int(2.5 * IDLE_S / heartbeat_s)):
            frame = await stream.next()
            assert frame is not None
            assert frame.event == _BEAT
        assert proxy.stat(cut) == 0
        await service.push(world, world.op(1))
        frame = await stream.next()
        assert frame is not None
        assert frame.event == sync_pb2.SubscribeResponse.EVENT_OPS
        assert proxy.stat(r"cluster\.service_streams\.upstream_rq_total") == 1
        assert proxy.stat(r"cluster\.service_unary\.upstream_rq_total") == 1
