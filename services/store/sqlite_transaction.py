"""The writer's open transaction: accounts it knows, and rows that wait to be inserted together.

Requests of one group share it. A request judges first and changes things last, so one that
is refused has changed nothing.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from crypto.ids import AccountId
from crypto.op import HEADER_BYTES
from crypto.primitives import SIG_BYTES
from services.store.base import Limits
from services.store.errors import AccountAbsent
from services.store.mark import Mark
from services.store.sqlite_bulk import ByKeys, Insert, Value
from services.store.sqlite_state import Account, Entry, load

_OPS = Insert("op", 4)
_RUNS = Insert("run", 4)
_SUPERSEDED = Insert("superseded", 3)
_LIVE = Insert(
    "live",
    4,
    "ON CONFLICT (name) DO UPDATE SET"
    " position = excluded.position, lamport = excluded.lamport, author = excluded.author",
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
# `||` makes text of the same bytes; the cast makes them a blob again.
_STUB = f"substr(raw, 1, {HEADER_BYTES}) || ct_hash || substr(raw, -{SIG_BYTES})"
_TO_STUBS = ByKeys(
    f"UPDATE op SET raw = CAST({_STUB} AS BLOB), ct_hash = NULL"  # noqa: S608
    " WHERE op_id IN ({keys}) AND ct_hash IS NOT NULL"
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
        self._clear_pending()

    def _clear_pending(self) -> None:
        self._waiting: dict[int, Account] = {}
        self.ops: list[Value] = []
        self.runs: list[Value] = []
        self.live: list[Value] = []
        self.heads: list[Value] = []
        self.superseded: list[Value] = []
        self.to_stubs: list[Value] = []

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

    def make_stubs(self, op_ids: Iterable[int]) -> None:
        """Drops the payloads of these ops at once."""
        update_by_keys(self.db, _TO_STUBS, list(op_ids))

    def begin(self) -> None:
        """Opens the transaction."""
        self.changed = {}
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
        _OPS.run(connection, self.ops)
        _LIVE.run(connection, self.live)
        _RUNS.run(connection, self.runs)
        _HEADS.run(connection, self.heads)
        _TAILS.run(connection, tails)
        if self.superseded:
            _SUPERSEDED.run(connection, self.superseded)
            update_by_keys(connection, _TO_STUBS, self.to_stubs)
        self._clear_pending()


def update_by_keys(
    connection: sqlite3.Connection, statement: ByKeys, keys: Sequence[Value]
) -> None:
    """Runs a statement that gives no rows."""
    for _ in statement.run(connection, keys):
        pass
