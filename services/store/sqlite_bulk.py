"""Many rows by few statements.

`sqlite3` lets go of the interpreter lock for every row that `executemany` inserts, and has to
win it back from the event loop each time. A statement with many rows does so once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

Value = bytes | int | None
_SIZES = (256, 128, 64, 32, 16, 8, 4, 2, 1)
_NOTHING = b""
"""Fills up a list of keys. No key is empty."""


class Insert:
    """An INSERT of any number of rows, in statements of a few fixed sizes."""

    __slots__ = ("_statements",)

    def __init__(self, into: str, columns: int, conflict: str = "") -> None:
        row = f"({','.join('?' * columns)})"
        self._statements = tuple(
            (size * columns, f"INSERT INTO {into} VALUES {','.join([row] * size)} {conflict}")  # noqa: S608
            for size in _SIZES
        )

    def run(self, connection: sqlite3.Connection, flat: Sequence[Value]) -> None:
        """`flat` holds the values of one row after the other."""
        start, end = 0, len(flat)
        for count, statement in self._statements:
            while end - start >= count:
                connection.execute(statement, flat[start : start + count])
                start += count


class ByKeys:
    """A statement with a list of keys in place of `{keys}`."""

    __slots__ = ("_statements",)

    def __init__(self, statement: str) -> None:
        self._statements = {size: statement.format(keys=",".join("?" * size)) for size in _SIZES}

    def run(
        self, connection: sqlite3.Connection, keys: Sequence[Value]
    ) -> Iterator[sqlite3.Cursor]:
        """Runs for all keys, at most 256 at a time."""
        for start in range(0, len(keys), _SIZES[0]):
            some = keys[start : start + _SIZES[0]]
            size = 1 << (len(some) - 1).bit_length()
            filled = [*some, *(_NOTHING,) * (size - len(some))]
            yield connection.execute(self._statements[size], filled)
