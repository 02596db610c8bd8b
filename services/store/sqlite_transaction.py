"""The writer's open transaction: accounts it knows, and rows that wait to be inserted together.

Requests of one group share it. A request judges first and changes things last, so one that
is refused has changed nothing.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Sequence

from crypto.ids import AccountId
from services.store import sqlite_segments as segments
from services.store.base import Limits
from services.store.errors import AccountAbsent
from services.store.mark import Mark
from services.store.sqlite_bulk import Insert, Packed, Value
from services.store.sqlite_state import (
    NAME_BYTES,
    WINNER,
    Account,
    Entry,
    load,
)

_RUNS = Insert("run", 4)
_SUPERSEDED = Insert("superseded", 3)
_LIVE = Packed(
    f"INSERT INTO live SELECT substr(?1, at, {NAME_BYTES}),"  # noqa: S608
    f" substr(?1, at + {NAME_BYTES}, {WINNER.size}) FROM {{rows}} WHERE true"
    " ON CONFLICT (name) DO UPDATE SET winner = excluded.winner",
    NAME_BYTES + WINNER.size,
)
_WINNERS = Packed(
    f"SELECT name, winner FROM {{rows}} CROSS JOIN live ON name = substr(?1, at, {NAME_BYTES})",  # noqa: S608
    NAME_BYTES,
)
_HEADS = Insert(
    "device (device_key, dev_seq, op_hash)",
    3,
    "ON CONFLICT (device_key) DO UPDATE SET dev_seq = excluded.dev_seq, op_hash = excluded.op_hash",
)
_TAILS = Insert(
    "tail",
    5,
    "ON CONFLICT (account_n) DO UPDATE SET"
    " position = excluded.position, lamport_max = excluded.lamport_max,"
    " records = excluded.records, records_before = excluded.records_before",
)


class Transaction:
    """One at a time, used by the writer thread alone."""

    def __init__(
        self, connection: sqlite3.Connection, limits: Limits, accounts_max: int, mark: Mark
    ) -> None:
        self.limits = limits
        self.changed: dict[AccountId, bool] = {}
        """Accounts that this transaction changed, and whether their readers want to know."""
        self.trimmable: dict[AccountId, int] = {}
        """Accounts that have something to trim, with the time that epochs are judged by.
        Outlives the transaction."""
        self.deleted = False
        """Ciphertext was deleted and still lingers in the WAL. Outlives the transaction."""
        self._connection = connection
        self._mark = mark
        self._accounts_max = accounts_max
        self._accounts: OrderedDict[AccountId, Account] = OrderedDict()
        self._winners: dict[bytes, bytes] = {}
        self._clear_pending()

    def _clear_pending(self) -> None:
        self._waiting: dict[int, Account] = {}
        self.segments: list[Value] = []
        self.runs: list[Value] = []
        self.heads: list[Value] = []
        self.superseded: list[Value] = []
        self.to_stubs: list[int] = []
        self._live: list[bytes] = []

    def winners(self, names: Sequence[bytes]) -> dict[bytes, bytes]:
        """The winner of each of these names as it stands now, those that wait included; of a
        name without one: empty. Names: u32 account_n | u32 epoch | tag."""
        known = self._winners
        unknown = [name for name in names if name not in known]
        if unknown:
            known.update(dict.fromkeys(unknown, b""))
            for rows in _WINNERS.run(self._connection, unknown):
                known.update(rows)
        return known

    def set_winners(self, names: Sequence[bytes], winners: Sequence[bytes]) -> None:
        """These names have other winners."""
        self._winners.update(zip(names, winners, strict=True))
        self._live += [name + winner for name, winner in zip(names, winners, strict=True)]

    def forget_winners(self) -> None:
        """Rows of `live` were deleted."""
        self._winners = {}

    @property
    def db(self) -> sqlite3.Connection:
        """The connection, once all that waits has been written."""
        if self._waiting:
            self._flush()
        return self._connection

    def db_of(self, account: Account) -> sqlite3.Connection:
        """The connection, once all of this account has been written."""
        return self.db if account.account_n in self._waiting else self._connection

    def find(self, account_id: AccountId) -> Account | None:
        """The account as it stands now."""
        account = self._accounts.get(account_id)
        if account is not None:
            self._accounts.move_to_end(account_id)
            return account
        account = load(self.db, account_id)
        if account is not None:
            self._accounts[account_id] = account
        return account

    def account(self, account_id: AccountId) -> Account:
        """The same; AccountAbsent if there is none."""
        account = self.find(account_id)
        if account is None:
            raise AccountAbsent("no such account")
        return account

    def keep(self, account: Account) -> None:
        """Takes a new account into the cache."""
        self._accounts[account.chain.account] = account
        self.changed[account.chain.account] = True

    def drop(self, account_id: AccountId) -> None:
        """Forgets a deleted account."""
        self._accounts.pop(account_id, None)
        self.trimmable.pop(account_id, None)
        self.changed[account_id] = True

    def wait(self, account: Account) -> None:
        """The account has rows in the lists of this transaction."""
        self._waiting[account.account_n] = account
        self.changed[account.chain.account] = True

    def touch(self, account: Account) -> None:
        """The event loop's view of the account changed, but nothing that readers wait for."""
        self.changed.setdefault(account.chain.account, False)

    def entries(self) -> dict[AccountId, Entry | None]:
        """What the event loop is to know of the changed accounts. None: deleted, or read anew."""
        result: dict[AccountId, Entry | None] = {}
        for account_id in self.changed:
            account = self._accounts.get(account_id)
            result[account_id] = None if account is None else account.entry()
        return result

    def begin(self) -> None:
        """Opens the transaction."""
        self.changed = {}
        self._winners = {}
        self._connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Durable when it returns."""
        counted = self._mark.beat(self.db)
        self._connection.execute("COMMIT")
        if counted:
            self._mark.written()
        while len(self._accounts) > self._accounts_max:
            self._accounts.popitem(last=False)

    def rollback(self) -> None:
        """As if it had not been; what was known of accounts is read again when needed."""
        self._accounts.clear()
        self.changed = {}
        self._clear_pending()
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def truncate_wal(self) -> None:
        """Takes deleted ciphertext out of the WAL. A reader in the way: next time."""
        row = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self.deleted = bool(row[0])

    def _flush(self) -> None:
        connection = self._connection
        tails: list[Value] = []
        for account in self._waiting.values():
            tails += (
                account.account_n,
                account.position,
                account.lamport_max,
                account.records,
                account.records_before,
            )
        segments.INSERT.run(connection, self.segments)
        for _ in _LIVE.run(connection, self._live):
            pass
        _RUNS.run(connection, self.runs)
        _HEADS.run(connection, self.heads)
        _TAILS.run(connection, tails)
        if self.superseded:
            _SUPERSEDED.run(connection, self.superseded)
            segments.make_stubs(connection, self.to_stubs)
        self._clear_pending()
