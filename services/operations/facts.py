"""What a file of SQLite can tell of itself at once: rows past their account's deletion, epochs
that ended and are still held, consent entries by what they say.

Reads on a connection of its own, off the event loop: on a large file it takes seconds.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.keeping import copying

OWNED: Final = {
    "tail": "account_n",
    "link": "link_id >> 32",
    "epoch_end": "epoch_id >> 32",
    "device": "device_key >> 8",
    "segment": "segment_id >> 32",
    "superseded": "account_n",
    "run": "account_n",
    "gone": "account_n",
    "checkpoint": "account_n",
    "contribution": "account_n",
    "wake": "device_key >> 8",
    "consent": "consent_id >> 32",
    "consent_now": "account_n",
}
"""Tables with rows of an account, and what says of which. `live` begins its names with it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found."""

    past_deletion: int
    """Rows whose account is not there."""
    oldest_ended_epoch_ms: int
    """When the longest ended epoch ended whose ops are still held; 0: there is none."""
    grants: int
    """Entries of consent that are held, by what they say."""
    withdrawals: int


def of_file(path: Path) -> Facts:
    """Of the file as it is now. KeepingError."""
    with copying.reported(path), closing(copying.connect(path, "ro")) as db:
        db.execute("BEGIN")
        past = sum(_orphans(db, table, owner) for table, owner in OWNED.items()) + _names(db)
        (ended_ms,) = db.execute("SELECT coalesce(min(ended_ms), 0) FROM epoch_end").fetchone()
        grants, withdrawals = db.execute(
            "SELECT coalesce(sum(granted), 0), coalesce(sum(NOT granted), 0) FROM consent"
        ).fetchone()
    return Facts(past, ended_ms, grants, withdrawals)


def _orphans(db: sqlite3.Connection, table: str, owner: str) -> int:
    (count,) = db.execute(
        f"SELECT count(*) FROM {table} WHERE {owner} NOT IN (SELECT account_n FROM account)"  # noqa: S608
    ).fetchone()
    return int(count)


def _names(db: sqlite3.Connection) -> int:
    (count,) = db.execute(
        "SELECT count(*) FROM live WHERE hex(substr(name, 1, 4)) NOT IN"
        " (SELECT printf('%08X', account_n) FROM account)"
    ).fetchone()
    return int(count)
