"""Checkpoints: a device's signed statement of the whole state (docs/protocol.md, 1.5)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from crypto import heads, labels
from crypto.epoch import u32
from crypto.errors import FormatError
from crypto.heads import Head
from crypto.ids import OpHash, Tag
from crypto.primitives import hash_, need

_MAGIC = b"PSC1"
_TAIL = struct.Struct(">I32s")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The heads that it covers, and count and hash of the winning record of every tag."""

    epoch: int
    held: tuple[Head, ...]
    count: int
    state_hash: bytes

    def encode(self) -> bytes:
        """The value of a control op with verb CHECKPOINT."""
        return (
            _MAGIC
            + u32(self.epoch)
            + heads.encode(self.held)
            + u32(self.count)
            + need("state hash", self.state_hash, 32)
        )

    @classmethod
    def decode(cls, value: bytes) -> Checkpoint:
        """Strict; FormatError otherwise."""
        if value[:4] != _MAGIC or len(value) < 8:
            raise FormatError("checkpoint", "not a checkpoint")
        held, at = heads.decode_from(value, 8)
        need("checkpoint", value, at + _TAIL.size)
        count, state_hash = _TAIL.unpack_from(value, at)
        return cls(int.from_bytes(value[4:8], "big"), held, count, state_hash)


def state_hash(winners: Iterable[tuple[Tag, OpHash]]) -> tuple[int, bytes]:
    """(count, `H("pss1/state", count x (tag[16] | op_hash[32]) sorted)`)."""
    rows = sorted(Tag.of(tag) + OpHash.of(op_hash) for tag, op_hash in winners)
    return len(rows), hash_(labels.STATE, b"".join(rows))
