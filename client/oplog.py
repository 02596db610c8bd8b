"""The ops that this device keeps, verbatim: to send them again, and to work out winners anew.

An op whose epoch key was destroyed keeps only its stub. The log is the one truth on disk:
profile and judge's memory are built from it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from client.errors import RowsError
from client.rows import Journal, Rows
from crypto import op
from crypto.errors import CryptoError
from crypto.heads import Head
from crypto.ids import OpHash, Tag
from crypto.op import Kind, Order, SealedOp

Place = tuple[int, int]
"""(device index, dev_seq)."""
_ARRIVAL = struct.Struct(">Q")


class Kept(NamedTuple):
    """One op or stub. `arrival` counts up: an order in which causes come first."""

    arrival: int
    raw: bytes
    op_hash: OpHash
    epoch: int
    order: Order
    tag: Tag
    record: bool
    stub: bool


def _row(place: Place) -> str:
    return f"op:{place[0]:03d}:{place[1]:015d}"


def _kept(arrival: int, sealed: SealedOp) -> Kept:
    header = sealed.header
    return Kept(
        arrival,
        sealed.raw,
        sealed.op_hash,
        header.epoch,
        sealed.order,
        header.tag,
        header.kind == Kind.RECORD,
        sealed.ct is None,
    )


class OpLog:
    """Every op that counts as held, by place."""

    def __init__(self) -> None:
        self.ops: dict[Place, Kept] = {}
        self.winners: dict[tuple[int, Tag], Place] = {}
        """By (epoch, tag): what the service keeps whole. Only headers decide here."""
        self.orphans: set[tuple[int, Tag]] = set()
        """(epoch, tag) whose winner is a stub: somebody has to show the whole op (C14)."""
        self.lowest: dict[tuple[int, Tag, int], int] = {}
        """By (epoch, tag, device index): the smallest lamport, stubs included."""
        self._arrivals = 0

    @classmethod
    def load(cls, rows: Rows) -> OpLog:
        """From the rows `op:...`."""
        log = cls()
        found = []
        for name, row in rows.items():
            if name.startswith("op:"):
                _, index, seq = name.split(":")
                found.append((_ARRIVAL.unpack_from(row)[0], (int(index), int(seq)), row[8:]))
        found.sort()
        try:
            for arrival, place, raw in found:
                log._insert(place, _kept(arrival, op.parse_any(raw)))
        except CryptoError:
            raise RowsError("a stored op can't be read") from None
        log._arrivals = found[-1][0] if found else 0
        return log

    def _insert(self, place: Place, kept: Kept) -> None:
        self.ops[place] = kept
        if kept.record:
            at = (kept.epoch, kept.tag)
            lowest = (*at, place[0])
            lamport = kept.order.lamport
            self.lowest[lowest] = min(lamport, self.lowest.get(lowest, lamport))
            best = self.winners.get(at)
            if best is None or kept.order > self.ops[best].order:
                self.winners[at] = place
                (self.orphans.add if kept.stub else self.orphans.discard)(at)

    def add(self, index: int, sealed: SealedOp, journal: Journal) -> None:
        """Keeps one more op."""
        self._arrivals += 1
        place = (index, sealed.header.dev_seq)
        self._insert(place, _kept(self._arrivals, sealed))
        journal.set(_row(place), _ARRIVAL.pack(self._arrivals) + sealed.raw)

    def fill(self, index: int, sealed: SealedOp, journal: Journal) -> None:
        """The whole op where only its stub was kept."""
        place = (index, sealed.header.dev_seq)
        kept = self.ops[place]
        self.ops[place] = kept._replace(raw=sealed.raw, stub=False)
        at = (kept.epoch, kept.tag)
        if kept.record and self.winners.get(at) == place:
            self.orphans.discard(at)
        journal.set(_row(place), _ARRIVAL.pack(kept.arrival) + sealed.raw)

    def drop(self, index: int, after_seq: int, journal: Journal) -> list[Kept]:
        """Forgets a device's ops beyond a seq, and works out the winners anew. O(n), rare."""
        gone = [place for place in self.ops if place[0] == index and place[1] > after_seq]
        dropped = []
        for place in sorted(gone):
            dropped.append(self.ops.pop(place))
            journal.drop(_row(place))
        if gone:
            rest, self.ops, self.winners, self.orphans = self.ops, {}, {}, set()
            self.lowest = {}
            for place, kept in rest.items():
                self._insert(place, kept)
        return dropped

    def shed(self, epoch: int, journal: Journal) -> None:
        """Keeps only stubs of an epoch whose key is destroyed."""
        for place, kept in self.ops.items():
            if kept.epoch == epoch and not kept.stub:
                stub = op.parse(kept.raw).stub
                self.ops[place] = kept._replace(raw=stub, stub=True)
                journal.set(_row(place), _ARRIVAL.pack(kept.arrival) + stub)

    def state_at(self, epoch: int, held: Iterable[Head]) -> list[tuple[Tag, OpHash]]:
        """(tag, op hash) of the winning record of every tag of an epoch, among the ops up to
        these heads: what a checkpoint states."""
        limits = {head.device_index: head.seq for head in held}
        best: dict[Tag, Kept] = {}
        for (index, seq), kept in self.ops.items():
            if kept.record and kept.epoch == epoch and seq <= limits.get(index, 0):
                other = best.get(kept.tag)
                if other is None or kept.order > other.order:
                    best[kept.tag] = kept
        return [(tag, kept.op_hash) for tag, kept in best.items()]

    def after(self, seqs: dict[int, int]) -> list[tuple[int, int, Place]]:
        """(epoch, arrival, place) of all ops beyond these seqs, sorted: epochs in order, and
        in an epoch causes first."""
        return sorted(
            (kept.epoch, kept.arrival, place)
            for place, kept in self.ops.items()
            if place[1] > seqs.get(place[0], 0)
        )

    def best_readable(
        self, aside: set[Place], epochs: Iterable[int]
    ) -> Iterator[tuple[Place, Kept]]:
        """Per (epoch, tag) the greatest record that can be opened and is not set aside."""
        readable = set(epochs)
        best: dict[tuple[int, Tag], Place] = {}
        for place, kept in self.ops.items():
            if kept.record and not kept.stub and kept.epoch in readable and place not in aside:
                at = (kept.epoch, kept.tag)
                other = best.get(at)
                if other is None or kept.order > self.ops[other].order:
                    best[at] = place
        for place in best.values():
            yield place, self.ops[place]
