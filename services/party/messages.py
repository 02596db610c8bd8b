"""What parties tell each other of a round, outside of jobs (docs/aggregation.md, 9).

CBOR arrays, strict; their size is bounded by the link. Who said it is the link's to prove;
what must be shown to others carries a signature besides.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

import cbor2

from crypto.errors import FormatError

CHANNEL = 1
INT_MAX = 1 << 63


class Job(IntEnum):
    """The jobs of a round."""

    VERIFY = 1
    """Which reports are valid; then the noise of all is shared."""
    SHARE = 2
    """The same noise is shared again, for a party that missed the end of the first job."""
    OPEN = 3
    """The noised sums are opened."""


@dataclass(frozen=True, slots=True)
class Have:
    """How many reports the sender can use, the digest of their hashes in the order in which
    they came, how many boxes it left out, by rule, and how many of the hearer's hashes it has
    heard, which is where the hearer goes on."""

    count: int
    digest: bytes
    refused: dict[str, int]
    heard: int


@dataclass(frozen=True, slots=True)
class Listed:
    """A run of the hashes themselves, from place `start` on, where parties have others."""

    start: int
    hashes: bytes


@dataclass(frozen=True, slots=True)
class Agreed:
    """The sender's signature of the set that all have in common."""

    digest: bytes
    sig: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """The sender would do this job with these parties (bit i - 1 for party i). `tag`: what
    all must hold alike. `nonce`: of this attempt."""

    job: int
    parties: int
    tag: bytes
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Signed:
    """The result as the sender has it, and signatures by party."""

    result: bytes
    sigs: dict[int, bytes]


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The sender gave the round up."""

    statement: bytes
    sig: bytes


Message = Have | Listed | Agreed | Ready | Signed | Abandoned
_KINDS: tuple[type[Any], ...] = (Have, Listed, Agreed, Ready, Signed, Abandoned)
_ROWS: dict[str, tuple[type, type]] = {
    "dict[str, int]": (str, int),
    "dict[int, bytes]": (int, bytes),
}
_TYPES: dict[str, type] = {"int": int, "bytes": bytes}


def encode(message: Message) -> bytes:
    """As it goes over a link."""
    values = [getattr(message, field.name) for field in fields(message)]
    return cbor2.dumps([_KINDS.index(type(message)), *values], canonical=True)


def decode(data: bytes) -> Message:
    """FormatError for anything but one of the messages."""
    try:
        kind, *values = cbor2.loads(data)
        made = _KINDS[kind] if type(kind) is int and 0 <= kind < len(_KINDS) else None
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError):
        made = None
    if made is None or len(values) != len(fields(made)):
        raise FormatError("message", "no message between parties")
    for value, field in zip(values, fields(made), strict=True):
        if not _fits(str(field.type), value):
            raise FormatError("message", "a field of a message has another type")
    message: Message = made(*values)
    return message


def _fits(wanted: str, value: object) -> bool:
    if type(value) is int and not 0 <= value < INT_MAX:
        return False  # what is longer could keep whoever works with it busy for hours
    if wanted in _TYPES:
        return type(value) is _TYPES[wanted]
    key, item = _ROWS[wanted]
    return type(value) is dict and all(
        type(one) is key
        and type(other) is item
        and not (type(one) is int and not 0 <= one < INT_MAX)
        for one, other in value.items()
    )
