"""A walk along the audit log, on every store: what somebody took out of it shows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence

import pytest

from services.audit import walk
from services.audit.record import DONE, Record
from services.audit.walk import EntryMissing, pages, verify
from services.store.base import Store
from services.store.governance import AuditEntry, Head
from services.store.redis import RedisStore
from services.store.redis_governance_rows import AUDIT_ENTRIES, seq_name
from services.store.sqlite import SqliteStore
from services.store.sqlite_governance import SqliteGovernance
from tests.store_worlds import NOW_MS

BODY = Record("local:0", "rookery-server backup", DONE).encode()


async def written(store: Store, entries: int, step_ms: int = 1) -> list[AuditEntry]:
    """So many entries, so far apart."""
    return [
        await store.governance.append_audit(BODY, now_ms=NOW_MS + number * step_ms)
        for number in range(entries)
    ]


async def _sqlite(store: Store, work: Callable[[sqlite3.Connection], object]) -> None:
    governance = store.governance
    assert isinstance(governance, SqliteGovernance)
    await governance._submit(lambda tx: work(tx.db))


async def remove(store: Store, seqs: Iterable[int]) -> None:
    """As somebody would who can write the store."""
    if isinstance(store, SqliteStore):
        rows = [(seq,) for seq in seqs]
        await _sqlite(store, lambda db: db.executemany("DELETE FROM audit WHERE seq = ?", rows))
        return
    assert isinstance(store, RedisStore)
    await store._link.call("HDEL", AUDIT_ENTRIES, *map(seq_name, seqs))


def head_of(entry: AuditEntry) -> Head:
    return Head(entry.seq, entry.hash)


async def all_pages(store: Store, after: int = 0) -> Sequence[AuditEntry]:
    return [row async for rows in pages(store.governance, after) for row in rows]


async def test_a_walk_takes_every_page_and_ends_at_the_head(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the length of the log is to the length of a page."""
    monkeypatch.setattr(walk, "ROWS_MAX", 4)
    for entries in (0, 4, 3):
        await written(store, entries)
        found = await verify(store.governance)
        assert found.holds
        assert found.head == await store.governance.audit_head()
    assert len(await all_pages(store)) == 7
    assert [row.seq for row in await all_pages(store, 5)] == [6, 7]
    assert await all_pages(store, 99) == []


@pytest.mark.parametrize("gone", [range(5, 9), range(1, 5), range(4, 6), range(6, 7)])
async def test_a_hole_is_found_wherever_pages_begin(
    store: Store, monkeypatch: pytest.MonkeyPatch, gone: range
) -> None:
    """A whole page, a part of one, and what is read of a log says so, too."""
    monkeypatch.setattr(walk, "ROWS_MAX", 4)
    await written(store, 12)
    await remove(store, gone)
    found = await verify(store.governance)
    assert (found.holds, found.broken_at) == (False, gone[0])
    with pytest.raises(EntryMissing) as missing:
        await all_pages(store)
    assert missing.value.seq == gone[0]
    assert [row.seq for row in await all_pages(store, gone[-1])] == list(range(gone[-1] + 1, 13))


async def test_a_log_that_ends_before_its_head_is_broken(store: Store) -> None:
    """Where the head is kept apart from the entries, as on Redis, taking these alone shows."""
    made = await written(store, 5)
    await remove(store, (4, 5))
    found = await verify(store.governance)
    if isinstance(store, SqliteStore):
        # Its newest entry is its head: that an end was cut off shows against a noted one.
        assert found.holds
        assert not (await verify(store.governance, head_of(made[4]))).holds
        return
    assert (found.holds, found.broken_at) == (False, 4)
    await remove(store, range(1, 4))
    assert not (await verify(store.governance)).holds
