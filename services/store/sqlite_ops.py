"""Committing a batch of ops: what is judged, what wins, what is written.

This is the hot path: about a microsecond of Python per op, few statements per batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from crypto import op
from crypto.chain import Device
from crypto.ids import DeviceId
from crypto.op import HEADER_BYTES, LAMPORT_STEP_MAX, STUB_BYTES, Kind
from crypto.primitives import SIG_BYTES
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
from services.store.sqlite_bulk import ByKeys, Value
from services.store.sqlite_held import is_held
from services.store.sqlite_state import DEVICE_BITS, POSITION_MAX, Account
from services.store.sqlite_transaction import Transaction
from services.store.sqlite_trim import mark_checkpoint

_WINNERS = ByKeys("SELECT name, position, lamport, author FROM live WHERE name IN ({keys})")

Heads = dict[bytes, tuple[int, bytes]]
Candidate = tuple[int, bytes, int]
"""lamport, device id, place among the fresh rows"""


def commit_ops(tx: Transaction, batch: Batch) -> Committed:
    """See `Store.commit_ops`."""
    account = tx.account(batch.account_id)
    fresh, heads, lamport_max = _fresh(tx, account, batch)
    if not fresh:
        return Committed(0, account.position)
    if account.position + len(fresh) > POSITION_MAX:
        raise QuotaExceeded("ops_per_account", POSITION_MAX)
    plan = _Plan(account, fresh)
    plan.against(_winners(tx, account, plan.names))
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


def _fresh(tx: Transaction, account: Account, batch: Batch) -> tuple[list[OpRow], Heads, int]:
    """The rows that aren't held yet, each judged; where their devices' heads and the largest
    lamport will be."""
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


def _winners(
    tx: Transaction, account: Account, names: Sequence[bytes]
) -> dict[bytes, tuple[int, int, int]]:
    result = {}
    for cursor in _WINNERS.run(tx.db_of(account), names):
        for name, position, lamport, author in cursor:
            result[name] = (position, lamport, author)
    return result


def _marked(batch: Batch, fresh: Sequence[OpRow]) -> int | None:
    """Where the marked row is among the fresh ones; None if there is none or it was held."""
    if batch.checkpoint_index is None:
        return None
    row = batch.rows[batch.checkpoint_index]
    return next((place for place, other in enumerate(fresh) if other is row), None)


class _Plan:
    """Which fresh rows win their tag, which lose, and which stored winners they supersede."""

    __slots__ = (
        "_account", "_best", "fresh", "growth", "growth_before", "live", "losers",
        "superseded",
    )  # fmt: skip

    def __init__(self, account: Account, fresh: list[OpRow]) -> None:
        self._account = account
        self.fresh = fresh
        self.losers: list[int] = []
        self.superseded: list[int] = []
        self.live: list[Value] = []
        self.growth = self.growth_before = 0
        self._best: dict[bytes, Candidate] = {}
        self._rank()

    def _rank(self) -> None:
        """The best row of each tag in the batch itself."""
        best, key, prefixes = self._best, self._account.key, dict[int, bytes]()
        epoch_before, prefix = 0, b""
        for place, (raw, epoch, device_id, _, _, lamport, tag, _, _, _) in enumerate(self.fresh):
            if epoch != epoch_before:
                epoch_before = epoch
                prefix = prefixes.setdefault(epoch, key + epoch.to_bytes(4, "big"))
            if len(raw) == STUB_BYTES:
                self.losers.append(place)
                continue
            name = prefix + tag
            candidate = (lamport, device_id, place)
            rival = best.get(name)
            if rival is None:
                best[name] = candidate
            elif (lamport, device_id) > rival[:2]:
                best[name] = candidate
                self.losers.append(rival[2])
            else:
                self.losers.append(place)

    @property
    def names(self) -> list[bytes]:
        """Every tag of the batch's whole ops once."""
        return list(self._best)

    def against(self, winners: dict[bytes, tuple[int, int, int]]) -> None:
        """Decides between the batch and what stands."""
        account, fresh, live = self._account, self.fresh, self.live
        index, first = account.index, account.position + 1
        for name, (lamport, device_id, place) in self._best.items():
            row = fresh[place]
            standing = winners.get(name)
            if standing is None:
                if row.kind == Kind.RECORD:
                    self._grow(row.epoch, 1)
            elif (lamport, device_id) > self._order(standing):
                self.superseded.append(standing[0])
                if (row.kind == Kind.RECORD) != (standing[2] >> DEVICE_BITS == Kind.RECORD):
                    self._grow(row.epoch, 1 if row.kind == Kind.RECORD else -1)
            else:
                self.losers.append(place)
                continue
            live += (name, first + place, lamport, row.kind << DEVICE_BITS | index[device_id])

    def _order(self, standing: tuple[int, int, int]) -> tuple[int, DeviceId]:
        device = self._account.chain.devices[standing[2] & 255]
        return standing[1], device.device_id

    def _grow(self, epoch: int, by: int) -> None:
        if epoch == self._account.chain.epoch:
            self.growth += by
        else:
            self.growth_before += by

    def check_records(self, records_max: int) -> None:
        """QuotaExceeded if new tags carry an epoch beyond the limit. Known tags always may."""
        account = self._account
        for growth, records in (
            (self.growth, account.records),
            (self.growth_before, account.records_before),
        ):
            if growth > 0 and records + growth > records_max:
                raise QuotaExceeded("records_per_account", records_max)


def _write(tx: Transaction, account: Account, plan: _Plan, pinned: int) -> None:
    """Puts the rows of a judged batch where the transaction will insert them from.

    `pinned`: position of an op that stays whole although it may lose; 0: none.
    """
    fresh, base = plan.fresh, account.base
    first, end = account.position + 1, account.position + len(fresh)
    ops: list[Value] = []
    op_id, rest = base + first, len(fresh)
    current, dev_seq_next = b"", 0
    for raw, _, device_id, dev_seq, _, _, _, _, _, ct_hash in fresh:
        rest -= 1
        ops += (op_id, rest, ct_hash, raw)
        if dev_seq != dev_seq_next or device_id != current:
            current = device_id
            tx.runs += (account.account_n, account.index[device_id], dev_seq, op_id - base)
        dev_seq_next = dev_seq + 1
        op_id += 1
    if not all(ops[2::4]):
        _complete(ops)
    for place in plan.losers:
        tx.superseded += (account.account_n, end, first + place)
        if first + place != pinned:
            _make_stub(ops, place)
    kept = {mark.position for mark in account.marks}
    for position in plan.superseded:
        tx.superseded += (account.account_n, end, position)
        if position not in kept:
            tx.to_stubs.append(base + position)
    tx.ops += ops
    tx.live += plan.live


def _complete(ops: list[Value]) -> None:
    """Hashes the ciphertext of whole ops whose caller didn't; stubs have it inside."""
    for at in range(0, len(ops), 4):
        raw = ops[at + 3]
        if not ops[at + 2] and isinstance(raw, bytes):
            stub = len(raw) == STUB_BYTES
            ops[at + 2] = None if stub else op.ct_hash(raw[HEADER_BYTES:-SIG_BYTES])


def _make_stub(ops: list[Value], place: int) -> None:
    at = place * 4
    ct_hash, raw = ops[at + 2], ops[at + 3]
    if isinstance(ct_hash, bytes) and isinstance(raw, bytes):
        ops[at + 2] = None
        ops[at + 3] = raw[:HEADER_BYTES] + ct_hash + raw[-SIG_BYTES:]
