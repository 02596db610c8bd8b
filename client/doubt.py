"""A push that the service refused: what has to be shown before this device acts on it.

Before other ops may bear the numbers of a refused batch, the service signs that it does not
hold them. That binds it for the moment only: it can take the batch later. So a device remembers
what it took back, and two versions that are both its own work blame nobody's copy.
Before this device gives up its identity as copied, it holds something that only who has this
identity, or another device of the account, can have signed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from client.core import Core
from client.oplog import Kept
from client.outbox import Doubt
from client.past import Grounded
from crypto import op
from crypto.checkpoint import Checkpoint
from crypto.errors import CryptoError
from crypto.heads import Head
from crypto.ids import OpHash
from crypto.op import SealedOp, Verb

AGAIN_MS = 3_600_000
"""When a change that the service did not take is tried again; also after every restart."""


def open_(core: Core, doubt: Doubt) -> None:
    """Nothing of our own is pushed until a receipt came."""
    core.doubt = doubt
    core.receipt_due = True
    core.behind |= doubt.forked


def settle(core: Core, held: Sequence[Head], data: bytes) -> None:
    """Acts on what the service has signed that it holds of the refused batch. If it signs
    that it does hold some, the batch stays what it is, and comes back by a pull."""
    doubt, core.doubt = core.doubt, None
    me, flying = core.me, core.outbox.flying
    if me is not None:
        for head in held:
            if core.state.logs[head.device_index].hashes.get(head.seq) == head.op_hash:
                core.past.settled(head.device_index, head.seq, core.journal)
    if doubt is None or me is None or not flying:
        return
    if doubt.forked:
        core.claim = data
        core.behind = True
        return
    signed = next((head.seq for head in held if head.device_index == me.index), 0)
    if signed >= min(flying):
        core.alarm(
            "refused-but-held",
            "The service refused a change of this device and signs that it holds it.",
            data,
            about=b"signed",
        )
        core.behind = True
        return
    if doubt.stale and not _epoch_is_over(core):
        return  # the chain shows no newer epoch: the same bytes are sent again
    ground(core, data)
    core.held_back |= dict.fromkeys(doubt.hold_back, core.now_ms + AGAIN_MS)
    if doubt.smaller:
        core.refusals = 0
    if doubt.stale:
        core.blocked = False


def ground(core: Core, receipt: bytes = b"") -> None:
    """Takes the batch in flight back; its edits wait again. What it was is remembered."""
    me = core.me
    if me is not None:
        core.past.ground(me.index, core.outbox.flying.values(), receipt, core.journal)
    core.outbox.ground(core.journal)


def take_late(core: Core, index: int, sealed: SealedOp) -> bool:
    """Whether an op of ours that counts as held now is one that we took back. Then it is said
    what it says, and what flies under its number is taken back in its place."""
    place = (index, sealed.header.dev_seq)
    late = core.past.find_grounded(place, sealed.op_hash)
    if late is None:
        return False
    ground(core)
    if late.name is not None:
        core.outbox.said(late.name, late.lamport, late.delta, core.journal)
    core.past.added(place, late.delta, core.journal)
    core.alarm(
        "refused-but-held",
        "The service has a change that it refused and did not hold: it took it later, or a copy "
        "of this device sent it again. It counts; nothing is lost.",
        *filter(None, (late.receipt,)),
        sealed.raw,
        about=late.receipt[-64:] or sealed.op_hash,
    )
    return True


def both_ours(
    core: Core, index: int, seq: int, kept: Kept | None, sealed: SealedOp
) -> Grounded | None:
    """What was taken back, if a fork is between it and what we wrote in its place."""
    shown = core.past.find_grounded((index, sealed.header.dev_seq), sealed.op_hash)
    held = core.past.find_grounded((index, seq), kept.op_hash) if kept is not None else None
    if shown is None:
        return None
    return shown if shown.receipt or held is None else held


def _epoch_is_over(core: Core) -> bool:
    epoch = core.state.chain.epoch
    return all(row.sealed.header.epoch < epoch for row in core.outbox.flying.values())


def weigh_claim(core: Core) -> None:
    """Everything was fetched since the service said that our identity is in use elsewhere: is
    the proof among it? An op of ours that we took in already has shown it."""
    receipt, core.claim = core.claim, None
    if receipt is None or core.cloned or not core.outbox.flying:
        return
    ours = core.outbox.flying[min(core.outbox.flying)].sealed.raw
    proof = _proof(core)
    if proof is not None:
        core.set_cloned(ours, proof)
        return
    core.push_after_ms = core.now_ms + AGAIN_MS
    core.alarm(
        "fork-unproven",
        "The service says that this device's identity is in use elsewhere, and shows nothing to "
        "prove it. This device stays what it is; your changes are kept and tried again.",
        receipt,
        ours,
    )


def waits(core: Core) -> bool:
    """Own changes wait for a receipt, or until an unproven claim is old."""
    left_ms = core.push_after_ms - core.now_ms
    return core.doubt is not None or core.claim is not None or 0 < left_ms <= AGAIN_MS


def _proof(core: Core) -> bytes | None:
    """An op on hold that can't exist if only this device writes as itself. Trimming leaves
    gaps in what the service can show; what it keeps names what it dropped."""
    me = core.me
    if me is None:
        return None
    ours = {seq: {row.sealed.op_hash} for seq, row in core.outbox.flying.items()}
    for (index, seq), rows in core.past.grounded.items():
        if index == me.index and seq > core.state.logs[index].seq:
            ours.setdefault(seq, set()).update(rows)
    waiting = list(core.holds.known(core.state))
    for sealed in waiting:
        header = sealed.header
        if header.device_id == me.device_id and not _is_among(ours, header.dev_seq, sealed.op_hash):
            return sealed.raw
    for sealed in waiting:
        if sealed.header.device_id != me.device_id and any(
            seq > max(ours)
            or (op_hash is not None and seq in ours and not _is_among(ours, seq, op_hash))
            for seq, op_hash in _named(core, sealed, me.index)
        ):
            return sealed.raw
    return None


def _is_among(versions: Mapping[int, set[OpHash]], seq: int, op_hash: bytes) -> bool:
    return any(known == op_hash for known in versions.get(seq, ()))


def _named(core: Core, sealed: SealedOp, index: int) -> list[tuple[int, bytes | None]]:
    """Which ops of the device at `index` another one says that it held: seq, and the hash if
    it tells it."""
    keys = core.view.keys.get(sealed.header.epoch)
    if sealed.ct is None or keys is None:
        return []
    try:
        payload = op.open_(sealed, keys)
        told: list[tuple[int, bytes | None]] = [
            (seq, None) for at, seq in payload.vector.seqs if at == index
        ]
        if payload.verb is Verb.CHECKPOINT:
            held = Checkpoint.decode(payload.value).held
            told += [(head.seq, head.op_hash) for head in held if head.device_index == index]
    except CryptoError:
        return []
    return told
