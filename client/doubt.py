"""A push that the service refused: what has to be shown before this device acts on it.

Before other ops may bear the numbers of a refused batch, the service signs that it does not
hold them: else it could take the batch, deny it, and show the two versions as a fork of ours.
Before this device gives up its identity as copied, it holds something that only who has this
identity, or another device of the account, can have signed.
"""

from __future__ import annotations

from collections.abc import Sequence

from client.core import Core
from client.outbox import Doubt
from crypto import op
from crypto.checkpoint import Checkpoint
from crypto.errors import CryptoError
from crypto.heads import Head
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
        )
        core.behind = True
        return
    if doubt.stale and not _epoch_is_over(core):
        return  # the chain shows no newer epoch: the same bytes are sent again
    core.outbox.ground(core.journal)
    core.held_back |= dict.fromkeys(doubt.hold_back, core.now_ms + AGAIN_MS)
    if doubt.smaller:
        core.refusals = 0
    if doubt.stale:
        core.blocked = False


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
    ours = {seq: row.sealed.op_hash for seq, row in core.outbox.flying.items()}
    waiting = list(core.holds.known(core.state))
    for sealed in waiting:
        header = sealed.header
        if header.device_id == me.device_id and ours.get(header.dev_seq) != sealed.op_hash:
            return sealed.raw
    for sealed in waiting:
        if sealed.header.device_id != me.device_id and any(
            seq > max(ours) or (op_hash is not None and ours.get(seq, op_hash) != op_hash)
            for seq, op_hash in _named(core, sealed, me.index)
        ):
            return sealed.raw
    return None


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
