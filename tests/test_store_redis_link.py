"""The way to Redis: scripts, pokes, and what happens when servers go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis
from redis.crc import key_slot

from services.store import redis_tenancy as tenancy
from services.store.errors import StoreUnavailable
from services.store.redis_connection import CONNECTIONS_PER_SERVER
from services.store.redis_link import Link, Promise, Script
from tests.redis_process import SLOTS, RedisCluster, RedisPair, RedisServer, until

APPEND = Script("""
local n = redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call(ARGV[2], KEYS[2], '')
return n
""")
COUNT = Script("return redis.call('LLEN', KEYS[1])", reads=True)
LOSSY = Promise(accepts_loss=True)


@asynccontextmanager
async def linked(url: str, promise: Promise | None = None) -> AsyncIterator[Link]:
    """A link, closed in the end."""
    link = await Link.open(url, promise)
    try:
        yield link
    finally:
        await link.close()


async def append(link: Link, name: str, value: bytes = b"x") -> int:
    """One write, and a poke."""
    keys = (f"list{{{name}}}".encode(), f"poke{{{name}}}".encode())
    number: int = await link.run(APPEND, keys, (value, link.publish_command))
    return number


async def count(link: Link, name: str) -> int:
    """How many there are."""
    number: int = await link.run(COUNT, (f"list{{{name}}}".encode(),))
    return number


async def settled(link: Link, name: str) -> int:
    """`count`, as a client does it: again while the store is unavailable."""
    while True:
        try:
            return await count(link, name)
        except StoreUnavailable:
            continue


async def loaded(link: Link, number: int) -> asyncio.Task[int]:
    """A task that appends one after the other until the store is unavailable: how many were
    acknowledged. So many are when this returns."""
    enough = asyncio.Event()

    async def load() -> int:
        acknowledged = 0
        try:
            while True:
                acknowledged = await append(link, "load")
                if acknowledged >= number:
                    enough.set()
        except StoreUnavailable:
            return acknowledged

    task = asyncio.create_task(load())
    await enough.wait()
    return task


class Bell:
    """Counts calls, and can be waited for."""

    def __init__(self) -> None:
        self.rung = asyncio.Event()

    def __call__(self) -> None:
        self.rung.set()

    async def wait(self) -> None:
        """Returns after the next call."""
        async with asyncio.timeout(20):
            await self.rung.wait()
        self.rung.clear()


@pytest.fixture(params=["single", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """One server, and a cluster of three; both empty."""
    servers: RedisServer | RedisCluster = request.getfixturevalue(
        {"single": "redis_server", "cluster": "redis_cluster"}[request.param]
    )
    servers.flush()
    return servers.url


async def test_a_script_runs_where_its_keys_are_and_pokes_who_listens(url: str) -> None:
    """Scripts are sent once and by hash from then on, to any slot; another process of the
    service hears what they publish."""
    async with linked(url) as link, linked(url) as other:
        for name in "abcdefgh":
            bell = Bell()
            await other.subscribe(f"poke{{{name}}}".encode(), bell)
            assert await append(link, name) == 1
            await bell.wait()
            assert await append(other, name) == 2
            await bell.wait()
            await other.unsubscribe(f"poke{{{name}}}".encode())
            assert await count(link, name) == 2
        assert (link.generation, link.secret) == (other.generation, other.secret)
        assert (len(link.generation), len(link.secret)) == (8, 32)


async def test_a_script_that_fails_is_a_defect_and_not_an_outage(url: str) -> None:
    """What Redis says of a wrong script is not taken for something that passes."""
    wrong = Script("return redis.call('LPUSH', KEYS[1])")
    async with linked(url) as link:
        with pytest.raises(redis.ResponseError):
            await link.run(wrong, (b"k",))
        assert await append(link, "k") == 1


async def test_a_call_that_is_given_up_leaves_the_connection_to_nobody(url: str) -> None:
    """An answer whose caller was cancelled is never taken for the next one's."""
    slow = Script("local n = 0 for i = 1, 3000000 do n = n + 1 end return n")
    async with linked(url) as link:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await link.run(slow, (b"k{a}",))
            assert await count(link, "a") == 0


async def test_a_closed_link_takes_nothing(url: str) -> None:
    """After `close` every call is refused."""
    async with linked(url) as link:
        pass
    with pytest.raises(StoreUnavailable):
        await append(link, "a")
    with pytest.raises(StoreUnavailable):
        await link.subscribe(b"c", Bell())


