"""What this device has to say: edits that wait unsigned, and the batch that is in flight.

An edit is one name's newest value; a later edit of the name replaces it. It stays until an
op that carries it is known to be committed. The batch in flight is sent byte for byte until
it is acknowledged, or dropped as a whole; either way no edit is lost.
"""

from __future__ import annotations

from collections.abc import Container
from heapq import nsmallest
from typing import NamedTuple

from client.profile import Name
from client.rows import Journal, Rows, pack, unpack
from client.steps import CheckpointMark
from crypto import op
from crypto.ids import OpHash
from crypto.op import SealedOp


class Edit(NamedTuple):
    """The newest thing said about a name. `value` None removes it.

    `delta` is what was added to a score since our part was last committed: it survives a
    change of identity, which changes the name of our part.
    """

    name: Name
    value: bytes | None
    lamport: int
    wall_ms: int
    delta: float = 0

    def __repr__(self) -> str:
        return f"Edit(lamport {self.lamport}, content hidden)"


class Flying(NamedTuple):
    """One op of the batch in flight, and the edit that it carries."""

    sealed: SealedOp
    name: Name | None
    delta: float = 0

    @property
    def lamport(self) -> int:
        """Tells which of a name's edits it carries."""
        return self.sealed.header.lamport


class Doubt(NamedTuple):
    """The batch in flight was refused. Whether it may be dropped, a signed receipt must say."""

    hold_back: frozenset[Name] = frozenset()
    """Names to leave out for a while once it was dropped."""
    smaller: bool = False
    """The next batch asks for less than this one did."""
    stale: bool = False
    """Its epoch is said to be over: it is dropped only if the chain shows the same."""
    forked: bool = False
    """Another version of it is said to stand at the service: it is not dropped at all."""


class Outbox:
    """Edits by name, and at most one batch in flight."""

    def __init__(self) -> None:
        self.edits: dict[Name, Edit] = {}
        self.flying: dict[int, Flying] = {}
        self.mark: CheckpointMark | None = None

    @classmethod
    def load(cls, rows: Rows) -> Outbox:
        """From the rows `edit:...`, `fly:...` and `mark`."""
        box = cls()
        for row_name in sorted(rows):
            if row_name.startswith("edit:"):
                _, collection, key = row_name.split(":")
                value, lamport, wall_ms, delta = unpack(rows[row_name], 4)
                name = Name(collection, key)
                box.edits[name] = Edit(name, value, lamport, wall_ms, delta)
            elif row_name.startswith("fly:"):
                raw, fields, delta = unpack(rows[row_name], 3)
                sealed = op.parse(raw)
                box.flying[sealed.header.dev_seq] = Flying(
                    sealed, Name(*fields) if fields else None, delta
                )
        if "mark" in rows:
            box.mark = CheckpointMark(*unpack(rows["mark"], 2))
        return box

    def put(self, edit: Edit, journal: Journal) -> None:
        """Says something about a name."""
        self.edits[edit.name] = edit
        journal.set(_edit_row(edit.name), pack(edit.value, edit.lamport, edit.wall_ms, edit.delta))

    def remove(self, name: Name, journal: Journal) -> None:
        """Takes an edit back."""
        if self.edits.pop(name, None) is not None:
            journal.drop(_edit_row(name))

    def waiting(self, count: int, but: Container[Name] = ()) -> list[Edit]:
        """The oldest edits that no op in flight carries, in the order they were made, without
        those of some names."""
        carried = {(row.name, row.lamport) for row in self.flying.values()}
        rows = (
            edit
            for edit in self.edits.values()
            if (edit.name, edit.lamport) not in carried and edit.name not in but
        )
        return nsmallest(count, rows, key=lambda edit: (edit.lamport, edit.name))

    def fly(self, rows: list[Flying], mark: CheckpointMark | None, journal: Journal) -> None:
        """Takes a sealed batch."""
        self.flying = {row.sealed.header.dev_seq: row for row in rows}
        for seq, row in self.flying.items():
            journal.set(_fly_row(seq), pack(row.sealed.raw, list(row.name or ()), row.delta))
        self.mark = mark
        if mark is not None:
            journal.set("mark", pack(mark.op_index, mark.covers))

    def tail(self, seq: int, head: OpHash) -> tuple[int, OpHash]:
        """Where our own ops end, those in flight included."""
        if not self.flying:
            return seq, head
        last = self.flying[max(self.flying)].sealed
        return last.header.dev_seq, last.op_hash

    def committed(self, seq: int, op_hash: OpHash, journal: Journal) -> Flying | None:
        """An op of ours counts as held everywhere. None if it is none that flies."""
        row = self.flying.get(seq)
        if row is None or row.sealed.op_hash != op_hash:
            return None
        del self.flying[seq]
        journal.drop(_fly_row(seq))
        if not self.flying:
            self._unmark(journal)
        if row.name is not None:
            self.said(row.name, row.lamport, row.delta, journal)
        return row

    def said(self, name: Name, lamport: int, delta: float, journal: Journal) -> None:
        """An op of ours is committed that carried the name's edit of this lamport."""
        edit = self.edits.get(name)
        if edit is not None and edit.lamport == lamport:
            self.remove(name, journal)
        elif edit is not None and delta:
            self.put(edit._replace(delta=edit.delta - delta), journal)

    def ground(self, journal: Journal) -> None:
        """Drops the batch in flight: it was refused for good. Its edits wait again."""
        for seq in self.flying:
            journal.drop(_fly_row(seq))
        self.flying = {}
        self._unmark(journal)

    def _unmark(self, journal: Journal) -> None:
        if self.mark is not None:
            self.mark = None
            journal.drop("mark")


def _edit_row(name: Name) -> str:
    return f"edit:{name.collection}:{name.key}"


def _fly_row(seq: int) -> str:
    return f"fly:{seq:015d}"
