"""The frames between a party's service and the process of one job.

`u32 payload length | u8 kind | u8 party | i64 program counter | payload`, big-endian, over any
asyncio stream. A length is checked before anything is kept.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from enum import IntEnum

from crypto.errors import FormatError

HEAD = struct.Struct(">IBBq")
SPILL_BYTES = 1 << 16
OTHER_BYTES_MAX = 64 << 20


class Kind(IntEnum):
    """What a frame is."""

    SHARES = 1
    """From or to the process of this job at `party`: opaque to the service in between."""
    LOST = 2
    """To the process: `party` will send nothing any more."""
    STEP = 3
    """To the process: a step to do; to the end of it, the stream is closed."""
    ANSWER = 4
    """From the process: that it is ready, what a step gave, or why the job ended."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `party` and `pc` are 0 where the kind has none."""

    kind: Kind
    payload: bytes = b""
    party: int = 0
    pc: int = 0

    def to_bytes(self) -> bytes:
        """As it goes over the stream."""
        return HEAD.pack(len(self.payload), self.kind, self.party, self.pc) + self.payload

    def __repr__(self) -> str:
        return f"Frame({self.kind.name}, party={self.party}, {len(self.payload)} bytes)"


@dataclass(frozen=True, slots=True)
class Oversized:
    """A frame that was longer than allowed, and thrown away."""

    kind: Kind
    party: int


async def read(
    reader: asyncio.StreamReader, *, shares_bytes_max: int, other_bytes_max: int = OTHER_BYTES_MAX
) -> Frame | Oversized | None:
    """The next frame; None where the stream ends, even inside a frame.

    What peers send is bounded apart from what service and process say to each other.
    FormatError for a kind that there is not.
    """
    try:
        length, number, party, pc = HEAD.unpack(await reader.readexactly(HEAD.size))
        try:
            kind = Kind(number)
        except ValueError:
            raise FormatError("frame", "there is no such kind of frame") from None
        if length <= (shares_bytes_max if kind is Kind.SHARES else other_bytes_max):
            return Frame(kind, await reader.readexactly(length), party, pc)
        while length:
            length -= len(await reader.readexactly(min(length, SPILL_BYTES)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return Oversized(kind, party)
