"""The judge: is this op what it claims to be, and does it fit what we hold? (docs/protocol.md, 3)

Pure: it knows bytes, the verified chain, the epoch keys and which ops are held; nothing of
the service, the profile or the disk. `judge` decides, `apply` records the decision. A HOLD
leaves no trace. One bad op never stops its device: authentic ops that break a rule count as
held, and their content is set aside.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from client.held import Log, State
from crypto import heads, names, op
from crypto.cert import Role
from crypto.chain import Device
from crypto.errors import CryptoError, FormatError
from crypto.heads import Head
from crypto.ids import OpHash
from crypto.op import LAMPORT_STEP_MAX, Kind, Payload, SealedOp


class Verdict(Enum):
    """What becomes of an op, or of a receipt."""

    OK = "OK"
    DUP = "DUP"
    HOLD = "HOLD"
    FORK = "FORK"
    REJECT = "REJECT"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with the rule behind it; `payload` only where the content counts."""

    verdict: Verdict
    rule: str = ""
    sealed: SealedOp | None = None
    device: Device | None = None
    payload: Payload | None = None
    counted: bool = False
    """The op is authentic and in sequence: it counts as held, even if its content doesn't."""
    fork_seq: int | None = None
    """From this op of its device on, nothing counts any more."""
    missing: tuple[int, int] | None = None
    """(device index, seq) of the op that has to come first."""

    def __str__(self) -> str:
        return f"{self.verdict.value}:{self.rule}" if self.rule else self.verdict.value


class _Refused(Exception):
    """Carries a verdict out of a check."""

    def __init__(self, verdict: Verdict, rule: str, missing: tuple[int, int] | None = None) -> None:
        super().__init__(rule)
        self.verdict = verdict
        self.rule = rule
        self.missing = missing


def judge(raw: bytes, state: State) -> Judgement:
    """Checks C1, C3, C4 and C6 to C13 of one op or stub. Changes nothing, never raises."""
    try:
        sealed = op.parse_any(raw)
    except FormatError:
        return Judgement(Verdict.REJECT, "format")
    if sealed.header.account_id != state.chain.account_id:
        return Judgement(Verdict.REJECT, "account", sealed)
    device = state.find(sealed.header.device_id)
    if device is None:
        return _unknown_author(sealed, state)
    if device.role is not Role.FULL:
        return Judgement(Verdict.REJECT, "role", sealed, device)
    try:
        op.verify(sealed, device.ik_pk)
    except CryptoError:
        return Judgement(Verdict.REJECT, "signature", sealed, device)
    return _place(sealed, device, state) or _content(sealed, device, state)


def _unknown_author(sealed: SealedOp, state: State) -> Judgement:
    """A ghost, unless the op itself shows that the chain has links that we don't know yet. A
    stub shows nothing either way: the chain has to be asked."""
    if sealed.ct is None:
        return Judgement(Verdict.HOLD, "chain", sealed)
    keys = state.keys.get(sealed.header.epoch)
    try:
        newer = keys is not None and op.open_(sealed, keys).chain_seq > state.chain.seq
    except CryptoError:
        newer = False
    if newer or sealed.header.epoch > state.chain.epoch:
        return Judgement(Verdict.HOLD, "chain", sealed)
    return Judgement(Verdict.REJECT, "author", sealed)


