"""Which Redis is refused, in which words; and what counts as a loss."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from services.store.errors import StoreUnavailable
from services.store.redis_lineage import Entry, follow
from services.store.redis_link import Link, Promise, Script
from tests.certificates import certificate
from tests.redis_process import RedisCluster, RedisPair, RedisServer

LOSSY = Promise(accepts_loss=True)
PAGE = Path(__file__).parents[1] / "docs" / "redis.md"
ANSWER = Script("return 42", reads=True)


@contextmanager
def configured(server: RedisServer, settings: Mapping[str, str]) -> Iterator[RedisServer]:
    """The server with these settings for a while, and empty."""
    server.flush()
    with server.client() as client:
        before = {name: client.config_get(name)[name] for name in settings}
        for name, value in settings.items():
            client.config_set(name, value)
        try:
            yield server
        finally:
            for name, value in before.items():
                client.config_set(name, value)


async def opens(
    url: str, promise: Promise | None = None, *, password_file: str = "", ca_file: str = ""
) -> None:
    """Opens and uses the store there."""
    link = await Link.open(url, promise, password_file=password_file, ca_file=ca_file)
    try:
        assert await link.run(ANSWER, (b"k",)) == 42
    finally:
        await link.close()


async def test_one_server_with_the_settings_of_the_page_is_taken(tmp_path: Path) -> None:
    """As docs/redis.md shows them, copied by who has no replicas."""
    page = await asyncio.to_thread(PAGE.read_text, "utf-8")
    [sample] = re.findall(r"^```\n# redis\.conf(.*?)^```", page, re.MULTILINE | re.DOTALL)
    rows = [row.split() for row in sample.splitlines()[1:] if not row.startswith("#")]
    arguments = [word for name, value in rows for word in (f"--{name}", value)]
    assert "--appendfsync" in arguments
    with RedisServer(tmp_path, *arguments, fsync="none") as server:
        await opens(server.url)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("appendonly", "no"),
        ("appendfsync", "everysec"),
        ("appendfsync", "no"),
        ("no-appendfsync-on-rewrite", "yes"),
    ],
)
async def test_settings_that_may_lose_writes_are_refused_unless_that_is_accepted(
    redis_server: RedisServer, name: str, value: str
) -> None:
    """The refusal names the setting, what it is, what it would have to be, and the words that
    accept the loss."""
    with configured(redis_server, {name: value}) as server:
        says = f"{name} is {value} and would have to be .*acknowledged writes may be lost"
        with pytest.raises(StoreUnavailable, match=says):
            await opens(server.url)
        await opens(server.url, LOSSY)


async def test_eviction_is_refused_whatever_is_accepted(redis_server: RedisServer) -> None:
    """A store from which Redis may take single keys is no store."""
    with configured(redis_server, {"maxmemory-policy": "allkeys-lru"}) as server:
        for promise in (Promise(), LOSSY, Promise(persistence="synced")):
            with pytest.raises(StoreUnavailable, match="maxmemory-policy to noeviction"):
                await opens(server.url, promise)


async def test_replicas_that_nobody_waits_for_are_refused(tmp_path: Path) -> None:
    """Where Sentinel may promote a replica, the writes must be on it, or loss be accepted."""
    with RedisPair(tmp_path, fsync="always") as pair:
        # Behind one address as well: it may follow the master.
        with pytest.raises(StoreUnavailable, match="has 1 replica, and redis_replicas_min of 0"):
            await opens(pair.master.url)
        await opens(pair.master.url, Promise(replicas_min=1))
        await opens(pair.master.url, LOSSY)
        await opens(pair.master.url, Promise(persistence="synced"))
        with pytest.raises(StoreUnavailable, match="has 1 replica, and redis_replicas_min of 0"):
            await opens(pair.url)
        await opens(pair.url, Promise(replicas_min=1))
        await opens(pair.url, LOSSY)
        with pytest.raises(StoreUnavailable, match="a Sentinel answers there"):
            await opens(pair.sentinel.url, LOSSY)
        with pytest.raises(StoreUnavailable, match="know no master of the name"):
            await opens(pair.url + "s", LOSSY)


async def test_the_form_of_the_url_must_fit_what_answers(
    redis_server: RedisServer, redis_cluster: RedisCluster
) -> None:
    """A cluster is not taken for a server, nor a server for a cluster."""
    with pytest.raises(StoreUnavailable, match=r"wants redis\+cluster://"):
        await opens(redis_cluster.masters[0].url)
    with pytest.raises(StoreUnavailable, match="no cluster answers there"):
        await opens(f"redis+cluster://{redis_server.address}")
    with pytest.raises(StoreUnavailable, match="no Sentinel answers there"):
        await opens(f"redis+sentinel://{redis_server.address}/main")


async def test_a_managed_redis_is_taken_at_its_operator_s_word(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """Where CONFIG is forbidden, the refusal says which setting stands for it; user and password
    come from the URL and a file, and are in no message."""
    redis_server.flush()
    password = tmp_path / "password"
    password.write_text("hush-hush\n")
    url = f"redis://managed@{redis_server.address}"
    with redis_server.client() as client:
        client.acl_setuser(
            "managed", enabled=True, passwords=["+hush-hush"], keys=["*"], channels=["*"],
            categories=["+@all"], commands=["-config"],
        )  # fmt: skip
        try:
            with pytest.raises(StoreUnavailable, match="say in redis_persistence"):
                await opens(url, password_file=str(password))
            with pytest.raises(StoreUnavailable, match="redis_persistence says lossy"):
                await opens(url, Promise(persistence="lossy"), password_file=str(password))
            await opens(url, Promise(persistence="synced"), password_file=str(password))
            password.write_text("guessed")
            with pytest.raises(StoreUnavailable, match="redis_password_file") as refused:
                await opens(url, password_file=str(password))
            assert "guessed" not in str(refused.value)
            password.unlink()
            with pytest.raises(StoreUnavailable, match="can't be read"):
                await opens(url, password_file=str(password))
        finally:
            client.acl_deluser("managed")


async def test_the_permissions_that_the_documentation_names_are_enough(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """A user with the rules of docs/redis.md opens the store and works on it."""
    page = (Path(__file__).parent.parent / "docs" / "redis.md").read_text()
    [rules] = re.findall(r"`(\+@all [^`]+)`", page)
    redis_server.flush()
    (tmp_path / "password").write_text("hush")
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "rookery", "on", ">hush", *rules.split())
        try:
            url = f"redis://rookery@{redis_server.address}"
            await opens(url, password_file=str(tmp_path / "password"))
        finally:
            client.acl_deluser("rookery")


@asynccontextmanager
async def encrypted(server: RedisServer, cert: Path, key: Path) -> AsyncIterator[int]:
    """A port that speaks TLS and passes on to the server: its own binary may lack it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", server.port)
        for source, target in ((reader, inner_writer), (inner_reader, writer)):
            tasks.add(asyncio.create_task(pump(source, target)))

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_tls_verifies_the_server(redis_server: RedisServer, tmp_path: Path) -> None:
    """With `rediss://` the server's certificate is judged by redis_ca_file."""
    redis_server.flush()
    cert, key = certificate(tmp_path, "redis")
    other, _ = certificate(tmp_path, "other")
    async with encrypted(redis_server, cert, key) as port:
        await opens(f"rediss://127.0.0.1:{port}", ca_file=str(cert))
        for wrong in (str(other), ""):
            with pytest.raises(StoreUnavailable, match="redis_ca_file"):
                await opens(f"rediss://127.0.0.1:{port}", ca_file=wrong)


