"""What stays on this device: values that no op carries, whatever happens to the account, and
when it first saw a record whose own time says nothing (`client.governed.expiry`).

It stands beside the profile and is not part of it. Nothing that makes ops (outbox, rotation,
checkpoint, what is pushed again) reads it, so nothing of it can be sent.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Final, NamedTuple

from client.profile import Name
from client.rows import Journal, Rows, pack, unpack
from client.values import Part

_ROW: Final = "local:"
_VALUE: Final = 0
_SCORE: Final = 1
_SEEN: Final = 2


class Kept(NamedTuple):
    """A setting or a member: its encoded value, and when it was written."""

    value: bytes
    at_ms: int

    def __repr__(self) -> str:
        return "Kept(content hidden)"


class Local:
    """Values and scores by name, each in a row `local:KIND:COLLECTION:KEY` of the vault."""

    def __init__(self) -> None:
        self._values: dict[Name, Kept] = {}
        self._scores: dict[Name, Part] = {}
        self._seen: dict[Name, tuple[int, int]] = {}

    @classmethod
    def load(cls, rows: Rows) -> Local:
        """RowsError, ValueError, TypeError if they can't be read."""
        local = cls()
        for row_name, row in rows.items():
            if row_name.startswith(_ROW):
                _, kind, collection, key = row_name.split(":")
                name = Name(collection, key)
                match int(kind):
                    case 0:
                        local._values[name] = Kept(*unpack(row, 2))
                    case 1:
                        local._scores[name] = Part(*unpack(row, 2))
                    case _:
                        at_ms, seen_ms = unpack(row, 2)
                        local._seen[name] = (at_ms, seen_ms)
        return local

    def __repr__(self) -> str:
        return f"Local({len(self._values) + len(self._scores)} rows, content hidden)"

    def value(self, name: Name) -> Kept | None:
        """A setting or a member; None if there is none."""
        return self._values.get(name)

    def score(self, name: Name) -> Part | None:
        """A score; None if there is none."""
        return self._scores.get(name)

    def values(self) -> Iterator[tuple[Name, Kept]]:
        """All settings and members, as they stood when it was called."""
        return iter(list(self._values.items()))

    def scores(self) -> Iterator[tuple[Name, Part]]:
        """All scores, as they stood when it was called."""
        return iter(list(self._scores.items()))

    def put(self, name: Name, value: bytes, at_ms: int, journal: Journal) -> None:
        """A setting or a member."""
        self._values[name] = Kept(value, at_ms)
        journal.set(_row(_VALUE, name), pack(value, at_ms))

    def put_score(self, name: Name, part: Part, journal: Journal) -> None:
        """A score."""
        self._scores[name] = part
        journal.set(_row(_SCORE, name), pack(part.total, part.changed_ms))

    def drop(self, name: Name, journal: Journal) -> bool:
        """A setting or a member. False: there was none."""
        if self._values.pop(name, None) is None:
            return False
        journal.drop(_row(_VALUE, name))
        return True

    def drop_score(self, name: Name, journal: Journal) -> bool:
        """A score. False: there was none."""
        if self._scores.pop(name, None) is None:
            return False
        journal.drop(_row(_SCORE, name))
        return True

    # -- since when ---------------------------------------------------------------------

    def is_seen(self, name: Name, at_ms: int) -> bool:
        """Whether `first_seen` was asked of a name with this time."""
        return name in self._seen and self._seen[name][0] == at_ms

    def first_seen(self, name: Name, at_ms: int, now_ms: int, journal: Journal) -> int:
        """When this was first asked of a name with this time; now, if it never was or the clock
        was ahead."""
        seen_ms = self._seen[name][1] if self.is_seen(name, at_ms) else now_ms
        if self._seen.get(name) != (at_ms, min(seen_ms, now_ms)):
            self._seen[name] = (at_ms, min(seen_ms, now_ms))
            journal.set(_row(_SEEN, name), pack(*self._seen[name]))
        return self._seen[name][1]

    def forget_seen(self, but: Container[Name], journal: Journal) -> None:
        """Of all names but these."""
        for name in [name for name in self._seen if name not in but]:
            del self._seen[name]
            journal.drop(_row(_SEEN, name))


def _row(kind: int, name: Name) -> str:
    return f"{_ROW}{kind}:{name.collection}:{name.key}"
