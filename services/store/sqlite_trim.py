"""Checkpoints, and what may go once every device has passed one (docs/protocol.md, 5).

A stub goes when it was superseded at or before what a settled checkpoint covers; settled
means that every active device which writes has asked for something after that. Ops of an
epoch whose grace is over go likewise, once a settled checkpoint of a later epoch covers them.
The settled checkpoint and the newer ones are kept whole: a new device starts from them.
"""

from __future__ import annotations

from collections.abc import Mapping

from crypto import op
from crypto.ids import AccountId, DeviceId
from services.store import sqlite_segments as segments
from services.store.account_state import HASH_START_BYTES, MARKS_MAX, Mark
from services.store.sqlite_bulk import ByKeys, Insert, Value, update_by_keys
from services.store.sqlite_state import DEVICE_BITS, WINNER, Account
from services.store.sqlite_transaction import Transaction

SLICE_ROWS = 256
_GONE = Insert("gone", 4)
_DELETE_LIVE = ByKeys("DELETE FROM live WHERE name IN ({keys})")
_PASSED = (
    "INSERT INTO device (device_key, dev_seq, op_hash, passed) VALUES (?, 0, x'', ?)"
    " ON CONFLICT (device_key) DO UPDATE SET passed = excluded.passed"
)


def mark_checkpoint(
    tx: Transaction, account: Account, position: int, covers: int, epoch: int
) -> None:
    """Keeps the op whole as a checkpoint. Too many unsettled ones: the newest makes room."""
    while len(account.marks) >= MARKS_MAX:
        _unpin(tx, account, account.marks[-1])
    account.marks.append(Mark(position, covers, epoch))
    tx.db.execute(
        "INSERT INTO checkpoint VALUES (?, ?, ?, ?)", (account.account_n, position, covers, epoch)
    )
    _plan(tx, account)


def note_passed(tx: Transaction, positions: Mapping[AccountId, Mapping[DeviceId, int]]) -> None:
    """Where devices stand. Accounts and devices that are gone are left out."""
    for account_id, devices in positions.items():
        account = tx.find(account_id)
        if account is not None:
            _note_account(tx, account, devices)


def _note_account(tx: Transaction, account: Account, devices: Mapping[DeviceId, int]) -> None:
    for device_id, asked in devices.items():
        index = account.index.get(device_id)
        position = min(asked, account.position)
        if index is None or position <= account.passed.get(device_id, 0):
            continue
        account.passed[device_id] = position
        key = account.account_n << DEVICE_BITS | index
        tx.db.execute(_PASSED, (key, position))
    if account.marks:
        tx.touch(account)
        _plan(tx, account)


def _plan(tx: Transaction, account: Account) -> None:
    if account.settled() is not None:
        tx.trimmable.setdefault(account.chain.account, 0)


def plan_after_revocation(tx: Transaction, account: Account) -> None:
    """A device that held trimming up may be gone."""
    _plan(tx, account)


def trim_slice(tx: Transaction) -> None:
    """Trims a bounded part of the next account that has something to trim."""
    account_id, now_ms = next(iter(tx.trimmable.items()))
    account = tx.find(account_id)
    settled = account.settled() if account is not None else None
    if account is None or settled is None or not _trim(tx, account, settled, now_ms):
        del tx.trimmable[account_id]


def _trim(tx: Transaction, account: Account, settled: Mark, now_ms: int) -> bool:
    """True if there may be more."""
    for mark in account.outdated(settled):
        _unpin(tx, account, mark)
    kept = {mark.position for mark in account.marks}
    return _trim_stubs(tx, account, settled, kept) or _trim_epochs(
        tx, account, settled, now_ms, kept
    )


