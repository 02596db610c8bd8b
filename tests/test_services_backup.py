"""Backups: made under load, whole, and restored so that clients notice."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from crypto import enrol
from services import cli
from services.config import Config
from services.keeping import copying, ring
from services.keeping.backup import KeyFiles, Restored, backup, restore
from services.keeping.errors import KeepingError
from services.keys import KeyFileError, create
from services.store import sqlite_schema
from services.store.errors import StoreUnavailable
from services.store.governance import first_broken
from services.store.opening import open_store
from services.store.redis_link import Link
from services.store.redis_tenancy import SERVING, seize
from services.store.sqlite import SqliteStore
from tests.governance_rows import append_consents, put_policies
from tests.redis_process import RedisServer
from tests.served import serving
from tests.service_process import ServiceProcess, command
from tests.shell_worlds import Fleet, endpoint_of, fleet, put, rules, shown
from tests.store_worlds import Client


def silent(done: int, total: int) -> None:
    """No bar."""


@pytest.fixture
def key_files(tmp_path: Path) -> KeyFiles:
    """The keys of a service."""
    made = KeyFiles(tmp_path / "identity", tmp_path / "pepper", "audience.test")
    create(made.identity, bytes(32))
    create(made.pepper, bytes(32))
    return made


async def stored(folder: Path) -> Path:
    """A database with an account and an op in it."""
    database = folder / "rookery.db"
    store = await SqliteStore.open(database)
    client = await Client.create(store, "kept")
    await client.push(client.world.op())
    await store.close()
    return database


def named(folder: Path) -> set[str]:
    """The files in a folder."""
    return {row.name for row in folder.iterdir()}


def generation(path: Path) -> bytes:
    """Of a file that is not open."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return sqlite_schema.read_meta(connection, "generation")


async def edits(devices: Fleet, stop: asyncio.Event, count: int) -> dict[str, int]:
    """Devices that push until they are told to stop; what was acknowledged."""
    acknowledged: dict[str, int] = {}

    async def push(number: int) -> None:
        synced = await devices.first()
        at = 0
        while not stop.is_set():
            at += 1
            put(synced, f"k{at % 7}", at)
            await synced.sync_once()
        acknowledged[synced.core.account_id.hex()] = at

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(push(number))
    return acknowledged


async def test_nothing_that_a_device_holds_is_lost_by_a_backup_under_load(tmp_path: Path) -> None:
    """Real processes: accounts push while the backup is made, and after it; the backup is
    restored over the database; after the devices' next sync everything acknowledged is there."""
    place = tmp_path / "service"
    place.mkdir()
    target = tmp_path / "backup.db"
    with ServiceProcess(place) as service:
        async with fleet(service.endpoint) as devices:
            stop = asyncio.Event()
            load = asyncio.create_task(edits(devices, stop, 2))
            a = await devices.first()
            b = await devices.another(a)
            put(a, "before", 1)
            await a.sync_once()
            made = await command(service, "backup", str(target))
            assert made.code == 0, made.err
            assert "ok:" in made.out
            put(a, "after", 2)
            await a.sync_once()
            put(b, "added", 3)
            await b.sync_once()
            c = await devices.another(b)
            stop.set()
            acknowledged = await load
            refused = await command(service, "restore", str(target), "--replace")
            assert refused.code == 1
            assert "open in another process" in refused.err
            service.stop()
            back = await command(service, "restore", str(target), "--replace")
            assert back.code == 0, back.err
            service.start()
            for synced in tuple(devices.open):
                await synced.sync_once()
            for synced in (a, b, c):
                await synced.sync_once()
            fresh = await devices.another(c)
            assert shown(fresh) == {"ui/before": 1, "ui/after": 2, "ui/added": 3}
            for synced in tuple(devices.open):
                assert not rules(synced)
                last = acknowledged.get(synced.core.account_id.hex())
                if last is not None:
                    other = await devices.another(synced)
                    assert shown(other)[f"ui/k{last % 7}"] == last
    assert acknowledged


async def test_a_backup_is_private_whole_and_of_another_generation(
    tmp_path: Path, key_files: KeyFiles
) -> None:
    """One file of mode 0600, without a log, that holds what the database held."""
    database = await stored(tmp_path)
    target = tmp_path / "copy.db"
    made = backup(database, target, key_files, silent)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert made.bytes == target.stat().st_size
    assert made.accounts == 1
    assert generation(target) != generation(database)
    left = named(tmp_path)
    assert not {name for name in left if name.endswith(".partial") or name.startswith("copy.db-")}


