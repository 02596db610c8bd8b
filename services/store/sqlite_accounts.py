"""Accounts and their chains: making, appending, deleting."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from crypto.chain import Chain
from crypto.grant import SealedGrant
from crypto.heads import Head
from crypto.ids import AccountId, DeviceId
from crypto.link import SignedLink
from services.store import judge_chain, snapshot
from services.store.account_state import POSITION_BITS
from services.store.base import StoredLink
from services.store.errors import QuotaExceeded
from services.store.sqlite_rounds import forget_account
from services.store.sqlite_state import (
    ACCOUNT_N_MAX,
    DEVICE_BITS,
    Account,
    read_heads,
)
from services.store.sqlite_transaction import Transaction
from services.store.sqlite_trim import plan_after_revocation
from services.store.sqlite_wake import forget_revoked

_BY_ACCOUNT_N = ("account", "tail", "superseded", "run", "gone", "checkpoint", "consent_now")
_BY_SHIFT = (
    ("segment", "segment_id", POSITION_BITS),
    ("link", "link_id", POSITION_BITS),
    ("epoch_end", "epoch_id", POSITION_BITS),
    ("device", "device_key", DEVICE_BITS),
    ("wake", "device_key", DEVICE_BITS),
    ("consent", "consent_id", POSITION_BITS),
)


def create_account(
    tx: Transaction,
    chain: Chain,
    links: Sequence[StoredLink],
    subject_rows: Sequence[bytes],
    now_ms: int,
) -> bool:
    """See `Store.create_account`. `links`: all of them, which make the verified `chain`.
    `subject_rows`: the one to store, and those that count as well; none without a subject."""
    standing = tx.find(chain.account)
    if standing is not None:
        return _continue(tx, standing, chain, links, now_ms)
    judge_chain.check_whole(chain, tx.limits)
    _check_subject(tx, subject_rows)
    account_n = _next_number(tx)
    tx.db.execute(
        "INSERT INTO account VALUES (?, ?, ?, ?)",
        (account_n, chain.account, next(iter(subject_rows), None), snapshot.encode(chain)),
    )
    tx.db.execute("INSERT INTO tail VALUES (?, 0, 0, 0, 0)", (account_n,))
    account = Account(
        account_n=account_n,
        chain=chain,
        position=0,
        lamport_max=0,
        records=0,
        records_before=0,
        ended_ms=0,
        heads={},
        passed={},
        marks=[],
    )
    _insert_links(tx, account, 0, links, now_ms)
    tx.keep(account)
    return True


def _continue(
    tx: Transaction, account: Account, chain: Chain, links: Sequence[StoredLink], now_ms: int
) -> bool:
    """Appends the links that stand behind the stored ones. False if there are none."""
    if not judge_chain.judge_again(account.chain, chain, tx.limits):
        return False
    first = account.chain.seq + 1
    account.set_chain(chain)
    tx.db.execute(
        "UPDATE account SET chain = ? WHERE account_n = ?",
        (snapshot.encode(chain), account.account_n),
    )
    _insert_links(tx, account, first, links[first:], now_ms)
    tx.changed[chain.account] = True
    return True


def _insert_links(
    tx: Transaction, account: Account, first: int, links: Sequence[StoredLink], now_ms: int
) -> None:
    for seq, row in enumerate(links, start=first):
        _insert_link(tx, account, seq, row.link, row.grants)
    for epoch in judge_chain.ended_epochs(links):
        _end_epoch(tx, account, epoch, now_ms)


def _check_subject(tx: Transaction, subject_rows: Sequence[bytes]) -> None:
    maximum = tx.limits.accounts_per_subject_max
    count = 0
    for row in set(subject_rows):
        (held,) = tx.db.execute(
            "SELECT count(*) FROM account WHERE subject_row = ?", (row,)
        ).fetchone()
        count += held
    if subject_rows and count >= maximum:
        raise QuotaExceeded("accounts_per_subject", maximum)


def _next_number(tx: Transaction) -> int:
    """Never given twice: a reader that is late must not find another account's rows."""
    (number,) = tx.db.execute(
        "UPDATE meta SET value = value + 1 WHERE name = 'accounts_ever' RETURNING value"
    ).fetchone()
    if number > ACCOUNT_N_MAX:
        raise QuotaExceeded("accounts", ACCOUNT_N_MAX)
    return int(number)


