"""A new device's first catch-up, when history before a checkpoint is gone.

The checkpoint's heads become this device's base, provided that what the service delivered
recomputes to the count and hash of the state that the checkpoint's author signed. A service
that leaves out, adds or swaps one record is found out.
"""

from __future__ import annotations

from client.core import Core
from client.integrity import Judgement, Verdict, review
from client.rows import pack
from crypto import op
from crypto.cert import Role
from crypto.checkpoint import Checkpoint, state_hash
from crypto.errors import CryptoError
from crypto.heads import Head
from crypto.ids import OpHash, Tag
from crypto.op import Kind, SealedOp, Verb


def finish(core: Core) -> list[Judgement]:
    """All that the service has is here: ends the first catch-up, from a checkpoint if need be.
    What it covers and breaks a rule is returned: somebody is to blame for it."""
    gaps = [sealed for sealed in core.holds if _is_gap(core, sealed)]
    refused = _start_from_checkpoint(core) if gaps else []
    if refused is None:
        core.alarm(
            "bootstrap",
            "The history before this device was added is incomplete, and what the service "
            "delivered is not what your other devices vouch for.",
        )
        return []
    core.fresh = False
    core.holds.keep(core.journal)
    return refused


def _is_gap(core: Core, sealed: SealedOp) -> bool:
    device = core.state.find(sealed.header.device_id)
    return device is not None and sealed.header.dev_seq > core.state.logs[device.index].seq + 1


def _start_from_checkpoint(core: Core) -> list[Judgement] | None:
    """None: what came bears out none of the checkpoints that came."""
    for checkpoint in _candidates(core):
        ops = _ops_up_to(core, checkpoint)
        winners = _winners(ops, checkpoint.epoch)
        told = state_hash((tag, row.op_hash) for tag, row in winners.items())
        if told == (checkpoint.count, checkpoint.state_hash):
            return _take(core, checkpoint, ops, winners)
    return None


def _candidates(core: Core) -> list[Checkpoint]:
    """Checkpoints that can be read, the newest first. They may be kept already."""
    kept = [op.parse(row.raw) for row in core.oplog.ops.values() if not row.record and not row.stub]
    found = []
    for sealed in [*core.holds, *kept]:
        checkpoint = _read(core, sealed)
        if checkpoint is not None:
            found.append((sealed, checkpoint))
    found.sort(key=lambda row: (row[1].epoch, row[0].order, row[0].header.dev_seq), reverse=True)
    return [checkpoint for _, checkpoint in found]


def _read(core: Core, sealed: SealedOp) -> Checkpoint | None:
    device = core.state.find(sealed.header.device_id)
    keys = core.view.keys.get(sealed.header.epoch)
    if sealed.header.kind != Kind.CONTROL or device is None or keys is None:
        return None
    if device.role is not Role.FULL or not device.active:
        return None
    try:
        op.verify(sealed, device.ik_pk)
        payload = op.open_(sealed, keys)
        if payload.verb is not Verb.CHECKPOINT:
            return None
        checkpoint = Checkpoint.decode(payload.value)
    except CryptoError:
        return None
    devices = len(core.state.chain.devices)
    if any(head.device_index >= devices for head in checkpoint.held):
        return None
    return checkpoint if checkpoint.epoch == sealed.header.epoch else None


def _ops_up_to(core: Core, checkpoint: Checkpoint) -> list[tuple[int, SealedOp]]:
    """(device index, op) of every verified record that the checkpoint covers."""
    limits = {head.device_index: head.seq for head in checkpoint.held}
    found: dict[OpHash, tuple[int, SealedOp]] = {}
    kept = [op.parse_any(row.raw) for row in core.oplog.ops.values()]
    for sealed in [*core.holds, *kept]:
        device = core.state.find(sealed.header.device_id)
        if device is None or sealed.header.dev_seq > limits.get(device.index, 0):
            continue
        if sealed.header.epoch != checkpoint.epoch:
            continue
        try:
            op.verify(sealed, device.ik_pk)
        except CryptoError:
            continue
        known = found.get(sealed.op_hash)
        if known is None or known[1].ct is None:
            found[sealed.op_hash] = (device.index, sealed)
    return list(found.values())


def _winners(ops: list[tuple[int, SealedOp]], epoch: int) -> dict[Tag, SealedOp]:
    best: dict[Tag, SealedOp] = {}
    for _, sealed in ops:
        if sealed.header.kind == Kind.RECORD and sealed.header.epoch == epoch:
            other = best.get(sealed.header.tag)
            if other is None or sealed.order > other.order:
                best[sealed.header.tag] = sealed
    return best


def _take(
    core: Core,
    checkpoint: Checkpoint,
    ops: list[tuple[int, SealedOp]],
    winners: dict[Tag, SealedOp],
) -> list[Judgement]:
    """The checkpoint's heads become the base; its winners are taken in. It vouches for what
    is held, not for what is in it: what the other devices set aside is set aside here too.
    The judgements of those."""
    state = core.state
    for head in checkpoint.held:
        seq, op_hash = _base(core, head)
        log = state.logs[head.device_index]
        if seq > log.seq:
            log.start_at(seq, op_hash)
            core.journal.set(f"base:{head.device_index:03d}", pack(seq, bytes(op_hash)))
    refused = []
    for index, sealed in sorted(ops, key=lambda row: row[1].order):
        seq = sealed.header.dev_seq
        winner = winners.get(sealed.header.tag)
        if winner is None or winner.op_hash != sealed.op_hash or (index, seq) in core.oplog.ops:
            continue
        if seq > state.logs[index].base:
            continue  # beyond a cut, or it comes by itself
        state.logs[index].hashes[seq] = sealed.op_hash
        core.oplog.add(index, sealed, core.journal)
        judgement = review(sealed, state.chain.devices[index], state)
        if judgement.verdict in (Verdict.REJECT, Verdict.FORK):
            core.put_aside(index, seq, str(judgement))
            refused.append(judgement)
        else:
            state.lamport_max = max(state.lamport_max, sealed.header.lamport)
    core.checkpoint_epoch = max(core.checkpoint_epoch, checkpoint.epoch)
    core.rebuild()
    return refused


def _base(core: Core, head: Head) -> tuple[int, OpHash]:
    """Where a device stands by a checkpoint; never beyond a cut that came later."""
    cut = core.state.chain.devices[head.device_index].cut
    if cut is not None and head.seq >= cut.seq:
        return cut.seq, cut.op_hash
    return head.seq, head.op_hash
