"""What a backend keeps to wake sleeping devices (docs/protocol.md, 10): handles, and whose turn
it is.

A handle is opaque here. A device that is *due* is claimed by one replica for the length of a
lease, in which no other claims it; what becomes of its poke is settled under the claim's turn,
so that a replica which comes too late changes nothing. Being due is durable: who dies with a
claim leaves it to whoever looks after the lease.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from crypto.ids import AccountId, DeviceId

HORIZON_MS = 7_200_000
"""Nothing is ever due later than this from now: what seems so was written by a clock that was
wrong."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Ops came in an account. `awake`: devices that need no poke to learn of them. `only`: the one
    device that may have missed them."""

    account_id: AccountId
    awake: Collection[DeviceId]
    only: DeviceId | None = None

    def concerns(self, device_id: DeviceId) -> bool:
        """Whether this device is to be poked."""
        return device_id not in self.awake and self.only in (None, device_id)


@dataclass(frozen=True, slots=True)
class Pace:
    """A device is poked at most once in `debounce_ms`; `spread_ms` draws what is added, anew for
    each device, so that those of one account don't come together."""

    debounce_ms: int
    spread_ms: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Claim:
    """A device that is to be poked now, by who claimed it. `tries`: how often it was in vain."""

    account_id: AccountId
    device_id: DeviceId
    handle: bytes
    turn: int
    tries: int

    def __repr__(self) -> str:
        return f"Claim({self.device_id}, turn {self.turn}, handle hidden)"


class Outcome(Enum):
    """What became of a claim."""

    DONE = "done"
    """Poked, awake, or given up: due again only if ops came since the claim."""
    LATER = "later"
    """Not poked: due again at `due_ms`."""
    GONE = "gone"
    """The handle is of no use and goes."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A claim's end."""

    claim: Claim
    outcome: Outcome
    due_ms: int = 0


class WakeStore(Protocol):
    """The part of a store for waking. One handle a device; it goes with the device."""

    async def set_handle(
        self, account_id: AccountId, device_id: DeviceId, handle: bytes, *, expires_ms: int
    ) -> None:
        """In the place of the one before; what was due stays due. AccountAbsent if the device is
        not, or no longer, an active one of the account."""
        ...

    async def remove_handle(self, account_id: AccountId, device_id: DeviceId) -> None:
        """Fine if there is none."""
        ...

    async def handle_expires_ms(
        self, account_id: AccountId, device_id: DeviceId, *, now_ms: int
    ) -> int:
        """0 if no handle is held that still counts."""
        ...

    async def mark(self, marks: Sequence[Mark], *, now_ms: int, pace: Pace) -> int | None:
        """Every device with a handle that is not awake becomes due, as soon as its pace lets it;
        one that is claimed, after its poke. When the first of them is due; None if none is.
        Accounts without handles cost no write."""
        ...

    async def claim(
        self, *, now_ms: int, lease_ms: int, claims_max: int
    ) -> tuple[Sequence[Claim], int | None]:
        """Claims devices that are due, the longest first; and when the next one is, if any."""
        ...

    async def settle(self, ends: Sequence[Settled], *, now_ms: int, pace: Pace) -> None:
        """Ends claims. Those whose turn is over are left alone."""
        ...


__all__ = ["HORIZON_MS", "Claim", "Mark", "Outcome", "Pace", "Settled", "WakeStore"]
