"""Identifiers as types that can't be swapped unnoticed (docs/protocol.md, 1).

Each is `bytes` of a fixed length, made by a hash under a label of its own. mypy refuses
one where another is due; `of()` refuses a wrong type or length at run time.
"""

from __future__ import annotations

from typing import ClassVar, Self

from crypto.errors import FormatError


class Id(bytes):
    """A fixed-length identifier. Its repr shows four bytes, enough to tell two apart."""

    __slots__ = ()
    size: ClassVar[int]

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Takes raw bytes, or the same type; FormatError for another id type or length."""
        if type(data) is cls:
            return data
        if isinstance(data, Id):
            raise FormatError("id-type", f"a {type(data).__name__} is no {cls.__name__}")
        if len(data) != cls.size:
            raise FormatError("length", f"{cls.__name__} must be {cls.size} bytes, not {len(data)}")
        return cls(data)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self[:4].hex()}…)"

    __str__ = __repr__


class AccountId(Id):
    """Hash of the genesis link, 32 bytes."""

    __slots__ = ()
    size = 32


class DeviceId(Id):
    """Hash of a device's identity key, 16 bytes."""

    __slots__ = ()
    size = 16


class LinkHash(Id):
    """Hash of a link's signed bytes, 32 bytes."""

    __slots__ = ()
    size = 32


class OpHash(Id):
    """Hash of an op's header and ciphertext hash, 32 bytes."""

    __slots__ = ()
    size = 32


class Tag(Id):
    """What a record's name looks like to the service inside one epoch, 16 bytes."""

    __slots__ = ()
    size = 16


class ReportId(Id):
    """Drawn at random for one contribution, 16 bytes."""

    __slots__ = ()
    size = 16


class Nullifier(Id):
    """One for each account and round, and nothing to link rounds by, 32 bytes."""

    __slots__ = ()
    size = 32
