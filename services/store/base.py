"""The interface that every backend fulfils, in the words of the domain.

What a backend promises (docs/protocol.md, 5): a write is durable when its call returns; a
position is allocated in the transaction that commits the rows, so that the order of
positions is the order of commits; each call is atomic. What it may assume: form, signatures
and the rules inside one batch were checked by the caller; what depends on stored state (heads,
epoch, cuts, lamport, winners, quotas) is checked here, in the transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from crypto.chain import Chain
from crypto.grant import SealedGrant
from crypto.heads import Head
from crypto.ids import AccountId, DeviceId, OpHash
from crypto.link import SignedLink
from services.store import packed
from services.store.governance import GovernanceStore
from services.store.retention import Retention
from services.store.rounds import RoundStore
from services.store.wake import WakeStore


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of an account, and of joint aggregates; the service's configuration sets them."""

    records_max: int = 50_000
    active_devices_max: int = 16
    chain_links_max: int = 10_000
    accounts_per_subject_max: int = 3
    pairing_mailboxes_max: int = 10_000
    grace_ms: int = 30 * 86_400_000
    tasks_max: int = 1_000
    rounds_max: int = 10_000
    contributions_max: int = 1_000_000
    boxes_ms: int = 7 * 86_400_000
    results_ms: int = 400 * 86_400_000
    consents_max: int = 10_000


@dataclass(frozen=True, slots=True)
class StoredLink:
    """A link with all grants that travelled with it."""

    link: SignedLink
    grants: tuple[SealedGrant, ...]


class OpRow(NamedTuple):
    """One op of a batch, checked in itself. `raw` is an op, or a 280-byte stub."""

    raw: bytes
    epoch: int
    device_id: bytes
    dev_seq: int
    prev: bytes
    lamport: int
    tag: bytes
    op_hash: bytes
    kind: int
    ct_hash: bytes
    """What its stub says, or would say, of the ciphertext."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One push: rows in the order they came; per device they follow one another."""

    account_id: AccountId
    caller: DeviceId
    rows: Sequence[OpRow]
    now_ms: int
    checkpoint_index: int | None = None
    checkpoint_covers: int = 0
    nonce: bytes | None = None
    """Of the request, to be judged as `remember_nonce` does, in the same step."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What a push did: number of new ops, and the account's newest position after it."""

    new_ops: int
    position: int


@dataclass(frozen=True, slots=True)
class Page:
    """Ops after a position, whole pushes only, packed in runs (`services.store.packed`).
    `count` of them; `position` is where the page ends."""

    runs: Sequence[bytes]
    count: int
    position: int
    more: bool

    @property
    def ops(self) -> list[bytes]:
        """The ops one by one, for those who look into them."""
        return [raw for run in self.runs for raw in packed.split(run)]


@dataclass(frozen=True, slots=True)
class Tip:
    """Where an account stands: its verified chain, newest position, largest lamport."""

    chain: Chain
    position: int
    lamport_max: int


class Poke(Protocol):
    """Called on the event loop after every commit that changed an account (ops, chain,
    deletion). It carries no data: whoever is woken reads the store."""

    def __call__(self, account_id: AccountId, age_s: float = 0.0, /) -> None:
        """`age_s`: how long ago it was committed, as far as the backend knows."""
        ...


