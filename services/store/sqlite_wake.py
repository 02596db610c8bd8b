"""The SQLite store's part for waking: a `services.store.wake.WakeStore`."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from crypto.ids import AccountId, DeviceId
from services.store.errors import AccountAbsent
from services.store.sqlite_schema import one_moment
from services.store.sqlite_state import DEVICE_BITS, Account, Entry
from services.store.sqlite_transaction import Transaction
from services.store.sqlite_writer import Work
from services.store.wake import HORIZON_MS, Claim, Mark, Outcome, Pace, Settled

# Parameters: now_ms, debounce_ms, spread_ms.
_PACED = "max(:now, min(sent_ms, :now) + :debounce) + :spread"
_SET = (
    "INSERT INTO wake (device_key, handle, expires_ms) VALUES (?, ?, ?)"
    # Whoever has claimed the old handle has lost its turn.
    " ON CONFLICT (device_key) DO UPDATE SET handle = excluded.handle,"
    " expires_ms = excluded.expires_ms, turn = turn + 1, claimed = 0, tries = 0"
)
_MARK = (
    "UPDATE wake SET again = claimed, due_ms = CASE WHEN due_ms IS NULL OR due_ms > :horizon"  # noqa: S608
    f" THEN {_PACED} ELSE due_ms END WHERE device_key = :key RETURNING due_ms"
)
_CLAIM = (
    "UPDATE wake SET due_ms = :until, sent_ms = :now, claimed = 1, again = 0, turn = turn + 1"
    " WHERE device_key IN (SELECT device_key FROM wake WHERE due_ms <= :now AND expires_ms > :now"
    " ORDER BY due_ms LIMIT :most) RETURNING device_key, handle, turn, tries"
)
_DONE = (
    f"UPDATE wake SET due_ms = CASE WHEN again THEN {_PACED} END, claimed = 0, again = 0,"  # noqa: S608
    " tries = 0 WHERE device_key = :key AND turn = :turn AND claimed"
)
_LATER = (
    "UPDATE wake SET due_ms = :due, claimed = 0, again = 0, tries = tries + 1"
    " WHERE device_key = :key AND turn = :turn AND claimed"
)
_GONE = "DELETE FROM wake WHERE device_key = :key AND turn = :turn AND handle = :handle"


def _key(account_n: int, index: int) -> int:
    return account_n << DEVICE_BITS | index


def _range(account_n: int) -> tuple[int, int]:
    return _key(account_n, 0), _key(account_n + 1, 0) - 1


def set_handle(
    tx: Transaction, account_id: AccountId, device_id: DeviceId, handle: bytes, expires_ms: int
) -> None:
    """See `WakeStore.set_handle`."""
    account = tx.account(account_id)
    device = account.chain.find(device_id)
    if device is None or not device.active:
        raise AccountAbsent("no such device")
    tx.db.execute(_SET, (_key(account.account_n, device.index), handle, expires_ms))


def remove_handle(tx: Transaction, account_id: AccountId, device_id: DeviceId) -> None:
    """See `WakeStore.remove_handle`."""
    account = tx.find(account_id)
    index = None if account is None else account.index.get(device_id)
    if account is not None and index is not None:
        tx.db.execute("DELETE FROM wake WHERE device_key = ?", (_key(account.account_n, index),))


def forget_revoked(tx: Transaction, account: Account) -> None:
    """Handles of devices that are no longer active."""
    gone = [device.index for device in account.chain.devices if not device.active]
    tx.db.executemany(
        "DELETE FROM wake WHERE device_key = ?", [(_key(account.account_n, at),) for at in gone]
    )


def forget_expired(tx: Transaction, now_ms: int) -> None:
    """Handles that were not renewed."""
    tx.db.execute("DELETE FROM wake WHERE expires_ms <= ?", (now_ms,))


def count_expired(db: sqlite3.Connection, now_ms: int) -> int:
    """How many of them are here."""
    count: tuple[int] = db.execute(
        "SELECT count(*) FROM wake WHERE expires_ms <= ?", (now_ms,)
    ).fetchone()
    return count[0]


def _to_mark(db: sqlite3.Connection, mark: Mark, entry: Entry, now_ms: int) -> list[int]:
    """Those whose row would change: most pushes find that all is marked already."""
    rows = db.execute(
        "SELECT device_key FROM wake WHERE device_key BETWEEN ? AND ? AND expires_ms > ?"
        " AND (due_ms IS NULL OR due_ms > ? OR claimed AND NOT again)",
        (*_range(entry.account_n), now_ms, now_ms + HORIZON_MS),
    ).fetchall()
    devices, place = entry.tip.chain.devices, (1 << DEVICE_BITS) - 1
    return [key for (key,) in rows if mark.concerns(devices[key & place].device_id)]


def _mark(tx: Transaction, keys: Sequence[int], now_ms: int, pace: Pace) -> int | None:
    first: int | None = None
    for key in keys:
        told = {"key": key, "horizon": now_ms + HORIZON_MS, **_paced(now_ms, pace)}
        for (due_ms,) in tx.db.execute(_MARK, told).fetchall():
            first = due_ms if first is None else min(first, due_ms)
    return first


def _paced(now_ms: int, pace: Pace) -> dict[str, int]:
    return {"now": now_ms, "debounce": pace.debounce_ms, "spread": pace.spread_ms()}


def _claim(
    tx: Transaction, now_ms: int, lease_ms: int, claims_max: int
) -> tuple[list[Claim], int | None]:
    db = tx.db
    told = {"now": now_ms, "until": now_ms + lease_ms, "most": claims_max}
    claims = []
    for key, handle, turn, tries in db.execute(_CLAIM, told).fetchall():
        account, device_id = _owner(tx, key)
        claims.append(Claim(account, device_id, handle, turn, tries))
    return claims, _next_due_ms(db, now_ms)


def _next_due_ms(db: sqlite3.Connection, now_ms: int) -> int | None:
    row: tuple[int] | None = db.execute(
        "SELECT due_ms FROM wake WHERE due_ms IS NOT NULL AND expires_ms > ?"
        " ORDER BY due_ms LIMIT 1",
        (now_ms,),
    ).fetchone()
    return None if row is None else row[0]


def _owner(tx: Transaction, key: int) -> tuple[AccountId, DeviceId]:
    (account_id,) = tx.db.execute(
        "SELECT account_id FROM account WHERE account_n = ?", (key >> DEVICE_BITS,)
    ).fetchone()
    account = tx.account(AccountId(account_id))
    device = account.chain.devices[key & (1 << DEVICE_BITS) - 1]
    return account.chain.account, device.device_id


def _settle(tx: Transaction, ends: Sequence[Settled], now_ms: int, pace: Pace) -> None:
    for end in ends:
        claim = end.claim
        account = tx.find(claim.account_id)
        index = None if account is None else account.index.get(claim.device_id)
        if account is None or index is None:
            continue
        place = {"key": _key(account.account_n, index), "turn": claim.turn}
        match end.outcome:
            case Outcome.DONE:
                tx.db.execute(_DONE, place | _paced(now_ms, pace))
            case Outcome.LATER:
                tx.db.execute(_LATER, place | {"due": end.due_ms})
            case Outcome.GONE:
                tx.db.execute(_GONE, place | {"handle": claim.handle})


class SqliteWake:
    """Writes go through the store's writer, short reads run on the event loop."""

    def __init__(
        self,
        submit: Callable[[Work], Awaitable[Any]],
        reads: sqlite3.Connection,
        check_open: Callable[[], None],
        find: Callable[[AccountId], Entry | None],
    ) -> None:
        self._submit = submit
        self._connection = reads
        self._check_open = check_open
        self._find = find

    @contextmanager
    def _reads(self) -> Iterator[sqlite3.Connection]:
        self._check_open()
        with one_moment(self._connection):
            yield self._connection

    async def set_handle(
        self, account_id: AccountId, device_id: DeviceId, handle: bytes, *, expires_ms: int
    ) -> None:
        """See `WakeStore.set_handle`."""
        await self._submit(lambda tx: set_handle(tx, account_id, device_id, handle, expires_ms))

    async def remove_handle(self, account_id: AccountId, device_id: DeviceId) -> None:
        """See `WakeStore.remove_handle`."""
        await self._submit(lambda tx: remove_handle(tx, account_id, device_id))

    async def handle_expires_ms(
        self, account_id: AccountId, device_id: DeviceId, *, now_ms: int
    ) -> int:
        """See `WakeStore.handle_expires_ms`."""
        entry = self._find(account_id)
        device = None if entry is None else entry.tip.chain.find(device_id)
        if entry is None or device is None:
            return 0
        with self._reads() as db:
            row = db.execute(
                "SELECT expires_ms FROM wake WHERE device_key = ? AND expires_ms > ?",
                (_key(entry.account_n, device.index), now_ms),
            ).fetchone()
        return 0 if row is None else int(row[0])

    async def mark(self, marks: Sequence[Mark], *, now_ms: int, pace: Pace) -> int | None:
        """See `WakeStore.mark`."""
        found = [(mark, self._find(mark.account_id)) for mark in marks]
        keys: list[int] = []
        with self._reads() as db:
            for mark, entry in found:
                if entry is not None:
                    keys += _to_mark(db, mark, entry, now_ms)
        if not keys:
            return None
        first: int | None = await self._submit(lambda tx: _mark(tx, keys, now_ms, pace))
        return first

    async def claim(
        self, *, now_ms: int, lease_ms: int, claims_max: int
    ) -> tuple[Sequence[Claim], int | None]:
        """See `WakeStore.claim`. A write only if something is due."""
        with self._reads() as db:
            due_ms = _next_due_ms(db, now_ms)
        if due_ms is None or due_ms > now_ms:
            return (), due_ms
        claimed: tuple[Sequence[Claim], int | None] = await self._submit(
            lambda tx: _claim(tx, now_ms, lease_ms, claims_max)
        )
        return claimed

    async def settle(self, ends: Sequence[Settled], *, now_ms: int, pace: Pace) -> None:
        """See `WakeStore.settle`."""
        if ends:
            await self._submit(lambda tx: _settle(tx, ends, now_ms, pace))
