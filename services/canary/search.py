"""What was gathered, searched by the table of what may stand where.

Two things fail: a mark in a place that is not its own, and a place that is its own and where it
was not found. The second is how the canary shows that it can see: a log that was not read, a
frame that was not recorded or a store that is compressed would be clean, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from crypto.marks import Finder, Hit, Mark
from services.canary.rules import DUE, STORES, may_stand

DELETED: Final = "deleted"
"""Behind it, of the deleted account's own marks nothing is in a store any more."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes, and whose they are."""

    place: str
    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Leak:
    """Where something stands that must not. What it is is not said."""

    place: str
    name: str
    offset: int
    form: str
    sort: str
    moment: str

    def as_data(self) -> dict[str, str | int]:
        """For programs."""
        return {
            "place": self.place, "file": self.name, "offset": self.offset, "form": self.form,
            "sort": self.sort, "moment": self.moment,
        }  # fmt: skip

    def __str__(self) -> str:
        return (
            f"{self.place}: {self.sort} as {self.form} in {self.name}, offset {self.offset}"
            f" ({self.moment})"
        )


@dataclass(slots=True)
class Search:
    """Everything that was looked through so far."""

    marks: dict[str, list[Mark]] = field(default_factory=dict)
    """By sort."""
    own: list[Mark] = field(default_factory=list)
    """Of the account that is deleted in the end."""
    leaks: list[Leak] = field(default_factory=list)
    seen: set[tuple[str, str]] = field(default_factory=set)
    """(sort, place) of what stood where it may."""
    bytes_searched: int = 0
    patterns: int = 0
    _own: Finder | None = None

    def add(self, mark: Mark, *, is_own: bool) -> None:
        """From now on it is looked for."""
        self.marks.setdefault(mark.sort, []).append(mark)
        if is_own and any(may_stand(mark.sort, place) for place in STORES):
            self.own.append(mark)

    def look(self, pieces: Iterable[Piece], moment: str) -> None:
        """Searches all of it for everything."""
        finder = Finder(mark for marks in self.marks.values() for mark in marks)
        self.patterns = finder.patterns
        for piece in pieces:
            self.bytes_searched += len(piece.data)
            self._judge(piece, finder.find(piece.data), moment)

    def _judge(self, piece: Piece, hits: Collection[Hit], moment: str) -> None:
        told: set[tuple[str, str]] = set()
        for hit in hits:
            sort = hit.mark.sort
            if may_stand(sort, piece.place):
                self.seen.add((sort, piece.place))
            elif (sort, hit.form) not in told:
                told.add((sort, hit.form))
                self.leaks.append(Leak(piece.place, piece.name, hit.offset, hit.form, sort, moment))

    def finder_of_own(self) -> Finder:
        """Of what the deleted account must leave nowhere."""
        if self._own is None:
            self._own = Finder(self.own)
        return self._own

    def left(self, pieces: Iterable[Piece]) -> list[Leak]:
        """What of a deleted account still stands in the stores."""
        finder = self.finder_of_own()
        return [
            Leak(piece.place, piece.name, hit.offset, hit.form, hit.mark.sort, DELETED)
            for piece in pieces
            if piece.place in STORES
            for hit in finder.find(piece.data)
        ]

    def blind(self) -> list[tuple[str, str]]:
        """(sort, place) of what was to be found and was not."""
        return sorted(DUE - self.seen)