def _place(sealed: SealedOp, device: Device, state: State) -> Judgement | None:
    """C4, C6, C17, and whether the epoch's key is at hand; None: the op is the next one."""

    def say(verdict: Verdict, rule: str = "", fork_seq: int | None = None) -> Judgement:
        return Judgement(verdict, rule, sealed, device, fork_seq=fork_seq)

    header, log = sealed.header, state.logs[device.index]
    seq, cut = header.dev_seq, device.cut
    if cut is not None and seq > cut.seq:
        return say(Verdict.REJECT, "cut")
    if cut is not None and seq == cut.seq and sealed.op_hash != cut.op_hash:
        return say(Verdict.FORK, "cut")
    if log.fork_seq is not None and seq >= log.fork_seq:
        if sealed.op_hash in log.stopped:
            return say(Verdict.DUP)
        return say(Verdict.FORK, "set-aside")
    if seq <= log.seq:
        return _again(sealed, device, log)
    if seq > log.seq + 1:
        return Judgement(Verdict.HOLD, "gap", sealed, device, missing=(device.index, log.seq + 1))
    if header.prev != log.head:
        # The author signed another op at seq-1 than the one that we hold.
        return say(Verdict.FORK, "prev", max(1, seq - 1, log.base + 1))
    if header.epoch > state.chain.epoch:
        return say(Verdict.HOLD, "chain")
    if sealed.ct is not None and header.epoch not in state.keys:
        return say(Verdict.HOLD, "key")
    return None


def _again(sealed: SealedOp, device: Device, log: Log) -> Judgement:
    """An op at a place that is taken: the same one, or a fork."""
    seq = sealed.header.dev_seq
    known = log.hashes.get(seq)
    if known is None:  # older than the checkpoint that we started from
        return Judgement(Verdict.DUP, "", sealed, device)
    if known != sealed.op_hash:
        return Judgement(Verdict.FORK, "fork", sealed, device, fork_seq=max(seq, log.base + 1))
    if seq in log.aside:
        name, _, rule = log.aside[seq].partition(":")
        return Judgement(Verdict(name), rule, sealed, device)
    return Judgement(Verdict.DUP, "", sealed, device)


def _content(sealed: SealedOp, device: Device, state: State) -> Judgement:
    """C7 to C13 of an op that is authentic and the next of its device."""
    far = sealed.header.lamport > state.lamport_bound + LAMPORT_STEP_MAX
    if sealed.ct is None:
        verdict, rule = (Verdict.REJECT, "lamport") if far else (Verdict.OK, "")
        return Judgement(verdict, rule, sealed, device, counted=True)
    payload: Payload | None = None
    missing = None
    try:
        payload = _open(sealed, device, state)
        _check_place_in_history(sealed, payload, device, state)
        if far:
            raise _Refused(Verdict.REJECT, "lamport")
        verdict, rule = Verdict.OK, ""
    except _Refused as refused:
        verdict, rule, missing = refused.verdict, refused.rule, refused.missing
        if far and verdict is not Verdict.HOLD:
            verdict, rule = Verdict.REJECT, "lamport"
    return Judgement(
        verdict,
        rule,
        sealed,
        device,
        payload=payload if verdict is Verdict.OK else None,
        counted=verdict is not Verdict.HOLD,
        missing=missing,
    )


def review(sealed: SealedOp, device: Device, state: State) -> Judgement:
    """C7 to C13 of an authentic op whose place counts as held already: one that a checkpoint
    covers, or whose stub came first."""
    return _content(sealed, device, state)


def _open(sealed: SealedOp, device: Device, state: State) -> Payload:
    try:
        payload = op.open_(sealed, state.keys[sealed.header.epoch])
    except CryptoError as error:
        raise _Refused(Verdict.REJECT, error.rule) from None
    if sealed.header.kind == Kind.RECORD:
        _check_names(payload, device, sealed.header.epoch)
    return payload


def _check_names(payload: Payload, device: Device, epoch: int) -> None:
    try:
        names.check_name(payload.collection)
        part = names.split_part(payload.key)
    except FormatError:
        raise _Refused(Verdict.REJECT, "name") from None
    # From epoch 2 on, a rotation publishes other devices' parts again; the profile and the
    # core check that it is a copy of what the part's own device wrote.
    if part is not None and part[1] != device.index and epoch == 1:
        raise _Refused(Verdict.REJECT, "part")


