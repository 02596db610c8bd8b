"""Ops in a row, as they are stored and as they are answered.

A run of ops has the bytes of the field `repeated bytes ops = 2` of `PullResponse`: each op
behind a tag byte and its length as a varint. A page is then a few runs, joined, with nothing
done op by op.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from crypto.op import HEADER_BYTES
from crypto.primitives import SIG_BYTES

TAG = 2 << 3 | 2


def varint(value: int) -> bytes:
    """Base-128, least significant group first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class _Prefixes(dict[int, bytes]):
    """What stands before an op of a length. Ops have few lengths."""

    def __missing__(self, size: int) -> bytes:
        self[size] = prefix = bytes((TAG,)) + varint(size)
        return prefix


PREFIXES = _Prefixes()
"""What stands before an op of a length."""


def pack(ops: Iterable[bytes]) -> bytes:
    """One run of these ops."""
    prefixes = PREFIXES
    return b"".join([part for raw in ops for part in (prefixes[len(raw)], raw)])


def split(run: bytes) -> list[bytes]:
    """The ops of a run."""
    return [run[start:end] for start, end in _bounds(run)]


def stub_of(raw: bytes, ct_hash: bytes) -> bytes:
    """What stays of a superseded op."""
    return raw[:HEADER_BYTES] + ct_hash + raw[-SIG_BYTES:]


def retagged(run: bytes, tag: int) -> bytearray:
    """The same field under another number: the frames of `SubscribeResponse` want it."""
    result = bytearray(run)
    at = 0
    for _, end in _bounds(run):
        result[at] = tag
        at = end
    return result


def _bounds(run: bytes) -> Iterator[tuple[int, int]]:
    """Where each op begins and ends."""
    end = 0
    while end < len(run):
        at, size, shift = end + 1, 0, 0
        while run[at] > 0x7F:
            size |= (run[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
        start = at + 1
        end = start + (size | run[at] << shift)
        yield start, end