async def test_a_backup_never_replaces(tmp_path: Path, key_files: KeyFiles) -> None:
    """A file that stands there is left as it is, also one that appears meanwhile."""
    database = await stored(tmp_path)
    target = tmp_path / "copy.db"
    target.write_text("mine")
    with pytest.raises(KeepingError, match="stands there already"):
        backup(database, target, key_files, silent)
    target.unlink()

    def meanwhile(done: int, total: int) -> None:
        target.write_text("mine")

    with pytest.raises(KeepingError, match="stands there already"):
        backup(database, target, key_files, meanwhile)
    assert target.read_text() == "mine"
    assert not [name for name in named(tmp_path) if name.endswith(".partial")]


async def test_a_restore_changes_the_generation_each_time(
    tmp_path: Path, key_files: KeyFiles
) -> None:
    """Also where the mark goes back with it, and where there is none."""
    database = await stored(tmp_path)
    target = tmp_path / "copy.db"
    backup(database, target, key_files, silent)
    seen = {generation(database), generation(target)}
    for _ in range(2):
        restore(target, database, key_files, silent, replace=True)
        assert generation(database) not in seen
        seen.add(generation(database))
        store = await SqliteStore.open(database)
        assert store.restored
        await store.close()
        (tmp_path / "rookery.db.mark").unlink()


async def test_a_backup_has_the_policy_the_consent_and_the_audit_log(
    tmp_path: Path, key_files: KeyFiles
) -> None:
    """After a restore each chain goes on where it was when the backup was made."""
    database, target = await stored(tmp_path), tmp_path / "copy.db"
    store = await SqliteStore.open(database)
    client = await Client.create(store, "agreed")
    account = client.world.account_id
    policies = await put_policies(store, 2)
    consents = await append_consents(store, account, [("dishes", True), ("dishes", False)])
    log = [await store.governance.append_audit(b"done", now_ms=at) for at in (1, 2)]
    await store.governance.trim_audit(before_ms=3)
    backup(database, target, key_files, silent)
    await append_consents(store, account, [("dishes", True)])
    await store.close()
    restore(target, database, key_files, silent, replace=True)
    store = await SqliteStore.open(database)
    held = store.governance
    assert [await held.policy(number) for number in (1, 2)] == policies
    assert await held.consents(account, 0, rows_max=9) == consents
    assert await held.consent_state(account, consents[0].tag) == (2, False)
    log.append(await held.append_audit(b"after", now_ms=3))
    left = list(await held.read_audit(0, rows_max=9))
    assert left == log[1:]
    assert first_broken(left, await held.audit_anchor()) is None
    await store.close()


async def test_a_copied_backup_is_noticed_even_beside_its_own_mark(
    tmp_path: Path, key_files: KeyFiles
) -> None:
    """Without `restore`: the file moved into place by hand, and a mark of the same age."""
    database = await stored(tmp_path)
    target = tmp_path / "copy.db"
    backup(database, target, key_files, silent)
    os.replace(target, database)  # noqa: PTH105
    store = await SqliteStore.open(database)
    assert store.restored
    await store.close()


async def test_the_database_that_was_there_is_kept_with_its_log(
    tmp_path: Path, key_files: KeyFiles
) -> None:
    """What a killed process left in the log is in what is set aside."""
    database = await stored(tmp_path)
    target = tmp_path / "copy.db"
    backup(database, target, key_files, silent)
    unfolded = sqlite_schema.connect(database, cache_kib=100)
    unfolded.execute("INSERT INTO meta VALUES ('later', 1)")
    with pytest.raises(KeepingError, match="--replace"):
        restore(target, database, key_files, silent, replace=False)
    done = restore(target, database, key_files, silent, replace=True)
    unfolded.close()
    assert done.made_ms is not None
    assert done.aside is not None
    with contextlib.closing(sqlite3.connect(done.aside)) as aside:
        assert aside.execute("SELECT value FROM meta WHERE name = 'later'").fetchone() == (1,)
    with contextlib.closing(sqlite3.connect(database)) as restored:
        assert restored.execute("SELECT 1 FROM meta WHERE name = 'later'").fetchone() is None
        assert restored.execute("SELECT 1 FROM meta WHERE name GLOB 'backup*'").fetchone() is None


