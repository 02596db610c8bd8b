"""After the service lost something: find out what (C15), and give it back byte for byte.

Ops and links of every device, not only our own. What it takes back is no alarm; what it
refuses or what differs is. Links and ops alternate, oldest epoch first, because the service
takes an op only under the epoch before or at which it was written.
"""

from __future__ import annotations

from collections.abc import Sequence

from client import doubt, remoteerrors as reasons
from client.core import Core
from client.integrity import Verdict, judge_receipt
from client.oplog import Kept
from client.rows import pack, unpack
from client.steps import AppendLink, Push
from crypto import heads, link, op, receipt
from crypto.errors import CryptoError
from crypto.heads import Head
from crypto.ids import DeviceId, OpHash
from crypto.link import Rotate
from crypto.receipt import Receipt

OPS_MAX = 256
PUSH_BYTES_MAX = 1_000_000
_TRIES_MAX = 3


def generation_changed(core: Core) -> None:
    """The service was restored: from the start, and what is it missing?"""
    core.grace_over = False
    core.cursor = b""
    core.behind = True
    core.receipt_due = True


def on_receipt(
    core: Core,
    data: bytes,
    rows: Sequence[tuple[DeviceId, int, bytes]],
    server_key: bytes,
    nonce: bytes,
) -> None:
    """Compares the service's signed statement with what this device holds."""
    core.receipt_due = False
    try:
        told = receipt.open_(data, server_key, nonce=nonce)
    except CryptoError as error:
        core.alarm("receipt-" + error.rule, "The service's signed statement is not its own.", data)
        return
    core.notices.forget("account-gone", b"")
    if not core.ready:
        core.chain_due = True
        return
    if told.account_id != core.state.chain.account:
        core.alarm("receipt-account", "The service's statement is of another account.", data)
        return
    _compare_with_last(core, told, data)
    if _compare_chain(core, told, data):
        _compare_heads(core, told, data, rows)


def server_key(core: Core, key: bytes) -> None:
    """The service's key was followed by another one, by its own word."""
    core.tell(
        "server-key", "The service has a new key, and the one before vouches for it.", about=key
    )


def server_key_refused(core: Core, rule: str, data: bytes) -> None:
    """The signed statement counts for nothing; the one asked for next may be better."""
    core.receipt_due = False
    core.alarm(
        "server-key-" + rule,
        "The service has another key than the one that this device trusts, and what should lead"
        " from one to the other is not right.",
        data,
        about=rule.encode(),
    )


def _compare_with_last(core: Core, told: Receipt, data: bytes) -> None:
    """Two signed statements that contradict each other prove that the service lies."""
    last = core.last_receipt
    core.last_receipt = data
    if not last:
        return
    chain_seq = int.from_bytes(last[40:48], "big")
    if chain_seq == told.chain_seq and last[48:80] != told.chain_head:
        core.alarm(
            "equivocation",
            "The service signed two statements of your device list that contradict each other.",
            last,
            data,
        )


def _compare_chain(core: Core, told: Receipt, data: bytes) -> bool:
    """Whether the heads can be compared."""
    chain = core.state.chain
    if told.chain_seq > chain.seq:
        core.receipt_tries += 1
        core.chain_due = True
        core.receipt_due = core.receipt_tries < _TRIES_MAX
        if not core.receipt_due:
            core.alarm(
                "chain-withheld",
                "The service signs that your device list is longer than what it delivers.",
                data,
            )
        return False
    if told.chain_head != chain.hashes[told.chain_seq]:
        core.alarm("receipt-chain", "The service holds another device list than this device.", data)
        return False
    if told.chain_seq < chain.seq:
        core.relink_at = told.chain_seq + 1
        _tell_lost(core)
    return True


def _tell_lost(core: Core) -> None:
    core.tell("service-lost", "The service has lost some of your data. This device gives it back.")


def _compare_heads(
    core: Core, told: Receipt, data: bytes, rows: Sequence[tuple[DeviceId, int, bytes]]
) -> None:
    state = core.state
    held: list[Head] = []
    for device_id, seq, op_hash in rows:
        device = state.find(device_id)
        if device is None or len(op_hash) != OpHash.size:
            core.alarm("receipt-heads", "The service's statement names an unknown device.", data)
            return
        held.append(Head(device.index, seq, OpHash(op_hash)))
    try:
        digest = heads.digest(held)
    except CryptoError:
        digest = b""
    if digest != told.heads_digest:
        core.alarm("receipt-heads", "The service's statement contradicts itself.", data)
        return
    _compare_with_last_heads(core, held, data)
    doubt.settle(core, held, data)
    judgement = judge_receipt(held, state)
    core.owed.seqs = _beyond(core, held)
    core.owed.receipt, core.owed.rounds = data, 0
    if judgement.verdict is Verdict.HOLD:
        core.behind = True
    elif judgement.rule == "receipt" and judgement.missing is not None:
        kept = core.oplog.ops.get(judgement.missing)
        core.alarm(
            "receipt-fork",
            "The service holds another version of a change than this device.",
            data,
            *((kept.raw,) if kept is not None else ()),
        )
    elif judgement.rule == "rollback":
        _plan(core, held)


