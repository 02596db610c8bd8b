"""What the steps of a round store, by name, and by party where it is a party's.

Written once: a process that is killed replays what stands, and never makes up other data. What
is made anew is dropped first, by whoever may do that. Every function runs inside a transaction
of the store.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

MANIFEST_SIG: Final = "manifest-sig"
SET: Final = "set"
"""Hashes of the agreed reports, in the order of the round."""
REFUSED: Final = "refused"
"""What each party left out, as all agreed on it."""
SET_SIG: Final = "set-sig"
"""By party."""
VERDICTS: Final = "verdicts"
NOISE: Final = "noise"
"""This party's own, in the clear. Drawn once."""
SHARING: Final = "sharing"
"""The job in which the noise of all was shared, and this party's share of it. Made again, with
the same noise, if a party missed it."""
SUM: Final = "sum"
RESULT: Final = "result"
RESULT_SIG: Final = "result-sig"
"""By party."""
STATEMENT: Final = "statement"
STATEMENT_SIG: Final = "statement-sig"
TOLD: Final = "told"
"""Others were, or are about to be, told which reports this party has: none of them goes any more
before the round ends."""
HANDED_IN: Final = "handed-in"
KEPT: Final = (MANIFEST_SIG, RESULT, RESULT_SIG, STATEMENT, STATEMENT_SIG, HANDED_IN)
"""Of a round that has ended. All others go with its tables."""


class Rewritten(Exception):
    """Other bytes stand where this would be written, and stay."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} was written before, with other bytes")
        self.name = name


def get(db: sqlite3.Connection, round_n: int, name: str, party: int = 0) -> bytes | None:
    """None if it was not written."""
    row = db.execute(
        "SELECT bytes FROM item WHERE round_n = ? AND name = ? AND party = ?",
        (round_n, name, party),
    ).fetchone()
    return None if row is None else bytes(row[0])


def by_party(db: sqlite3.Connection, round_n: int, name: str) -> dict[int, bytes]:
    """What was written of each party."""
    rows = db.execute(
        "SELECT party, bytes FROM item WHERE round_n = ? AND name = ? ORDER BY party",
        (round_n, name),
    )
    return dict(rows.fetchall())


def put(db: sqlite3.Connection, round_n: int, name: str, value: bytes, party: int = 0) -> None:
    """Rewritten if other bytes stand there."""
    there = get(db, round_n, name, party)
    if there is None:
        db.execute("INSERT INTO item VALUES (?, ?, ?, ?)", (round_n, name, party, value))
    elif there != value:
        raise Rewritten(name)


def drop(db: sqlite3.Connection, round_n: int, names: Sequence[str]) -> None:
    """All that was written under some names."""
    rows = [(round_n, name) for name in names]
    db.executemany("DELETE FROM item WHERE round_n = ? AND name = ?", rows)


def keep_only(db: sqlite3.Connection, round_n: int) -> None:
    """All but what is kept of a round that has ended."""
    marks = ", ".join("?" * len(KEPT))
    db.execute(
        f"DELETE FROM item WHERE round_n = ? AND name NOT IN ({marks})",  # noqa: S608 - marks
        (round_n, *KEPT),
    )
