"""The servers that tests start are what they are taken for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.redis_process import RedisCluster, RedisPair, RedisServer


def test_a_killed_server_starts_again_on_what_it_synced(tmp_path: Path) -> None:
    """After SIGKILL the server has its data, where `appendfsync` is `always`."""
    with RedisServer(tmp_path / "one", fsync="always") as server:
        with server.client() as client:
            client.set("k", "v")
        server.kill()
        server.start()
        with server.client() as client:
            assert client.get("k") == b"v"


@pytest.mark.soak
def test_sentinel_promotes_the_replica(tmp_path: Path) -> None:
    """The replica of a killed master becomes the master."""
    with RedisPair(tmp_path) as pair:
        pair.master.kill()
        pair.wait_promoted()


@pytest.mark.soak
def test_a_cluster_promotes_the_replica(tmp_path: Path) -> None:
    """The replica of a killed master takes its slots, and the cluster is whole again."""
    with RedisCluster(tmp_path, replicas=1, timeout_ms=1_000) as cluster:
        cluster.masters[1].kill()
        cluster.wait_promoted(1)
        cluster.wait_ok([cluster.masters[0], cluster.masters[2], cluster.replicas[1]])
