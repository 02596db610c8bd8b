"""Governance of a store in SQLite that is moved: bundles, entries of consent, the audit log."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

from services.moving.rows import Row

Read = Callable[..., Iterator[tuple[Any, ...]]]
_BITS = 32
_LOW = (1 << _BITS) - 1
_INTO = {
    "policy": "policy VALUES (?, ?, ?, ?, ?, ?, ?)",
    "anchor": "audit_anchor VALUES (1, ?, ?, ?)",
    "audit": "audit VALUES (?, ?, ?, ?, ?)",
}
KINDS = frozenset(_INTO)
"""Kinds of rows that belong to no account."""


def shared(read: Read) -> Iterator[Row]:
    """What belongs to no account."""
    for row in read(
        "SELECT sequence, previous, hash, data, sig, publisher, at_ms FROM policy ORDER BY sequence"
    ):
        yield "policy", *row
    for row in read("SELECT seq, hash, at_ms FROM audit_anchor"):
        yield "anchor", *row
    for row in read("SELECT seq, at_ms, prev, body, hash FROM audit ORDER BY seq"):
        yield "audit", *row


def of_account(read: Read, account_n: int, account_id: bytes) -> Iterator[Row]:
    """An account's entries of consent."""
    base = account_n << _BITS
    for place, *row in read(
        "SELECT consent_id, prev, hash, tag, granted, device_id, entry, sig, at_ms FROM consent"
        " WHERE consent_id BETWEEN ? AND ? ORDER BY consent_id", base, base | _LOW
    ):  # fmt: skip
        yield "consent", account_id, place & _LOW, *row


def put(db: sqlite3.Connection, kind: str, row: list[Any]) -> None:
    """One row of `shared`."""
    db.execute(f"INSERT OR REPLACE INTO {_INTO[kind]}", row)


def put_consent(db: sqlite3.Connection, account_n: int, seq: int, *row: Any) -> None:
    """One entry of an account; they come in their order."""
    tag, granted = row[2], row[3]
    db.execute(
        "INSERT INTO consent VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (account_n << _BITS | seq, *row),
    )
    db.execute(
        "INSERT OR REPLACE INTO consent_now VALUES (?, ?, ?, ?)", (account_n, tag, seq, granted)
    )
