"""Accounts and their chains: making, appending, deleting."""

from __future__ import annotations

from collections.abc import Sequence

from crypto import grant, link
from crypto.chain import Chain
from crypto.grant import SEALED_BYTES, SealedGrant
from crypto.heads import Head
from crypto.ids import AccountId, DeviceId
from crypto.link import Add, Link, Rotate, SignedLink
from services.store import snapshot
from services.store.base import StoredLink
from services.store.errors import ChainAhead, ChainConflict, QuotaExceeded
from services.store.sqlite_rounds import forget_account
from services.store.sqlite_state import (
    ACCOUNT_N_MAX,
    DEVICE_BITS,
    POSITION_BITS,
    Account,
    read_heads,
)
from services.store.sqlite_transaction import Transaction
from services.store.sqlite_trim import plan_after_revocation
from services.store.sqlite_wake import forget_revoked

_GRANT_BYTES = DeviceId.size + 4 + SEALED_BYTES
_BY_ACCOUNT_N = ("account", "tail", "superseded", "run", "gone", "checkpoint")
_BY_SHIFT = (
    ("segment", "segment_id", POSITION_BITS),
    ("link", "link_id", POSITION_BITS),
    ("epoch_end", "epoch_id", POSITION_BITS),
    ("device", "device_key", DEVICE_BITS),
    ("wake", "device_key", DEVICE_BITS),
)


def create_account(
    tx: Transaction,
    chain: Chain,
    links: Sequence[StoredLink],
    subject_row: bytes | None,
    now_ms: int,
) -> bool:
    """See `Store.create_account`. `links`: all of them, which make the verified `chain`."""
    standing = tx.find(chain.account)
    if standing is not None:
        return _continue(tx, standing, chain, links, now_ms)
    _check_limits_of(tx, chain)
    if subject_row is not None:
        _check_subject(tx, subject_row)
    account_n = _next_number(tx)
    tx.db.execute(
        "INSERT INTO account VALUES (?, ?, ?, ?)",
        (account_n, chain.account, subject_row, snapshot.encode(chain)),
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
    standing = account.chain
    common = min(standing.seq, chain.seq)
    if standing.hashes[common] != chain.hashes[common]:
        raise ChainConflict(standing.seq)
    if chain.seq == common:
        return False
    _check_limits_of(tx, chain)
    first = standing.seq + 1
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
        body = link.parse(row.link.raw).body
        if isinstance(body, Rotate):
            _end_epoch(tx, account, body.epoch - 1, now_ms)


def _check_limits_of(tx: Transaction, chain: Chain) -> None:
    """A device at any cap could still revoke: at most 255 links more than the limit."""
    if chain.seq >= tx.limits.chain_links_max + 255:
        raise QuotaExceeded("chain_links", tx.limits.chain_links_max)
    if len(chain.active) > tx.limits.active_devices_max:
        raise QuotaExceeded("active_devices", tx.limits.active_devices_max)


def _check_subject(tx: Transaction, subject_row: bytes) -> None:
    maximum = tx.limits.accounts_per_subject_max
    (count,) = tx.db.execute(
        "SELECT count(*) FROM account WHERE subject_row = ?", (subject_row,)
    ).fetchone()
    if count >= maximum:
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
    chain = account.chain
    parsed = link.parse(signed.raw)
    if parsed.seq <= chain.seq:
        if parsed.link_hash == chain.hashes[parsed.seq]:
            return False
        raise ChainConflict(chain.seq)
    if parsed.seq > chain.seq + 1:
        raise ChainAhead(chain.seq)
    after = chain.apply(signed)
    grant.check_complete(parsed, after, grants)
    _check_limits(tx, chain, parsed)
    _insert_link(tx, account, parsed.seq, signed, grants)
    tx.db.execute(
        "UPDATE account SET chain = ? WHERE account_n = ?",
        (snapshot.encode(after), account.account_n),
    )
    account.set_chain(after)
    if isinstance(parsed.body, Rotate):
        _end_epoch(tx, account, parsed.body.epoch - 1, now_ms)
    tx.changed[account_id] = True
    return True


def _check_limits(tx: Transaction, chain: Chain, parsed: Link) -> None:
    if isinstance(parsed.body, Rotate) and parsed.body.cuts:
        return  # A device at any cap can still revoke; there are at most 255 to revoke.
    if chain.seq + 1 >= tx.limits.chain_links_max:
        raise QuotaExceeded("chain_links", tx.limits.chain_links_max)
    maximum = tx.limits.active_devices_max
    if isinstance(parsed.body, Add) and len(chain.active) >= maximum:
        raise QuotaExceeded("active_devices", maximum)


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
    packed = b"".join(
        row.recipient_id + row.epoch.to_bytes(4, "big") + row.sealed for row in grants
    )
    tx.db.execute(
        "INSERT INTO link VALUES (?, ?, ?, ?, ?)",
        (account.base + seq, signed.raw, signed.sig, signed.pop, packed),
    )


def unpack_grants(packed: bytes) -> tuple[SealedGrant, ...]:
    """The grants of a row of the table `link`."""
    rows = (packed[at : at + _GRANT_BYTES] for at in range(0, len(packed), _GRANT_BYTES))
    return tuple(
        SealedGrant(DeviceId(row[:16]), int.from_bytes(row[16:20], "big"), row[20:]) for row in rows
    )


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
