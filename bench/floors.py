"""Floors: the same ops put straight into SQLite, with nothing judged in between.

One row an op, in the tables of the store's first schema: the plain way to lay them out, and a
measure that stays the same whatever the store does. What a backend adds is its own price.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.store import sqlite_schema as schema
from services.store.base import Batch

_CACHE_KIB = 16_384


@dataclass(frozen=True, slots=True)
class Floor:
    """What a run took."""

    ops: int
    seconds: float
    cpu_seconds: float


def bare_sqlite_insert(batches: Sequence[Batch], *, batches_per_commit: int) -> Floor:
    """Inserts the rows of new ops into `op` and `live`, and each batch's into `run`, `device`
    and `tail`, by `executemany`, durably, as many batches a transaction as the store groups.

    Binding values is counted, making them is not.
    """
    numbers: dict[bytes, int] = {}
    positions: dict[int, int] = {}
    groups = []
    for start in range(0, len(batches), batches_per_commit):
        group = _Group()
        for batch in batches[start : start + batches_per_commit]:
            account_n = numbers.setdefault(batch.account_id, len(numbers) + 1)
            first = positions.get(account_n, 0) + 1
            positions[account_n] = first + len(batch.rows) - 1
            group.take(batch, account_n, first)
        groups.append(group)
    with tempfile.TemporaryDirectory() as folder:
        connection = schema.connect(Path(folder) / "floor.db", cache_kib=_CACHE_KIB)
        connection.executescript(schema.MIGRATIONS[0])
        wall, cpu = time.perf_counter(), time.thread_time()
        for group in groups:
            connection.execute("BEGIN IMMEDIATE")
            for statement, rows in group.statements():
                connection.executemany(statement, rows)
            connection.execute("COMMIT")
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        connection.close()
    return Floor(sum(len(batch.rows) for batch in batches), wall, cpu)


class _Group:
    """The rows of one transaction, ready to be bound."""

    def __init__(self) -> None:
        self._ops: list[tuple[object, ...]] = []
        self._live: list[tuple[object, ...]] = []
        self._runs: list[tuple[object, ...]] = []
        self._heads: list[tuple[object, ...]] = []
        self._tails: list[tuple[object, ...]] = []

    def take(self, batch: Batch, account_n: int, first: int) -> None:
        rows = batch.rows
        end = first + len(rows) - 1
        base = account_n << 32
        for position, row in enumerate(rows, start=first):
            name = account_n.to_bytes(4, "big") + row.epoch.to_bytes(4, "big") + row.tag
            self._ops.append((base + position, end - position, row.ct_hash, row.raw))
            self._live.append((name, position, row.lamport, row.kind << 8))
        self._runs.append((account_n, 0, rows[0].dev_seq, first))
        self._heads.append((account_n << 8, rows[-1].dev_seq, rows[-1].op_hash))
        self._tails.append((account_n, end, rows[-1].lamport, end, 0))

    def statements(self) -> list[tuple[str, list[tuple[object, ...]]]]:
        return [
            ("INSERT INTO op VALUES (?, ?, ?, ?)", self._ops),
            ("INSERT OR REPLACE INTO live VALUES (?, ?, ?, ?)", self._live),
            ("INSERT INTO run VALUES (?, ?, ?, ?)", self._runs),
            ("INSERT OR REPLACE INTO device VALUES (?, ?, ?, 0)", self._heads),
            ("INSERT OR REPLACE INTO tail VALUES (?, ?, ?, ?, ?)", self._tails),
        ]


def bare_read(path: Path) -> float:
    """Seconds to read all ops from the service's own database."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    start = time.perf_counter()
    connection.execute("SELECT ops FROM segment ORDER BY segment_id").fetchall()
    seconds = time.perf_counter() - start
    connection.close()
    return seconds