async def test_another_program_s_data_is_left_alone(redis_server: RedisServer) -> None:
    """A Redis with keys that are not ours is refused, and stays as it is."""
    redis_server.flush()
    with redis_server.client() as client:
        client.set("theirs", "1")
        with pytest.raises(StoreUnavailable, match="another program's data"):
            await Link.open(redis_server.url)
        assert client.keys() == [b"theirs"]


async def test_a_fresh_store_is_made_once(url: str) -> None:
    """Processes that open an empty Redis at the same moment make one store of it."""
    links = await asyncio.gather(*(Link.open(url) for _ in range(8)))
    assert len({(link.generation, link.secret) for link in links}) == 1
    for link in links:
        await link.close()


async def test_a_new_generation_is_known_to_every_process(url: str) -> None:
    """Whoever has the store open hears of a generation that another process renewed."""
    async with linked(url) as link, linked(url) as other:
        bell = Bell()
        other.on_renewed(bell)
        fresh = await link.new_generation()
        await bell.wait()
        assert other.generation == link.generation == fresh


# --- servers that go ---


async def test_nothing_is_lost_of_a_killed_server_that_syncs_always(tmp_path: Path) -> None:
    """SIGKILL under load: every acknowledged write is there afterwards, the generation stays,
    and who listens is called once the connection is back."""
    with RedisServer(tmp_path, fsync="always") as server:
        async with linked(server.url) as link:
            generation, bell = link.generation, Bell()
            await link.subscribe(b"poke{quiet}", bell)
            load = await loaded(link, 200)
            server.kill()
            acknowledged = await load
            server.start()
            assert await settled(link, "load") >= acknowledged >= 200
            await bell.wait()
            assert link.generation == generation
        async with linked(server.url) as link:
            assert link.generation == generation


async def test_many_that_listen_are_all_called_after_a_loss(tmp_path: Path) -> None:
    """A thousand channels, subscribed while the server is killed and starts again, are heard."""
    with RedisServer(tmp_path) as server:
        async with linked(server.url) as link:
            bells = {f"{number}": Bell() for number in range(1_000)}

            async def listen(name: str) -> None:
                with contextlib.suppress(StoreUnavailable):
                    await link.subscribe(f"poke{{{name}}}".encode(), bells[name])

            await asyncio.gather(*map(listen, list(bells)[:500]))
            late = asyncio.gather(*map(listen, list(bells)[500:]))
            await asyncio.sleep(0)
            server.kill()
            server.start()
            await late
            for name in list(bells)[:500]:
                await bells[name].wait()
            for name, bell in bells.items():
                await append(link, name)
                await bell.wait()


@pytest.mark.parametrize("fsync", ["everysec", "none"])
async def test_the_generation_changes_when_a_server_may_have_lost_writes(
    tmp_path: Path, fsync: str
) -> None:
    """SIGKILL where nothing is synced before it is acknowledged: no call is answered under the
    old generation any more, in no process."""
    with RedisServer(tmp_path, fsync=fsync) as server:
        async with linked(server.url, LOSSY) as link, linked(server.url, LOSSY) as other:
            generation, bells = link.generation, (Bell(), Bell())
            link.on_renewed(bells[0])
            other.on_renewed(bells[1])
            await append(link, "a")
            assert await count(other, "a") == 1
            server.kill()
            server.start()
            with pytest.raises(StoreUnavailable):
                await count(link, "a")
            await count(link, "a")
            assert link.generation != generation
            await bells[1].wait()
            await settled(other, "a")
            assert other.generation == link.generation
            assert bells[0].rung.is_set()


async def test_a_store_that_was_killed_while_nobody_looked_is_judged_at_the_next_start(
    tmp_path: Path,
) -> None:
    """What happened between two runs of the service counts as what happens in one."""
    with RedisServer(tmp_path, fsync="everysec") as server:
        async with linked(server.url, LOSSY) as link:
            first = link.generation
        async with linked(server.url, LOSSY) as link:
            assert link.generation == first
        server.kill()
        server.start()
        async with linked(server.url, LOSSY) as link:
            assert link.generation != first