def _check_place_in_history(
    sealed: SealedOp, payload: Payload, device: Device, state: State
) -> None:
    """C11, C13 and C12: what the author says that it had seen."""
    chain = state.chain
    if payload.chain_seq > chain.seq:
        raise _Refused(Verdict.HOLD, "chain")
    if payload.chain_head != chain.hashes[payload.chain_seq]:
        raise _Refused(Verdict.FORK, "chain")
    rows = payload.vector.seqs
    own = next((seq for index, seq in rows if index == device.index), 0)
    if own != sealed.header.dev_seq - 1:
        raise _Refused(Verdict.REJECT, "self")
    held, complete = _held_at(rows, payload.chain_seq, state)
    if complete and heads.digest(held) != payload.vector.digest:
        raise _Refused(Verdict.FORK, "heads")


def _held_at(
    rows: Iterable[tuple[int, int]], chain_seq: int, state: State
) -> tuple[list[Head], bool]:
    """The heads that the rows name, and whether all their hashes can be known.

    They can't for ops before the checkpoint that we started from, beyond a revoked device's
    cut, or where a device's ops are set aside because of a fork (C17: the others go on).
    """
    devices, logs = state.chain.devices, state.logs
    held: list[Head] = []
    complete = True
    waiting: tuple[int, int] | None = None
    for index, seq in rows:
        if seq < 1 or index >= len(devices) or devices[index].added_seq > chain_seq:
            raise _Refused(Verdict.REJECT, "vector")
        log, cut = logs[index], devices[index].cut
        if (log.fork_seq is not None and seq >= log.fork_seq) or (
            cut is not None and seq > cut.seq
        ):
            complete = False
        elif seq > log.seq:
            waiting = waiting or (index, seq)
        elif (op_hash := log.hashes.get(seq)) is None:
            complete = False
        else:
            held.append(Head(index, seq, op_hash))
    if waiting is not None:
        raise _Refused(Verdict.HOLD, "vector", waiting)
    return held, complete


def apply(judgement: Judgement, state: State) -> None:
    """Records a judgement: the head advances, or the device's ops from the fork on stop."""
    sealed, device = judgement.sealed, judgement.device
    if sealed is None or device is None:
        return
    log = state.logs[device.index]
    if judgement.counted:
        log.append(sealed.header.dev_seq, sealed.op_hash)
        if judgement.verdict is not Verdict.OK:
            log.aside[sealed.header.dev_seq] = str(judgement)
        if judgement.verdict is not Verdict.REJECT:
            state.lamport_max = max(state.lamport_max, sealed.header.lamport)
    elif judgement.fork_seq is not None:
        log.stop(judgement.fork_seq)


def reconsider(sealed: SealedOp, device: Device, state: State) -> Payload | None:
    """The content of an op that was set aside as FORK:heads, if it counts by now: the other
    version that its author saw may belong to a device that has shown its fork since."""
    try:
        payload = _open(sealed, device, state)
        _check_place_in_history(sealed, payload, device, state)
    except (_Refused, KeyError):
        return None
    return payload


def judge_receipt(rows: Iterable[tuple[int, int, bytes]], state: State) -> Judgement:
    """C15: the (device index, seq, op hash) rows that the service says it holds.

    FORK: it holds something else or less than we do. HOLD: it holds more.
    """
    seen: dict[int, tuple[int, bytes]] = {index: (seq, digest) for index, seq, digest in rows}
    more = False
    less: tuple[int, int] | None = None
    for index, log in enumerate(state.logs):
        seq, op_hash = seen.pop(index, (0, b""))
        if log.fork_seq is not None and seq >= log.fork_seq:
            continue
        cut = state.chain.devices[index].cut
        if cut is not None and seq > cut.seq:
            continue
        if seq > log.seq:
            more = True
        elif seq and log.hashes.get(seq, op_hash) != op_hash:
            return Judgement(Verdict.FORK, "receipt", missing=(index, seq))
        elif seq < log.seq:
            less = less or (index, seq + 1)
    if less is not None:
        return Judgement(Verdict.FORK, "rollback", missing=less)
    if more or seen:
        return Judgement(Verdict.HOLD, "receipt" if more else "chain")
    return Judgement(Verdict.OK)


__all__ = [
    "Judgement", "Log", "OpHash", "State", "Verdict", "apply", "judge", "judge_receipt",
    "reconsider", "review",
]  # fmt: skip
