"""The reports of one round: what names them, and their share rows in micro-batches.

Every function runs inside a transaction of the store, on tables that are dropped with the
round; their names come from a number that the store itself gave.
"""

# ruff: noqa: S608 - see above
from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.party.schema import round_tables

_ROW_BITS = 20
BATCH_REPORTS_MAX = 1 << _ROW_BITS
REPLAYED_ID, REPLAYED_NULLIFIER, SURPLUS = "replayed-id", "replayed-nullifier", "surplus"
"""Rules of docs/aggregation.md, 5, that take more than the report itself."""


@dataclass(frozen=True, slots=True)
class Report:
    """One opened box: what names it, and its share row."""

    report_id: bytes
    nullifier: bytes
    report_hash: bytes
    row: bytes

    def __repr__(self) -> str:
        return f"Report({self.report_id[:4].hex()}…, {len(self.row)} bytes)"


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch of share rows, in the order in which they came."""

    number: int
    reports: int
    rows: bytes


class Held(NamedTuple):
    """A report that is held, and where its row lies."""

    report_hash: bytes
    batch: int
    row: int


def insert(
    db: sqlite3.Connection,
    round_n: int,
    reports: Sequence[Report],
    *,
    again: bool,
    reports_max: int,
) -> tuple[int, dict[str, int]]:
    """Stores those that are new as one micro-batch; how many, and what the others were.

    `again`: the relay began anew, and what it repeats is no replay.
    """
    if len(reports) > BATCH_REPORTS_MAX:
        raise ValueError(f"a micro-batch has {BATCH_REPORTS_MAX} reports at most")
    report_table, batch_table = round_tables(round_n)
    (batch_n,) = db.execute(f"SELECT coalesce(max(batch_n), 0) + 1 FROM {batch_table}").fetchone()
    (there_are,) = db.execute(f"SELECT count(*) FROM {report_table}").fetchone()
    statement = f"INSERT OR IGNORE INTO {report_table} VALUES (?, ?, ?, ?)"
    look = f"SELECT report_hash FROM {report_table} WHERE report_id = ?"
    rows: list[bytes] = []
    refused: dict[str, int] = {}
    for report in reports:
        place = batch_n << _ROW_BITS | len(rows)
        names = (report.report_id, report.nullifier, report.report_hash, place)
        has_room = there_are + len(rows) < reports_max
        if has_room and db.execute(statement, names).rowcount:
            rows.append(report.row)
            continue
        there = db.execute(look, (report.report_id,)).fetchone()
        if again and there and there[0] == report.report_hash:
            continue
        rule = REPLAYED_ID if there else REPLAYED_NULLIFIER if has_room else SURPLUS
        refused[rule] = refused.get(rule, 0) + 1
    if rows:
        values = (batch_n, len(rows), b"".join(rows))
        db.execute(f"INSERT INTO {batch_table} VALUES (?, ?, ?)", values)
    return len(rows), refused


def held(db: sqlite3.Connection, round_n: int) -> list[Held]:
    """All that are held, in the order in which they came."""
    report_table, _ = round_tables(round_n)
    rows = db.execute(f"SELECT report_hash, place FROM {report_table} ORDER BY place")
    mask = (1 << _ROW_BITS) - 1
    return [Held(hashed, place >> _ROW_BITS, place & mask) for hashed, place in rows]


def batch(db: sqlite3.Connection, round_n: int, number: int) -> Batch:
    """One micro-batch."""
    _, batch_table = round_tables(round_n)
    row = db.execute(
        f"SELECT batch_n, reports, rows FROM {batch_table} WHERE batch_n = ?", (number,)
    ).fetchone()
    return Batch(*row)
