"""What a device remembers of its own ops beyond their bytes: which of those under an identity of
its own it wrote itself, what each of them added to a score, and which it signed and took back.

An op of a score's part carries the running total only; what one op added to it can't be told
from totals that decay. An op that was let out can come back at any time: a receipt that the
service does not hold it binds at the moment of its signing, and for no later one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from client.oplog import Place
from client.outbox import Flying
from client.profile import Name
from client.rows import Journal, Rows, pack, unpack
from crypto.ids import OpHash

SETTLED_MAX = 1024


class Grounded(NamedTuple):
    """An op of ours that was taken back before it was known to be committed."""

    op_hash: OpHash
    name: Name | None
    lamport: int
    delta: float
    receipt: bytes
    """The service signs that it did not hold it. Empty: nobody signed that."""

    def __repr__(self) -> str:
        return f"Grounded(lamport {self.lamport}, content hidden)"


class Past:
    """The identities that this device has or had, by their index."""

    def __init__(self) -> None:
        self.last: dict[int, int] = {}
        """By index of an identity that is no longer ours alone: the last dev_seq that we wrote."""
        self.deltas: dict[Place, float] = {}
        self.grounded: dict[Place, dict[OpHash, Grounded]] = {}

    @classmethod
    def load(cls, rows: Rows) -> Past:
        """From the rows `was:...`, `added:...` and `grounded:...`."""
        past = cls()
        for name, row in rows.items():
            if name.startswith("was:"):
                [past.last[int(name[4:])]] = unpack(row, 1)
            elif name.startswith("added:"):
                _, index, seq = name.split(":")
                [past.deltas[int(index), int(seq)]] = unpack(row, 1)
            elif name.startswith("grounded:"):
                _, index, seq, _ = name.split(":")
                op_hash, fields, lamport, delta, receipt = unpack(row, 5)
                past._keep(
                    (int(index), int(seq)),
                    Grounded(
                        OpHash(op_hash), Name(*fields) if fields else None, lamport, delta, receipt
                    ),
                )
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

    def _keep(self, place: Place, row: Grounded) -> None:
        self.grounded.setdefault(place, {})[row.op_hash] = row

    def ground(
        self, index: int, flying: Iterable[Flying], receipt: bytes, journal: Journal
    ) -> None:
        """These ops are taken back. They may have been let out."""
        for fly in flying:
            place = (index, fly.sealed.header.dev_seq)
            row = Grounded(fly.sealed.op_hash, fly.name, fly.lamport, fly.delta, receipt)
            self._keep(place, row)
            fields = [bytes(row.op_hash), list(row.name or ()), row.lamport, row.delta, receipt]
            journal.set(_grounded_row(place, row.op_hash), pack(*fields))

    def find_grounded(self, place: Place, op_hash: OpHash) -> Grounded | None:
        """What was taken back, if the op is such a one."""
        return self.grounded.get(place, {}).get(op_hash)

    def lamports_open(self, index: int, seq: int, name: Name) -> list[int]:
        """Of what was taken back beyond `seq`, with which lamports it spoke of the name."""
        return [
            row.lamport
            for place, rows in self.grounded.items()
            if place[0] == index and place[1] > seq
            for row in rows.values()
            if row.name == name
        ]

    def settled(self, index: int, seq: int, journal: Journal) -> None:
        """The service has signed other ops at the places up to `seq`: of what was taken back
        there only the newest is kept."""
        places = sorted(place for place in self.grounded if place[0] == index and place[1] <= seq)
        over = sum(len(self.grounded[place]) for place in places) - SETTLED_MAX
        for place in places:
            if over <= 0:
                return
            for op_hash in self.grounded.pop(place):
                journal.drop(_grounded_row(place, op_hash))
                over -= 1


def _grounded_row(place: Place, op_hash: OpHash) -> str:
    return f"grounded:{place[0]:03d}:{place[1]:015d}:{op_hash[:16].hex()}"


def _added_row(place: Place) -> str:
    return f"added:{place[0]:03d}:{place[1]:015d}"
