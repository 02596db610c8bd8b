"""Sealing edits into ops, and what follows from the answer to a push.

Build, store, then send: a batch is stored before it leaves, and leaves again byte for byte
until it is acknowledged. It is dropped only once the service has signed that it holds none of
it (`client.doubt`); the service's word alone never changes what this device signed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from client import doubt, healing, intake, remoteerrors as reasons, upkeep
from client.core import Core
from client.healing import OPS_MAX, PUSH_BYTES_MAX
from client.outbox import Doubt, Flying
from client.profile import Name
from client.steps import CheckpointMark, Push, Rand
from crypto import op
from crypto.heads import Head
from crypto.ids import OpHash
from crypto.op import Payload, SealedOp, Vector, Verb

_REFUSALS_MAX = 3


class _Draft(NamedTuple):
    """An op that is not sealed yet."""

    verb: Verb
    name: Name | None
    value: bytes
    lamport: int
    wall_ms: int
    delta: float = 0


def next_push(core: Core, rand: Rand) -> Push | None:
    """Lost ops again, the batch in flight, or a new batch."""
    if not core.ready:
        return None
    again = healing.next_push(core)
    if again is not None or healing.busy(core):
        return again
    if not core.writes:
        return None
    if core.blocked or doubt.waits(core):
        return None
    if not core.outbox.flying:
        _seal_batch(core, rand)
    rows = core.outbox.flying
    if not rows:
        return None
    return Push(tuple(rows[seq].sealed.raw for seq in sorted(rows)), core.outbox.mark)


def _seal_batch(core: Core, rand: Rand) -> None:
    if core.state.chain.epoch not in core.view.keys:
        return
    drafts = _drafts(core, rand)
    mark = None
    if not drafts and upkeep.checkpoint_due(core):
        if core.behind or core.unpulled:
            core.behind = True  # the cursor must cover what the checkpoint states
            return
        drafts = [_control(core, Verb.CHECKPOINT, upkeep.checkpoint(core).encode())]
        mark = CheckpointMark(0, core.cursor)
    elif not drafts and upkeep.cover_due(core):
        drafts = [_control(core, Verb.COVER)]
    if drafts:
        core.outbox.fly(_seal(core, drafts, rand), mark, core.journal)


def _control(core: Core, verb: Verb, value: bytes = b"") -> _Draft:
    """Above all before it: at the same lamport it would lose its tag to the device's last one,
    and the other devices would never get it."""
    return _Draft(verb, None, value, core.state.lamport_max + 1, core.now_ms)


def _drafts(core: Core, rand: Rand) -> list[_Draft]:
    """Edits in the order they were made; then records of older epochs, shuffled, so that
    the service can't tell old tags from new ones by their order."""
    for name in [name for name, at in core.held_back.items() if at <= core.now_ms]:
        del core.held_back[name]
    most = OPS_MAX if core.new_names_max is None else len(core.outbox.edits)
    drafts = [
        _Draft(
            Verb.TOMBSTONE if edit.value is None else Verb.PUT,
            edit.name,
            edit.value or b"",
            edit.lamport,
            edit.wall_ms,
            edit.delta,
        )
        for edit in core.outbox.waiting(most, core.held_back)
    ]
    names = upkeep.to_publish_again(core) if len(drafts) < OPS_MAX else []
    names = [name for name in names if name not in core.held_back]
    for name in _drawn(names, OPS_MAX - len(drafts), rand):
        entry = core.profile.find(name)
        if entry is not None:
            verb = Verb.TOMBSTONE if entry.value is None else Verb.PUT
            lamport = entry.order.lamport
            drafts.append(_Draft(verb, name, entry.value or b"", lamport, entry.wall_ms))
    return _few_new(core, drafts)[:OPS_MAX]


def _few_new(core: Core, drafts: list[_Draft]) -> list[_Draft]:
    """Without the new names that are too many after a refusal."""
    if core.new_names_max is None:
        return drafts
    room, kept = core.new_names_max, []
    for draft in drafts:
        if draft.name is not None and _is_new(core, draft.name):
            if not room:
                continue
            room -= 1
        kept.append(draft)
    if len(kept) == len(drafts):
        core.new_names_max = None
    return kept


def _drawn(names: list[Name], count: int, rand: Rand) -> list[Name]:
    """`count` of the names, each order as likely as any other."""
    count = min(count, len(names))
    for at in range(count):
        other = at + int.from_bytes(rand(8), "big") % (len(names) - at)
        names[at], names[other] = names[other], names[at]
    return names[:count]


