"""What a store on Redis tells of itself: commits, retries, faults, new generations."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.metrics import Metrics
from services.store.base import Store
from services.store.errors import StoreUnavailable
from services.store.opening import open_store
from services.store.redis import RedisStore
from services.store.redis_link import Link
from tests.metered import value
from tests.redis_process import RedisServer
from tests.served import config
from tests.store_worlds import Client, RedisHouse


async def opened(server: RedisServer, metrics: Metrics) -> RedisStore:
    """A store that tells these metrics."""
    return await RedisStore.open(await Link.open(server.url, observer=metrics.store))


async def test_commits_retries_and_generations_are_counted(redis_house: RedisHouse) -> None:
    """A push is a commit; a script that is gone, and another replica's push, are done again."""
    metrics, server = Metrics(), redis_house.server
    server.flush()
    store, other = await opened(server, metrics), await opened(server, Metrics())
    try:
        client = await Client.create(store, devices=2)
        assert (await client.push(*client.world.ops(3))).new_ops == 3
        assert value(metrics, "rookery_store_commit_seconds_count") == 1
        assert value(metrics, "rookery_store_commit_ops_sum") == 3
        await Client(other, client.world).push(client.world.op(1), by=1)
        server.client().script_flush()
        assert (await client.push(client.world.op())).new_ops == 1
        assert value(metrics, "rookery_store_retries_total", cause="conflict") == 1
        assert value(metrics, "rookery_store_retries_total", cause="script") >= 1
        await store.new_generation()
        assert value(metrics, "rookery_store_generation_renewals_total", cause="told") == 1
        assert value(metrics, "rookery_store_generation_renewals_total", cause="failover") == 0
        assert value(metrics, "rookery_store_writes_waiting") == 0
    finally:
        await store.close()
        await other.close()


async def test_a_server_that_is_gone_or_full_is_a_fault_of_its_kind(tmp_path: Path) -> None:
    """`full` while it takes no writes, `connection` once it is gone."""
    metrics = Metrics()
    with RedisServer(tmp_path) as server:
        store: Store = await open_store(
            config(tmp_path, redis_url=server.url, redis_accept_loss=LOSS), observer=metrics.store
        )
        try:
            client = await Client.create(store)
            server.client().config_set("maxmemory", "1")
            with pytest.raises(StoreUnavailable, match="OOM"):
                await client.push(client.world.op())
            assert value(metrics, "rookery_store_errors_total", fault="full") >= 1
            server.client().config_set("maxmemory", "0")
            server.kill()
            with pytest.raises(StoreUnavailable):
                await client.push(client.world.op())
            assert value(metrics, "rookery_store_errors_total", fault="connection") >= 1
        finally:
            await store.close()


LOSS = "acknowledged writes may be lost"
