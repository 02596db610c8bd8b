"""What must not stand somewhere, in each form in which a program might put it there; and where
it does stand. For searching stores, logs and frames; no part of the protocol.

A form is a sequence of bytes and what to call it. Of long marks the beginning is looked for, so
that one that was cut short is found too. The hashes are of the whole mark: who logs the SHA-256
of an account id has logged a name for the account.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

START_BYTES: Final = 8
"""So much of the beginning of something is it, and of a hash, too."""
FORM_BYTES_MIN: Final = 5
"""A shorter form turns up in ciphertext by chance: four given bytes stand somewhere in 30 MB
with a probability of about 1 in 140."""
HASHES: Final[dict[str, Callable[[bytes], bytes]]] = {
    "sha256": lambda raw: hashlib.sha256(raw).digest(),
    "sha1": lambda raw: hashlib.sha1(raw, usedforsecurity=False).digest(),
    "md5": lambda raw: hashlib.md5(raw, usedforsecurity=False).digest(),
    "blake2b": lambda raw: hashlib.blake2b(raw).digest(),
    "blake2b-256": lambda raw: hashlib.blake2b(raw, digest_size=32).digest(),
}


@dataclass(frozen=True, slots=True)
class Mark:
    """Something whose place is restricted. `sort` says what it is; the repr hides which."""

    sort: str
    raw: bytes = field(repr=False)
    whole: bool = False
    """Only the whole of it counts: a word that begins like others."""

    def forms(self) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of each."""
        raw = bytes(self.raw)
        yield from _spelt(raw if self.whole else raw[:START_BYTES])
        if len(raw) > START_BYTES:
            yield from _shown(raw)
        for name, made in HASHES.items():
            for spelling, form in _written(made(raw)[:START_BYTES]):
                yield (name if spelling == "raw" else f"{name}, {spelling}"), form


@dataclass(frozen=True, slots=True)
class Hit:
    """Where a mark stands. What it is is not said, only its sort."""

    mark: Mark
    form: str
    offset: int


def _spelt(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """As bytes, and as programs put bytes into a text, which is then escaped or not."""
    yield from _written(raw)
    seen = {raw}
    for name, text in (("repr", repr(raw)[2:-1]), ("latin-1", raw.decode("latin-1"))):
        for where, form in (
            ("", text),
            (" in JSON", json.dumps(text)[1:-1]),
            (" in a label", text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')),
        ):
            if form.encode() not in seen:
                seen.add(form.encode())
                yield name + where, form.encode()


def _shown(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """As an id of ours shows itself (`crypto.ids`)."""
    short = f"{raw[:4].hex()}\N{HORIZONTAL ELLIPSIS}"
    yield "short", short.encode()
    yield "short in JSON", json.dumps(short)[1:-1].encode()


def _written(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Raw, in hex, and in base64 at each of its three alignments."""
    yield "raw", raw
    yield "hex", raw.hex().encode()
    yield "HEX", raw.hex().upper().encode()
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + raw).rstrip(b"=")
        # The ends also hold bits of their neighbours.
        end = len(encoded) if (shift + len(raw)) % 3 == 0 else -1
        inner = encoded[(shift * 8 + 5) // 6 : end]
        yield "base64", inner
        urlsafe = inner.translate(bytes.maketrans(b"+/", b"-_"))
        if urlsafe != inner:
            yield "base64url", urlsafe


_WINDOW: Final = 8
_CHUNK: Final = 1 << 20
_TABLE_BITS: Final = 20
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)
_SHIFT: Final = np.uint64(64 - _TABLE_BITS)


class Finder:
    """Looks for many marks at once: at each offset the next eight bytes are looked up in a table
    of how forms begin, and what is in it is compared."""

    def __init__(self, marks: Iterable[Mark]) -> None:
        self._by_start: dict[bytes, list[tuple[bytes, Mark, str]]] = {}
        self._short: list[tuple[bytes, Mark, str]] = []
        self.patterns = 0
        """How many forms are looked for."""
        for mark in marks:
            for name, form in mark.forms():
                if len(form) >= FORM_BYTES_MIN:
                    self._add(form, mark, name)
        starts = np.array(
            sorted(int.from_bytes(start, "little") for start in self._by_start), np.uint64
        )
        self._starts = starts
        self._table = np.zeros(1 << _TABLE_BITS, bool)
        self._table[(starts * _ODD) >> _SHIFT] = True

    def _add(self, form: bytes, mark: Mark, name: str) -> None:
        self.patterns += 1
        if len(form) < _WINDOW:
            self._short.append((form, mark, name))
        else:
            self._by_start.setdefault(form[:_WINDOW], []).append((form, mark, name))

    def find(self, data: bytes) -> list[Hit]:
        """Every place of every form, in the order of places."""
        hits = [*self._long_hits(data), *self._short_hits(data)]
        return sorted(hits, key=lambda hit: hit.offset)

    def _short_hits(self, data: bytes) -> Iterator[Hit]:
        for form, mark, name in self._short:
            at = data.find(form)
            while at >= 0:
                yield Hit(mark, name, at)
                at = data.find(form, at + 1)

    def _long_hits(self, data: bytes) -> Iterator[Hit]:
        if not self._starts.size:
            return
        for at in self._candidates(data):
            for form, mark, name in self._by_start[data[at : at + _WINDOW]]:
                if data.startswith(form, at):
                    yield Hit(mark, name, at)

    def _candidates(self, data: bytes) -> Iterator[int]:
        for begin in range(0, len(data) - _WINDOW + 1, _CHUNK):
            end = min(begin + _CHUNK + _WINDOW - 1, len(data))
            for shift in range(_WINDOW):
                count = (end - begin - shift) // _WINDOW
                if count <= 0:
                    continue
                windows = np.frombuffer(data, "<u8", count, begin + shift).astype(np.uint64)
                likely = np.flatnonzero(self._table[(windows * _ODD) >> _SHIFT])
                exact = likely[np.isin(windows[likely], self._starts)]
                yield from (begin + shift + _WINDOW * int(one) for one in exact)


__all__ = ["HASHES", "START_BYTES", "Finder", "Hit", "Mark"]
