"""Many rows by few statements.

`sqlite3` lets go of the interpreter lock for every statement, and for every row that
`executemany` inserts, and has to win it back from the event loop each time. A statement with
many rows does so once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

Value = bytes | int | None
_ROWS_MAX = 32
_SIZES = (256, 128, 64, 32, 16, 8, 4, 2, 1)
_NOTHING = b""
"""Fills up a list of keys. No key is empty."""
COUNTER_ROWS = 4096


class Insert:
    """An INSERT of any number of rows, at most 32 a statement: `sqlite3` keeps the few
    statements that come of it prepared."""

    __slots__ = ("_columns", "_statements")

    def __init__(self, into: str, columns: int, conflict: str = "") -> None:
        row = f"({','.join('?' * columns)})"
        self._columns = columns
        self._statements = [
            f"INSERT INTO {into} VALUES {','.join([row] * rows)} {conflict}"  # noqa: S608
            for rows in range(1, _ROWS_MAX + 1)
        ]

    def run(self, connection: sqlite3.Connection, flat: Sequence[Value]) -> None:
        """`flat` holds the values of one row after the other."""
        columns, step = self._columns, self._columns * _ROWS_MAX
        for start in range(0, len(flat), step):
            some = flat[start : start + step]
            connection.execute(self._statements[len(some) // columns - 1], some)


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


def update_by_keys(
    connection: sqlite3.Connection, statement: ByKeys, keys: Sequence[Value]
) -> None:
    """Runs a statement that gives no rows."""
    for _ in statement.run(connection, keys):
        pass


class Packed:
    """A statement over rows of one length that come as one value: SQLite cuts it up by itself,
    which is cheaper than binding each value. `{rows}` in the statement is the source of rows,
    with `at` as the offset of each in `?1`. The connection needs `make_counter`.
    """

    __slots__ = ("_row_bytes", "_statement")

    def __init__(self, statement: str, row_bytes: int) -> None:
        self._row_bytes = row_bytes
        rows = f"(SELECT i * {row_bytes} + 1 AS at FROM counter WHERE i < ?2)"  # noqa: S608
        self._statement = statement.format(rows=rows)

    def run(
        self, connection: sqlite3.Connection, rows: Sequence[bytes]
    ) -> Iterator[sqlite3.Cursor]:
        """Runs for all rows, at most 4,096 at a time."""
        for start in range(0, len(rows), COUNTER_ROWS):
            some = rows[start : start + COUNTER_ROWS]
            yield connection.execute(self._statement, (b"".join(some), len(some)))


def make_counter(connection: sqlite3.Connection) -> None:
    """Numbers from 0 on, in memory, for `Packed`."""
    connection.execute("CREATE TEMP TABLE counter (i INTEGER PRIMARY KEY)")
    connection.executemany(
        "INSERT INTO counter VALUES (?)", [(number,) for number in range(COUNTER_ROWS)]
    )
