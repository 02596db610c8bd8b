"""Deterministic CBOR of what is signed: one value has one form, and only that is read.

RFC 8949, 4.2.1: shortest heads, definite lengths, map keys in the order of their bytes. Only
whole numbers of 64 bits, texts, booleans, lists and maps with text keys occur.
"""

from __future__ import annotations

from typing import Any

import cbor2

from crypto.errors import FormatError

BYTES_MAX = 1 << 18
DEPTH_MAX = 4
_INT_MAX = (1 << 64) - 1


def encode(value: dict[str, Any], *, depth: int = DEPTH_MAX) -> bytes:
    """The map's bytes; FormatError for a type that does not occur, a map that is too large, or
    one whose lists and maps go more than `depth` levels deep."""
    _check(value, depth)
    try:
        data: bytes = cbor2.dumps(value, canonical=True)
    except UnicodeEncodeError:
        raise FormatError("text", "a text can't be written as UTF-8") from None
    _check_size(data)
    return data


def decode(data: bytes, *, depth: int = DEPTH_MAX) -> dict[str, Any]:
    """The map; FormatError for other bytes than `encode` gives."""
    _check_size(data)
    try:
        value = cbor2.loads(data)
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError):
        raise FormatError("cbor", "not deterministic CBOR") from None
    if type(value) is not dict:
        raise FormatError("cbor", "not a map")
    if encode(value, depth=depth) != data:
        raise FormatError("cbor-form", "the CBOR is not in its one deterministic form")
    return value


def _check_size(data: bytes) -> None:
    if len(data) > BYTES_MAX:
        raise FormatError("length", f"a signed map has {BYTES_MAX} bytes at most")


def _check(value: object, depth: int) -> None:
    if depth == 0:
        raise FormatError("cbor-type", "lists and maps go too many levels deep")
    if type(value) is int:
        if not -_INT_MAX - 1 <= value <= _INT_MAX:
            raise FormatError("cbor-type", "whole numbers have 64 bits at most")
    elif type(value) is list:
        for item in value:
            _check(item, depth - 1)
    elif type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise FormatError("cbor-type", "keys of a map are texts")
            _check(item, depth - 1)
    elif type(value) not in (bool, str):
        raise FormatError("cbor-type", "only whole numbers, texts, booleans, lists and maps")
