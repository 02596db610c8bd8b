"""What parties tell each other of a round, outside of jobs. CBOR, strict, bounded by the link.

Who said it is the link's to prove; what must be shown to others carries a signature besides.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

import cbor2

from crypto.errors import FormatError

CHANNEL = 1


class Job(IntEnum):
    """The jobs of a round, in their order."""

    VERIFY = 1
    NOISE = 2
    OPEN = 3


@dataclass(frozen=True, slots=True)
class Have:
    """How many reports the sender can use, and the digest of their hashes."""

    count: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Listed:
    """The hashes themselves, where parties have others."""

    hashes: bytes


@dataclass(frozen=True, slots=True)
class Agreed:
    """The sender's signature of the set."""

    digest: bytes
    sig: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """The sender, in this state, would do this job with these parties. `tag`: what all must
    hold alike."""

    state: int
    job: int
    parties: int
    tag: bytes
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Verdicts:
    """For a party that missed the end of the verification."""

    bits: bytes


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


Message = Have | Listed | Agreed | Ready | Verdicts | Signed | Abandoned
_KINDS: tuple[type[Any], ...] = (Have, Listed, Agreed, Ready, Verdicts, Signed, Abandoned)
_TYPES: dict[str, type] = {"int": int, "bytes": bytes, "dict[int, bytes]": dict}


def encode(message: Message) -> bytes:
    """As it goes over a link."""
    values = [getattr(message, field.name) for field in fields(message)]
    return cbor2.dumps([_KINDS.index(type(message)), *values], canonical=True)


def decode(data: bytes) -> Message:
    """FormatError for anything but one of the messages."""
    try:
        kind, *values = cbor2.loads(data)
        made = _KINDS[kind] if type(kind) is int and 0 <= kind < len(_KINDS) else None
    except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError):
        made = None
    if made is None or len(values) != len(fields(made)):
        raise FormatError("message", "no message between parties")
    for value, field in zip(values, fields(made), strict=True):
        if type(value) is not _TYPES[str(field.type)]:
            raise FormatError("message", "a field of a message has another type")
    if made is Signed and not all(
        type(key) is int and type(sig) is bytes for key, sig in values[1].items()
    ):
        raise FormatError("message", "signatures are bytes by party")
    message: Message = made(*values)
    return message
