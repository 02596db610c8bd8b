"""What a backend keeps of governance: policy bundles, entries of consent, the audit log.

The same promises as `services.store.base`: durable when a call returns, each call atomic. The
caller has checked form and signatures; what follows on what is judged here, in the same step as
the write, whatever other replicas do: all three are chains, and none of them forks.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from crypto.ids import AccountId, DeviceId
from crypto.labels import AUDIT
from crypto.primitives import hash_

ZEROS: Final = bytes(32)
"""What the first entry of a chain names as the hash of the one before."""
AUDIT_BODY_BYTES_MAX: Final = 16_384
_AUDIT = struct.Struct(">QQ32s")


class Head(NamedTuple):
    """The newest entry of a chain, or the last one that was trimmed: (0, zeros) for none."""

    seq: int
    hash: bytes


NOTHING: Final = Head(0, ZEROS)


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """A bundle as its publisher signed it. `hash` and `previous` are as the bundle says."""

    sequence: int
    previous: bytes
    hash: bytes
    data: bytes
    sig: bytes
    key: bytes
    at_ms: int


@dataclass(frozen=True, slots=True)
class ConsentRow:
    """An entry of an account's chain of consent. `tag` stands for a purpose, and `granted` is
    what the entry says of it; both are read from `entry` by whoever makes the row."""

    seq: int
    prev: bytes
    hash: bytes
    tag: bytes
    granted: bool
    device_id: DeviceId
    entry: bytes
    sig: bytes
    at_ms: int

    def __repr__(self) -> str:
        return f"ConsentRow(seq {self.seq}, tag hidden)"


class ConsentState(NamedTuple):
    """What the newest entry under a tag says."""

    seq: int
    granted: bool


class ConsentClaim(NamedTuple):
    """That the newest entry under a tag is a grant, with this seq."""

    tag: bytes
    seq: int

    def __repr__(self) -> str:
        return f"ConsentClaim(seq {self.seq}, tag hidden)"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry of the audit log. `hash` is `audit_hash` of the other four; `at_ms` never goes
    back, whatever the clocks of replicas do."""

    seq: int
    at_ms: int
    prev: bytes
    body: bytes
    hash: bytes


def audit_hash(seq: int, at_ms: int, prev: bytes, body: bytes) -> bytes:
    """H("pss1/audit", u64 seq ‖ u64 at_ms ‖ prev ‖ body), 32 bytes."""
    return hash_(AUDIT, _AUDIT.pack(seq, at_ms, prev) + body)


def following(head: Head, last_ms: int, body: bytes, now_ms: int) -> AuditEntry:
    """The entry that goes behind `head`, whose time is `last_ms`."""
    at_ms = max(now_ms, last_ms)
    digest = audit_hash(head.seq + 1, at_ms, head.hash, body)
    return AuditEntry(head.seq + 1, at_ms, head.hash, body, digest)


def first_broken(entries: Sequence[AuditEntry], after: Head) -> int | None:
    """The seq at which a run of the log stops being the chain behind `after`; None: it is."""
    for entry in entries:
        whole = audit_hash(entry.seq, entry.at_ms, entry.prev, entry.body) == entry.hash
        if not whole or entry.seq != after.seq + 1 or entry.prev != after.hash:
            return after.seq + 1
        after = Head(entry.seq, entry.hash)
    return None


def without_gap(entries: Sequence[AuditEntry], first: int) -> Sequence[AuditEntry]:
    """Entries from `first` on, up to where one is missing."""
    for place, entry in enumerate(entries):
        if entry.seq != first + place:
            return entries[:place]
    return entries


class GovernanceStore(Protocol):
    """The part of a store for governance."""

    # --- policy bundles ---

    async def put_policy(self, row: PolicyRow) -> bool:
        """Puts the next bundle: its sequence is the newest one's and one, its `previous` that
        one's hash (0 and zeros before the first). False if it is the newest already, byte for
        byte. PolicyConflict otherwise."""
        ...

    async def policy(self, sequence: int | None = None) -> PolicyRow | None:
        """A bundle; the newest one without a number. None: there is no such."""
        ...

    async def policy_sequence(self) -> int:
        """The number of the newest one; 0: there is none. Cheap."""
        ...

    def on_policy(self, told: Callable[[], None]) -> None:
        """Registers the one listener, called on the event loop within about a second after
        any replica put a bundle. It may be called for nothing."""
        ...

    # --- consent ---

    async def append_consent(self, account_id: AccountId, row: ConsentRow) -> bool:
        """Appends by compare-and-set on (seq, prev). False if the newest entry is this one
        already, byte for byte. ConsentConflict, AccountAbsent,
        QuotaExceeded("consents_per_account"): never of an entry that takes back what is on."""
        ...

    async def consents(
        self, account_id: AccountId, after: int, *, rows_max: int
    ) -> Sequence[ConsentRow]:
        """Entries with a greater seq, ascending. Empty for an unknown account."""
        ...

    async def consent_head(self, account_id: AccountId) -> Head:
        """The newest entry."""
        ...

    async def consent_state(self, account_id: AccountId, tag: bytes) -> ConsentState | None:
        """What counts under this tag; None: nothing was ever said."""
        ...

    # --- audit log ---

    async def append_audit(self, body: bytes, *, now_ms: int) -> AuditEntry:
        """Appends behind whatever is the newest, in one step. At most AUDIT_BODY_BYTES_MAX
        (ValueError)."""
        ...

    async def read_audit(self, after: int, *, rows_max: int) -> Sequence[AuditEntry]:
        """Entries with a greater seq, ascending; those that were trimmed are left out. They end
        before one that is missing: with the head further on, none means that the next one is."""
        ...

    async def audit_head(self) -> Head:
        """The newest entry."""
        ...

    async def audit_anchor(self) -> Head:
        """The last entry that was trimmed, of which seq and hash are kept: what is left
        follows on it. NOTHING: none was trimmed."""
        ...

    async def trim_audit(self, *, before_ms: int) -> int:
        """Removes the entries at the start of the log that are older, but for the newest of
        them: it is chained, and shows by its own time that those before were older. All in one
        step with the anchor, some at a time; how many. Call again until it is 0."""
        ...


__all__ = [
    "AUDIT_BODY_BYTES_MAX", "NOTHING", "ZEROS", "AuditEntry", "ConsentClaim", "ConsentRow",
    "ConsentState",
    "GovernanceStore", "Head", "PolicyRow", "audit_hash", "first_broken", "following",
    "without_gap",
]  # fmt: skip
