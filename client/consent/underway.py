"""Entries that were sent to the service, and of which no answer is known.

What was sent may arrive long after its call was given up. So it stays noted until the service has
an entry in its place: this one, or another one, behind which it can't arrive any more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from client import values
from client.consent.records import Recorded
from client.values import Value

if TYPE_CHECKING:
    from client.sync import SyncedDevice

ROW: Final = "shell/consent/pending"
"""`Recorded` each, as values, in the order in which they were sent first."""


class Underway:
    """Those of one device, in its vault."""

    def __init__(self, synced: SyncedDevice) -> None:
        self._synced = synced

    def all(self) -> list[Recorded]:
        """What can't be read any more, because its signer is unknown here, is left out."""
        row = self._synced.kept.get(ROW)
        rows = values.decode(row) if row is not None else None
        if not isinstance(rows, list):
            return []
        read = (Recorded.of(one, self._synced.core) for one in rows)
        return [one for one in read if one is not None]

    def grants(self, purpose: str) -> bool:
        """Whether a grant may arrive yet, of which nobody was told that it stands."""
        return any(one.entry.granted and one.receipt.purpose == purpose for one in self.all())

    def note(self, new: Recorded) -> Recorded:
        """Stores that it is about to be sent. What was sent already, if it says the same in the
        same place: then that one is sent once more, and it is no matter which of them arrives."""
        noted = self.all()
        for one in noted:
            if _says(one) == _says(new):
                return one
        self._store([*noted, new])
        return new

    def forget(self, seq: int) -> None:
        """The service has an entry at this place."""
        noted = self.all()
        left = [one for one in noted if one.entry.seq > seq]
        if len(left) < len(noted):
            self._store(left)

    def _store(self, noted: list[Recorded]) -> None:
        rows: Value = [one.as_value() for one in noted]
        self._synced.save({ROW: values.encode(rows) if noted else None})


def _says(one: Recorded) -> object:
    """All but when it was said, and its chance."""
    said = replace(one.receipt, at_ms=0, blind=bytes(len(one.receipt.blind)))
    return one.entry.seq, one.entry.prev, said, one.answers
