"""A task, its publisher, parties and a round, for tests of whatever uses them."""

from __future__ import annotations

from typing import Any

from crypto.contribution import PartyBox
from crypto.field import FIELD31
from mpc.keys import PartyKey, PublisherKey
from mpc.kinds import Histogram
from mpc.manifest import Manifest, Party
from mpc.noise import Law, Mechanism
from mpc.tail_params import AsTheyAre
from mpc.task import Caps, Task

HOUR_MS = 3_600_000
PUBLISHER = PublisherKey(b"\x50" * 32)


def task(**other: Any) -> Task:
    """A weekly histogram of three bins over three parties, or one that differs."""
    fields: dict[str, Any] = {
        "task_id": "food/favourite-cuisine",
        "title": "Favourite cuisine",
        "purpose": "statistics",
        "kind": Histogram(FIELD31, 3, ("thai", "italian", "other")),
        "kappa": 2,
        "window_ms": 168 * HOUR_MS,
        "grace_ms": HOUR_MS,
        "reports_max": 100_000,
        "k_min": 100,
        "noise": Law(Mechanism.GAUSSIAN, 20_000),
        "caps": Caps(50_000, 168 * HOUR_MS, 500_000),
        "m": 3,
        "t": 1,
        "tail": AsTheyAre(),
        "expires_ms": 2_000_000_000_000,
        **other,
    }
    return Task(**fields)


def party(at: int) -> PartyKey:
    """The identity key of party 1, 2, ..."""
    return PartyKey(bytes((0x60 + at,)) * 32)


def box(at: int, round_no: int = 1) -> PartyBox:
    """That party's box key of one round."""
    return PartyBox(at, bytes((0x70 + at, round_no)) * 16)


def manifest(of: Task, **other: Any) -> Manifest:
    """The task's round that opens at 1,700,000,000,000, or one that differs."""
    fields: dict[str, Any] = {
        "round_id": b"\x01" * 16,
        "spec_hash": of.spec_hash,
        "t": of.t,
        "open_ms": 1_700_000_000_000,
        "close_ms": 1_700_000_000_000 + of.window_ms,
        "k_min": of.k_min,
        "parties": tuple(Party(party(at).public, box(at).public) for at in range(1, of.m + 1)),
        **other,
    }
    return Manifest(**fields)


def signed(round_: Manifest) -> bytes:
    """The manifest with every party's signature."""
    return round_.signed([round_.sign(party(at)) for at in range(1, round_.m + 1)])


def pinned(m: int = 3) -> list[bytes]:
    """The parties' identity keys."""
    return [party(at).public for at in range(1, m + 1)]
