"""Ops that wait for something that has to come first: an op, a link, a key."""

from __future__ import annotations

from collections.abc import Iterator

from client.held import State
from client.rows import Journal, Rows
from crypto import op
from crypto.errors import CryptoError
from crypto.ids import DeviceId
from crypto.op import SealedOp

HOLDS_MAX = 2048
FRESH_HOLDS_MAX = 200_000
"""A first catch-up from a trimmed history holds everything until a checkpoint bears it out."""
STRANGERS_MAX = 256
"""Anybody can make an op of a device that nobody knows: such ops have little room of their own."""


class Holds:
    """By author and dev_seq. Nothing in here counts for anything yet."""

    def __init__(self) -> None:
        self._waiting: dict[DeviceId, dict[int, dict[bytes, SealedOp]]] = {}
        self._count = 0
        self.asked_about: set[DeviceId] = set()
        """Unknown authors for whose link the chain is being asked. In memory only."""
        self.quiet_rounds = 0
        """How often everything was fetched without any op in here getting further."""

    def __len__(self) -> int:
        return self._count

    @classmethod
    def load(cls, rows: Rows) -> Holds:
        """From the rows `hold:...`."""
        holds = cls()
        for name, raw in rows.items():
            if name.startswith("hold:"):
                try:
                    holds.add(op.parse_any(raw), None)
                except CryptoError:
                    continue
        return holds

    def add(self, sealed: SealedOp, journal: Journal | None, *, room: int = HOLDS_MAX) -> bool:
        """Keeps an op; False if there is no room. `journal` None: only in memory."""
        if self._count >= room:
            return False
        seqs = self._waiting.setdefault(sealed.header.device_id, {})
        versions = seqs.setdefault(sealed.header.dev_seq, {})
        if sealed.raw not in versions:
            versions[sealed.raw] = sealed
            self._count += 1
            if journal is not None:
                journal.set(_row(sealed), sealed.raw)
        return True

    def remove(self, sealed: SealedOp, journal: Journal) -> None:
        """It has been judged for good."""
        seqs = self._waiting.get(sealed.header.device_id, {})
        versions = seqs.get(sealed.header.dev_seq, {})
        if versions.pop(sealed.raw, None) is not None:
            self._count -= 1
            journal.drop(_row(sealed))
        if not versions:
            seqs.pop(sealed.header.dev_seq, None)
        if not seqs:
            self._waiting.pop(sealed.header.device_id, None)

    def next_ones(self, state: State) -> list[SealedOp]:
        """Ops whose turn it may be: the next of their device, or of a device unknown so far."""
        due: list[SealedOp] = []
        for device_id, seqs in self._waiting.items():
            device = state.find(device_id)
            if device is None:
                due += [sealed for versions in seqs.values() for sealed in versions.values()]
            else:
                due += seqs.get(state.logs[device.index].seq + 1, {}).values()
        return due

    def passed(self, state: State) -> list[SealedOp]:
        """Ops at places that are held or cut off by now."""
        return [
            sealed
            for device_id, seqs in self._waiting.items()
            if (device := state.find(device_id)) is not None
            for seq, versions in seqs.items()
            if seq <= state.logs[device.index].seq
            or (device.cut is not None and seq > device.cut.seq)
            or state.logs[device.index].fork_seq is not None
            for sealed in versions.values()
        ]

    def __iter__(self) -> Iterator[SealedOp]:
        for seqs in self._waiting.values():
            for versions in seqs.values():
                yield from versions.values()

    def known(self, state: State) -> Iterator[SealedOp]:
        """Those by devices of the account. Their signatures were checked."""
        for device_id, seqs in self._waiting.items():
            if state.find(device_id) is not None:
                for versions in seqs.values():
                    yield from versions.values()

    def strangers(self, state: State) -> list[SealedOp]:
        """Those by authors that the chain does not know (yet): nobody vouches for them."""
        return [
            sealed
            for device_id, seqs in self._waiting.items()
            if state.find(device_id) is None
            for versions in seqs.values()
            for sealed in versions.values()
        ]

    def keep(self, journal: Journal) -> None:
        """Writes all of them, when the cursor is about to move past them."""
        for sealed in self:
            journal.set(_row(sealed), sealed.raw)


def _row(sealed: SealedOp) -> str:
    return f"hold:{sealed.op_hash.hex()}:{len(sealed.raw)}"
