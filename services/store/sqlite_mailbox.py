"""Pairing mailboxes: three messages, five minutes, readable by who knows the rendezvous."""

from __future__ import annotations

import sqlite3

from services.store.errors import MailboxAbsent, MailboxTaken, QuotaExceeded
from services.store.sqlite_transaction import Transaction

LIFETIME_MS = 300_000


def post_message(tx: Transaction, rendezvous: bytes, number: int, body: bytes, now_ms: int) -> None:
    """See `Store.post_message`."""
    rows = dict(
        tx.db.execute(
            "SELECT number, body FROM mailbox WHERE rendezvous = ? AND expires_ms > ?",
            (rendezvous, now_ms),
        ).fetchall()
    )
    if number != 1 and not rows:
        raise MailboxAbsent("no such mailbox, or its five minutes are over")
    if number in rows:
        if rows[number] != body:
            raise MailboxTaken("that message was posted already")
        return
    if number == 1:
        _check_room(tx, now_ms)
        tx.db.execute("DELETE FROM mailbox WHERE rendezvous = ?", (rendezvous,))
        expires_ms = now_ms + LIFETIME_MS
    else:
        (expires_ms,) = tx.db.execute(
            "SELECT expires_ms FROM mailbox WHERE rendezvous = ? AND number = 1", (rendezvous,)
        ).fetchone()
    tx.db.execute("INSERT INTO mailbox VALUES (?, ?, ?, ?)", (rendezvous, number, body, expires_ms))


def overdue(db: sqlite3.Connection, now_ms: int) -> int:
    """How many mailboxes are over and here."""
    count: tuple[int] = db.execute(
        "SELECT count(*) FROM mailbox WHERE number = 1 AND expires_ms <= ?", (now_ms,)
    ).fetchone()
    return count[0]


def _check_room(tx: Transaction, now_ms: int) -> None:
    maximum = tx.limits.pairing_mailboxes_max
    (count,) = tx.db.execute(
        "SELECT count(*) FROM mailbox WHERE number = 1 AND expires_ms > ?", (now_ms,)
    ).fetchone()
    if count >= maximum:
        raise QuotaExceeded("pairing_mailboxes", maximum)


def fetch_message(
    connection: sqlite3.Connection, rendezvous: bytes, number: int, now_ms: int
) -> bytes | None:
    """See `Store.fetch_message`."""
    row: tuple[bytes] | None = connection.execute(
        "SELECT body FROM mailbox WHERE rendezvous = ? AND number = ? AND expires_ms > ?",
        (rendezvous, number, now_ms),
    ).fetchone()
    return row[0] if row else None
