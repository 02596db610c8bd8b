"""What a device keeps: named rows, and the changes to them that must be stored at once.

A row's name says what it holds and is secret (the vault hides it); its value is bytes. A
change is written atomically, and before anything that depends on it is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cbor2

from client.errors import RowsError

Rows = Mapping[str, bytes]
Changes = dict[str, bytes | None]
"""Row name to its new value; None removes the row."""


def pack(*fields: Any) -> bytes:
    """A row of several fields, as a deterministic CBOR list."""
    return cbor2.dumps(list(fields), canonical=True)


def unpack(row: bytes, count: int) -> list[Any]:
    """The fields of a row; RowsError if there are not `count` of them."""
    try:
        fields = cbor2.loads(row)
    except (cbor2.CBORDecodeError, ValueError):
        raise RowsError("a stored row can't be read") from None
    if not isinstance(fields, list) or len(fields) != count:
        raise RowsError("a stored row has another form")
    return fields


class Journal:
    """Collects changes until the shell takes them."""

    __slots__ = ("_changes",)

    def __init__(self) -> None:
        self._changes: Changes = {}

    def set(self, name: str, value: bytes) -> None:
        """Writes a row."""
        self._changes[name] = value

    def drop(self, name: str) -> None:
        """Removes a row; fine if there is none."""
        self._changes[name] = None

    def take(self) -> Changes:
        """All changes since the last call, to be stored atomically."""
        changes, self._changes = self._changes, {}
        return changes
