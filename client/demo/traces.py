"""Looks for plaintext where there must be none: the database, its log, the service's logs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from crypto.marks import FORM_BYTES_MIN, Finder, Mark


@dataclass(frozen=True, slots=True)
class Trace:
    """Where something was found. What it was is not said."""

    file: str
    offset: int
    form: str


@dataclass(frozen=True, slots=True)
class Search:
    """What a search covered and found."""

    patterns: int
    files: tuple[str, ...]
    bytes_searched: int
    hits: tuple[Trace, ...]


def record_pattern(collection: str, key: str, value: bytes) -> bytes:
    """Name and value as they stand next to each other in an op's plaintext
    (docs/protocol.md, 1.5). Finds values that are too short to be looked for alone."""
    parts = ((2, collection.encode()), (2, key.encode()), (4, value))
    return b"".join(len(part).to_bytes(width, "big") + part for width, part in parts)


PUBLIC_BYTES_MIN = 16
"""So many equal bytes beside a word say that it stands in a document and not by itself."""


def is_public(data: bytes, offset: int, word: bytes, documents: Iterable[bytes]) -> bool:
    """Whether a word at a place of a file is a piece of a document that everybody may read: a
    policy's dictionary names what can be recorded. A store cuts documents into pages, so that the
    bytes on one side are enough."""
    for document in documents:
        at = document.find(word)
        while at >= 0:
            before = _common(document[:at][::-1], data[max(0, offset - at) : offset][::-1])
            end = offset + len(word)
            behind = document[at + len(word) :]
            if before + _common(behind, data[end : end + len(behind)]) >= PUBLIC_BYTES_MIN:
                return True
            at = document.find(word, at + 1)
    return False


def _common(one: bytes, other: bytes) -> int:
    """How many bytes at the start of both are equal."""
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def search(
    paths: Iterable[Path],
    words: Iterable[str],
    records: Iterable[bytes],
    public: Sequence[bytes] = (),
) -> Search:
    """Searches whole files for every word and every record, in all their forms. A word that is
    too short to be told from chance is only looked for as part of a record; one that stands in a
    `public` document is no trace."""
    marks = [Mark("word", word.encode(), whole=True) for word in sorted(set(words))]
    marks = [one for one in marks if len(one.raw) >= FORM_BYTES_MIN]
    finder = Finder([*marks, *(Mark("record", one, whole=True) for one in sorted(set(records)))])
    hits: list[Trace] = []
    searched, names = 0, []
    for path in paths:
        data = path.read_bytes() if path.exists() else b""
        if not data:
            continue
        names.append(path.name)
        searched += len(data)
        hits += [
            Trace(path.name, hit.offset, hit.form)
            for hit in finder.find(data)
            if hit.form != "raw" or not is_public(data, hit.offset, hit.mark.raw, public)
        ]
    return Search(finder.patterns, tuple(names), searched, tuple(hits))