def append_link(
    tx: Transaction,
    account_id: AccountId,
    signed: SignedLink,
    grants: Sequence[SealedGrant],
    now_ms: int,
) -> bool:
    """See `Store.append_link`."""
    account = tx.account(account_id)
    appended = judge_chain.judge_link(account.chain, signed, grants, tx.limits)
    if appended is None:
        return False
    _insert_link(tx, account, appended.link.seq, signed, grants)
    tx.db.execute(
        "UPDATE account SET chain = ? WHERE account_n = ?",
        (snapshot.encode(appended.chain), account.account_n),
    )
    account.set_chain(appended.chain)
    if appended.ended_epoch is not None:
        _end_epoch(tx, account, appended.ended_epoch, now_ms)
    tx.changed[account_id] = True
    return True


def _end_epoch(tx: Transaction, account: Account, epoch: int, now_ms: int) -> None:
    account.ended_ms = now_ms
    account.records, account.records_before = 0, account.records
    tx.db.execute("INSERT INTO epoch_end VALUES (?, ?)", (account.base + epoch, now_ms))
    tx.db.execute(
        "UPDATE tail SET records = 0, records_before = records WHERE account_n = ?",
        (account.account_n,),
    )
    plan_after_revocation(tx, account)
    forget_revoked(tx, account)


def _insert_link(
    tx: Transaction,
    account: Account,
    seq: int,
    signed: SignedLink,
    grants: Sequence[SealedGrant],
) -> None:
    tx.db.execute(
        "INSERT INTO link VALUES (?, ?, ?, ?, ?)",
        (account.base + seq, signed.raw, signed.sig, signed.pop, judge_chain.pack_grants(grants)),
    )


_LEFT_BEHIND = """
SELECT
  (SELECT count(*) FROM tail WHERE account_n NOT IN (SELECT account_n FROM account))
  + (SELECT count(*) FROM device WHERE (device_key >> ?1) NOT IN (SELECT account_n FROM account))
  + (SELECT count(*) FROM wake WHERE (device_key >> ?1) NOT IN (SELECT account_n FROM account))
  + (SELECT count(*) FROM consent WHERE (consent_id >> ?2) NOT IN (SELECT account_n FROM account))
  + (SELECT count(*) FROM contribution WHERE account_n NOT IN (SELECT account_n FROM account))
"""


def count_deleted(db: sqlite3.Connection) -> int:
    """Rows of accounts that are not here any more: tails, devices, handles, consent, contributions.
    What else an account has goes in the same transaction as these do."""
    count: tuple[int] = db.execute(_LEFT_BEHIND, (DEVICE_BITS, POSITION_BITS)).fetchone()
    return count[0]


def delete_account(
    tx: Transaction, account_id: AccountId, by: DeviceId | None
) -> tuple[Chain, Sequence[Head]] | None:
    """See `Store.delete_account`."""
    account = tx.find(account_id)
    if account is None:
        return None
    device = None if by is None else account.chain.find(by)
    if by is not None and (device is None or not device.active):
        return None
    account_n = account.account_n
    heads = [head for _, head in read_heads(tx.db, account_n, account.chain)]
    for table in _BY_ACCOUNT_N:
        tx.db.execute(f"DELETE FROM {table} WHERE account_n = ?", (account_n,))  # noqa: S608
    for table, column, bits in _BY_SHIFT:
        tx.db.execute(
            f"DELETE FROM {table} WHERE {column} BETWEEN ? AND ?",  # noqa: S608
            (account_n << bits, ((account_n + 1) << bits) - 1),
        )
    tx.db.execute(
        "DELETE FROM live WHERE name >= ? AND name < ?",
        (account.key, (account_n + 1).to_bytes(4, "big")),
    )
    forget_account(tx, account_n)
    tx.drop(account_id)
    tx.deleted = True
    return account.chain, heads
