"""What only the SQLite store promises: durability, its file, its group commit, deletion."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crypto import op
from crypto.ids import AccountId
from crypto.op import Verb
from services.store import mark, nonces, sqlite_read as read, sqlite_schema as schema
from services.store.base import Committed, Limits
from services.store.errors import CallsExceeded, StoreUnavailable
from services.store.nonces import NonceWindow
from services.store.sqlite import SqliteStore
from services.store.sqlite_transaction import Transaction
from services.store.sqlite_writer import LINGER_OPS_MAX, LINGER_S, Linger
from tests.governance_rows import append_consents
from tests.round_rows import collected, rows as round_rows
from tests.store_child import ACCOUNTS, OPS_PER_PUSH, next_push
from tests.store_worlds import DAY_MS, NOW_MS, Client
from tests.worlds import World

ROOT = Path(__file__).parents[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store's file is."""
    return tmp_path / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    """An open store."""
    opened = await SqliteStore.open(path, limits=Limits(grace_ms=DAY_MS))
    yield opened
    await opened.close()


def rows_by_table(path: Path) -> dict[str, int]:
    """How many rows each table holds, the file's own settings left out."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {
            name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]  # noqa: S608
            for (name,) in names.fetchall()
            if name != "meta"
        }


# --- reading ---


async def test_page_holds_the_winner_of_every_stub_that_it_shows(store: SqliteStore) -> None:
    """A page is of one moment, even if the loop has not heard of the newest commit yet."""
    client = await Client.create(store)
    await client.push(client.world.op())
    before = store._entry(client.world.account_id)
    await client.push(client.world.op())
    page = read.read_page(store._reads, before, 0, ops_max=1000, bytes_max=1 << 20)
    assert [len(raw) == op.STUB_BYTES for raw in page.ops] == [True, False]
    assert (page.position, page.more) == (2, False)


# --- durability ---


async def test_killed_process_loses_no_acknowledged_op_and_invents_none(path: Path) -> None:
    """Killed amid concurrent commits, again and again, the file holds whole pushes, in order:
    all that were acknowledged and none that were not sent."""
    acknowledged = dict.fromkeys(range(ACCOUNTS), 0)
    for acks in (1, 40, 90, 60):
        await asyncio.to_thread(run_and_kill, path, acks, acknowledged)
        store = await SqliteStore.open(path)
        for seed, count in acknowledged.items():
            await check_log(store, seed, count)
        await store.close()
    assert sum(acknowledged.values()) > 100 * OPS_PER_PUSH


def run_and_kill(path: Path, acks: int, acknowledged: dict[int, int]) -> None:
    """Lets the child commit until so many acks came, kills it, and reads the rest of them."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.store_child", str(path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"},
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        for number, line in enumerate(child.stdout, start=1):
            if number == acks:
                child.kill()
            if line.endswith(b"\n"):
                seed, count = map(int, line.split())
                acknowledged[seed] = max(acknowledged[seed], count)
    assert child.returncode == -9, "it was at work when it was killed"


async def check_log(store: SqliteStore, seed: int, acknowledged: int) -> None:
    """The account's log is a beginning of what the child would have sent in the end."""
    client = Client(store, World.create(seed))
    if await store.tip(client.world.account_id) is None:
        assert acknowledged == 0
        return
    held = [op.parse_any(raw).op_hash for raw in await client.pull(ops_max=2)]
    assert len(held) >= acknowledged
    assert len(held) % OPS_PER_PUSH == 0
    sent = [op for _ in range(len(held) // OPS_PER_PUSH) for op in next_push(client.world)]
    assert held == [sealed.op_hash for sealed in sent]
    _, heads = await store.heads(client.world.account_id)
    assert [head.op_hash for _, head in heads] == held[-1:]


async def test_everything_is_there_after_opening_again(path: Path) -> None:
    """Chain, log, heads, generation and secret are the same; the next push fits."""
    store = await SqliteStore.open(path)
    client = await Client.create(store, devices=3)
    for number in range(20):
        await client.push(client.world.op(number % 3, key=f"{number % 4}"))
    await client.rotate(revoke=[2])
    before = (
        await client.pull(),
        await store.tip(client.world.account_id),
        await store.heads(client.world.account_id),
        store.generation,
        store.secret,
    )
    await store.close()
    store = client.store = await SqliteStore.open(path)
    assert before == (
        await client.pull(),
        await store.tip(client.world.account_id),
        await store.heads(client.world.account_id),
        store.generation,
        store.secret,
    )
    assert (await client.push(client.world.op(1))).position == 21
    await store.close()


# --- the file ---


async def test_second_opener_is_refused_in_words(store: SqliteStore, path: Path) -> None:
    """Another process, or the same one again, is told that the file is in use."""
    with pytest.raises(StoreUnavailable, match="open in another process"):
        await SqliteStore.open(path)
    code = (
        "import asyncio, sys; from services.store.sqlite import SqliteStore;"
        "asyncio.run(SqliteStore.open(sys.argv[1]))"
    )
    child = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 1
    assert "open in another process; one process serves one file" in child.stderr


async def test_files_are_for_their_owner_alone(store: SqliteStore, path: Path) -> None:
    """No file of the store can be read by others, the write-ahead log included."""
    await Client.create(store)
    files = sorted(file for file in path.parent.iterdir() if file.name.startswith(path.name))
    assert [file.name for file in files] == [
        path.name + suffix for suffix in ("", "-shm", "-wal", ".lock", ".mark")
    ]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


async def test_newer_schema_is_refused(path: Path) -> None:
    """A file that a newer version wrote is left alone, with a word on what to do."""
    await (await SqliteStore.open(path)).close()
    newer = len(schema.MIGRATIONS) + 1
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {newer}")
    with pytest.raises(StoreUnavailable, match=f"schema {newer}.*start the version that wrote"):
        await SqliteStore.open(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {newer - 1}")
    await (await SqliteStore.open(path)).close()


async def test_other_program_s_file_is_refused(path: Path) -> None:
    """A database that isn't ours is not touched."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StoreUnavailable, match="another program"):
        await SqliteStore.open(path)
    assert list(rows_by_table(path)) == ["theirs"]


def test_file_that_is_no_database_is_one_sentence(path: Path) -> None:
    """It is named, with what SQLite says, and left as it is."""
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreUnavailable, match=r"store\.db can't be used: .*SQLITE_NOTADB"):
        asyncio.run(SqliteStore.open(path))
    assert path.read_bytes() == b"no database at all" * 100


async def test_file_that_another_program_writes_to_is_one_sentence(path: Path) -> None:
    """Who holds it has two seconds to let go."""
    await (await SqliteStore.open(path)).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="SQLITE_BUSY"):
            await SqliteStore.open(path)
    await (await SqliteStore.open(path)).close()


async def test_migrations_run_in_order_and_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later version brings the file up step by step; a step that fails leaves the one before."""
    store = await SqliteStore.open(path)
    client = await Client.create(store)
    await client.push(client.world.op())
    await store.close()
    steps = (
        *schema.MIGRATIONS,
        "CREATE TABLE second (x); INSERT INTO second VALUES (1)",
        "CREATE TABLE third (x); INSERT INTO nowhere VALUES (1)",
    )
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    with pytest.raises(StoreUnavailable, match="nowhere"):
        await SqliteStore.open(path)
    rows = rows_by_table(path)
    assert rows["second"] == 1
    assert "third" not in rows
    monkeypatch.setattr(schema, "MIGRATIONS", steps[:-1])
    store = client.store = await SqliteStore.open(path)
    assert len(await client.pull()) == 1
    await store.close()


async def test_new_generation_stays_and_secret_does_not_change(path: Path) -> None:
    """After a backup was put back, cursors of the time before can be told apart."""
    store = await SqliteStore.open(path)
    old, secret = store.generation, store.secret
    new = await store.new_generation()
    assert len(new) == len(old) == 8
    assert new != old
    await store.close()
    store = await SqliteStore.open(path)
    assert (store.generation, store.secret) == (new, secret)
    await store.close()


async def test_two_stores_have_their_own_secrets(tmp_path: Path) -> None:
    """Generation and secret are random, and not the same in two files."""
    stores = [await SqliteStore.open(tmp_path / name) for name in ("a.db", "b.db")]
    assert len({store.generation for store in stores}) == 2
    assert len({store.secret for store in stores}) == 2
    assert {len(store.secret) for store in stores} == {32}
    for store in stores:
        await store.close()


# --- group commit ---


async def execute(store: SqliteStore, statement: str) -> None:
    """Runs a statement on the writer's connection."""

    def work(tx: Transaction) -> None:
        tx.db.execute(statement)

    await store._writer.submit(work)


def test_waiting_for_a_larger_group_is_given_up_where_it_does_not_pay() -> None:
    """A lone caller is never made to wait, a few taking turns hardly ever, a crowd each time."""

    def waits(found: int, came: int) -> int:
        linger = Linger()
        linger.commit_s = LINGER_S
        count = 0
        for _ in range(100):
            if linger.is_worth_it(found, found):
                count += 1
                linger.learn(found, came)
        return count

    assert waits(1, 0) == 0
    assert waits(4, 0) < 10
    assert waits(4, 8) == 100


def test_full_group_does_not_wait() -> None:
    """Large pushes are worth their commit as they are."""
    assert not Linger().is_worth_it(10, LINGER_OPS_MAX)


async def test_error_in_a_group_fails_only_the_guilty(store: SqliteStore) -> None:
    """SQLite refuses one request's rows: it alone fails, its neighbours are committed."""
    clients = [await Client.create(store, seed) for seed in range(30)]
    await execute(
        store,
        "CREATE TRIGGER bomb BEFORE INSERT ON segment WHEN NEW.push_rest = 4"
        " BEGIN SELECT RAISE(ABORT, 'bomb'); END",
    )
    batches = [client.world.ops(5 if seed % 10 == 3 else 2) for seed, client in enumerate(clients)]
    pushes = [client.push(*ops) for client, ops in zip(clients, batches, strict=True)]
    results = await asyncio.gather(*pushes, return_exceptions=True)
    for seed, (client, result) in enumerate(zip(clients, results, strict=True)):
        if seed % 10 == 3:
            assert isinstance(result, sqlite3.IntegrityError)
            assert await client.pull() == []
        else:
            assert isinstance(result, Committed)
            assert len(await client.pull()) == 2
    await execute(store, "DROP TRIGGER bomb")
    for client, ops in zip(clients, batches, strict=True):
        await client.push(*ops)
        assert await client.position() == len(ops)


async def test_what_was_known_is_forgotten_with_a_rollback(store: SqliteStore) -> None:
    """A push that SQLite refused leaves no trace in what the writer remembers."""
    client = await Client.create(store)
    await client.push(client.world.op())
    await execute(
        store,
        "CREATE TRIGGER bomb BEFORE INSERT ON live BEGIN SELECT RAISE(ABORT, 'bomb'); END",
    )
    ops = client.world.ops(3)
    with pytest.raises(sqlite3.IntegrityError):
        await client.push(*ops)
    await execute(store, "DROP TRIGGER bomb")
    committed = await client.push(*ops)
    assert (committed.new_ops, committed.position) == (3, 4)


async def test_full_disk_refuses_and_recovers_by_itself(store: SqliteStore) -> None:
    """While there is no room pushes are refused as unavailable and reads go on; with room
    again, pushes do."""
    client = await Client.create(store)
    await client.push(client.world.op(key="before"))
    await execute(store, "PRAGMA max_page_count = 1")  # As few as it has.
    ops = client.world.ops(200)
    with pytest.raises(StoreUnavailable, match="SQLITE_FULL"):
        await client.push(*ops)
    assert len(await client.pull()) == 1
    await execute(store, "PRAGMA max_page_count = 1000000")
    assert (await client.push(*ops)).position == 201


async def test_locked_file_refuses_and_recovers(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's lock makes pushes unavailable, not wrong."""
    client = await Client.create(store)
    sealed = client.world.op()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="SQLITE_BUSY"):
            await client.push(sealed)
        other.execute("ROLLBACK")
    assert (await client.push(sealed)).new_ops == 1


async def test_closed_store_refuses_and_closes_once(path: Path) -> None:
    """What was accepted is finished, what comes later refused; closing again is nothing."""
    store = await SqliteStore.open(path)
    client = await Client.create(store)
    pushes = [asyncio.create_task(client.push(sealed)) for sealed in client.world.ops(50)]
    await asyncio.sleep(0)
    await store.close()
    assert [result.position for result in await asyncio.gather(*pushes)] == list(range(1, 51))
    await store.close()
    with pytest.raises(StoreUnavailable):
        await client.push(client.world.op())
    with pytest.raises(StoreUnavailable):
        await client.page()
    with pytest.raises(StoreUnavailable):
        await store.heads(client.world.account_id)
    store = client.store = await SqliteStore.open(path)
    assert len(await client.pull()) == 50
    await store.close()


# --- deleting ---


async def busy_account(store: SqliteStore, seed: int) -> Client:
    """An account with rows in every table."""
    client = Client(store, World.create(seed))
    await store.create_account(client.world.genesis, subject_row=b"s" * 32, now_ms=NOW_MS)
    for _ in range(2):
        await client.add()
    for number in range(20):
        await client.push(client.world.op(number % 2, key=f"{number % 6}"))
    covers = await client.position()
    await client.push(client.world.op(verb=Verb.CHECKPOINT), checkpoint=0, covers=covers)
    await client.passed(covers, 0, 1, 2)
    await client.rotate(revoke=[2])
    await client.push(*client.world.ops(5), client.world.op(key="key/0"))
    device = client.world.authors[1].device_id
    await store.wake.set_handle(client.world.account_id, device, b"h", expires_ms=2 * NOW_MS)
    await append_consents(store, client.world.account_id, [("dishes", True), ("taste", True)])
    for _ in range(3):
        await store.sweep(now_ms=NOW_MS)
    return client


async def test_deletion_leaves_zero_rows_in_every_table(store: SqliteStore, path: Path) -> None:
    """Every table that the account had rows in, whichever there are, has none left."""
    client = await busy_account(store, 1)
    held = await collected(store)
    await held.give(client, round_rows(1))
    # Of nobody: what publishers and parties made.
    others = {
        "mailbox", "task", "round", "round_party", "result", "abandonment",
        "policy", "audit", "audit_anchor",
    }  # fmt: skip
    rows = rows_by_table(path)
    assert all(rows[name] for name in rows.keys() - others), f"fill every table: {rows}"
    await store.delete_account(client.world.account_id)
    await store.sweep(now_ms=NOW_MS)
    rows = rows_by_table(path)
    assert {rows[name] for name in rows.keys() - others} == {0}


async def test_deletion_leaves_no_byte_in_the_files(store: SqliteStore, path: Path) -> None:
    """Neither the file nor the write-ahead log holds what was deleted."""
    client = await busy_account(store, 1)
    spared = await busy_account(store, 2)
    needles = [raw[-64:] for raw in await client.pull()]
    for entry in await store.governance.consents(client.world.account_id, 0, rows_max=9):
        needles += [entry.entry, entry.tag]
    needles += [client.world.account_id, client.world.authors[0].identity.ik_pk]
    assert all(needle in everything(path) for needle in needles)
    await store.delete_account(client.world.account_id)
    assert path.with_name(path.name + "-wal").stat().st_size == 0
    assert not any(needle in everything(path) for needle in needles)
    assert bytes(spared.world.account_id) in everything(path)


def everything(path: Path) -> bytes:
    """All bytes of the store's files."""
    return b"".join(
        file.read_bytes() for file in path.parent.iterdir() if file.name.startswith(path.name)
    )


async def test_reader_in_the_way_delays_emptying_the_log(store: SqliteStore, path: Path) -> None:
    """An outside reader keeps the log; the next commit after it empties it."""
    client = await busy_account(store, 1)
    other = await Client.create(store, "other")
    log = path.with_name(path.name + "-wal")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM segment").fetchone()
        assert await store.delete_account(client.world.account_id) is not None
        assert log.stat().st_size > 0
        reader.execute("COMMIT")
    await other.push(other.world.op())
    assert log.stat().st_size == 0


async def test_account_number_is_never_given_twice(store: SqliteStore, path: Path) -> None:
    """A late reader of a deleted account can't come upon another's rows."""
    seen: list[int] = []
    for seed in range(3):
        world = World.create(seed)
        await store.create_account(world.genesis, subject_row=None, now_ms=NOW_MS)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            seen += [row[0] for row in connection.execute("SELECT account_n FROM account")]
        await store.delete_account(world.account_id)
    assert seen == [1, 2, 3]


# --- restored files ---


async def test_restored_older_file_gets_a_new_generation_by_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to remember a command: a database behind its mark says so to every client."""
    monkeypatch.setattr(mark, "BEAT_S", 0.0)
    store = await SqliteStore.open(path)
    client = await Client.create(store)
    await store.close()
    backup = path.with_name("backup")
    await asyncio.to_thread(shutil.copy, path, backup)
    store = client.store = await SqliteStore.open(path)
    assert not store.restored
    first = store.generation
    await client.push(client.world.op())
    await store.close()
    await asyncio.to_thread(shutil.copy, backup, path)
    store = await SqliteStore.open(path)
    assert store.restored
    second = store.generation
    assert second != first
    await store.close()
    store = await SqliteStore.open(path)
    assert (store.restored, store.generation) == (False, second)
    await store.close()


async def test_file_without_its_mark_counts_as_restored(path: Path) -> None:
    """A database that was carried elsewhere alone may be an older copy."""
    store = await SqliteStore.open(path)
    await store.close()
    path.with_name(path.name + ".mark").unlink()
    store = await SqliteStore.open(path)
    assert store.restored
    await store.close()


async def test_mark_is_never_ahead_of_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash at any commit is no restored backup."""
    monkeypatch.setattr(mark, "BEAT_S", 0.0)
    store = await SqliteStore.open(path)
    client = await Client.create(store)
    for number in range(5):
        await client.push(client.world.op())
        copy = path.with_name(f"copy{number}.db")
        for tail in (".mark", "", "-wal"):
            file = path.with_name(path.name + tail)
            copy.with_name(copy.name + tail).write_bytes(file.read_bytes())
        again = await SqliteStore.open(copy)
        assert not again.restored
        await again.close()
    await store.close()


# --- bounds ---


async def test_one_account_s_calls_leave_room_for_the_others(path: Path) -> None:
    """An account at its own bound is told to slow down; nobody else notices."""
    store = await SqliteStore.open(path, nonces_account_max=3)
    one, other = AccountId(bytes(32)), AccountId(bytes([1] * 32))
    for number in range(3):
        assert await store.remember_nonce(one, bytes([number] * 16), now_ms=NOW_MS)
    with pytest.raises(CallsExceeded):
        await store.remember_nonce(one, b"n" * 16, now_ms=NOW_MS)
    assert await store.remember_nonce(other, b"n" * 16, now_ms=NOW_MS)
    assert await store.remember_nonce(one, b"n" * 16, now_ms=NOW_MS + 600_000)
    await store.close()


def test_nonces_are_kept_hardly_longer_than_they_must() -> None:
    """A steady load holds what came within 320 s: not twice the time, and not for ever."""
    window = NonceWindow(100_000, 100_000)
    held = []
    for second in range(2_000):
        now_ms = NOW_MS + 1_000 * second
        for number in range(10):
            nonce = (second * 10 + number).to_bytes(16, "big")
            assert window.remember(bytes(32), nonce, now_ms=now_ms)
        if second >= 299:
            early = ((second - 299) * 10).to_bytes(16, "big")
            assert not window.remember(bytes(32), early, now_ms=now_ms)
        held.append(len(window))
    assert max(held) <= 3_200


async def test_nonces_are_refused_at_their_bound_and_not_forgotten(path: Path) -> None:
    """A full window takes no new nonce, still knows the old ones, and empties with time."""
    store = await SqliteStore.open(path, nonces_max=10)
    account = World.create().account_id
    for number in range(10):
        assert await store.remember_nonce(account, bytes([number] * 16), now_ms=NOW_MS)
    with pytest.raises(StoreUnavailable):
        await store.remember_nonce(account, b"x" * 16, now_ms=NOW_MS + 299_999)
    assert not await store.remember_nonce(account, bytes(16), now_ms=NOW_MS + 299_999)
    late = NOW_MS + 2 * nonces.REMEMBERED_MS
    assert await store.remember_nonce(account, b"x" * 16, now_ms=late)
    await store.close()


async def test_writes_that_wait_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a write is refused at once, and the others go on."""
    monkeypatch.setattr("services.store.sqlite_writer.REQUESTS_WAITING_MAX", 50)
    store = await SqliteStore.open(path)
    client = await Client.create(store)
    pushes = [client.push(sealed) for sealed in client.world.ops(60)]
    results = await asyncio.gather(*pushes, return_exceptions=True)
    assert sum(isinstance(result, Committed) for result in results) == 50
    assert all(isinstance(result, StoreUnavailable) for result in results[50:])
    await store.close()


async def test_accounts_beyond_the_cache_are_read_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More accounts than are kept in memory work alike."""
    monkeypatch.setattr("services.store.sqlite.ACCOUNTS_CACHED", 3)
    store = await SqliteStore.open(path)
    clients = [await Client.create(store, seed, devices=2) for seed in range(8)]
    for _ in range(3):
        await asyncio.gather(*(client.push(client.world.op()) for client in clients))
        for client in clients:
            await client.push(client.world.op(1))
    for client in clients:
        assert await client.position() == 6
        assert len(await client.pull()) == 6
    await store.close()
