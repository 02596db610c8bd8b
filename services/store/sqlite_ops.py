"""Committing a batch of ops: what is judged, what wins, what is written.

This is the hot path: about a microsecond of Python per op, few statements per batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from crypto.op import STUB_BYTES
from services.store import judge as judging
from services.store.base import Batch, Committed, OpRow
from services.store.errors import QuotaExceeded
from services.store.judge import RECORD, Judged, marked
from services.store.packed import stub_of
from services.store.sqlite_held import is_held
from services.store.sqlite_segments import rows_of
from services.store.sqlite_state import DEVICE_BITS, WINNER, Account
from services.store.sqlite_transaction import Transaction
from services.store.sqlite_trim import mark_checkpoint


def commit_ops(tx: Transaction, batch: Batch) -> Committed:
    """See `Store.commit_ops`."""
    account = tx.account(batch.account_id)

    def held(device_index: int, row: OpRow) -> bool:
        return is_held(tx.db_of(account), account, device_index, row)

    judged = judging.judge(account, batch, tx.limits, held)
    fresh, heads, lamport_max = judged
    if not fresh:
        return Committed(0, account.position)
    plan = _Plan(account, judged)
    plan.against(tx)
    plan.check_records(tx.limits.records_max)
    marked_at = marked(batch, fresh)
    first = account.position + 1
    _write(tx, account, plan, first + marked_at if marked_at is not None else 0)
    account.position += len(fresh)
    account.lamport_max = lamport_max
    account.records += plan.growth
    account.records_before += plan.growth_before
    account.heads.update(heads)
    for device_id, (dev_seq, op_hash) in heads.items():
        key = account.account_n << DEVICE_BITS | account.index[device_id]
        tx.heads += (key, dev_seq, op_hash)
    tx.wait(account)
    if marked_at is not None:
        covers = min(batch.checkpoint_covers, first - 1)
        mark_checkpoint(tx, account, first + marked_at, covers, fresh[marked_at].epoch)
    return Committed(len(fresh), account.position)


class _Plan:
    """Which fresh rows win their tag, which lose, and which stored winners they supersede."""

    __slots__ = (
        "_account", "_ranked", "fresh", "growth", "growth_before", "judged", "losers",
        "names", "superseded", "winners",
    )  # fmt: skip

    def __init__(self, account: Account, judged: Judged) -> None:
        self._account = account
        self.judged = judged
        self.fresh = fresh = judged.fresh
        self.superseded: list[int] = []
        self.names: list[bytes] = []
        """Tags that the batch wins, and with what, row by row."""
        self.winners: list[bytes] = []
        self.growth = self.growth_before = 0
        self._ranked = judging.rank(names_of(account, fresh), fresh)
        self.losers = self._ranked.losers

    def against(self, tx: Transaction) -> None:
        """Decides between the batch and what stands."""
        account, fresh, names, winners = self._account, self.fresh, self.names, self.winners
        current, devices, index = account.chain.epoch, account.chain.devices, account.index
        pack, unpack = WINNER.pack, WINNER.unpack
        standing = tx.winners(self._ranked.names)
        first = account.position + 1
        for name, place in zip(self._ranked.names, self._ranked.best, strict=True):
            _, epoch, device_id, _, _, lamport, _, _, kind, _ = fresh[place]
            growth = 1 if kind == RECORD else 0
            if held := standing[name]:
                position, held_lamport, author = unpack(held)
                if (lamport, device_id) <= (held_lamport, devices[author & 255].device_id):
                    self.losers.append(place)
                    continue
                self.superseded.append(position)
                growth -= author >> DEVICE_BITS == RECORD
            if epoch == current:
                self.growth += growth
            else:
                self.growth_before += growth
            names.append(name)
            winners.append(pack(first + place, lamport, kind << DEVICE_BITS | index[device_id]))

    def check_records(self, records_max: int) -> None:
        """QuotaExceeded if new tags carry an epoch beyond the limit. Known tags always may."""
        account = self._account
        for growth, records in (
            (self.growth, account.records),
            (self.growth_before, account.records_before),
        ):
            if growth > 0 and records + growth > records_max:
                raise QuotaExceeded("records_per_account", records_max)


def names_of(account: Account, rows: Sequence[OpRow]) -> list[bytes]:
    """What each row competes for; empty for a stub, which never wins."""
    prefixes = {epoch: account.name(epoch, b"") for epoch in {row.epoch for row in rows}}
    if len(prefixes) == 1:
        prefix = prefixes[rows[0].epoch]
        names = [prefix + row.tag for row in rows]
    else:
        names = [prefixes[row.epoch] + row.tag for row in rows]
    if STUB_BYTES in [len(row.raw) for row in rows]:
        pairs = zip(names, rows, strict=True)
        names = [b"" if len(row.raw) == STUB_BYTES else name for name, row in pairs]
    return names


def foresee(tx: Transaction, batches: Sequence[Batch]) -> None:
    """One look for the winners of all that a group pushes, instead of one a push."""
    names: list[bytes] = []
    for batch in batches:
        account = tx.find(batch.account_id)
        if account is not None:
            names += filter(None, names_of(account, batch.rows))
    tx.winners(names)


def _write(tx: Transaction, account: Account, plan: _Plan, pinned: int) -> None:
    """Puts the rows of a judged batch where the transaction will insert them from.

    `pinned`: position of an op that stays whole although it may lose; 0: none.
    """
    fresh, base = plan.fresh, account.base
    first, end = account.position + 1, account.position + len(fresh)
    runs, account.author = judging.runs_of(account, plan.judged)
    for run in runs:
        tx.runs += (account.account_n, *run)
    raws = [row.raw for row in fresh]
    for place in plan.losers:
        tx.superseded += (account.account_n, end, first + place)
        if first + place != pinned and len(raws[place]) != STUB_BYTES:
            raws[place] = stub_of(raws[place], fresh[place].ct_hash)
    kept = {mark.position for mark in account.marks}
    for position in plan.superseded:
        tx.superseded += (account.account_n, end, position)
        if position not in kept:
            tx.to_stubs.append(base + position)
    tx.segments += rows_of(base + first, raws)
    tx.set_winners(plan.names, plan.winners)
