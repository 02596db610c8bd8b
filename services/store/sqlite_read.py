"""Reads: short and bounded, so they run on the event loop, beside the writer (WAL)."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing

from crypto.link import SignedLink
from services.store.base import Page, StoredLink
from services.store.sqlite_accounts import unpack_grants
from services.store.sqlite_state import POSITION_BITS, Entry


def read_page(
    connection: sqlite3.Connection, entry: Entry, after: int, *, ops_max: int, bytes_max: int
) -> Page:
    """See `Store.read_ops`. Reads up to the entry's position, where everything is committed."""
    base, end = entry.account_n << POSITION_BITS, entry.tip.position
    if after >= end:
        return Page((), after, more=False)
    ops: list[bytes] = []
    size = 0
    rows = connection.execute(
        "SELECT op_id, push_rest, raw FROM op WHERE op_id > ? AND op_id <= ? ORDER BY op_id",
        (base + after, base + end),
    )
    with closing(rows):
        last_push = 0
        for op_id, push_rest, raw in rows:
            push_end = op_id + push_rest - base
            if push_end != last_push:
                if ops and (len(ops) >= ops_max or size >= bytes_max):
                    return Page(ops, last_push, more=True)
                last_push = push_end
            ops.append(raw)
            size += len(raw)
    # Whatever was between the last row and the end has been trimmed.
    return Page(ops, end, more=False)


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
