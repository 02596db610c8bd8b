"""Replicas as processes on a real Redis: each of them, and Redis, is struck while people edit.

Short slices run with all tests, the long runs by `make soak`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from client.endpoint import Endpoint
from client.sync import SyncedDevice
from services.config import ACCEPTED_LOSS
from services.store.base import Store
from services.store.errors import StoreUnavailable
from tests.redis_process import RedisCluster, RedisServer
from tests.served import Refusal, serving
from tests.service_process import ServiceProcess
from tests.shell_worlds import endpoint_of, fleet, put, rules, shown
from tests.storms import EVERY_CALL, live_through, losses


@contextmanager
def replicas(folder: Path, count: int, **settings: str) -> Iterator[list[ServiceProcess]]:
    """Processes with one set of keys on one store."""
    with ExitStack() as stack:
        yield [stack.enter_context(ServiceProcess(folder, **settings)) for _ in range(count)]


def endpoint(services: list[ServiceProcess]) -> Endpoint:
    """The deployment by the addresses of all its replicas."""
    targets = tuple(service.endpoint.targets[0] for service in services)
    return replace(services[0].endpoint, targets=targets)


def drained(service: ServiceProcess) -> Callable[[], None]:
    """One step of a rolling restart."""

    def strike() -> None:
        service.stop()
        service.start()

    return strike


def killed(server: ServiceProcess | RedisServer) -> Callable[[], None]:
    """kill -9, and started again."""

    def strike() -> None:
        server.kill()
        server.start()

    return strike


def in_turn(*strikes: Callable[[], None]) -> Callable[[], None]:
    """Another one each time."""
    turns = cycle(strikes)
    return lambda: next(turns)()


async def storm_on_one_server(folder: Path, *, households: int, strikes: int) -> None:
    """Two replicas on one Redis that syncs each write: drained, killed, Redis killed."""
    with (
        RedisServer(folder / "redis") as redis,
        replicas(folder, 2, ROOKERY_REDIS_URL=redis.url, **EVERY_CALL) as (first, second),
    ):
        strike = in_turn(drained(first), killed(second), killed(redis))
        nodes = endpoint([first, second])
        await live_through(nodes, strike, households=households, strikes=strikes)
    assert losses(folder) == set()


async def storm_on_a_cluster(folder: Path, *, households: int, strikes: int) -> None:
    """Masters of a cluster are killed in turn; the replica of each, which holds every write
    that was acknowledged, takes over, and the one that was killed becomes its replica."""
    settings = {"ROOKERY_REDIS_REPLICAS_MIN": "1", **EVERY_CALL}
    with (
        RedisCluster(folder / "redis", replicas=1, timeout_ms=1_000) as cluster,
        replicas(folder, 2, ROOKERY_REDIS_URL=cluster.url, **settings) as services,
    ):
        turns = cycle(range(3))

        def strike() -> None:
            cluster.fail_over(next(turns))

        nodes = endpoint(services)
        await live_through(nodes, strike, households=households, strikes=strikes)
    assert losses(folder) == set()


async def test_replicas_and_redis_are_struck_and_nothing_is_lost(tmp_path: Path) -> None:
    """A rolling restart, kill -9 of a replica and of Redis (`appendfsync always`)."""
    await storm_on_one_server(tmp_path, households=1, strikes=3)


async def test_a_cluster_loses_a_master_and_nothing_else(tmp_path: Path) -> None:
    """kill -9 of one master of three; its replica is promoted."""
    await storm_on_a_cluster(tmp_path, households=1, strikes=1)


async def test_a_storm_in_which_redis_loses_writes_is_told_from_one_in_which_it_does_not(
    tmp_path: Path,
) -> None:
    """`everysec`, and what was written since the storm began is not on the disk: nothing is
    missing in the end here either, but the log of calls tells that it was for a time."""
    with RedisServer(tmp_path / "redis", fsync="everysec") as redis:
        settings = {"ROOKERY_REDIS_ACCEPT_LOSS": ACCEPTED_LOSS, **EVERY_CALL}
        with replicas(tmp_path, 1, ROOKERY_REDIS_URL=redis.url, **settings) as services:
            sizes: list[int] = []

            def strike() -> None:
                redis.kill()
                redis.lose_after(*sizes)
                redis.start()

            await live_through(
                endpoint(services), strike, households=1, strikes=1,
                on_settled=lambda: sizes.append(redis.written()),
            )  # fmt: skip
    assert losses(tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_long_storm_over_replicas_and_redis_loses_nothing(tmp_path: Path) -> None:
    """Six households, thirty strikes."""
    await storm_on_one_server(tmp_path, households=6, strikes=30)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_cluster_that_loses_master_after_master_loses_nothing_else(tmp_path: Path) -> None:
    """Four households, six failovers: every master is killed twice."""
    await storm_on_a_cluster(tmp_path, households=4, strikes=6)


async def test_where_redis_may_lose_writes_it_is_noticed_and_clients_heal(tmp_path: Path) -> None:
    """`everysec`, and the last second is not on the disk when Redis is killed: the generation
    changes, and what devices still hold is there again."""
    with RedisServer(tmp_path / "redis", fsync="everysec") as redis:
        settings: dict[str, Any] = {"redis_url": redis.url, "redis_accept_loss": ACCEPTED_LOSS}
        async with (
            serving(tmp_path, **settings) as service,
            fleet(endpoint_of(service)) as devices,
        ):
            store = service.server.store
            one = await devices.first()
            other = await devices.another(one)
            put(one, "theme", "early")
            await one.sync_once()
            await other.sync_once()
            generation, synced = store.generation, redis.written()
            position = await position_of(store, one)
            put(one, "theme", "late")
            put(one, "lang", "fr")
            await one.sync_once()
            assert await position_of(store, one) > position
            redis.kill()
            redis.lose_after(synced)
            redis.start()
            with pytest.raises(StoreUnavailable, match="may have lost writes"):
                await position_of(store, one)
            assert await position_of(store, one) == position
            for device in (other, one, other):
                await device.sync_once()
            assert store.generation != generation
            assert shown(one) == shown(other) == {"ui/theme": "late", "ui/lang": "fr"}
            assert rules(one) == rules(other) == []


async def position_of(store: Store, device: SyncedDevice) -> int:
    """Where the device's account stands, asked of Redis."""
    tip = await store.tip(device.core.account_id, fresh=True)
    assert tip is not None
    return tip.position


async def test_a_store_that_is_away_is_logged_once_and_when_it_is_back(tmp_path: Path) -> None:
    """Redis is killed under a service: one line says so, however many calls fail, and one that
    it is back, with how many did."""
    with RedisServer(tmp_path / "redis") as redis:
        async with serving(tmp_path, redis_url=redis.url) as service:
            world = await service.account("away")
            redis.kill()
            for _ in range(3):
                with pytest.raises(Refusal) as refused:
                    await service.pull(world)
                assert refused.value.reason == "STORE_UNAVAILABLE"
            redis.start()
            await service.pull(world)
            lines = [json.loads(line) for line in service.log.getvalue().splitlines()]
    told = [line for line in lines if line["event"].startswith("store_")]
    assert [(line["event"], line["level"]) for line in told] == [
        ("store_away", "warning"),
        ("store_back", "warning"),
    ]
    assert "Redis" in told[0]["why"]
    assert told[1]["calls"] == 3
