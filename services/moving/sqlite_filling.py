"""Writing to SQLite what a moved store holds of an account."""

from __future__ import annotations

import sqlite3
from typing import Any

from crypto import op
from services.moving.rows import Row
from services.moving.sqlite_governance import put_consent
from services.store import packed, snapshot
from services.store.sqlite_segments import BYTES_MAX, OPS_MAX
from services.store.sqlite_state import DEVICE_BITS, WINNER

_BITS = 32


class Filling:
    """An account that is written, row by row."""

    def __init__(self, db: sqlite3.Connection, account_n: int) -> None:
        self._db = db
        self._n = account_n
        self._base = account_n << _BITS
        self._devices = account_n << DEVICE_BITS
        self._ops: list[tuple[int, int, bytes]] = []
        """position, end of the push, op: what will be one segment"""
        self._index: dict[bytes, int] = {}
        self._size = 0

    def take(self, row: Row) -> None:
        """One more. `account` is the first; ops come in order."""
        kind, account_id, *values = row
        if kind != "op":
            self.end()
        getattr(self, f"_take_{kind}")(account_id, *values)

    def end(self) -> None:
        """Nothing more belongs to the segment that was begun."""
        if not self._ops:
            return
        first, end, _ = self._ops[0]
        self._db.execute(
            "INSERT INTO segment VALUES (?, ?, ?, ?)",
            (
                self._base + first, (1 << len(self._ops)) - 1, end - first,
                packed.pack(raw for _, _, raw in self._ops),
            ),
        )  # fmt: skip
        self._ops, self._size = [], 0

    def _take_account(
        self, account_id: bytes, subject_row: bytes, chain: bytes, *tail: int
    ) -> None:
        self._index = {
            bytes(device.device_id): device.index for device in snapshot.decode(chain).devices
        }
        self._db.execute(
            "INSERT INTO account VALUES (?, ?, ?, ?)",
            (self._n, account_id, subject_row or None, chain),
        )
        self._db.execute("INSERT INTO tail VALUES (?, ?, ?, ?, ?)", (self._n, *tail))

    def _take_link(self, _: bytes, seq: int, *link: bytes) -> None:
        self._db.execute("INSERT INTO link VALUES (?, ?, ?, ?, ?)", (self._base + seq, *link))

    def _take_end(self, _: bytes, epoch: int, ended_ms: int) -> None:
        self._db.execute("INSERT INTO epoch_end VALUES (?, ?)", (self._base + epoch, ended_ms))

    def _take_device(self, _: bytes, index: int, *values: Any) -> None:
        self._db.execute("INSERT INTO device VALUES (?, ?, ?, ?)", (self._devices + index, *values))

    def _take_mark(self, _: bytes, *values: int) -> None:
        self._db.execute("INSERT INTO checkpoint VALUES (?, ?, ?, ?)", (self._n, *values))

    def _take_op(self, _: bytes, position: int, end: int, raw: bytes) -> None:
        if self._ops:
            last, last_end, _raw = self._ops[-1]
            full = len(self._ops) == OPS_MAX or self._size + len(raw) > BYTES_MAX
            if full or (position, end) != (last + 1, last_end):
                self.end()
        self._ops.append((position, end, raw))
        self._size += len(raw)

    def _take_winner(self, _: bytes, epoch: int, tag: bytes, position: int) -> None:
        segment = self._db.execute(
            "SELECT segment_id, held, ops FROM segment WHERE segment_id <= ?"
            " ORDER BY segment_id DESC LIMIT 1",
            (self._base + position,),
        ).fetchone()
        raw = packed.split(segment[2])[self._base + position - segment[0]]
        header = op.parse_any(raw).header
        author = header.kind << DEVICE_BITS | self._index[bytes(header.device_id)]
        self._db.execute(
            "INSERT INTO live VALUES (?, ?)",
            (
                self._n.to_bytes(4, "big") + epoch.to_bytes(4, "big") + tag,
                WINNER.pack(position, header.lamport, author),
            ),
        )

    def _take_superseded(self, _: bytes, at: int, position: int) -> None:
        self._db.execute("INSERT INTO superseded VALUES (?, ?, ?)", (self._n, at, position))

    def _take_run(self, _: bytes, *values: int) -> None:
        self._db.execute("INSERT INTO run VALUES (?, ?, ?, ?)", (self._n, *values))

    def _take_trimmed(self, _: bytes, *values: Any) -> None:
        self._db.execute("INSERT INTO gone VALUES (?, ?, ?, ?)", (self._n, *values))

    def _take_wake(
        self, _: bytes, index: int, handle: bytes, expires_ms: int, due_ms: int, *rest: int
    ) -> None:
        self._db.execute(
            "INSERT INTO wake VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self._devices + index, handle, expires_ms, due_ms or None, *rest),
        )

    def _take_consent(self, _: bytes, seq: int, *row: Any) -> None:
        put_consent(self._db, self._n, seq, *row)
