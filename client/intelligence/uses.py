"""What of the profile may be used for a purpose, right now: asked for every name that is read.

Knows no values. A device under no policy may use what it holds: it is the person's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from client.gate import Kind

SYNCS: Final = "sync"
REACHES: Final = {
    "device": "stays on this device",
    SYNCS: "is shared by your devices only",
    "aggregate": "is shared by your devices, and may be counted in joint aggregates",
}
"""How far a value gets, in words."""


@dataclass(frozen=True, slots=True)
class Use:
    """A name that may be used."""

    signal: str
    """The declared signal that it belongs to; of a device under no policy, the collection."""
    reach: str = SYNCS
    """One of `REACHES`."""
    half_life_ms: int | None = None
    """Of a score; None: it does not decay."""


class Uses(Protocol):
    """The gate in front of every reading."""

    def use_of(self, kind: Kind, collection: str, key: str) -> Use | None:
        """None: it is not declared, not for this purpose, or the purpose is off, paused or
        stopped."""
        ...


class Unrestricted:
    """A device under no policy. Scores decay as the person's app says."""

    def __init__(self, half_life_ms: int | None = None) -> None:
        self._half_life_ms = half_life_ms

    def use_of(self, kind: Kind, collection: str, key: str) -> Use | None:
        """Everything."""
        del key
        return Use(collection, SYNCS, self._half_life_ms if kind == "score" else None)
