"""A walk along the audit log, on every store: what somebody took out of it shows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import pytest

from crypto.policy import Bundle, open_
from services.audit import walk
from services.audit.record import DONE, Record
from services.audit.trimming import CLOCKS_MS, gone_before, gone_before_by
from services.audit.walk import EntryMissing, pages, verify
from services.policy.retention import DAY_MS, retention_of
from services.store.base import Limits, Store
from services.store.governance import AuditEntry, Head, PolicyRow
from services.store.redis import RedisStore
from services.store.redis_governance_rows import AUDIT_ANCHOR, AUDIT_ENTRIES, pack_end, seq_name
from services.store.sqlite import SqliteStore
from services.store.sqlite_governance import SqliteGovernance
from tests import governed_worlds
from tests.governed_worlds import KEY
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


# --- what is gone from the start ---


def policy(
    days: int, before: Bundle | None = None, *, issued_ms: int = NOW_MS, at_ms: int = NOW_MS
) -> tuple[Bundle, PolicyRow]:
    """A bundle that keeps the log so long, and how it is stored."""
    base = governed_worlds.bundle(before, issued_ms=issued_ms)
    made = replace(base, retention=replace(base.retention, audit_days=days))
    row = PolicyRow(
        made.sequence, made.previous, made.hash, made.encoded, made.sign(KEY), KEY.public, at_ms
    )
    return made, row


async def cut(store: Store, last: AuditEntry) -> None:
    """The start of the log up to this one, as if it had been trimmed."""
    await remove(store, range(1, last.seq + 1))
    if isinstance(store, RedisStore):
        await store._link.call("SET", AUDIT_ANCHOR, pack_end(head_of(last), last.at_ms))
        return
    row = last.seq, last.hash, last.at_ms
    await _sqlite(
        store, lambda db: db.execute("INSERT OR REPLACE INTO audit_anchor VALUES (1, ?, ?, ?)", row)
    )


async def test_only_what_the_policy_lets_go_may_be_gone(store: Store) -> None:
    """Trimmed by it, the log holds. Cut off further on it does not, whatever head was noted,
    unless its anchor was noted, too."""
    made = await written(store, 10, step_ms=DAY_MS)
    _, row = policy(days=5)
    await store.governance.put_policy(row)
    now_ms = NOW_MS + 9 * DAY_MS + 1
    kept = retention_of(Limits(), open_(row.data, row.sig, row.key))
    await store.sweep(now_ms=now_ms, retention=kept)
    bound_ms = await gone_before(store.governance, {KEY.public}, now_ms=now_ms)
    found = await verify(store.governance, head_of(made[-1]), gone_before_ms=bound_ms)
    assert (found.holds, found.anchor.seq, found.entries) == (True, 4, 6)
    await cut(store, made[5])
    found = await verify(store.governance, head_of(made[-1]), gone_before_ms=bound_ms)
    assert not found.holds
    assert "the entries up to 6 are gone" in found.why
    for noted, holds in ((made[5], True), (made[4], False)):
        found = await verify(store.governance, noted_anchor=head_of(noted), gone_before_ms=bound_ms)
        assert found.holds is holds


async def test_without_a_policy_nothing_may_be_gone(store: Store) -> None:
    """Nor by one that no listed key signed, whoever put it into the store."""
    made = await written(store, 4)
    await cut(store, made[1])
    late_ms = NOW_MS + 10_000 * DAY_MS
    assert await gone_before(store.governance, {KEY.public}, now_ms=late_ms) is None
    assert not (await verify(store.governance)).holds
    await store.governance.put_policy(policy(days=1)[1])
    assert await gone_before(store.governance, {b"k" * 32}, now_ms=late_ms) is None
    bound_ms = await gone_before(store.governance, {KEY.public}, now_ms=late_ms)
    assert (await verify(store.governance, gone_before_ms=bound_ms)).holds


def test_what_an_earlier_policy_let_go_is_not_missed_by_the_next() -> None:
    """Up to when the next took its place: by the store's word, but no later than a month after
    that one was issued."""
    late_ms = NOW_MS + 400 * DAY_MS
    first, short = policy(days=10)
    issued_ms = NOW_MS + 100 * DAY_MS
    rows = [short, policy(730, first, issued_ms=issued_ms, at_ms=issued_ms + DAY_MS)[1]]
    bound_ms = gone_before_by(rows, {KEY.public}, now_ms=late_ms)
    assert bound_ms == issued_ms + (1 - 10) * DAY_MS + CLOCKS_MS
    rows[1] = replace(rows[1], at_ms=late_ms)
    bound_ms = gone_before_by(rows, {KEY.public}, now_ms=late_ms)
    assert bound_ms == issued_ms + (30 - 10) * DAY_MS + CLOCKS_MS
    assert (
        gone_before_by([short], {KEY.public}, now_ms=late_ms) == late_ms - 10 * DAY_MS + CLOCKS_MS
    )