def _trim_stubs(tx: Transaction, account: Account, settled: Mark, kept: set[int]) -> bool:
    rows = tx.db.execute(
        "SELECT at, position FROM superseded WHERE account_n = ? AND at <= ? LIMIT ?",
        (account.account_n, settled.covers, SLICE_ROWS + MARKS_MAX),
    ).fetchall()
    going = [(at, position) for at, position in rows if position not in kept]
    _forget(tx, account, [position for _, position in going])
    tx.db.executemany(
        "DELETE FROM superseded WHERE account_n = ? AND at = ? AND position = ?",
        [(account.account_n, at, position) for at, position in going],
    )
    return len(rows) == SLICE_ROWS + MARKS_MAX


def _trim_epochs(
    tx: Transaction, account: Account, settled: Mark, now_ms: int, kept: set[int]
) -> bool:
    """Ops of epochs before the checkpoint's whose grace is over, as far as it covers them."""
    ended = tx.db.execute(
        "SELECT max(epoch_id) FROM epoch_end"
        " WHERE epoch_id >= ? AND epoch_id < ? AND ended_ms <= ?",
        (account.base, account.base + settled.epoch, now_ms - tx.limits.grace_ms),
    ).fetchone()
    if ended[0] is None:
        return False
    end = account.key + (ended[0] - account.base + 1).to_bytes(4, "big")
    rows = tx.db.execute(
        # A winner begins with its position.
        "SELECT name, winner FROM live WHERE name >= ? AND name < ? AND winner < ? LIMIT ?",
        (account.key, end, (settled.covers + 1).to_bytes(4, "big"), SLICE_ROWS + MARKS_MAX),
    ).fetchall()
    placed = [(name, WINNER.unpack(winner)[0]) for name, winner in rows]
    going = [(name, position) for name, position in placed if position not in kept]
    _forget(tx, account, [position for _, position in going])
    update_by_keys(tx.db, _DELETE_LIVE, [name for name, _ in going])
    tx.forget_winners()
    if len(rows) == SLICE_ROWS + MARKS_MAX:
        return True
    left = tx.db.execute(
        "SELECT 1 FROM live WHERE name >= ? AND name < ? LIMIT 1", (account.key, end)
    ).fetchone()
    if left is None:
        tx.db.execute(
            "DELETE FROM epoch_end WHERE epoch_id BETWEEN ? AND ?", (account.base, ended[0])
        )
    return False


def _forget(tx: Transaction, account: Account, positions: list[int]) -> None:
    """Deletes ops, but for eight bytes of each one's hash."""
    gone: list[Value] = []
    for raw in segments.remove_ops(tx.db, [account.base + position for position in positions]):
        sealed = op.parse_any(raw)
        author = account.index[sealed.header.device_id]
        start = sealed.op_hash[:HASH_START_BYTES]
        gone += (account.account_n, author, sealed.header.dev_seq, start)
    _GONE.run(tx.db, gone)


def _unpin(tx: Transaction, account: Account, mark: Mark) -> None:
    """No longer a checkpoint; loses its payload if it was superseded meanwhile."""
    account.marks.remove(mark)
    tx.db.execute(
        "DELETE FROM checkpoint WHERE account_n = ? AND position = ?",
        (account.account_n, mark.position),
    )
    op_id = account.base + mark.position
    raw = segments.read_op(tx.db, op_id)
    if raw is None:
        return
    header = op.parse_any(raw).header
    name = account.name(header.epoch, header.tag)
    winner = tx.winners([name])[name]
    if not winner or WINNER.unpack(winner)[0] != mark.position:
        segments.make_stubs(tx.db, [op_id])


def plan_sweep(tx: Transaction, now_ms: int) -> None:
    """Every account that has a checkpoint gets its turn; mailboxes that are over go now."""
    tx.db.execute(
        "DELETE FROM mailbox WHERE rendezvous IN"
        " (SELECT rendezvous FROM mailbox WHERE number = 1 AND expires_ms <= ?)",
        (now_ms,),
    )
    rows = tx.db.execute(
        "SELECT DISTINCT account_id FROM account JOIN checkpoint USING (account_n)"
    )
    for (account_id,) in rows:
        tx.trimmable[AccountId(account_id)] = now_ms