async def test_why_redis_is_not_reached_is_said(redis_server: RedisServer, tmp_path: Path) -> None:
    """No password where one is wanted; TLS where it is not spoken; nobody there."""
    with RedisServer(tmp_path / "closed", "--requirepass", "hush") as server:
        for url in (server.url, f"{server.url}?db=1"):
            with pytest.raises(StoreUnavailable, match="wants a password: redis_password_file"):
                await opens(url)
    with pytest.raises(StoreUnavailable, match=f"Redis at {server.address} .nobody listens there"):
        await opens(server.url)
    says = f"Redis at {redis_server.address} .*does it speak TLS"
    with pytest.raises(StoreUnavailable, match=says) as refused:
        await opens(redis_server.url.replace("redis:", "rediss:"))
    assert "CancelledError" not in str(refused.value)


# --- what counts as a loss ---

NOBODY = "0" * 40
ALL = Promise(replicas_min=1)


def entry(
    host: str, run: str, replid: str, *, replicas: str = "", synced: bool = True, at: str = ""
) -> Entry:
    """A master as somebody saw it, with replicas at these addresses."""
    seen = tuple(f"{name}:1" for name in replicas)
    return Entry(host, 1, run, replid, len(seen), synced, seen, at)


@pytest.mark.parametrize(
    ("before", "new", "replaced", "promise", "kept"),
    [
        # A fresh store; a master that is known; one whose backlog ended, which renames it.
        ((), entry("a", "r1", "p1"), NOBODY, Promise(), True),
        ((entry("a", "r1", "p1"),), entry("a", "r1", "p1"), NOBODY, Promise(), True),
        ((entry("a", "r1", "p1"),), entry("a", "r1", "p2"), NOBODY, Promise(), True),
        # Started again at its place.
        ((entry("a", "r1", "p1"),), entry("a", "r2", "p2"), NOBODY, Promise(), True),
        ((entry("a", "r1", "p1", synced=False),), entry("a", "r2", "p2"), NOBODY, ALL, False),
        # The same with a file that remembers what it replicated: no replica took over.
        ((entry("a", "r1", "p1"),), entry("a", "r2", "p2"), "p1", Promise(), True),
        ((entry("a", "r1", "p1", synced=False),), entry("a", "r2", "p2"), "p1", ALL, False),
        # Behind one address a replica may have taken over.
        ((entry("a", "r1", "p1", replicas="b"),), entry("a", "r2", "p2"), "p1", Promise(), False),
        (
            (entry("a", "r1", "p1", replicas="b"),), entry("a", "r2", "p2", at="b:1"),
            "p1", ALL, True,
        ),
        ((entry("a", "r1", "p1", replicas="b"),), entry("a", "r2", "p2"), "p1", ALL, False),
        # A replica took over.
        ((entry("a", "r1", "p1", replicas="b"),), entry("b", "r2", "p2"), "p1", Promise(), False),
        ((entry("a", "r1", "p1", replicas="b"),), entry("b", "r2", "p2"), "p1", ALL, True),
        # One that joined when nobody looked: WAIT may have counted the other one. Or one that
        # is found with it afterwards, and was not known before.
        ((entry("a", "r1", "p1", replicas="c"),), entry("b", "r2", "p2"), "p1", ALL, False),
        (
            (entry("a", "r1", "p1", replicas="b"),), entry("b", "r2", "p2", replicas="c"),
            "p1", ALL, False,
        ),
        # The one whose place it took follows it.
        (
            (entry("a", "r1", "p1", replicas="b"),), entry("b", "r2", "p2", replicas="a"),
            "p1", ALL, True,
        ),
        # What was written before replicas had names in it.
        ((Entry("a", 1, "r1", "p1", 1, True),), entry("b", "r2", "p2"), "p1", ALL, False),
        ((entry("a", "r1", "p1", replicas="bc"),), entry("b", "r2", "p2"), "p1", ALL, False),
        # It started again, and then a replica took over that had not been with it since.
        (
            (replace(entry("a", "r2", "p2", replicas="b"), older="p1"),), entry("b", "r3", "p3"),
            "p1", ALL, True,
        ),
        # It went there and back, and nobody saw the step between.
        ((entry("a", "r1", "p1", replicas="b"),), entry("a", "r1", "p3"), "p2", ALL, False),
        ((entry("a", "r1", "p1", replicas="b"),), entry("a", "r3", "p3"), "p2", ALL, False),
        # A server that nobody knows; where the operator gives a word, what it may mean holds.
        ((entry("a", "r1", "p1"),), entry("b", "r2", "p2"), NOBODY, ALL, False),
        (
            (entry("a", "r1", "p1", replicas="bc"),), entry("a", "r2", "p2"), "p1",
            Promise(persistence="synced"), True,
        ),
    ],
)  # fmt: skip
def test_what_may_have_lost_writes_is_told_from_what_can_not(
    before: tuple[Entry, ...], new: Entry, replaced: str, promise: Promise, *, kept: bool
) -> None:
    """The line takes the master in, in the place of the one before; writes are taken for lost
    unless a promise covers each way how it can have come there."""
    line, may_stay = follow(before, new, replaced, promise)
    assert may_stay == kept
    assert (line[-1].host, line[-1].run, line[-1].replid) == (new.host, new.run, new.replid)
    assert len(line) == (1 if new.host == "a" or replaced == "p1" else 2)


def test_the_other_masters_of_a_cluster_stay_in_the_line() -> None:
    """One master's fate says nothing about the others."""
    others = (entry("b", "r2", "p2"), entry("c", "r3", "p3", synced=False))
    new = entry("a", "r9", "p9")
    line, kept = follow((entry("a", "r1", "p1"), *others), new, NOBODY, Promise())
    assert (line, kept) == ((*others, replace(new, older="p1")), True)


def test_a_line_of_before_replicas_had_names_is_read() -> None:
    """It says how many there were, and not which."""
    old = {"host": "a", "port": 1, "run": "r", "replid": "p", "replicas": 1, "synced": True}
    read = Entry.parse({**old, "older": "q"})
    assert (read.replicas, read.seen, read.older) == (1, (), "q")
    assert Entry.parse({**old, "seen": ["b:1"]}).seen == ("b:1",)