def _compare_with_last_heads(core: Core, held: Sequence[Head], data: bytes) -> None:
    """Two statements of one place in one device's history must name the same op."""
    if core.last_heads:
        last, rows = unpack(core.last_heads, 2)
        before = {index: (seq, op_hash) for index, seq, op_hash in rows}
        if any(
            head.device_index in before
            and before[head.device_index][0] == head.seq
            and before[head.device_index][1] != head.op_hash
            for head in held
        ):
            core.alarm(
                "equivocation",
                "The service signed two histories of one of your devices that contradict "
                "each other.",
                last,
                data,
                about=b"heads",
            )
    core.last_heads = pack(data, [[row.device_index, row.seq, bytes(row.op_hash)] for row in held])
    core.journal.set("heads", core.last_heads)


def _beyond(core: Core, held: Sequence[Head]) -> dict[int, int]:
    """What the statement names and this device has not seen, but for what counts no more."""
    state = core.state
    return {
        head.device_index: head.seq
        for head in held
        if head.seq > state.logs[head.device_index].seq
        and state.logs[head.device_index].fork_seq is None
        and state.chain.devices[head.device_index].cut is None
    }


def caught_up(core: Core) -> None:
    """Everything was fetched: does it hold what the service signed that it has? If not, all of
    it is fetched from the start; if it still is not there, the statement is the evidence."""
    owed = core.owed
    owed.seqs = {
        index: seq
        for index, seq in owed.seqs.items()
        if seq > core.state.logs[index].seq
        and core.state.logs[index].fork_seq is None
        and core.state.chain.devices[index].cut is None
    }
    if not owed.seqs or core.fresh:
        owed.rounds = 0
        return
    if all(owed.told.get(index, 0) >= seq for index, seq in owed.seqs.items()):
        return
    owed.rounds += 1
    if owed.rounds < _TRIES_MAX:
        core.cursor = b""
        core.behind = True
        return
    owed.told, owed.rounds = dict(owed.seqs), 0
    core.alarm(
        "receipt-withheld",
        "The service signs that it has records which it does not deliver to this device.",
        owed.receipt,
        about=repr(sorted(owed.seqs)).encode(),
    )


def _plan(core: Core, held: Sequence[Head]) -> None:
    seqs = {head.device_index: head.seq for head in held}
    for device in core.state.chain.devices:
        log = core.state.logs[device.index]
        seqs[device.index] = max(seqs.get(device.index, 0), 0)
        if seqs[device.index] < log.base:
            seqs[device.index] = log.seq  # history that this device never had: others have it
    core.again = core.oplog.after(seqs)
    if core.again:
        _tell_lost(core)


def busy(core: Core) -> bool:
    """Own changes wait until what was lost is back."""
    return bool(core.again) or core.relink_at is not None


def _next_link(core: Core) -> AppendLink | None:
    if core.relink_at is None or core.relink_at > core.view.chain.seq:
        core.relink_at = None
        return None
    return AppendLink(core.view.items[core.relink_at])


def next_push(core: Core) -> Push | None:
    """Lost ops that the service can take at this point."""
    step = _next_link(core)
    now = core.state.chain.epoch
    if step is not None:
        body = link.parse(step.item.link.raw).body
        if not isinstance(body, Rotate):
            return None
        now = body.epoch - 1
    ops: list[bytes] = []
    size = 0
    for epoch, _, place in core.again:
        kept = core.oplog.ops.get(place)
        raw = _as_taken(core, kept, now) if kept is not None else b""
        size += len(raw) + 8
        if len(ops) >= OPS_MAX or size > PUSH_BYTES_MAX or epoch > now:
            break
        ops.append(raw)
    return Push(tuple(raw for raw in ops if raw), again=True) if ops else None


def _as_taken(core: Core, kept: Kept, now: int) -> bytes:
    """The op, or its stub where the service takes no whole one: two epochs back, and one back
    once grace is over. What still counts of such an op is published again under a newer epoch."""
    if kept.stub or kept.epoch >= now - (0 if core.grace_over else 1):
        return kept.raw
    return op.parse(kept.raw).stub


def next_link(core: Core) -> AppendLink | None:
    """A lost link, once no lost op has to go before it."""
    return None if next_push(core) is not None else _next_link(core)


def pushed(core: Core, push: Push) -> None:
    """The service has them again."""
    done = {op.parse_any(raw).op_hash for raw in push.ops}
    core.again = [
        row
        for row in core.again
        if (kept := core.oplog.ops.get(row[2])) and kept.op_hash not in done
    ]


def appended(core: Core, raw: bytes) -> bool:
    """The service has a lost link again. False if it was not one."""
    step = _next_link(core)
    if step is None or step.item.link.raw != raw or core.relink_at is None:
        return False
    core.relink_at += 1
    return True


def refused(core: Core, push: Push, reason: str) -> None:
    """It does not take back what it lost."""
    if reason == reasons.EPOCH_STALE and not core.grace_over:
        core.grace_over = True
        return
    core.again = []
    if reason == reasons.CHAIN_GAP and core.refusals < _TRIES_MAX:
        core.receipt_due = True  # somebody else gave some of it back in between
        return
    core.alarm(
        "restore-refused",
        f"The service has lost some of your data and does not take it back ({reason}).",
        *push.ops[:2],
        about=reason.encode(),
    )


def link_refused(core: Core, raw: bytes, reason: str) -> bool:
    """It does not take back a link that it lost. False if it was not one."""
    step = _next_link(core)
    if step is None or step.item.link.raw != raw:
        return False
    core.relink_at = None
    core.again = []
    core.alarm(
        "restore-refused",
        f"The service has lost part of your device list and does not take it back ({reason}).",
        raw,
        about=reason.encode(),
    )
    return True
