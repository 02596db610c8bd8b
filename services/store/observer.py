"""What a backend tells of itself: counts and times from closed sets, never of whom or what.

Every backend is given one observer when it is opened, and calls it from whichever thread the
thing happened on. `UNOBSERVED` listens to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol


class Fault(Enum):
    """Why the store could not do what it was asked."""

    CROWDED = "crowded"
    """Too many writes wait already."""
    FULL = "full"
    """No room on the disk, or in the server's memory."""
    IO = "io"
    """The disk, or the file system, failed or refused."""
    CONNECTION = "connection"
    """The server can't be reached, or hung up."""
    TIMEOUT = "timeout"
    """It did not answer in time."""
    REPLICAS = "replicas"
    """Fewer replicas than are asked for have the write."""
    OTHER = "other"


class Retry(Enum):
    """Why a step was done again, without its caller's noticing."""

    CONFLICT = "conflict"
    """Another process changed the account meanwhile."""
    SCRIPT = "script"
    """The server did not hold the script any more."""
    CONNECTION = "connection"
    """The connection was lost before the answer came."""
    ALONE = "alone"
    """The group that it shared a transaction with failed."""


class Renewal(Enum):
    """Why the generation changed, which voids every cursor."""

    TOLD = "told"
    """By `rookery-server new-generation`."""
    RESTORED = "restored"
    """The store is older than it was."""
    FAILOVER = "failover"
    """Another server answers, and what it lacks nobody knows."""


class StoreObserver(Protocol):
    """Must not block and must not raise."""

    def committed(self, *, requests: int, ops: int, seconds: float) -> None:
        """One transaction (or script) became durable: how many requests shared it, how many
        ops they brought, and how long it took from its start to its acknowledgement."""
        ...

    def failed(self, fault: Fault) -> None:
        """One request could not be served, for no fault of its own."""
        ...

    def retried(self, cause: Retry) -> None:
        """One request was done again."""
        ...

    def renewed(self, cause: Renewal) -> None:
        """The generation is another one now."""
        ...

    def watch_queue(self, length: Callable[[], int]) -> None:
        """`length` says at any time how many writes wait or are under way."""
        ...


class Unobserved:
    """Listens to nothing."""

    def committed(self, *, requests: int, ops: int, seconds: float) -> None:
        """See `StoreObserver`."""

    def failed(self, fault: Fault) -> None:
        """See `StoreObserver`."""

    def retried(self, cause: Retry) -> None:
        """See `StoreObserver`."""

    def renewed(self, cause: Renewal) -> None:
        """See `StoreObserver`."""

    def watch_queue(self, length: Callable[[], int]) -> None:
        """See `StoreObserver`."""


UNOBSERVED = Unobserved()
