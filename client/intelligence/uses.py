"""What of the profile may be used for a purpose, right now: asked for every name that is read.

Knows no values. A device under no policy may use what it holds: it is the person's own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Protocol

from client.gate import Kind
from crypto.policy import Bundle
from crypto.policy.generalise import DAY_MS
from crypto.policy.signals import Reach, Signal

SYNCS: Final = str(Reach.SYNC)
REACHES: Final = {
    str(Reach.DEVICE): "stays on this device",
    SYNCS: "is shared by your devices only",
    str(Reach.AGGREGATE): "is shared by your devices, and may be counted in joint aggregates",
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
    retention_ms: int | None = None
    """What was written longer ago does not count; None: it always does."""

    def counts(self, at_ms: int, *, now_ms: int) -> bool:
        """Whether what was written then is not past its time."""
        return self.retention_ms is None or now_ms < at_ms + self.retention_ms


class Uses(Protocol):
    """The gate in front of every reading."""

    def use_of(self, kind: Kind, collection: str, key: str) -> Use | None:
        """None: it is not declared, not for this purpose, or the purpose is off, paused or
        stopped."""
        ...


class Ledger(Protocol):
    """What is asked of the person's consent."""

    def allows(self, purpose: str) -> bool:
        """Whether values may be used for this purpose now."""
        ...

    @property
    def paused(self) -> bool:
        """Whether the person has stopped all use for now."""
        ...


class Unrestricted:
    """A device under no policy. Scores decay as the person's app says."""

    def __init__(self, half_life_ms: int | None = None) -> None:
        self._half_life_ms = half_life_ms

    def use_of(self, kind: Kind, collection: str, key: str) -> Use | None:
        """Everything."""
        del key
        return Use(collection, SYNCS, self._half_life_ms if kind == "score" else None)


class PolicyUses:
    """A governed device, for one purpose."""

    def __init__(
        self,
        policy: Callable[[], Bundle | None],
        ledger: Ledger,
        purpose: str,
        *,
        among: Collection[str] | None = None,
    ) -> None:
        """`policy` is asked anew each time: None until there is one, and then nothing may be
        used. `among`: only signals of these names, as for a task that says what it reads."""
        self._policy = policy
        self._ledger = ledger
        self._purpose = purpose
        self._among = among

    @property
    def open(self) -> bool:
        """Whether the purpose is on at all: declared, granted, not paused, not stopped."""
        bundle = self._policy()
        return (
            bundle is not None
            and bundle.purpose(self._purpose) is not None
            and not bundle.killed("purpose", self._purpose)
            and not self._ledger.paused
            and self._ledger.allows(self._purpose)
        )

    def use_of(self, kind: Kind, collection: str, key: str) -> Use | None:
        """What the newest bundle declares for the purpose, while that is on."""
        bundle = self._policy()
        signal = None if bundle is None else bundle.signal_for(kind, collection, key)
        return None if signal is None else self.use(signal)

    def use(self, signal: Signal) -> Use | None:
        """The same of a signal that is at hand."""
        bundle = self._policy()
        if bundle is None or not self.open or bundle.killed("signal", signal.name):
            return None
        if self._purpose not in signal.purposes:
            return None
        if self._among is not None and signal.name not in self._among:
            return None
        half_life = signal.half_life_days
        return Use(
            signal.name,
            str(signal.reach),
            None if half_life is None else half_life * DAY_MS,
            signal.retention_days * DAY_MS,
        )
