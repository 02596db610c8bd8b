"""The store in Redis or Valkey, for any number of replicas of the service.

One script an atomic step, and all of an account in one slot: a push is one exchange. What
crosses slots (the accounts of a subject, lists of accounts to look at, rounds) is written in
an order in which a crash leaves nothing that counts for good, and swept (docs/adr/0017).

Durable when a call returns, as far as Redis is set up so: `services.store.redis_link` says
what it checks, and when the generation changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from crypto.chain import Chain
from crypto.grant import SealedGrant
from crypto.heads import Head
from crypto.ids import AccountId, DeviceId
from crypto.link import SignedLink
from services.store import redis_mailbox as mailbox
from services.store.base import Batch, Committed, Limits, Page, Poke, StoredLink, Tip
from services.store.errors import AccountAbsent, StoreUnavailable
from services.store.redis_chains import Chains
from services.store.redis_governance import RedisGovernance
from services.store.redis_keeper import Keeper
from services.store.redis_keys import nonces_of_key
from services.store.redis_known import Known, head_of, version_of
from services.store.redis_link import Link
from services.store.redis_push import Pusher
from services.store.redis_read import LINKS, NONCE, PAGE, SCANNED_MAX, unpack_link
from services.store.redis_rounds import RedisRounds
from services.store.redis_wake import RedisWake
from services.store.redis_watch import Watches
from services.store.retention import (
    AUDIT,
    DELETED,
    MAILBOXES,
    WAKE,
    Retention,
    audit_overdue,
    trim_audit,
)

_UNFINISHED = 2


class RedisStore:
    """A `services.store.base.Store`. Made by `open()`, on the loop that will use it."""

    def __init__(self, link: Link, limits: Limits, nonces_account_max: int) -> None:
        self._link = link
        self._limits = limits
        self._nonces_max = nonces_account_max
        self._known = Known(link, nonces_account_max)
        self._watches = Watches(link)
        self._keeper = Keeper(link, self._known, limits)
        self._pusher = Pusher(link, self._known, limits, nonces_account_max)
        self._rounds = RedisRounds(link, limits)
        self._chains = Chains(link, self._known, limits, self._rounds.forget_account)
        self._wake = RedisWake(link, self._known, self._check_open)
        self._governance = RedisGovernance(
            link, self._known.keys, self._check_open, limits.consents_max
        )
        self._told_renewed: Callable[[], None] = lambda: None
        self._closed = False
        link.on_renewed(self._renewed)

    @classmethod
    async def open(
        cls, link: Link, *, limits: Limits | None = None, nonces_account_max: int = 100_000
    ) -> RedisStore:
        """The store behind a link, which it closes in the end."""
        return cls(link, limits or Limits(), nonces_account_max)

    @property
    def generation(self) -> bytes:
        """See `Store.generation`. May change while the store is open."""
        return self._link.generation

    @property
    def secret(self) -> bytes:
        """See `Store.secret`."""
        return self._link.secret

    @property
    def rounds(self) -> RedisRounds:
        """See `Store.rounds`."""
        return self._rounds

    @property
    def wake(self) -> RedisWake:
        """See `Store.wake`."""
        return self._wake

    @property
    def governance(self) -> RedisGovernance:
        """See `Store.governance`."""
        return self._governance

    def on_commit(self, poke: Poke) -> None:
        """See `Store.on_commit`."""
        self._watches.on_commit(poke)

    async def watch(self, account_id: AccountId) -> None:
        """See `Store.watch`."""
        self._check_open()
        await self._watches.watch(account_id)

    def unwatch(self, account_id: AccountId) -> None:
        """See `Store.unwatch`."""
        self._watches.unwatch(account_id)

    async def close(self) -> None:
        """See `Store.close`."""
        if not self._closed:
            self._closed = True
            await self._governance.close()
            await self._keeper.close()
            await self._watches.close()
            await self._link.close()

    async def new_generation(self) -> bytes:
        """See `Store.new_generation`."""
        return await self._link.new_generation()

    def on_renewed(self, told: Callable[[], None]) -> None:
        """See `Store.on_renewed`."""
        self._told_renewed = told

    def _renewed(self) -> None:
        self._known.clear()
        self._keeper.clear()
        self._told_renewed()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    # --- accounts and chains ---

    async def create_account(
        self,
        genesis: SignedLink,
        *,
        later: Sequence[StoredLink] = (),
        subject_row: bytes | None,
        subject_rows_before: Sequence[bytes] = (),
        now_ms: int,
    ) -> bool:
        """See `Store.create_account`."""
        self._check_open()
        rows = () if subject_row is None else (subject_row, *subject_rows_before)
        account = await self._chains.create(genesis, later, rows, now_ms)
        if account is None:
            return False
        self._changed(account.chain.account)
        return True

    async def tip(self, account_id: AccountId, *, fresh: bool = False) -> Tip | None:
        """See `Store.tip`. A look into a dictionary, for accounts in use."""
        self._check_open()
        account = None if fresh else self._known.get(account_id)
        if account is None:
            account = await self._known.load(account_id)
        return None if account is None else account.tip

    async def append_link(
        self,
        account_id: AccountId,
        signed: SignedLink,
        grants: Sequence[SealedGrant],
        *,
        now_ms: int,
    ) -> bool:
        """See `Store.append_link`."""
        self._check_open()
        appended = await self._chains.append(account_id, signed, grants, now_ms)
        if appended:
            self._changed(account_id)
        return appended

    async def read_links(
        self, account_id: AccountId, after_seq: int, *, links_max: int, bytes_max: int
    ) -> Sequence[StoredLink]:
        """See `Store.read_links`."""
        self._check_open()
        keys = self._known.keys(account_id)
        rows = await self._link.run(
            LINKS, (keys.state, keys.links), (after_seq + 1, max(1, links_max), bytes_max)
        )
        if rows is None:
            self._known.drop(account_id)
            raise AccountAbsent("no such account")
        return [unpack_link(row) for row in rows]

    async def delete_account(
        self, account_id: AccountId, by: DeviceId | None = None
    ) -> tuple[Chain, Sequence[Head]] | None:
        """See `Store.delete_account`. All of the account goes in one step; its place among its
        subject's accounts right after, or by the next sweep."""
        self._check_open()
        account = await self._chains.delete(account_id, by)
        if account is None:
            return None
        self._keeper.forget(account_id)
        self._watches.committed(account_id)
        return account.chain, [head for _, head in account.read_heads()]

    def _changed(self, account_id: AccountId) -> None:
        self._watches.committed(account_id)
        account = self._known.get(account_id)
        if account is not None:
            self._keeper.changed(account)

    # --- ops ---

    async def commit_ops(self, batch: Batch) -> Committed:
        """See `Store.commit_ops`."""
        self._check_open()
        if batch.checkpoint_index is not None:
            await self._keeper.expect(batch.account_id, batch.now_ms)
        async with self._known.lock(batch.account_id):
            account, committed = await self._pusher.commit(batch)
        if committed.new_ops:
            self._watches.committed(batch.account_id)
        self._keeper.changed(account)
        return committed

    async def read_ops(
        self, account_id: AccountId, after: int, *, ops_max: int, bytes_max: int
    ) -> Page:
        """See `Store.read_ops`."""
        self._check_open()
        how = _UNFINISHED
        while how == _UNFINISHED:
            known = self._known.get(account_id)
            keys = self._known.keys(account_id)
            state, raw_chain, *page = await self._link.run(
                PAGE,
                (keys.state, keys.chain, keys.ops, keys.blocks),
                (version_of(known), head_of(known), after, ops_max, bytes_max, SCANNED_MAX),
            )
            if state is not None:
                self._known.told(account_id, state, raw_chain, known)
            if not page:
                raise AccountAbsent("no such account")
            run, count, after, how = page
        return Page((run,) if count else (), count, after, more=bool(how))

    async def heads(self, account_id: AccountId) -> tuple[Chain, Sequence[tuple[DeviceId, Head]]]:
        """See `Store.heads`."""
        self._check_open()
        account = await self._known.load(account_id)
        if account is None:
            raise AccountAbsent("no such account")
        return account.chain, account.read_heads()

    async def passed(self, account_id: AccountId, device_id: DeviceId, position: int) -> None:
        """See `Store.passed`. Written at once only if a checkpoint waits for this device; else
        at the next sweep or when the store closes."""
        self._check_open()
        account = self._known.get(account_id) or await self._known.load(account_id)
        if account is not None:
            self._keeper.note(account, device_id, position)

    # --- mailboxes, nonces, housekeeping ---

    async def post_message(
        self, rendezvous: bytes, number: int, body: bytes, *, now_ms: int
    ) -> None:
        """See `Store.post_message`."""
        self._check_open()
        most = self._limits.pairing_mailboxes_max
        await mailbox.post(self._link, rendezvous, number, body, now_ms, most)

    async def fetch_message(self, rendezvous: bytes, number: int, *, now_ms: int) -> bytes | None:
        """See `Store.fetch_message`."""
        self._check_open()
        return await mailbox.fetch(self._link, rendezvous, number, now_ms)

    async def remember_nonce(
        self, caller: AccountId | DeviceId, nonce: bytes, *, now_ms: int
    ) -> bool:
        """See `Store.remember_nonce`. Every replica knows of it; it is kept for 300 to 600 s."""
        self._check_open()
        if isinstance(caller, AccountId):
            known = self._known.get(caller)
            _, good = await self._known.admit(caller, known, nonce, now_ms)
            return good
        status = await self._link.run(
            NONCE, nonces_of_key(caller, now_ms), (nonce, self._nonces_max)
        )
        return self._known.check_nonce(status)

    async def finish_deletions(self) -> None:
        """Those that a crash interrupted, however short ago: nobody else uses the store."""
        await self._chains.sweep(settled_ms=0)

    async def sweep(self, *, now_ms: int, retention: Retention | None = None) -> None:
        """See `Store.sweep`."""
        self._check_open()
        kept = retention or Retention.of(self._limits)
        await mailbox.sweep(self._link, now_ms)
        await self._chains.sweep()
        await self._keeper.sweep(now_ms)
        await self._rounds.sweep(now_ms=now_ms, retention=kept)
        await trim_audit(self._governance, kept, now_ms=now_ms)

    async def overdue(
        self, *, now_ms: int, retention: Retention | None = None
    ) -> Mapping[str, int]:
        """See `Store.overdue`. Handles end by themselves: Redis removes them."""
        self._check_open()
        kept = retention or Retention.of(self._limits)
        return {
            MAILBOXES: await mailbox.overdue(self._link, now_ms),
            WAKE: 0,
            **await self._rounds.overdue(now_ms=now_ms, retention=kept),
            AUDIT: await audit_overdue(self._governance, kept, now_ms=now_ms),
            DELETED: await self._chains.unfinished(),
        }
