"""A file beside the database that remembers how far the database had come.

A database that stands behind its mark was restored from a backup: it gets a new generation by
itself, and clients compare and give back what is missing. The count moves at most once a
second, in a transaction that is committed anyway, and the file is written after it: the mark
is never ahead of what is durable, and at most about a second behind.

Not seen: a restored folder whose mark went back with it. `new-generation` is for that.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import struct
import time
from pathlib import Path

from services import owner

BEAT_S = 1.0
_LAYOUT = struct.Struct(">4s8sQ")
_MAGIC = b"RKM1"


class Mark:
    """The mark of an open database. Made before the store serves; then the writer's alone."""

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(database.name + ".mark")
        self._generation = b""
        self._count = 0
        self._due_s = 0.0
        self.restored = False
        """The database was older than its mark, or came without one."""

    def judge(self, connection: sqlite3.Connection) -> None:
        """Compares; a database that was restored gets a new generation."""
        meta = dict(
            connection.execute("SELECT name, value FROM meta WHERE name IN ('generation', 'beats')")
        )
        told = self.read()
        generation, count = meta["generation"], meta["beats"]
        if told is None:
            self.restored = count > 0
        else:
            self.restored = told[0] != generation or told[1] > count
            count = max(count, told[1])
        if self.restored:
            generation = secrets.token_bytes(8)
        self._generation, self._count = generation, count + 1
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "UPDATE meta SET value = ? WHERE name = ?",
            [(generation, "generation"), (self._count, "beats")],
        )
        connection.execute("COMMIT")
        self._write()

    def renew(self, generation: bytes) -> None:
        """The database has a new generation, durably."""
        self._generation = generation
        self._write()

    def beat(self, connection: sqlite3.Connection) -> bool:
        """Counts in the open transaction, if it is time. Then call `written` after COMMIT."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return False
        self._due_s = now_s + BEAT_S
        connection.execute("UPDATE meta SET value = ? WHERE name = 'beats'", (self._count + 1,))
        return True

    def written(self) -> None:
        """The transaction that counted is durable."""
        self._count += 1
        self._write()

    def read(self) -> tuple[bytes, int] | None:
        """Generation and count as the file has them; None if there is none."""
        try:
            magic, generation, count = _LAYOUT.unpack(self._path.read_bytes())
        except (OSError, struct.error):
            return None
        return (generation, count) if magic == _MAGIC else None

    def _write(self) -> None:
        """Twenty bytes over the old ones. One that gets lost makes the mark older, no more."""
        with contextlib.suppress(OSError):
            file = owner.open_private(self._path, os.O_WRONLY)
            try:
                os.pwrite(file, _LAYOUT.pack(_MAGIC, self._generation, self._count), 0)
            finally:
                os.close(file)