async def test_a_restore_that_is_cut_off_leaves_one_database_whole(
    tmp_path: Path, key_files: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends before any of its changes to the folder: what has the name is the old
    database with all that was in its log, or the new one."""

    class Cut(BaseException):
        """Nothing after this is done."""

    killed = tmp_path / "killed"
    killed.mkdir()
    made = await stored(tmp_path)
    target = tmp_path / "copy.db"
    backup(made, target, key_files, silent)
    before = generation(made)
    unfolded = sqlite_schema.connect(made, cache_kib=100)
    unfolded.execute("INSERT INTO meta VALUES ('later', 1)")
    for row in (made, made.with_name("rookery.db-wal")):
        shutil.copy(row, killed)
    unfolded.close()
    assert (killed / "rookery.db-wal").stat().st_size

    def attempt(folder: Path, steps: int) -> bool:
        """Whether it came to an end in so many changes."""
        left = steps

        def counted(real: Callable[..., object]) -> Callable[..., object]:
            def step(*args: object, **named: object) -> object:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Cut
                return real(*args, **named)

            return step

        with monkeypatch.context() as patched:
            for name in ("unlink", "replace", "hardlink_to"):
                patched.setattr(Path, name, counted(getattr(Path, name)))
            try:
                restore(target, folder / "rookery.db", key_files, silent, replace=True)
            except Cut:
                return False
        return True

    ends = []
    for steps in itertools.count():
        folder = tmp_path / f"cut-{steps}"
        shutil.copytree(killed, folder)
        over = attempt(folder, steps)
        with contextlib.closing(sqlite3.connect(folder / "rookery.db")) as found:
            later = found.execute("SELECT 1 FROM meta WHERE name = 'later'").fetchone()
        old = generation(folder / "rookery.db") == before
        assert old == (later is not None), f"cut off after {steps} steps"
        ends.append(old)
        if over:
            break
    assert ends[0]
    assert not ends[-1]
    assert ends == sorted(ends, reverse=True)


async def test_a_damaged_database_is_set_aside_as_it_is(
    tmp_path: Path, key_files: KeyFiles
) -> None:
    """It is what a restore is for; that its log can't be folded in stops nobody."""
    database = await stored(tmp_path)
    target = tmp_path / "copy.db"
    backup(database, target, key_files, silent)
    database.write_bytes(b"\xff" * 8192)
    log = database.with_name("rookery.db-wal")
    log.write_bytes(b"log")
    done = restore(target, database, key_files, silent, replace=True)
    assert done.aside is not None
    assert done.aside.read_bytes() == b"\xff" * 8192
    assert done.aside.with_name(done.aside.name + "-wal").exists()
    assert not log.exists()


async def test_a_database_that_is_being_read_is_not_replaced(
    tmp_path: Path, key_files: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a backup that is under way: its log can't be folded in before that ends."""
    monkeypatch.setattr(copying, "BUSY_MS", 10)
    database = await stored(tmp_path)
    target = tmp_path / "copy.db"
    backup(database, target, key_files, silent)
    writer = sqlite_schema.connect(database, cache_kib=100)
    writer.execute("INSERT INTO meta VALUES ('later', 1)")
    with contextlib.closing(writer), copying.moment(database):
        writer.execute("INSERT INTO meta VALUES ('last', 1)")
        with pytest.raises(KeepingError, match="is being read"):
            restore(target, database, key_files, silent, replace=True)
    assert not [name for name in named(tmp_path) if "before" in name]


async def test_a_restore_that_is_refused_changes_nothing(
    tmp_path: Path, key_files: KeyFiles
) -> None:
    """Something else, a damaged file, the database itself, keys that are missing, a service that
    runs."""
    database = await stored(tmp_path)
    before = generation(database)
    target = tmp_path / "copy.db"
    backup(database, target, key_files, silent)

    def attempt(source: Path, files: KeyFiles = key_files) -> Restored:
        return restore(source, database, files, silent, replace=True)

    with pytest.raises(KeepingError, match="is the database itself"):
        attempt(database)
    with pytest.raises(KeepingError, match="is not there"):
        attempt(tmp_path / "nothing")
    other = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    with pytest.raises(KeepingError, match="not the database of a service"):
        attempt(other)
    damaged = tmp_path / "damaged.db"
    raw = bytearray(target.read_bytes())
    raw[3 * sqlite_schema.PAGE_BYTES : 4 * sqlite_schema.PAGE_BYTES] = b"\xff" * 8192
    damaged.write_bytes(raw)
    with pytest.raises(KeepingError, match=r"damaged|SQLite says"):
        attempt(damaged)
    with pytest.raises(KeyFileError, match="is not there"):
        attempt(target, replace(key_files, identity=tmp_path / "none"))
    async with serving(tmp_path):
        with pytest.raises(StoreUnavailable, match="open in another process"):
            attempt(target)
    assert generation(database) == before
    assert not [name for name in named(tmp_path) if "before" in name]


async def test_a_restore_says_which_keys_are_not_those_of_the_backup(
    tmp_path: Path, key_files: KeyFiles
) -> None:
    """The backup knows its keys by their public half and a mark."""
    database = await stored(tmp_path)
    target = tmp_path / "copy.db"
    backup(database, target, key_files, silent)
    assert restore(target, database, key_files, silent, replace=True).warnings == ()
    for row in (key_files.identity, key_files.pepper):
        row.unlink()
        create(row, b"\x01" * 32)
    first, second = restore(target, database, key_files, silent, replace=True).warnings
    assert "identity key" in first
    assert "pepper" in second


async def test_a_restore_after_ordinary_rotations_warns_of_nothing(
    tmp_path: Path, key_files: KeyFiles
) -> None:
    """Devices are led from the backup's identity key, and its pepper is kept; of a succession
    that was retired, and a pepper that was, it warns."""
    database = await stored(tmp_path)
    target = tmp_path / "copy.db"
    backup(database, target, key_files, silent)
    for _ in range(2):
        old, _ = ring.rotate_identity(
            key_files.identity, audience=key_files.audience, now_ms=1, overlap_ms=1
        )
        ring.rotate_pepper(key_files.pepper)
    assert restore(target, database, key_files, silent, replace=True).warnings == ()
    ring.retire_identity(key_files.identity, old, audience=key_files.audience, now_ms=9)
    ring.retire_pepper(key_files.pepper, enrol.pepper_mark(bytes(32)))
    first, second = restore(target, database, key_files, silent, replace=True).warnings
    assert "no succession leads from" in first
    assert "that one is not kept" in second


async def test_a_copy_with_fewer_rows_is_found_out(tmp_path: Path, key_files: KeyFiles) -> None:
    """What was counted when it was copied is counted again in what was written."""
    database = await stored(tmp_path)
    target = tmp_path / "copy.db"
    backup(database, target, key_files, silent)
    with copying.moment(target) as moment:
        counts = copying._count(moment)
    copying.verify(target, counts)
    with pytest.raises(KeepingError, match="account has 1 rows and should have 2"):
        copying.verify(target, {**counts, "account": 2})


async def test_a_new_generation_on_redis_takes_no_lease(redis_server: RedisServer) -> None:
    """Nothing waits for it afterwards; a store that is moved is not touched."""
    redis_server.flush()
    config = Config(redis_url=redis_server.url)
    await (await Link.open(config.redis_url)).close()
    store = await open_store(config, must_exist=True, serves=False)
    before = store.generation
    assert await store.new_generation() != before
    with redis_server.client() as client:
        assert not client.exists(SERVING)
    await store.close()
    link = await Link.open(config.redis_url, serves=False)
    await seize(link.lineage, b"to1")
    await link.close()
    with pytest.raises(StoreUnavailable, match="migrate-store is at work"):
        await open_store(config, must_exist=True, serves=False)


async def test_a_redis_that_was_put_back_heals_after_a_new_generation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its files are copied, it goes on, they are put back: `new-generation` tells clients. `backup`
    says so, and `check` judges the server."""
    folder, copy = tmp_path / "redis", tmp_path / "copy"
    monkeypatch.chdir(tmp_path)
    with RedisServer(folder) as redis:
        monkeypatch.setenv("ROOKERY_REDIS_URL", redis.url)
        monkeypatch.setenv("ROOKERY_LISTEN", "127.0.0.1:0")
        async with (
            serving(tmp_path, redis_url=redis.url) as service,
            fleet(endpoint_of(service)) as devices,
        ):
            a = await devices.first()
            put(a, "kept", 1)
            await a.sync_once()
        redis.stop()
        await asyncio.to_thread(shutil.copytree, folder, copy)
        redis.start()
        async with (
            serving(tmp_path, redis_url=redis.url) as service,
            fleet(endpoint_of(service)) as devices,
        ):
            a = devices.again(a)
            put(a, "lost", 2)
            await a.sync_once()
            assert await asyncio.to_thread(cli.main, ["backup", "b.db"]) == 1
            assert "`rookery-server new-generation`" in capsys.readouterr().err
        redis.kill()
        await asyncio.to_thread(shutil.rmtree, folder)
        await asyncio.to_thread(shutil.copytree, copy, folder)
        redis.start()
        for command_line in (["new-generation"], ["keys", "init"], ["check"]):
            assert await asyncio.to_thread(cli.main, command_line) == 0
        assert "Redis answers" in capsys.readouterr().out
        async with (
            serving(tmp_path, redis_url=redis.url) as service,
            fleet(endpoint_of(service)) as devices,
        ):
            a = devices.again(a)
            await a.sync_once()
            assert not rules(a)
            assert shown(await devices.another(a)) == {"ui/kept": 1, "ui/lost": 2}
