"""Looks for plaintext where there must be none: the database, its log, the service's logs."""

from __future__ import annotations

import base64
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

WORD_BYTES_MIN = 5
"""A shorter word turns up in ciphertext by chance: four given bytes stand somewhere in 30 MB
with a probability of about 1 in 140. Shorter ones are only looked for as whole records."""


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


def forms(word: str) -> Iterator[tuple[str, bytes]]:
    """A word raw, in hex, and in base64 at each of its three alignments."""
    raw = word.encode()
    yield "raw", raw
    yield "hex", raw.hex().encode()
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + raw).rstrip(b"=")
        # The ends also hold bits of their neighbours.
        inner = encoded[(shift * 8 + 5) // 6 : -1]
        if len(inner) > WORD_BYTES_MIN:
            yield "base64", inner


def search(paths: Iterable[Path], words: Iterable[str], records: Iterable[bytes]) -> Search:
    """Searches whole files for every word (in all its forms) and every record."""
    patterns = [pattern for word in words if len(word) >= WORD_BYTES_MIN for pattern in forms(word)]
    patterns += [("record", record) for record in set(records)]
    hits: list[Trace] = []
    searched, names = 0, []
    for path in paths:
        if not path.exists() or path.stat().st_size == 0:
            continue
        names.append(path.name)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            searched += len(data)
            for form, pattern in patterns:
                at = data.find(pattern)
                if at >= 0:
                    hits.append(Trace(path.name, at, form))
    return Search(len(patterns), tuple(names), searched, tuple(hits))
