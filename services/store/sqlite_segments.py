"""The table `segment`: ops of one push in a row, as many as make a row worth its while.

SQLite's price is by the row: a page of a thousand ops is read in a fifth of the time when
they lie in some forty rows. A superseded op is taken out of its segment by writing the
segment anew, so that one is not much longer than the pages SQLite writes anyhow.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

from crypto import op
from crypto.op import HEADER_BYTES, STUB_BYTES
from crypto.primitives import SIG_BYTES
from services.store import packed
from services.store.sqlite_bulk import ByKeys, Insert, Value, update_by_keys

OPS_MAX = 32
BYTES_MAX = 32 << 10
COLUMNS = 4

INSERT = Insert("segment", COLUMNS)
_UPDATE = Insert(
    "segment",
    COLUMNS,
    "ON CONFLICT (segment_id) DO UPDATE SET held = excluded.held, ops = excluded.ops",
)
_DELETE = ByKeys("DELETE FROM segment WHERE segment_id IN ({keys})")
_FIND = (
    "SELECT segment_id, held, push_rest, ops FROM segment WHERE segment_id <= ?"
    " ORDER BY segment_id DESC LIMIT 1"
)


def rows_of(first_id: int, ops: Sequence[bytes]) -> list[Value]:
    """The rows of a push, flat. `first_id`: op id of its first op."""
    rows: list[Value] = []
    last = len(ops) - 1
    start = 0
    for end in _ends(ops):
        some = ops[start:end]
        rows += (first_id + start, (1 << len(some)) - 1, last - start, packed.pack(some))
        start = end
    return rows


def _ends(ops: Sequence[bytes]) -> Iterator[int]:
    """Where segments end."""
    start = size = 0
    for place, length in enumerate(map(len, ops)):
        if place - start == OPS_MAX or (size and size + length > BYTES_MAX):
            yield place
            start, size = place, 0
        size += length
    yield len(ops)


class Segment:
    """A row, read in order to change it or to look into it."""

    __slots__ = ("_ops", "_push_rest", "first_id")

    def __init__(self, segment_id: int, held: int, push_rest: int, ops: bytes) -> None:
        self.first_id = segment_id
        self._push_rest = push_rest
        ids = [segment_id + bit for bit in range(held.bit_length()) if held >> bit & 1]
        self._ops = dict(zip(ids, packed.split(ops), strict=True))

    def get(self, op_id: int) -> bytes | None:
        """The op or stub; None if it was trimmed."""
        return self._ops.get(op_id)

    def make_stub(self, op_id: int) -> None:
        """Drops the op's payload."""
        raw = self._ops[op_id]
        if len(raw) != STUB_BYTES:
            self._ops[op_id] = packed.stub_of(raw, op.ct_hash(raw[HEADER_BYTES:-SIG_BYTES]))

    def remove(self, op_id: int) -> bytes:
        """Takes the op out."""
        return self._ops.pop(op_id)

    @property
    def empty(self) -> bool:
        """Whether everything was taken out."""
        return not self._ops

    def row(self) -> tuple[int, int, int, bytes]:
        """As it is stored."""
        held = sum(1 << (op_id - self.first_id) for op_id in self._ops)
        return self.first_id, held, self._push_rest, packed.pack(self._ops.values())


def read_op(connection: sqlite3.Connection, op_id: int) -> bytes | None:
    """One op or stub; None if it was trimmed."""
    row = connection.execute(_FIND, (op_id,)).fetchone()
    return None if row is None else Segment(*row).get(op_id)


def make_stubs(connection: sqlite3.Connection, op_ids: Iterable[int]) -> None:
    """Drops the payloads of these ops, which are all there."""
    changed: list[Value] = []
    for segment, some in _by_segment(connection, op_ids):
        for op_id in some:
            segment.make_stub(op_id)
        changed += segment.row()
    _UPDATE.run(connection, changed)


def remove_ops(connection: sqlite3.Connection, op_ids: Iterable[int]) -> list[bytes]:
    """Deletes these ops, which are all there, and says what they were."""
    removed: list[bytes] = []
    changed: list[Value] = []
    emptied: list[Value] = []
    for segment, some in _by_segment(connection, op_ids):
        removed += [segment.remove(op_id) for op_id in some]
        if segment.empty:
            emptied.append(segment.first_id)
        else:
            changed += segment.row()
    _UPDATE.run(connection, changed)
    update_by_keys(connection, _DELETE, emptied)
    return removed


def _by_segment(
    connection: sqlite3.Connection, op_ids: Iterable[int]
) -> Iterator[tuple[Segment, list[int]]]:
    """Each segment that holds some of the ops, and which."""
    segment: Segment | None = None
    some: list[int] = []
    for op_id in sorted(op_ids):
        if segment is None or segment.get(op_id) is None:
            if segment is not None:
                yield segment, some
            segment, some = Segment(*connection.execute(_FIND, (op_id,)).fetchone()), []
        some.append(op_id)
    if segment is not None:
        yield segment, some
