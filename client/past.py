"""What a device remembers of its own ops beyond their bytes: which of those under a name of its
own it wrote itself, and what each of them added to a score.

An op of a score's part carries the running total only; what one op added to it can't be told
from totals that decay.
"""

from __future__ import annotations

from client.oplog import Place
from client.rows import Journal, Rows, pack, unpack


class Past:
    """The identities that this device has or had, by their index."""

    def __init__(self) -> None:
        self.last: dict[int, int] = {}
        """By index of an identity that is no longer ours alone: the last dev_seq that we wrote."""
        self.deltas: dict[Place, float] = {}

    @classmethod
    def load(cls, rows: Rows) -> Past:
        """From the rows `was:...` and `added:...`."""
        past = cls()
        for name, row in rows.items():
            if name.startswith("was:"):
                [past.last[int(name[4:])]] = unpack(row, 1)
            elif name.startswith("added:"):
                _, index, seq = name.split(":")
                [past.deltas[int(index), int(seq)]] = unpack(row, 1)
        return past

    def end(self, index: int, seq: int, journal: Journal) -> None:
        """What stands under this index beyond `seq` is not by this device."""
        if index not in self.last:
            self.last[index] = seq
            journal.set(f"was:{index:03d}", pack(seq))

    def wrote(self, place: Place, current: int) -> bool:
        """Whether this device, which writes at index `current` now, wrote the op there."""
        index, seq = place
        return seq <= self.last.get(index, seq if index == current else 0)

    def added(self, place: Place, delta: float, journal: Journal) -> None:
        """An op of ours is committed that added to a score."""
        if delta:
            self.deltas[place] = delta
            journal.set(_added_row(place), pack(delta))

    def take_added(self, place: Place, journal: Journal) -> float:
        """What the op added, once it counts no more."""
        delta = self.deltas.pop(place, 0)
        if delta:
            journal.drop(_added_row(place))
        return delta


def _added_row(place: Place) -> str:
    return f"added:{place[0]:03d}:{place[1]:015d}"
