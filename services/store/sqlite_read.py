"""Reads: short and bounded, so they run on the event loop, beside the writer (WAL)."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from itertools import accumulate

from crypto.link import SignedLink
from services.store.base import Page, StoredLink
from services.store.sqlite_accounts import unpack_grants
from services.store.sqlite_schema import one_moment
from services.store.sqlite_state import POSITION_BITS, Entry

_BLOCK = 128


def read_page(
    connection: sqlite3.Connection, entry: Entry, after: int, *, ops_max: int, bytes_max: int
) -> Page:
    """See `Store.read_ops`. All of one moment, that of the file and not that of the loop's
    cache: a stub of an op that was superseded a moment ago comes with its winner."""
    with one_moment(connection):
        return _page(connection, entry.account_n, after, ops_max, bytes_max)


def _page(
    connection: sqlite3.Connection, account_n: int, after: int, ops_max: int, bytes_max: int
) -> Page:
    base = account_n << POSITION_BITS
    tail = connection.execute("SELECT position FROM tail WHERE account_n = ?", (account_n,))
    end: int = (tail.fetchone() or (0,))[0]
    if after >= end:
        return Page((), after, more=False)
    rows = connection.execute(
        "SELECT raw, op_id, push_rest FROM op WHERE op_id > ? AND op_id <= ? ORDER BY op_id",
        (base + after, base + end),
    )
    with closing(rows):
        got = _some(rows, ops_max, bytes_max)
    if not got:
        # Whatever was between the last row and the end has been trimmed.
        return Page((), end, more=False)
    _, op_id, push_rest = got[-1]
    push_end = op_id + push_rest
    ops = [row[0] for row in got]
    if push_rest:
        ops += _rest_of_push(connection, op_id, push_end)
    if push_end >= base + end or not _any_after(connection, push_end, base + end):
        return Page(ops, end, more=False)
    return Page(ops, push_end - base, more=True)


Row = tuple[bytes, int, int]
"""raw, op id, how many positions of its push come after it"""


def _some(rows: sqlite3.Cursor, ops_max: int, bytes_max: int) -> list[Row]:
    """Rows up to the one that reaches a limit. In blocks: to look at every row would cost as
    much again as to read it."""
    got: list[Row] = []
    size = 0
    while len(got) < ops_max:
        block: list[Row] = rows.fetchmany(min(_BLOCK, ops_max - len(got)))
        if not block:
            break
        got += block
        size += sum([len(raw) for raw, _, _ in block])
        if size >= bytes_max:
            return _within(got, bytes_max)
    return got


def _within(rows: list[Row], bytes_max: int) -> list[Row]:
    for at, size in enumerate(accumulate(len(raw) for raw, _, _ in rows), start=1):
        if size >= bytes_max:
            return rows[:at]
    return rows


def _rest_of_push(connection: sqlite3.Connection, op_id: int, push_end: int) -> list[bytes]:
    rows = connection.execute(
        "SELECT raw FROM op WHERE op_id > ? AND op_id <= ? ORDER BY op_id", (op_id, push_end)
    )
    return [raw for (raw,) in rows]


def _any_after(connection: sqlite3.Connection, op_id: int, end: int) -> bool:
    found = connection.execute(
        "SELECT 1 FROM op WHERE op_id > ? AND op_id <= ? LIMIT 1", (op_id, end)
    ).fetchone()
    return found is not None


def read_links(
    connection: sqlite3.Connection,
    entry: Entry,
    after_seq: int,
    *,
    links_max: int,
    bytes_max: int,
) -> Sequence[StoredLink]:
    """See `Store.read_links`."""
    links: list[StoredLink] = []
    size = 0
    base = entry.account_n << POSITION_BITS
    rows = connection.execute(
        "SELECT link, sig, pop, grants FROM link WHERE link_id > ? AND link_id <= ?"
        " ORDER BY link_id LIMIT ?",
        (base + after_seq, base + entry.tip.chain.seq, max(1, links_max)),
    )
    with closing(rows):
        for raw, sig, pop, packed in rows:
            size += len(raw) + len(sig) + len(pop) + len(packed)
            if links and size > bytes_max:
                break
            links.append(StoredLink(SignedLink(raw, sig, pop), unpack_grants(packed)))
    return links
