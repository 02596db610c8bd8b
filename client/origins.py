"""Which of the account's devices wrote what the profile shows, and when by its own clock.

A record that a rotation published again carries the lamport of the one that it is a copy of, so
that who wrote it first can be looked up among the kept ops. Where only stubs of an older epoch
are left, several devices may have written it: then all that may have are named.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from client.core import Core
from client.oplog import Place
from client.profile import Entry, Name, Order
from client.values import Part
from client.views import local_value, shares, shown


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from."""

    devices: tuple[int, ...]
    """Indexes of the devices one of which wrote it; mostly there is but one."""
    at_ms: int
    """When, by that device's clock."""
    waiting: bool = False
    """No other device has it yet: it is an edit that waits here."""
    stays_here: bool = False
    """It is kept on this device and never becomes an op."""

    @property
    def device(self) -> int | None:
        """Who wrote it; None if that can't be told any more."""
        return self.devices[0] if len(self.devices) == 1 else None


class Origins:
    """Looks up who wrote what, in one device's log."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._older: dict[int, _Older] = {}

    def setting(self, collection: str, key: str) -> Origin | None:
        """Of a setting or a set's member; None if there is none."""
        core, name = self._core, Name(collection, key)
        kept = local_value(core, name)
        if kept is not None:
            return Origin(self._own, kept.at_ms, stays_here=True)
        if shown(core, name) is None:
            return None
        entry, edit = core.profile.find(name), core.outbox.edits.get(name)
        if edit is not None:
            order = Order(edit.lamport, core.profile.epoch, core.identity.device_id)
            if entry is None or order > entry.order:
                return Origin(self._own, edit.wall_ms, waiting=True)
        assert entry is not None
        return Origin(self._writers(name, entry), entry.wall_ms)

    def parts(self, collection: str, key: str) -> list[tuple[Part, Origin]]:
        """Each device's share of a score, which only that device can have written; and what
        stays here."""
        core, found = self._core, []
        for index in range(len(core.view.chain.devices)):
            name = Name(collection, f"{key}#{index}")
            data = shown(core, name)
            part = None if data is None else Part.decode(data)
            if part is not None:
                waiting = name in core.outbox.edits
                found.append((part, Origin((index,), part.changed_ms, waiting=waiting)))
        local = shares(core, collection, key).get(None)
        if local is not None:
            found.append((local, Origin(self._own, local.changed_ms, stays_here=True)))
        return found

    @property
    def _own(self) -> tuple[int, ...]:
        me = self._core.me
        return () if me is None else (me.index,)

    def _writers(self, name: Name, entry: Entry) -> tuple[int, ...]:
        """The author of the record, unless it may be a copy: then of what it may be a copy of."""
        older = self._older.get(entry.order.lamport)
        if older is None:
            older = self._older[entry.order.lamport] = self._read(entry.order.lamport)
        first = older.named.get(name)
        if first is not None and first[0] < entry.order.epoch:
            return (first[1],)
        unread = {index for index, epoch in older.unread.items() if epoch < entry.order.epoch}
        return tuple(sorted({entry.device_index, *unread}))

    def _read(self, lamport: int) -> _Older:
        """The records of earlier epochs than the present one that have this lamport."""
        found = _Older({}, {})
        for index, seq in self._places.get(lamport, ()):
            kept = self._core.oplog.ops[index, seq]
            payload = self._core.open_kept(kept)
            if payload is None:
                found.unread[index] = min(kept.epoch, found.unread.get(index, kept.epoch))
                continue
            name = Name(
                *(part.decode("ascii", "replace") for part in (payload.collection, payload.key))
            )
            found.named[name] = min((kept.epoch, index), found.named.get(name, (kept.epoch, index)))
        return found

    @cached_property
    def _places(self) -> dict[int, list[Place]]:
        """By lamport, of those records. Of the present epoch none is a copy's original."""
        places: dict[int, list[Place]] = defaultdict(list)
        for place, kept in self._core.oplog.ops.items():
            if kept.record and kept.epoch < self._core.profile.epoch:
                places[kept.order.lamport].append(place)
        return places


class _Older(NamedTuple):
    """What records of one lamport say: (epoch, device index) of the first of each name; and by
    device the first epoch of those that can't be read any more."""

    named: dict[Name, tuple[int, int]]
    unread: dict[int, int]
