"""Typed values as deterministic CBOR, and the value of a score's part (docs/protocol.md, 7)."""

from __future__ import annotations

import math
from io import BytesIO
from typing import NamedTuple

import cbor2

from client.errors import BadValue

Value = bool | int | float | str | bytes | list["Value"] | dict[str, "Value"] | None
_DEPTH_MAX = 16
_INT_MAX = (1 << 64) - 1


def encode(value: Value) -> bytes:
    """RFC 8949 deterministic encoding. BadValue for other types, and for NaN or infinity."""
    _check(value, _DEPTH_MAX)
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes) -> Value:
    """Strict: only the types of `Value`, only the bytes that `encode` gives. BadValue."""
    stream = BytesIO(data)
    try:
        value = cbor2.CBORDecoder(stream).decode()
    except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError, RecursionError):
        raise BadValue("the stored value can't be read") from None
    if stream.tell() != len(data) or encode(value) != data:
        raise BadValue("the stored value is not in deterministic form")
    checked: Value = value
    return checked


def _check(value: object, depth: int) -> None:
    if depth == 0:
        raise BadValue("lists and maps go 16 levels deep at most")
    if value is None or type(value) in (bool, str, bytes):
        return
    if type(value) is int:
        if not -_INT_MAX - 1 <= value <= _INT_MAX:
            raise BadValue("whole numbers have 64 bits at most")
    elif type(value) is float:
        if not math.isfinite(value):
            raise BadValue("NaN and infinity can't be stored")
    elif type(value) is list:
        for item in value:
            _check(item, depth - 1)
    elif type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise BadValue("keys of a map are text")
            _check(item, depth - 1)
    else:
        raise BadValue


class Part(NamedTuple):
    """One device's share of a score: its running total, and when it last changed."""

    total: float
    changed_ms: int

    def encode(self) -> bytes:
        """`[total, changed_ms]`."""
        return encode([self.total, self.changed_ms])

    @classmethod
    def decode(cls, data: bytes) -> Part | None:
        """None if the value is not one of a score's part."""
        try:
            value = decode(data)
        except BadValue:
            return None
        if not isinstance(value, list) or len(value) != 2:
            return None
        total, changed = value
        if type(total) not in (int, float) or type(changed) is not int or changed < 0:
            return None
        assert isinstance(total, int | float)
        return cls(total, changed)

    def at(self, now_ms: int, half_life_ms: int | None) -> float:
        """The total, decayed to now. A clock that goes backwards lets nothing grow."""
        return decay(self.total, now_ms - self.changed_ms, half_life_ms)


def decay(total: float, elapsed_ms: int, half_life_ms: int | None) -> float:
    """Halves every `half_life_ms`; None: never."""
    if half_life_ms is None or elapsed_ms <= 0 or not total:
        return total
    return total * math.pow(0.5, elapsed_ms / half_life_ms)
