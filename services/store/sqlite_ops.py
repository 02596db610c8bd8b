"""Committing a batch of ops: what is judged, what wins, what is written.

This is the hot path: about a microsecond of Python per op, few statements per batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crypto import op
from crypto.chain import Device
from crypto.op import LAMPORT_STEP_MAX, STUB_BYTES, Kind
from services.store.base import Batch, Committed, OpRow
from services.store.errors import (
    DeviceCut,
    DeviceForked,
    EpochStale,
    EpochUnknown,
    LamportAhead,
    OpGap,
    QuotaExceeded,
)
from services.store.sqlite_held import is_held
from services.store.sqlite_segments import rows_of, stub_of
from services.store.sqlite_state import DEVICE_BITS, POSITION_MAX, WINNER, Account
from services.store.sqlite_transaction import Transaction
from services.store.sqlite_trim import mark_checkpoint

_RECORD = int(Kind.RECORD)
Heads = dict[bytes, tuple[int, bytes]]


def commit_ops(tx: Transaction, batch: Batch) -> Committed:
    """See `Store.commit_ops`."""
    account = tx.account(batch.account_id)
    fresh, heads, lamport_max = _fresh(tx, account, batch)
    if not fresh:
        return Committed(0, account.position)
    if account.position + len(fresh) > POSITION_MAX:
        raise QuotaExceeded("ops_per_account", POSITION_MAX)
    plan = _Plan(account, fresh)
    plan.against(tx)
    plan.check_records(tx.limits.records_max)
    marked = _marked(batch, fresh)
    first = account.position + 1
    _write(tx, account, plan, first + marked if marked is not None else 0)
    account.position += len(fresh)
    account.lamport_max = lamport_max
    account.records += plan.growth
    account.records_before += plan.growth_before
    account.heads.update(heads)
    for device_id, (dev_seq, op_hash) in heads.items():
        key = account.account_n << DEVICE_BITS | account.index[device_id]
        tx.heads += (key, dev_seq, op_hash)
    tx.wait(account)
    if marked is not None:
        covers = min(batch.checkpoint_covers, first - 1)
        mark_checkpoint(tx, account, first + marked, covers, fresh[marked].epoch)
    return Committed(len(fresh), account.position)


def _fresh(tx: Transaction, account: Account, batch: Batch) -> tuple[Sequence[OpRow], Heads, int]:
    """The rows that aren't held yet, each judged; where their devices' heads and the largest
    lamport will be."""
    return _plain(account, batch) or _judged(tx, account, batch)


def _plain(account: Account, batch: Batch) -> tuple[Sequence[OpRow], Heads, int] | None:
    """The common push as a whole: a device goes on from its head, in the current epoch. None
    if it is another: then row by row."""
    rows = batch.rows
    start, last = rows[0], rows[-1]
    device_id = start.device_id
    head = account.heads.get(device_id)
    if (
        head != (start.dev_seq - 1, start.prev)
        or {row.device_id for row in rows} != {device_id}
        or {row.epoch for row in rows} != {account.chain.epoch}
        or _device(account, device_id).cut is not None
        # What the caller checked: rows of one device follow one another, each once.
        or last.dev_seq - start.dev_seq != len(rows) - 1
    ):
        return None
    lamport_max = max([row.lamport for row in rows])
    if lamport_max > account.lamport_max + LAMPORT_STEP_MAX:
        return None
    heads = {device_id: (last.dev_seq, last.op_hash)}
    return rows, heads, max(lamport_max, account.lamport_max)


def _judged(tx: Transaction, account: Account, batch: Batch) -> tuple[Sequence[OpRow], Heads, int]:
    chain = account.chain
    heads: Heads = {}
    fresh: list[OpRow] = []
    checked: set[bytes] = set()
    lamport_max = account.lamport_max
    current, device, stored, seq, head, cut = b"", None, 0, 0, b"", None
    for row in batch.rows:
        _, epoch, device_id, dev_seq, prev, lamport, _, op_hash, _, _ = row
        if device is None or device_id != current:
            current, device = device_id, _device(account, device_id)
            stored, head = account.heads.get(device_id) or _unwritten(account, device)
            seq, head = heads.get(device_id) or (stored, head)
            cut = device.cut
        if dev_seq <= seq:
            if dev_seq > stored:
                _check_twin(row, fresh)
            elif current not in checked:
                checked.add(current)
                _check_held(tx, account, device, batch.rows)
            continue
        if dev_seq != seq + 1 or prev != head:
            raise OpGap(seq, head)
        if cut is not None and (
            dev_seq > cut.seq or (dev_seq == cut.seq and op_hash != cut.op_hash)
        ):
            raise DeviceCut("the op is not within the cut of its revoked device")
        if epoch != chain.epoch and (epoch > chain.epoch or len(row.raw) != STUB_BYTES):
            _check_epoch(account, epoch, batch.now_ms, tx.limits.grace_ms)
        if lamport > lamport_max:
            if lamport > lamport_max + LAMPORT_STEP_MAX:
                raise LamportAhead(f"lamport is more than {LAMPORT_STEP_MAX} ahead")
            lamport_max = lamport
        seq, head = dev_seq, op_hash
        heads[current] = (seq, head)
        fresh.append(row)
    return fresh, heads, lamport_max


def _device(account: Account, device_id: bytes) -> Device:
    index = account.index.get(device_id)
    if index is None:
        # The caller knew it: the account was deleted and made again since.
        raise EpochUnknown(account.chain.epoch)
    return account.chain.devices[index]


def _unwritten(account: Account, device: Device) -> tuple[int, bytes]:
    return 0, op.init_hash(account.chain.account, device.device_id)


def _check_held(tx: Transaction, account: Account, device: Device, rows: Sequence[OpRow]) -> None:
    """DeviceForked unless all rows that this device should have written already are held.

    A hash commits to all before it, so that one look at the newest settles the others.
    """
    stored, head = account.heads[device.device_id]
    later: OpRow | None = None
    for row in reversed(rows):
        if row.device_id != device.device_id or row.dev_seq > stored:
            continue
        if later is not None and (row.dev_seq + 1, row.op_hash) == (later.dev_seq, later.prev):
            later = row
            continue
        if row.dev_seq == stored:
            held = row.op_hash == head
        else:
            held = is_held(tx.db_of(account), account, device.index, row)
        if not held:
            raise DeviceForked("another op stands at this dev_seq")
        later = row


def _check_twin(row: OpRow, fresh: Sequence[OpRow]) -> None:
    """The batch holds this dev_seq twice."""
    key = (row.device_id, row.dev_seq, row.op_hash)
    if not any((other.device_id, other.dev_seq, other.op_hash) == key for other in fresh):
        raise DeviceForked("another op stands at this dev_seq")


def _check_epoch(account: Account, epoch: int, now_ms: int, grace_ms: int) -> None:
    current = account.chain.epoch
    if epoch > current:
        raise EpochUnknown(current)
    if epoch < current - 1 or now_ms >= account.ended_ms + grace_ms:
        raise EpochStale(current)


def _marked(batch: Batch, fresh: Sequence[OpRow]) -> int | None:
    """Where the marked row is among the fresh ones; None if there is none or it was held."""
    if batch.checkpoint_index is None:
        return None
    row = batch.rows[batch.checkpoint_index]
    return next((place for place, other in enumerate(fresh) if other is row), None)


class _Plan:
    """Which fresh rows win their tag, which lose, and which stored winners they supersede."""

    __slots__ = (
        "_account", "_best", "_names", "fresh", "growth", "growth_before", "losers", "names",
        "superseded", "winners",
    )  # fmt: skip

    def __init__(self, account: Account, fresh: Sequence[OpRow]) -> None:
        self._account = account
        self.fresh = fresh
        self.losers: list[int] = []
        self.superseded: list[int] = []
        self.names: list[bytes] = []
        """Tags that the batch wins, and with what, row by row."""
        self.winners: list[bytes] = []
        self.growth = self.growth_before = 0
        self._names: Sequence[bytes] = names_of(account, fresh)
        self._best: Iterable[int] = range(len(fresh))
        """Which rows are the best of their tag in the batch itself."""
        if not all(self._names) or len(set(self._names)) < len(self._names):
            self._rank()

    def _rank(self) -> None:
        best: dict[bytes, int] = {}
        fresh = self.fresh
        for place, name in enumerate(self._names):
            rival = best.get(name)
            loser: int | None = place
            if name and (rival is None or _order(fresh[place]) > _order(fresh[rival])):
                best[name], loser = place, rival
            if loser is not None:
                self.losers.append(loser)
        self._names, self._best = list(best), list(best.values())

    def against(self, tx: Transaction) -> None:
        """Decides between the batch and what stands."""
        account, fresh, names, winners = self._account, self.fresh, self.names, self.winners
        current, devices, index = account.chain.epoch, account.chain.devices, account.index
        pack, unpack = WINNER.pack, WINNER.unpack
        standing = tx.winners(self._names)
        first = account.position + 1
        for name, place in zip(self._names, self._best, strict=True):
            _, epoch, device_id, _, _, lamport, _, _, kind, _ = fresh[place]
            growth = 1 if kind == _RECORD else 0
            if held := standing[name]:
                position, held_lamport, author = unpack(held)
                if (lamport, device_id) <= (held_lamport, devices[author & 255].device_id):
                    self.losers.append(place)
                    continue
                self.superseded.append(position)
                growth -= author >> DEVICE_BITS == _RECORD
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


def _order(row: OpRow) -> tuple[int, bytes]:
    return row.lamport, row.device_id


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
    _note_runs(tx, account, fresh, first)
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


def _note_runs(tx: Transaction, account: Account, fresh: Sequence[OpRow], first: int) -> None:
    """Where each device's ops lie: from one op on until another device's. The first run may
    go on from the push before."""
    current = account.author
    dev_seq_next = account.heads[current][0] + 1 if current else 0
    for position, row in enumerate(fresh, start=first):
        if row.dev_seq != dev_seq_next or row.device_id != current:
            current = row.device_id
            tx.runs += (account.account_n, account.index[current], row.dev_seq, position)
        dev_seq_next = row.dev_seq + 1
    account.author = current
