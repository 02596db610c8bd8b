"""Reads: short and bounded, so they run on the event loop, beside the writer (WAL)."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing

from crypto.link import SignedLink
from services.store.account_state import POSITION_BITS
from services.store.base import Page, StoredLink
from services.store.judge_chain import unpack_grants
from services.store.sqlite_schema import one_moment
from services.store.sqlite_state import Entry


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
        return Page((), 0, after, more=False)
    rows = connection.execute(
        "SELECT segment_id, held, push_rest, ops FROM segment"
        " WHERE segment_id > ? AND segment_id <= ? ORDER BY segment_id",
        (base + after, base + end),
    )
    runs: list[bytes] = []
    count = size = push_end = 0
    with closing(rows):
        for segment_id, held, push_rest, ops in rows:
            if segment_id > push_end and (count >= ops_max or size >= bytes_max):
                return Page(runs, count, push_end - base, more=True)
            runs.append(ops)
            count += held.bit_count()
            size += len(ops)
            push_end = segment_id + push_rest
    # Whatever was between the last segment and the end has been trimmed.
    return Page(runs, count, end, more=False)


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
    with one_moment(connection):
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
