"""The store in one SQLite file, for one process.

Durable: a write's COMMIT has been synced when its call returns (WAL, synchronous FULL). One
thread writes, in groups (`sqlite_writer`); short reads run on the event loop.

Deleting. `delete_account` overwrites the rows' bytes in the file (secure_delete) and empties
the write-ahead log before it returns, unless an outside reader holds the log: then after the
next commit. Nothing is promised of backups, file system snapshots and worn flash cells.

Restoring a backup: a database that is older than the mark beside it gets a new generation
when it is opened (`services.store.mark`). Call `new_generation()` where the mark was restored
as well, or clients can't know that cursors which they hold point to what is gone.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from crypto.chain import Chain
from crypto.grant import SealedGrant
from crypto.heads import Head
from crypto.ids import AccountId, DeviceId
from crypto.link import SignedLink
from services.store import (
    sqlite_accounts as accounts,
    sqlite_mailbox as mailbox,
    sqlite_read as read,
    sqlite_schema as schema,
    sqlite_trim as trim,
)
from services.store.base import Batch, Committed, Limits, Page, Poke, StoredLink, Tip
from services.store.errors import AccountAbsent, NonceUsed, StoreUnavailable
from services.store.mark import Mark
from services.store.nonces import NonceWindow
from services.store.observer import UNOBSERVED, Renewal, StoreObserver
from services.store.replay import replay
from services.store.retention import (
    AUDIT,
    DELETED,
    MAILBOXES,
    WAKE,
    Retention,
    audit_overdue,
    trim_audit,
)
from services.store.sqlite_governance import SqliteGovernance
from services.store.sqlite_relay import SqliteRounds
from services.store.sqlite_state import Entry, load, read_heads
from services.store.sqlite_transaction import Transaction
from services.store.sqlite_wake import SqliteWake, count_expired, forget_expired
from services.store.sqlite_writer import Done, Work, Writer

ACCOUNTS_CACHED = 4096
POSITIONS_KEPT = 65_536
ACCOUNTS_PER_REQUEST = 128
_WRITER_CACHE_KIB = 16_384
_READER_CACHE_KIB = 32_768

T = TypeVar("T")


class SqliteStore:
    """A `services.store.base.Store`. Made by `open()`, on the loop that will use it."""

    def __init__(
        self,
        lock: int,
        writes: sqlite3.Connection,
        reads: sqlite3.Connection,
        limits: Limits,
        nonces: NonceWindow,
        mark: Mark,
        observer: StoreObserver,
    ) -> None:
        self._observer = observer
        self._lock = lock
        self._writes = writes
        self._reads = reads
        self._generation = schema.read_meta(reads, "generation")
        self._secret = schema.read_meta(reads, "secret")
        self._loop = asyncio.get_running_loop()
        self._poke: Poke | None = None
        self._told_renewed: Callable[[], None] = lambda: None
        self._entries: OrderedDict[AccountId, Entry] = OrderedDict()
        self._positions: dict[AccountId, dict[DeviceId, int]] = {}
        self._positions_count = 0
        self._nonces = nonces
        self._mark = mark
        self._limits = limits
        self._deleted = 0
        self._closed = False
        transaction = Transaction(writes, limits, ACCOUNTS_CACHED, mark)
        self._writer = Writer(transaction, self._loop, self._delivered, observer)
        if mark.restored:
            observer.renewed(Renewal.RESTORED)
        self._rounds = SqliteRounds(self._writer.submit, reads, self._check_open)
        self._wake = SqliteWake(self._writer.submit, reads, self._check_open, self._find)
        self._governance = SqliteGovernance(
            self._writer.submit, reads, self._check_open, self._find
        )

    @classmethod
    async def open(
        cls,
        path: Path | str,
        *,
        limits: Limits | None = None,
        nonces_max: int = 4_000_000,
        nonces_account_max: int = 100_000,
        observer: StoreObserver = UNOBSERVED,
    ) -> SqliteStore:
        """Opens the file, makes it (mode 0600) if there is none, brings it up to date.

        StoreUnavailable if another process has it open, a newer version wrote it, it is no
        database, or SQLite can't work on it (a full disk, for one).
        """
        file = Path(path)
        lock = schema.lock_file(file)
        try:
            schema.make_private(file)
            writes = schema.connect(file, cache_kib=_WRITER_CACHE_KIB)
            try:
                schema.migrate(writes)
                schema.check_stays(writes)
                mark = Mark(file)
                mark.judge(writes)
                reads = schema.connect(file, cache_kib=_READER_CACHE_KIB, read_only=True)
            except BaseException:
                writes.close()
                raise
        except sqlite3.Error as error:
            os.close(lock)
            raise StoreUnavailable(
                f"{file.name} can't be used: SQLite says {error}"
                f" ({getattr(error, 'sqlite_errorname', 'no code')})"
            ) from error
        except BaseException:
            os.close(lock)
            raise
        nonces = NonceWindow(nonces_max, nonces_account_max)
        return cls(lock, writes, reads, limits or Limits(), nonces, mark, observer)

    @property
    def restored(self) -> bool:
        """Whether opening found an older database than was here, and renewed its generation."""
        return self._mark.restored

    @property
    def generation(self) -> bytes:
        """See `Store.generation`."""
        return self._generation

    @property
    def secret(self) -> bytes:
        """See `Store.secret`."""
        return self._secret

    @property
    def rounds(self) -> SqliteRounds:
        """See `Store.rounds`."""
        return self._rounds

    @property
    def wake(self) -> SqliteWake:
        """See `Store.wake`."""
        return self._wake

    @property
    def governance(self) -> SqliteGovernance:
        """See `Store.governance`."""
        return self._governance

    def on_commit(self, poke: Poke) -> None:
        """See `Store.on_commit`."""
        self._poke = poke

    def on_renewed(self, told: Callable[[], None]) -> None:
        """See `Store.on_renewed`. Nobody but this process can change it, when it is asked to."""
        self._told_renewed = told

    async def watch(self, account_id: AccountId) -> None:
        """See `Store.watch`. Every commit is this process's own, and pokes."""

    def unwatch(self, account_id: AccountId) -> None:
        """See `Store.unwatch`."""

    async def close(self) -> None:
        """See `Store.close`."""
        if not self._closed:
            self._closed = True
            self._send_positions()
            await self._writer.close()
            self._reads.close()
            self._writes.close()
            os.close(self._lock)

    async def new_generation(self) -> bytes:
        """See `Store.new_generation`."""
        fresh = secrets.token_bytes(8)

        def work(tx: Transaction) -> None:
            tx.db.execute("UPDATE meta SET value = ? WHERE name = 'generation'", (fresh,))

        await self._writer.submit(work)
        self._generation = fresh
        self._mark.renew(fresh)
        self._observer.renewed(Renewal.TOLD)
        self._told_renewed()
        return fresh

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
        """See `Store.create_account`. When it was made is not kept. A long chain takes a while
        to judge: a thread does it, neither the loop nor the writer."""
        self._check_open()
        chain = await asyncio.to_thread(replay, genesis, later) if later else replay(genesis, ())
        links = (StoredLink(genesis, ()), *later)
        rows = () if subject_row is None else (subject_row, *subject_rows_before)
        made: bool = await self._writer.submit(
            lambda tx: accounts.create_account(tx, chain, links, rows, now_ms)
        )
        return made

    async def tip(self, account_id: AccountId, *, fresh: bool = False) -> Tip | None:
        """See `Store.tip`. A look into a dictionary, for accounts in use, and always fresh."""
        entry = self._find(account_id)
        return None if entry is None else entry.tip

    async def append_link(
        self,
        account_id: AccountId,
        signed: SignedLink,
        grants: Sequence[SealedGrant],
        *,
        now_ms: int,
    ) -> bool:
        """See `Store.append_link`."""
        appended: bool = await self._writer.submit(
            lambda tx: accounts.append_link(tx, account_id, signed, grants, now_ms)
        )
        return appended

    async def read_links(
        self, account_id: AccountId, after_seq: int, *, links_max: int, bytes_max: int
    ) -> Sequence[StoredLink]:
        """See `Store.read_links`. AccountAbsent."""
        entry = self._entry(account_id)
        return read.read_links(
            self._reads, entry, after_seq, links_max=links_max, bytes_max=bytes_max
        )

    async def delete_account(
        self, account_id: AccountId, by: DeviceId | None = None
    ) -> tuple[Chain, Sequence[Head]] | None:
        """See `Store.delete_account`."""
        self._forget_positions(account_id)
        held: tuple[Chain, Sequence[Head]] | None = await self._writer.submit(
            lambda tx: accounts.delete_account(tx, account_id, by)
        )
        return held

    # --- ops ---

    async def commit_ops(self, batch: Batch) -> Committed:
        """See `Store.commit_ops`."""
        if batch.nonce is not None and not self._nonces.remember(
            batch.account_id, batch.nonce, now_ms=batch.now_ms
        ):
            raise NonceUsed("the request was made before")
        committed: Committed = await self._writer.push(batch)
        return committed

    async def read_ops(
        self, account_id: AccountId, after: int, *, ops_max: int, bytes_max: int
    ) -> Page:
        """See `Store.read_ops`. AccountAbsent."""
        entry = self._entry(account_id)
        return read.read_page(self._reads, entry, after, ops_max=ops_max, bytes_max=bytes_max)

    async def heads(self, account_id: AccountId) -> tuple[Chain, Sequence[tuple[DeviceId, Head]]]:
        """See `Store.heads`."""
        self._check_open()
        with schema.one_moment(self._reads):
            account = load(self._reads, account_id)
            if account is None:
                raise AccountAbsent("no such account")
            return account.chain, read_heads(self._reads, account.account_n, account.chain)

    async def passed(self, account_id: AccountId, device_id: DeviceId, position: int) -> None:
        """See `Store.passed`. Written at once only if a checkpoint waits for this device;
        else at the next sweep or when the store closes."""
        entry = self._find(account_id)
        if entry is None:
            return
        devices = self._positions.setdefault(account_id, {})
        known = devices.get(device_id)
        if known is None:
            self._positions_count += 1
        if known is None or position > known:
            devices[device_id] = position
        due = entry.awaited.get(device_id)
        if due is not None and position >= due:
            self._send_positions_of(account_id)
        elif self._positions_count > POSITIONS_KEPT:
            self._send_positions()

    # --- mailboxes, nonces, housekeeping ---

    async def post_message(
        self, rendezvous: bytes, number: int, body: bytes, *, now_ms: int
    ) -> None:
        """See `Store.post_message`."""
        await self._writer.submit(
            lambda tx: mailbox.post_message(tx, rendezvous, number, body, now_ms)
        )

    async def fetch_message(self, rendezvous: bytes, number: int, *, now_ms: int) -> bytes | None:
        """See `Store.fetch_message`."""
        self._check_open()
        with schema.one_moment(self._reads):
            return mailbox.fetch_message(self._reads, rendezvous, number, now_ms)

    async def remember_nonce(
        self, caller: AccountId | DeviceId, nonce: bytes, *, now_ms: int
    ) -> bool:
        """See `Store.remember_nonce`. In memory: a restart forgets (`services.store.nonces`).
        StoreUnavailable at its bound."""
        return self._nonces.remember(caller, nonce, now_ms=now_ms)

    async def sweep(self, *, now_ms: int, retention: Retention | None = None) -> None:
        """See `Store.sweep`. Trimming goes on in slices after it returns."""
        kept = retention or Retention.of(self._limits)
        self._nonces.turn(now_ms=now_ms)
        self._send_positions()
        await self._writer.submit(lambda tx: trim.plan_sweep(tx, now_ms))
        await self._writer.submit(lambda tx: forget_expired(tx, now_ms))
        await self._rounds.sweep(now_ms=now_ms, retention=kept)
        await trim_audit(self._governance, kept, now_ms=now_ms)
        self._deleted = await self._writer.submit(lambda tx: accounts.count_deleted(tx.db))

    async def overdue(
        self, *, now_ms: int, retention: Retention | None = None
    ) -> Mapping[str, int]:
        """See `Store.overdue`. Rows of deleted accounts are as of the newest sweep."""
        self._check_open()
        kept = retention or Retention.of(self._limits)
        with schema.one_moment(self._reads):
            counts = {
                MAILBOXES: mailbox.overdue(self._reads, now_ms),
                WAKE: count_expired(self._reads, now_ms),
            }
        counts.update(await self._rounds.overdue(now_ms=now_ms, retention=kept))
        counts[AUDIT] = await audit_overdue(self._governance, kept, now_ms=now_ms)
        return {**counts, DELETED: self._deleted}

    # --- what the loop knows ---

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    def _find(self, account_id: AccountId) -> Entry | None:
        entry = self._entries.get(account_id)
        if entry is not None:
            self._entries.move_to_end(account_id)
            return entry
        self._check_open()
        with schema.one_moment(self._reads):
            account = load(self._reads, account_id)
        if account is None:
            return None
        entry = account.entry()
        self._keep(account_id, entry)
        return entry

    def _entry(self, account_id: AccountId) -> Entry:
        self._check_open()
        entry = self._find(account_id)
        if entry is None:
            raise AccountAbsent("no such account")
        return entry

    def _keep(self, account_id: AccountId, entry: Entry) -> None:
        self._entries[account_id] = entry
        self._entries.move_to_end(account_id)
        if len(self._entries) > ACCOUNTS_CACHED:
            self._entries.popitem(last=False)

    def _delivered(self, done: Done) -> None:
        """On the loop, once a commit: what changed is known before anybody is answered."""
        for account_id, entry in done.entries.items():
            if entry is None:
                self._entries.pop(account_id, None)
                self._forget_positions(account_id)
            else:
                self._keep(account_id, entry)
        for job in done.jobs:
            future = job.future
            if future is None or future.done():
                continue
            if job.error is not None:
                future.set_exception(job.error)
            else:
                future.set_result(job.result)
        if done.poked and self._poke is not None:
            # Those who pushed are answered first.
            self._loop.call_soon(self._poke_all, done.poked, done.committed_s)
        for account_id, entry in done.entries.items():
            if entry is not None and entry.awaited:
                self._send_if_due(account_id, entry)

    def _poke_all(self, account_ids: Sequence[AccountId], committed_s: float) -> None:
        assert self._poke is not None
        age_s = time.perf_counter() - committed_s
        for account_id in account_ids:
            self._poke(account_id, age_s)

    # --- positions that devices have passed ---

    def _send_if_due(self, account_id: AccountId, entry: Entry) -> None:
        devices = self._positions.get(account_id, {})
        if any(devices.get(device_id, -1) >= due for device_id, due in entry.awaited.items()):
            self._send_positions_of(account_id)

    def _send_positions_of(self, account_id: AccountId) -> None:
        devices = self._forget_positions(account_id)
        if devices:
            self._send({account_id: devices})

    def _send_positions(self) -> None:
        positions, self._positions, self._positions_count = self._positions, {}, 0
        rows = list(positions.items())
        for start in range(0, len(rows), ACCOUNTS_PER_REQUEST):
            self._send(dict(rows[start : start + ACCOUNTS_PER_REQUEST]))

    def _send(self, positions: dict[AccountId, dict[DeviceId, int]]) -> None:
        """Nobody waits for it; what is lost is learnt again when the device asks again."""
        work: Work = lambda tx: trim.note_passed(tx, positions)  # noqa: E731
        try:
            future = self._writer.submit(work)
        except StoreUnavailable:
            return
        future.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _forget_positions(self, account_id: AccountId) -> dict[DeviceId, int]:
        devices = self._positions.pop(account_id, {})
        self._positions_count -= len(devices)
        return devices
