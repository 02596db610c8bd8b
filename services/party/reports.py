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

from services.party.schema import create_position_table, position_table, round_tables

_ROW_BITS = 20
BATCH_REPORTS_MAX = 1 << _ROW_BITS
REPLAYED_ID, REPLAYED_NULLIFIER, SURPLUS = "replayed-id", "replayed-nullifier", "surplus"
"""Rules of docs/aggregation.md, 5, that take more than the report itself."""


class Report(NamedTuple):
    """One opened box: what names it, and its share row."""

    report_id: bytes
    nullifier: bytes
    report_hash: bytes
    row: bytes | memoryview
    position: int = 0
    """Where the relay has it, from 1; 0: it did not say."""

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
    _, batch_table = round_tables(round_n)
    last, there_are = db.execute(
        f"SELECT coalesce(max(batch_n), 0), coalesce(sum(reports), 0) FROM {batch_table}"
    ).fetchone()
    base, room = (last + 1) << _ROW_BITS, reports_max - there_are
    new, refused = reports, dict[str, int]()
    if len(reports) > room or not _all_new(db, round_n, reports, base):
        new, refused = _those_new(db, round_n, reports, base, room, again=again)
    _place(db, round_n, reports)
    if new:
        values = (last + 1, len(new), b"".join([report.row for report in new]))
        db.execute(f"INSERT INTO {batch_table} VALUES (?, ?, ?)", values)
    return len(new), refused


def _place(db: sqlite3.Connection, round_n: int, reports: Sequence[Report]) -> None:
    """Notes where the relay has them: also those that are held, if it began anew."""
    report_table, _ = round_tables(round_n)
    create_position_table(db, round_n)
    db.executemany(
        f"INSERT OR REPLACE INTO {position_table(round_n)} SELECT ?, report_id FROM {report_table}"
        " WHERE report_id = ? AND report_hash = ?",
        [(one.position, one.report_id, one.report_hash) for one in reports if one.position],
    )


def forget_positions(db: sqlite3.Connection, round_n: int) -> None:
    """The relay counts anew."""
    create_position_table(db, round_n)
    db.execute(f"DELETE FROM {position_table(round_n)}")


def erase(db: sqlite3.Connection, round_n: int, positions: Sequence[int]) -> int:
    """Destroys the reports that the relay had at these positions: their names, and their share
    rows, which are zeros from then on. How many there were."""
    report_table, batch_table = round_tables(round_n)
    create_position_table(db, round_n)
    gone = 0
    for position in positions:
        row = db.execute(
            f"DELETE FROM {position_table(round_n)} WHERE position = ? RETURNING report_id",
            (position,),
        ).fetchone()
        if row is None:
            continue
        place = db.execute(
            f"DELETE FROM {report_table} WHERE report_id = ? RETURNING place", row
        ).fetchone()
        if place is not None:
            _blank(db, batch_table, *divmod(place[0], 1 << _ROW_BITS))
            gone += 1
    return gone


def _blank(db: sqlite3.Connection, batch_table: str, number: int, row: int) -> None:
    (reports,) = db.execute(
        f"SELECT reports FROM {batch_table} WHERE batch_n = ?", (number,)
    ).fetchone()
    with db.blobopen(batch_table, "rows", number) as blob:
        width = len(blob) // reports
        blob.seek(row * width)
        blob.write(bytes(width))


def _insertion(round_n: int) -> str:
    return f"INSERT OR IGNORE INTO {round_tables(round_n)[0]} VALUES (?, ?, ?, ?)"


def _all_new(
    db: sqlite3.Connection, round_n: int, reports: Sequence[Report], base: int
) -> bool:  # fmt: skip
    """Whether no report is a replay, as mostly; if one is, nothing was stored."""
    names = [
        (report.report_id, report.nullifier, report.report_hash, base | row)
        for row, report in enumerate(reports)
    ]
    before = db.total_changes
    db.execute("SAVEPOINT reports")
    db.executemany(_insertion(round_n), names)
    is_whole = db.total_changes - before == len(names)
    if not is_whole:
        db.execute("ROLLBACK TO reports")
    db.execute("RELEASE reports")
    return is_whole


def _those_new(
    db: sqlite3.Connection,
    round_n: int,
    reports: Sequence[Report],
    base: int,
    room: int,
    *,
    again: bool,
) -> tuple[list[Report], dict[str, int]]:
    statement = _insertion(round_n)
    look = f"SELECT report_hash FROM {round_tables(round_n)[0]} WHERE report_id = ?"
    new: list[Report] = []
    refused: dict[str, int] = {}
    for report in reports:
        names = (report.report_id, report.nullifier, report.report_hash, base | len(new))
        has_room = len(new) < room
        if has_room and db.execute(statement, names).rowcount:
            new.append(report)
            continue
        there = db.execute(look, (report.report_id,)).fetchone()
        if again and there and there[0] == report.report_hash:
            continue
        rule = REPLAYED_ID if there else REPLAYED_NULLIFIER if has_room else SURPLUS
        refused[rule] = refused.get(rule, 0) + 1
    return new, refused


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