def _seal(core: Core, drafts: list[_Draft], rand: Rand) -> list[Flying]:
    me, state = core.me, core.state
    assert me is not None
    log = state.logs[me.index]
    seq, head = core.outbox.tail(log.seq, log.head)
    others = [row for row in state.heads() if row.device_index != me.index]
    rows: list[Flying] = []
    size = 0
    for draft in drafts:
        sealed = _seal_one(core, draft, me.index, seq, head, others, rand)
        size += len(sealed.raw) + 8
        if size > PUSH_BYTES_MAX and rows:
            break
        seq, head = seq + 1, sealed.op_hash
        rows.append(Flying(sealed, draft.name, draft.delta))
    return rows


def _seal_one(
    core: Core, draft: _Draft, index: int, seq: int, head: OpHash, others: list[Head], rand: Rand
) -> SealedOp:
    chain = core.state.chain
    own = [Head(index, seq, head)] if seq else []
    name = draft.name or Name("", "")
    payload = Payload(
        verb=draft.verb,
        wall_ms=draft.wall_ms,
        chain_seq=chain.seq,
        chain_head=chain.head,
        vector=Vector.of((*others, *own)),
        collection=name.collection.encode(),
        key=name.key.encode(),
        value=draft.value,
    )
    keys = core.view.keys[chain.epoch]
    return op.seal(
        core.identity, keys, payload,
        dev_seq=seq + 1, prev=head, lamport=draft.lamport, rand=rand(32),
    )  # fmt: skip


def pushed(core: Core, push: Push) -> None:
    """Committed: the edits are done. The cursor stays where it is."""
    core.refusals = 0
    core.push_after_ms = 0
    if push.again:
        healing.pushed(core, push)
        return
    core.unpulled = True
    for raw in push.ops:
        intake.offer(core, raw)


def refused(core: Core, push: Push, reason: str, metadata: Mapping[str, str]) -> None:
    """The service says that it committed nothing of the batch."""
    core.refusals += 1
    if push.again:
        healing.refused(core, push, reason)
        return
    match reason:
        case reasons.EPOCH_STALE:
            core.chain_due = True
            doubt.open_(core, Doubt(stale=True))
        case reasons.DEVICE_FORKED:
            doubt.open_(core, Doubt(forked=True))
        case reasons.DEVICE_CUT:
            core.chain_due = core.blocked = True
        case reasons.CHAIN_GAP | reasons.LAMPORT_AHEAD | reasons.EPOCH_UNKNOWN:
            core.receipt_due = True
        case reasons.OP_INVALID:
            _give_up(core, push, metadata)
        case reasons.QUOTA:
            if metadata.get("limit") != "records_per_account" or not _ask_for_less(core):
                core.blocked = True
            core.tell(
                "quota",
                f"The service takes no more: its limit {metadata.get('limit', '?')} is reached. "
                "Your changes wait on this device.",
            )
        case _:
            core.blocked = True
    if core.refusals >= _REFUSALS_MAX:
        core.blocked = True
        core.alarm(
            "push-refused",
            f"The service keeps refusing this device's changes ({reason}).",
            *push.ops[:1],
        )


def _is_new(core: Core, name: Name) -> bool:
    """Whether the service would store one record more for this name, as far as we know."""
    entry = core.profile.find(name)
    return entry is None or entry.order.epoch != core.state.chain.epoch


def _ask_for_less(core: Core) -> bool:
    """Half as many new names next time; when not even one fits, none for a while, so that
    changes of what the service has go on. False if there were none: then nothing helps."""
    new = [row.name for row in core.outbox.flying.values() if row.name and _is_new(core, row.name)]
    if not new:
        return False
    if len(new) > 1:
        core.new_names_max = len(new) // 2
        doubt.open_(core, Doubt(smaller=True))
        return True
    core.new_names_max = None
    waiting = [*core.outbox.edits, *upkeep.to_publish_again(core)]
    new += [name for name in waiting if _is_new(core, name)]
    doubt.open_(core, Doubt(frozenset(new), smaller=True))
    return True


def _give_up(core: Core, push: Push, metadata: Mapping[str, str]) -> None:
    """One op that is refused for its form must not hold up the others. The change itself stays
    here: the service's word alone takes nothing away from this device."""
    index = metadata.get("index", "0")
    at = int(index) if index.isdigit() and int(index) < len(push.ops) else 0
    row = core.outbox.flying.get(op.parse(push.ops[at]).header.dev_seq)
    name = row.name if row is not None else None
    doubt.open_(core, Doubt(frozenset(() if name is None else (name,))))
    core.alarm(
        "op-invalid",
        f"The service refuses one of your changes ({metadata.get('rule', '?')}). It stays on "
        "this device and is tried again later.",
        push.ops[at],
        about=push.ops[at][:100],
    )