async def test_many_calls_without_a_lease_take_it_once(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose lease is over asks for another one on one connection, however many calls wait."""
    async with linked(redis_server.url) as link:
        monkeypatch.setattr(tenancy, "MARGIN_S", tenancy.LEASE_S)
        with redis_server.client() as client:
            await link._tenant.enter()  # type: ignore[union-attr]  # so it is over now
            before = client.info("stats")["total_connections_received"]
            await asyncio.gather(*(count(link, "a") for _ in range(500)))
            made = client.info("stats")["total_connections_received"] - before
        assert made <= CONNECTIONS_PER_SERVER + 2


async def test_the_lease_is_renewed_when_redis_is_back_though_nobody_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is renewed long before it ends, and tried for until it is."""
    monkeypatch.setattr(tenancy, "RENEW_S", 0.05)
    with RedisServer(tmp_path) as server:

        def ends() -> float:
            with server.client() as client:
                return float(client.zrange(tenancy.SERVING, 0, -1, withscores=True)[0][1])

        async with linked(server.url):
            first = ends()
            await asyncio.to_thread(until, lambda: ends() > first)
            server.kill()
            server.start()
            again = ends()
            await asyncio.to_thread(until, lambda: ends() > again)


async def test_what_a_replica_lacks_is_not_acknowledged_when_it_is_sent_again(
    tmp_path: Path,
) -> None:
    """A write that no replica confirmed is refused; sent again it changes nothing at the master,
    and is refused all the same, until the replica has it."""
    once = Script("return redis.call('SETNX', KEYS[1], ARGV[1])")
    with RedisServer(tmp_path / "a") as master:
        follow = ("--replicaof", "127.0.0.1", str(master.port))
        with RedisServer(tmp_path / "b", *follow) as replica:
            with replica.client() as client:
                until(lambda: client.info("replication")["master_link_status"] == "up")
            async with linked(master.url, Promise(replicas_min=1)) as link:
                assert await link.run(once, (b"k{a}",), (b"v",)) == 1
                replica.suspend()
                for _ in range(2):
                    with pytest.raises(StoreUnavailable, match="too few replicas"):
                        await link.run(once, (b"k{b}",), (b"v",))
                replica.resume()
                assert await link.run(once, (b"k{b}",), (b"v",)) == 0


@pytest.mark.soak
async def test_a_failover_keeps_what_replicas_had_to_confirm(tmp_path: Path) -> None:
    """Sentinel promotes the replica: with `redis_replicas_min` every acknowledged write is
    there and the generation stays; who listens is called."""
    with RedisPair(tmp_path, fsync="always") as pair:
        async with linked(pair.url, Promise(replicas_min=1)) as link:
            generation, bell = link.generation, Bell()
            await link.subscribe(b"poke{quiet}", bell)
            load = await loaded(link, 50)
            pair.master.kill()
            acknowledged = await load
            await asyncio.to_thread(pair.wait_promoted)
            await bell.wait()
            with pytest.raises(StoreUnavailable, match="too few replicas"):
                await append(link, "load")
            pair.rejoin()
            assert await settled(link, "load") >= acknowledged >= 50
            assert link.generation == generation


async def test_a_failover_that_nobody_promised_for_changes_the_generation(tmp_path: Path) -> None:
    """Without `redis_replicas_min` a replica may take over that lacks writes."""
    with RedisPair(tmp_path, fsync="always") as pair:
        async with linked(pair.url, LOSSY) as link:
            generation = link.generation
            await append(link, "a")
            pair.master.kill()
            await asyncio.to_thread(pair.wait_promoted)
            await settled(link, "a")
            assert link.generation != generation


@pytest.mark.parametrize("replicas_min", [pytest.param(0, marks=pytest.mark.soak), 1])
async def test_a_promoted_replica_of_a_cluster_has_what_it_had_to_confirm(
    tmp_path: Path, replicas_min: int
) -> None:
    """One master of a cluster is killed: with `redis_replicas_min` its replica has every
    acknowledged write and the generation stays; without, the generation changes."""
    promise = Promise(replicas_min=replicas_min, accepts_loss=not replicas_min)
    with RedisCluster(tmp_path, replicas=1, timeout_ms=800) as cluster:
        async with linked(cluster.url, promise) as link:
            generation, bell = link.generation, Bell()
            owner = int(key_slot(b"load") / (SLOTS / 3))
            await link.subscribe(b"poke{load}", bell)
            load = await loaded(link, 50)
            bell.rung.clear()
            cluster.masters[owner].kill()
            acknowledged = await load
            await asyncio.to_thread(cluster.wait_promoted, owner)
            cluster.masters[owner].start()
            assert await settled(link, "load") >= acknowledged >= 50
            await bell.wait()
            assert (link.generation == generation) == bool(replicas_min)
