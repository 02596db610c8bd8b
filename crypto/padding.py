"""Padding to a few sizes, so that the service learns a bucket and no length."""

from __future__ import annotations

import struct

from crypto.errors import FormatError

BUCKETS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
OP_BUCKET = 512
"""The bucket of a small op: a setting, a tombstone and a cover look alike, even with 16
devices in the causal vector, which alone would carry many an op over 256."""
PLAIN_BYTES_MAX = BUCKETS[-1] - 4
_U32 = struct.Struct(">I")


def bucket(plain_bytes: int, at_least: int = BUCKETS[0]) -> int:
    """The smallest bucket from `at_least` up that holds a u32 length and `plain_bytes` bytes."""
    for size in BUCKETS:
        if size >= at_least and plain_bytes + 4 <= size:
            return size
    raise FormatError("too-long", f"payload is longer than {PLAIN_BYTES_MAX} bytes")


def pad(plain: bytes, at_least: int = BUCKETS[0]) -> bytes:
    """`u32 len(P) || P || 00...` (docs/protocol.md, 1.5); `at_least` is a bucket."""
    size = bucket(len(plain), at_least)
    return (_U32.pack(len(plain)) + plain).ljust(size, b"\0")


def unpad(padded: bytes) -> bytes:
    """Strict: a known bucket, a length that fits, and nothing but zeros behind it."""
    if len(padded) not in BUCKETS:
        raise FormatError("bucket", "padded size is not a bucket")
    (size,) = _U32.unpack_from(padded)
    if size > len(padded) - 4:
        raise FormatError("padding", "payload length does not fit its bucket")
    if padded.count(0, 4 + size) != len(padded) - 4 - size:
        raise FormatError("padding", "padding must be zero")
    return padded[4 : 4 + size]
