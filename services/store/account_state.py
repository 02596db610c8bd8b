"""What is known of an account when a batch is judged, whatever keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from crypto.cert import Role
from crypto.chain import Chain
from crypto.ids import DeviceId
from services.store.base import Tip

POSITION_BITS = 32
POSITION_MAX = (1 << POSITION_BITS) - 1
MARKS_MAX = 8
HASH_START_BYTES = 8
"""What is kept of the hash of an op that was trimmed."""


class Mark(NamedTuple):
    """An op that was marked as a checkpoint of everything up to `covers`."""

    position: int
    covers: int
    epoch: int


@dataclass(slots=True, kw_only=True)
class AccountState:
    """An account as of the newest commit, or of the open transaction."""

    chain: Chain
    position: int
    lamport_max: int
    records: int
    records_before: int
    ended_ms: int
    """When the epoch before the current one ended."""
    heads: dict[bytes, tuple[int, bytes]]
    """device id -> (dev_seq, op_hash) of its newest op"""
    passed: dict[DeviceId, int]
    marks: list[Mark]
    author: bytes = b""
    """Device id of the op at `position`; empty if it isn't known."""
    index: dict[bytes, int] = field(init=False)
    """device id -> index in the chain"""

    def __post_init__(self) -> None:
        self.set_chain(self.chain)

    def set_chain(self, chain: Chain) -> None:
        """Takes a chain with one more link."""
        self.chain = chain
        self.index = {bytes(device.device_id): device.index for device in chain.devices}

    @property
    def tip(self) -> Tip:
        """See `Store.tip`."""
        return Tip(self.chain, self.position, self.lamport_max)

    def settled(self) -> Mark | None:
        """The newest checkpoint that every active device that writes has passed."""
        if not self.marks:
            return None
        floor = min(self.passed.get(device_id, 0) for device_id in self.writers())
        done = (mark for mark in self.marks if mark.covers <= floor)
        return max(done, key=lambda mark: (mark.covers, mark.position), default=None)

    def outdated(self, settled: Mark) -> list[Mark]:
        """Checkpoints that the settled one makes superfluous."""
        return [
            mark
            for mark in self.marks
            if mark.position < settled.position and mark.covers <= settled.covers
        ]

    def awaited(self) -> dict[DeviceId, int]:
        """Which devices stand before which checkpoint."""
        result = {}
        for device_id in self.writers():
            passed = self.passed.get(device_id, 0)
            ahead = [mark.covers for mark in self.marks if mark.covers > passed]
            if ahead:
                result[device_id] = min(ahead)
        return result

    def writers(self) -> list[DeviceId]:
        """Active devices with role 1. There is always one."""
        return [device.device_id for device in self.chain.active if device.role is Role.FULL]
