"""What is judged of a batch of ops against the account that it is for; the same for every backend.

This is the hot path: about a microsecond of Python per op. Nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from crypto import op
from crypto.chain import Device
from crypto.op import LAMPORT_STEP_MAX, STUB_BYTES, Kind
from services.store.account_state import POSITION_MAX, AccountState
from services.store.base import Batch, Limits, OpRow
from services.store.errors import (
    CallerUnknown,
    DeviceCut,
    DeviceForked,
    EpochStale,
    EpochUnknown,
    LamportAhead,
    OpGap,
    QuotaExceeded,
)

RECORD = int(Kind.RECORD)
Heads = dict[bytes, tuple[int, bytes]]
Held = Callable[[int, OpRow], bool]
"""Whether the op that stands at the row's dev_seq, of the device with this index, is the row's.
Asked of old rows only: a dev_seq below the device's head."""


class Judged(NamedTuple):
    """The rows that aren't held yet; where their devices' heads and the largest lamport will be."""

    fresh: Sequence[OpRow]
    heads: Heads
    lamport_max: int


def judge(account: AccountState, batch: Batch, limits: Limits, held: Held) -> Judged:
    """Judges by the order of `Store.commit_ops`, up to what depends on winners. Raises what
    that raises."""
    index = account.index.get(batch.caller)
    if index is None or not account.chain.devices[index].active:
        raise CallerUnknown("the caller is no active device of the account")
    judged = _plain(account, batch) or _judged(account, batch, limits, held)
    if account.position + len(judged.fresh) > POSITION_MAX:
        raise QuotaExceeded("ops_per_account", POSITION_MAX)
    return judged


def _plain(account: AccountState, batch: Batch) -> Judged | None:
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
    return Judged(rows, heads, max(lamport_max, account.lamport_max))


def _judged(account: AccountState, batch: Batch, limits: Limits, held: Held) -> Judged:
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
                _check_held(account, device, batch.rows, held)
            continue
        if dev_seq != seq + 1 or prev != head:
            raise OpGap(seq, head)
        if cut is not None and (
            dev_seq > cut.seq or (dev_seq == cut.seq and op_hash != cut.op_hash)
        ):
            raise DeviceCut("the op is not within the cut of its revoked device")
        if epoch != chain.epoch and (epoch > chain.epoch or len(row.raw) != STUB_BYTES):
            _check_epoch(account, epoch, batch.now_ms, limits.grace_ms)
        if lamport > lamport_max:
            if lamport > lamport_max + LAMPORT_STEP_MAX:
                raise LamportAhead(f"lamport is more than {LAMPORT_STEP_MAX} ahead")
            lamport_max = lamport
        seq, head = dev_seq, op_hash
        heads[current] = (seq, head)
        fresh.append(row)
    return Judged(fresh, heads, lamport_max)


def _device(account: AccountState, device_id: bytes) -> Device:
    index = account.index.get(device_id)
    if index is None:
        # The caller knew it: the account was deleted and made again since.
        raise EpochUnknown(account.chain.epoch)
    return account.chain.devices[index]


def _unwritten(account: AccountState, device: Device) -> tuple[int, bytes]:
    return 0, op.init_hash(account.chain.account, device.device_id)


def _check_held(account: AccountState, device: Device, rows: Sequence[OpRow], held: Held) -> None:
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
        if not (row.op_hash == head if row.dev_seq == stored else held(device.index, row)):
            raise DeviceForked("another op stands at this dev_seq")
        later = row


def _check_twin(row: OpRow, fresh: Sequence[OpRow]) -> None:
    """The batch holds this dev_seq twice."""
    key = (row.device_id, row.dev_seq, row.op_hash)
    if not any((other.device_id, other.dev_seq, other.op_hash) == key for other in fresh):
        raise DeviceForked("another op stands at this dev_seq")


def _check_epoch(account: AccountState, epoch: int, now_ms: int, grace_ms: int) -> None:
    current = account.chain.epoch
    if epoch > current:
        raise EpochUnknown(current)
    if epoch < current - 1 or now_ms >= account.ended_ms + grace_ms:
        raise EpochStale(current)


def marked(batch: Batch, fresh: Sequence[OpRow]) -> int | None:
    """Where the marked row is among the fresh ones; None if there is none or it was held."""
    if batch.checkpoint_index is None:
        return None
    row = batch.rows[batch.checkpoint_index]
    return next((place for place, other in enumerate(fresh) if other is row), None)


class Ranked(NamedTuple):
    """What a batch competes for: each name once, with the place of the row that is the best of
    it in the batch itself; and the places of the other rows, which have lost already."""

    names: Sequence[bytes]
    best: Iterable[int]
    losers: list[int]


def rank(names: Sequence[bytes], fresh: Sequence[OpRow]) -> Ranked:
    """`names`: what each row competes for; empty for a stub, which never wins."""
    if all(names) and len(set(names)) == len(names):
        return Ranked(names, range(len(fresh)), [])
    best: dict[bytes, int] = {}
    losers: list[int] = []
    for place, name in enumerate(names):
        rival = best.get(name)
        loser: int | None = place
        if name and (rival is None or _order(fresh[place]) > _order(fresh[rival])):
            best[name], loser = place, rival
        if loser is not None:
            losers.append(loser)
    return Ranked(list(best), list(best.values()), losers)


def _order(row: OpRow) -> tuple[int, bytes]:
    return row.lamport, row.device_id


class Run(NamedTuple):
    """From this op on a device's ops lie one behind the other, until another device's."""

    device_index: int
    dev_seq: int
    position: int


def runs_of(account: AccountState, judged: Judged) -> tuple[list[Run], bytes]:
    """The runs that begin in a batch, and who wrote its last op. The first rows may go on from
    the push before."""
    fresh, current = judged.fresh, account.author
    if len(judged.heads) == 1:
        start = fresh[0]
        if start.device_id == current:
            return [], current
        run = Run(account.index[start.device_id], start.dev_seq, account.position + 1)
        return [run], start.device_id
    dev_seq_next = account.heads[current][0] + 1 if current else 0
    runs: list[Run] = []
    for position, row in enumerate(fresh, start=account.position + 1):
        if row.dev_seq != dev_seq_next or row.device_id != current:
            current = row.device_id
            runs.append(Run(account.index[current], row.dev_seq, position))
        dev_seq_next = row.dev_seq + 1
    return runs, current