class Store(Protocol):
    """A backend. All coroutines run on the service's event loop."""

    @property
    def generation(self) -> bytes:
        """8 random bytes that change when the store was restored or lost a failover."""
        ...

    @property
    def secret(self) -> bytes:
        """32 random bytes that live as long as the store: key of the cursors' MACs."""
        ...

    @property
    def rounds(self) -> RoundStore:
        """The part for joint aggregates."""
        ...

    @property
    def wake(self) -> WakeStore:
        """The part for waking sleeping devices."""
        ...

    @property
    def governance(self) -> GovernanceStore:
        """The part for policy bundles, consent and the audit log."""
        ...

    def on_commit(self, poke: Poke) -> None:
        """Registers the one listener for pokes."""
        ...

    def on_renewed(self, told: Callable[[], None]) -> None:
        """Registers the one listener for a generation that changed while the store is open:
        what was read before is void."""
        ...

    async def new_generation(self) -> bytes:
        """Tells every client to compare heads and push again what is missing."""
        ...

    async def watch(self, account_id: AccountId) -> None:
        """Whatever anybody commits to this account pokes from now on, until as many calls of
        `unwatch`."""
        ...

    def unwatch(self, account_id: AccountId) -> None:
        """Ends what one call of `watch` began."""
        ...

    async def close(self) -> None:
        """Finishes what was accepted and releases the backend. Idempotent."""
        ...

    async def create_account(
        self,
        genesis: SignedLink,
        *,
        later: Sequence[StoredLink] = (),
        subject_row: bytes | None,
        subject_rows_before: Sequence[bytes] = (),
        now_ms: int,
    ) -> bool:
        """Makes the account of a verified genesis link. False if it stood already (the same
        link makes the same account). QuotaExceeded("accounts_per_subject"): accounts under
        `subject_rows_before`, the same subject under peppers before, count as well.

        `later`: the links that followed, of an account that is made again. All are judged as
        `append_link` judges, and stored with the genesis or not at all. Where the account
        stands, those that stand there are skipped and those beyond are appended (True if
        there were any). Raises what `append_link` raises."""
        ...

    async def tip(self, account_id: AccountId, *, fresh: bool = False) -> Tip | None:
        """None if there is no such account. Hot: every request asks for it. What others than
        this process committed may be missing, unless `fresh`, or after any other call for the
        account that began since."""
        ...

    async def append_link(
        self,
        account_id: AccountId,
        signed: SignedLink,
        grants: Sequence[SealedGrant],
        *,
        now_ms: int,
    ) -> bool:
        """Applies the link by the rules of `crypto.chain`, with its grants, if it follows the
        stored head. False if the equal link stands there already. Raises CryptoError for a
        broken rule or incomplete grants, ChainConflict, ChainAhead,
        QuotaExceeded("active_devices" | "chain_links"), AccountAbsent.

        A device at the cap can still revoke. A ROTATE starts the grace of the epoch before."""
        ...

    async def read_links(
        self, account_id: AccountId, after_seq: int, *, links_max: int, bytes_max: int
    ) -> Sequence[StoredLink]:
        """Links with a greater seq, ascending, at least one if there is one. AccountAbsent."""
        ...

    async def commit_ops(self, batch: Batch) -> Committed:
        """Commits a batch, all or nothing. NonceUsed, CallsExceeded; CallerUnknown unless the
        caller is an active device at that moment.

        Order of judgement per row: an equal op (device, dev_seq, op_hash) that is held
        already is skipped, whatever its epoch; other bytes at that dev_seq: DeviceForked;
        not the next of its device: OpGap; DeviceCut (beyond a revoked device's cut, or at it
        with another hash); EpochUnknown; EpochStale (neither current nor, in grace, the one
        before; whole ops only); LamportAhead (4096 above the largest before the batch,
        counted on through it); QuotaExceeded("records_per_account"): new tags would bring the
        row's epoch above the limit of live records. Known tags and control ops always fit.

        Keeps one whole row per (epoch, tag), the winner by (lamport, device_id), and a stub
        of each op that it superseded. A row that comes as a stub never wins, and needs no
        winner: nothing can be read from it, so its epoch may be long over."""
        ...

    async def read_ops(
        self, account_id: AccountId, after: int, *, ops_max: int, bytes_max: int
    ) -> Page:
        """Ops after a position in commit order; stops at the end of the push that reaches
        `ops_max` or `bytes_max`, and holds at least one push if there is one. A page without
        `more` ends at the account's newest position. AccountAbsent."""
        ...

    async def passed(self, account_id: AccountId, device_id: DeviceId, position: int) -> None:
        """The device holds everything up to `position`: it asked for what comes after.

        When every active device that writes (role 1) has passed the newest marked
        checkpoint, stubs superseded before what it covers go, and so do whole epochs before
        it whose grace is over. May be lazy: only ever removes what may go."""
        ...

    async def heads(self, account_id: AccountId) -> tuple[Chain, Sequence[tuple[DeviceId, Head]]]:
        """The chain and the newest op of every device that has written, in index order, read
        in one transaction. AccountAbsent."""
        ...

    async def delete_account(
        self, account_id: AccountId, by: DeviceId | None = None
    ) -> tuple[Chain, Sequence[Head]] | None:
        """Deletes every row of the account in one transaction; what it held for the receipt.
        None if there was none, or if `by` is no active device of it at that moment. Subject
        rows go as well, its entries of consent, and what it contributed to rounds whose boxes
        are still held."""
        ...

    async def post_message(
        self, rendezvous: bytes, number: int, body: bytes, *, now_ms: int
    ) -> None:
        """Message 1 makes the mailbox (five minutes from then), 2 and 3 want one. Equal bytes
        again: fine. MailboxAbsent, MailboxTaken, QuotaExceeded("pairing_mailboxes")."""
        ...

    async def fetch_message(self, rendezvous: bytes, number: int, *, now_ms: int) -> bytes | None:
        """None while it is not there. Expired mailboxes are as if they had never been."""
        ...

    async def remember_nonce(
        self, caller: AccountId | DeviceId, nonce: bytes, *, now_ms: int
    ) -> bool:
        """False if this account, or key without one, used the nonce within the last 300 s.
        The account's tip is as of this call afterwards.
        Only ever called after the request's signature was verified. CallsExceeded at the
        account's own bound."""
        ...

    async def sweep(self, *, now_ms: int, retention: Retention | None = None) -> None:
        """Removes what is over: mailboxes, nonces, epochs past their grace, boxes, results and
        entries of the audit log past their retention, wake handles that were not renewed, what
        a deletion that was cut short left. Called hourly. `retention`: by default that of the
        limits."""
        ...

    async def overdue(
        self, *, now_ms: int, retention: Retention | None = None
    ) -> Mapping[str, int]:
        """What stands although a sweep at `now_ms` removes it, by `services.store.retention.KINDS`.
        Nothing does right after one. Asked once a scrape of the metrics, as `RoundStore.tally`."""
        ...


__all__ = [
    "Batch", "Committed", "Limits", "OpHash", "OpRow", "Page", "Poke", "Store", "StoredLink", "Tip",
]  # fmt: skip
