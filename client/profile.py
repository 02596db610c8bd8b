"""The profile: what won, by name. Settings, scores and sets are views of one map.

Everything is last-writer-wins on (collection, key), ordered by (lamport, epoch, device id):
lamports, never clocks, and the epoch so that a record that a rotation publishes again beats
its older copy. Knows nothing of ops on hold, of edits that wait, or of the service.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from crypto.errors import FormatError
from crypto.ids import DeviceId
from crypto.names import split_part


class Name(NamedTuple):
    """What a record is called."""

    collection: str
    key: str


class Order(NamedTuple):
    """Of two entries with one name, the greater one stays."""

    lamport: int
    epoch: int
    device_id: DeviceId


class Entry(NamedTuple):
    """The winner of a name. `value` None: removed (a tombstone)."""

    order: Order
    device_index: int
    value: bytes | None
    wall_ms: int

    def __repr__(self) -> str:
        return f"Entry({self.order!r}, content hidden)"


class Profile:
    """All winners, and which of them still live in an older epoch than the current one."""

    def __init__(self) -> None:
        self.epoch = 0
        self._collections: dict[str, dict[str, Entry]] = {}
        self._own: dict[Name, Entry] = {}
        """Parts of scores, as their own devices wrote them."""
        self.stale: dict[Name, None] = {}
        """Names whose winner is sealed under an older epoch: to be published again."""

    def clear(self) -> None:
        """Forgets everything but the epoch."""
        self._collections.clear()
        self._own.clear()
        self.stale.clear()

    def set_epoch(self, epoch: int) -> None:
        """A new epoch: everything older is stale."""
        if epoch == self.epoch:
            return
        self.epoch = epoch
        self.stale = {name: None for name, entry in self if entry.order.epoch < epoch}

    def __iter__(self) -> Iterator[tuple[Name, Entry]]:
        for collection, entries in self._collections.items():
            for key, entry in entries.items():
                yield Name(collection, key), entry

    def find(self, name: Name) -> Entry | None:
        """The winner with this name, tombstones included."""
        entries = self._collections.get(name.collection)
        return None if entries is None else entries.get(name.key)

    def keys(self, collection: str) -> tuple[str, ...]:
        """All keys of a collection, removed ones included."""
        return tuple(self._collections.get(collection, ()))

    def collections(self) -> tuple[str, ...]:
        """All collections, also those with nothing but tombstones."""
        return tuple(self._collections)

    def merge(self, name: Name, entry: Entry) -> bool:
        """Takes an entry if it wins. False if it is refused: somebody wrote another
        device's part of a score and it is no copy of what that device wrote.

        What a part's own device wrote counts before anything that others wrote, in whatever
        order the two arrive: a copy of it says the same with the same lamport.
        """
        held = self.find(name)
        part = part_of(name.key)
        if part is not None:
            own = self._own.get(name)
            if entry.device_index == part[1]:
                if own is None or entry.order > own.order:
                    self._own[name] = own = entry
                if held is not None and not _fits(held, own):
                    held = None  # its author had no business there
            elif own is not None and not _fits(entry, own):
                return False
        if held is None or entry.order > held.order:
            self._collections.setdefault(name.collection, {})[name.key] = entry
            if entry.order.epoch < self.epoch:
                self.stale[name] = None
            else:
                self.stale.pop(name, None)
        return True


def _fits(entry: Entry, own: Entry) -> bool:
    """Whether an entry of a part is what the part's own device wrote, or older."""
    if entry.order.lamport == own.order.lamport:
        return entry.value == own.value
    return entry.order.lamport < own.order.lamport


def part_of(key: str) -> tuple[str, int] | None:
    """(score's key, device index) if this is the key of a score's part."""
    if "#" not in key:
        return None
    try:
        part = split_part(key.encode())
    except FormatError:
        return None
    return None if part is None else (part[0].decode(), part[1])
