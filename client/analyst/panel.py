"""Whom a publisher asks and an analyst trusts: publishers, and parties in their order.

Written by hand, as a TOML file or on the command line; nothing here is asked of a service.

    publishers = ["64 hex digits"]

    [[party]]
    address = "party1.example.org:7453"
    key = "64 hex digits"
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from client.errors import UserError
from crypto.shares import PARTIES_MAX

KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class PinnedParty:
    """A party's identity key, and where it listens if that is known."""

    key: bytes
    address: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """Who is trusted."""

    parties: tuple[PinnedParty, ...]
    publishers: frozenset[bytes]

    def __post_init__(self) -> None:
        keys = [party.key for party in self.parties]
        if len(set(keys)) != len(keys):
            raise UserError("a party's key is given twice")
        if len(keys) > PARTIES_MAX:
            raise UserError(f"a round has {PARTIES_MAX} parties at most")

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The parties' identity keys, in their order."""
        return tuple(party.key for party in self.parties)


def public_key(text: str, what: str) -> bytes:
    """A public key in hexadecimal; UserError."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise UserError(f"{what} is not a public key of {2 * KEY_BYTES} hex digits")
    return key


def party(text: str) -> PinnedParty:
    """`HOST:PORT=KEY`, or the key alone; UserError."""
    address, _, key = text.rpartition("=")
    return PinnedParty(public_key(key, f"what stands for the party in {text!r}"), address)


def read(path: Path) -> Panel:
    """A panel file; UserError."""
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    unknown = set(fields) - {"party", "publishers"}
    if unknown:
        raise UserError(f"{path}: {min(unknown)} is no field of it; there are party, publishers")
    try:
        parties = [_party(path, row) for row in _list(fields.get("party", []))]
        publishers = [
            public_key(_text(key), f"{path}: a publisher")
            for key in _list(fields.get("publishers", []))
        ]
    except TypeError:
        raise UserError(
            f"{path}: it holds publishers = [key, ...] and [[party]] tables with address and key"
        ) from None
    return Panel(tuple(parties), frozenset(publishers))


def joined(path: Path | None, parties: Iterable[str], publishers: Iterable[str]) -> Panel:
    """A panel file and what is given beside it. Parties stand in one place only; UserError."""
    base = Panel((), frozenset()) if path is None else read(path)
    given = tuple(party(text) for text in parties)
    if given and base.parties:
        raise UserError("parties are given by --party or by --panel, not by both")
    more = frozenset(public_key(text, "--publisher") for text in publishers)
    return Panel(given or base.parties, base.publishers | more)


def _party(path: Path, row: Any) -> PinnedParty:
    if not isinstance(row, dict) or not {"key"} <= set(row) <= {"key", "address"}:
        raise TypeError
    return PinnedParty(
        public_key(_text(row["key"]), f"{path}: a party's key"), _text(row.get("address", ""))
    )


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
