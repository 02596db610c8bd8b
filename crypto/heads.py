"""Causal vectors: which op of each device somebody holds (docs/protocol.md, 1.5, 1.7)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from crypto import labels
from crypto.errors import FormatError
from crypto.ids import OpHash
from crypto.primitives import hash_

DEVICES_MAX = 255
HEAD_BYTES = 41
_HEAD = struct.Struct(">BQ32s")


class Head(NamedTuple):
    """The newest op of the device with this index (order of appearance in the chain)."""

    device_index: int
    seq: int
    op_hash: OpHash


def ascending(heads: Iterable[Head]) -> tuple[Head, ...]:
    """Sorted by device index; FormatError on a double or an impossible entry."""
    rows = tuple(sorted(heads))
    if len(rows) > DEVICES_MAX:
        raise FormatError("heads", "more than 255 devices")
    _check(rows)
    return rows


def _check(rows: Sequence[Head]) -> None:
    check_ascending([row.device_index for row in rows])
    if any(not 1 <= row.seq < 1 << 64 for row in rows):
        raise FormatError("heads", "a head's seq is at least 1")


def check_ascending(indices: Sequence[int]) -> None:
    """FormatError unless device indices are 0..254 and strictly ascending."""
    if any(a >= b for a, b in pairwise(indices)):
        raise FormatError("heads", "device indices must ascend")
    if indices and not 0 <= indices[0] <= indices[-1] < DEVICES_MAX:
        raise FormatError("heads", "device index is 0 to 254")


def encode(heads: Iterable[Head]) -> bytes:
    """`u8 n || n x (u8 index | u64 seq | op_hash[32])`, ascending."""
    rows = ascending(heads)
    return bytes((len(rows),)) + b"".join(_HEAD.pack(*row) for row in rows)


def digest(heads: Iterable[Head]) -> bytes:
    """`heads_digest = H("pss1/heads", ...)`, 32 bytes."""
    return hash_(labels.HEADS, encode(heads))


def decode_from(data: bytes, offset: int) -> tuple[tuple[Head, ...], int]:
    """Reads what `encode` wrote at `offset`; (heads, offset behind them)."""
    if len(data) < offset + 1:
        raise FormatError("length", "heads are cut off")
    count = data[offset]
    end = offset + 1 + count * HEAD_BYTES
    if len(data) < end:
        raise FormatError("length", "heads are cut off")
    rows = tuple(
        Head(index, seq, OpHash(op_hash))
        for index, seq, op_hash in _HEAD.iter_unpack(data[offset + 1 : end])
    )
    _check(rows)
    return rows, end
