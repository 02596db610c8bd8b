"""Taking ops in: judged one by one, set aside where they must be, never stopping the rest."""

from __future__ import annotations

from collections.abc import Sequence

from client import bootstrap, doubt, healing, regain, upkeep, views
from client.core import Core
from client.holds import FRESH_HOLDS_MAX, HOLDS_MAX, STRANGERS_MAX
from client.integrity import Judgement, Verdict, apply, judge, reconsider, review
from client.profile import part_of
from client.rows import pack
from crypto import op
from crypto.ids import DeviceId
from crypto.op import Kind, SealedOp, Verb

_QUIET_ROUNDS_MAX = 3
_SENTENCES = {
    "format": "The service delivered something that is no record.",
    "account": "The service delivered a record of another account.",
    "author": "The service delivered a record by a device that is not yours. It was not taken.",
    "role": "Somebody wrote a record with your recovery key, which writes none. It was not taken.",
    "signature": "The service delivered a forged or damaged record. It was not taken.",
    "lamport": "One of your devices counts far ahead of all others; that change was set aside.",
    "open": "One of your devices wrote a record that can't be read; it was set aside.",
    "name": "One of your devices wrote a record with an impossible name; it was set aside.",
    "part": "One of your devices wrote another one's share of a score; it was set aside.",
    "self": "One of your devices contradicts itself; that change was set aside.",
    "vector": "One of your devices names a device that did not exist; that change was set aside.",
    "chain": "The service showed two of your devices two different device lists.",
    "heads": "The service showed two of your devices two different histories.",
    "cut": "A removed device wrote another record where it was cut off.",
}


def page(core: Core, ops: Sequence[bytes], cursor: bytes, *, more: bool) -> None:
    """A page of Pull, or a frame of Subscribe."""
    if not core.ready:
        core.chain_due = True
        return
    core.progress = False
    for raw in ops:
        judgement = offer(core, raw)
        if judgement.verdict is Verdict.HOLD and judgement.sealed is not None:
            _hold(core, judgement, judgement.sealed)
    retry(core)
    _write_disputed(core)
    core.cursor = cursor
    core.behind = more
    if not more:
        _caught_up(core)


def offer(core: Core, raw: bytes) -> Judgement:
    """Judges one op and does what follows from it, but for a HOLD."""
    judgement = judge(raw, core.state)
    sealed = judgement.sealed
    if judgement.rule == "key" and sealed is not None and _is_over(core, sealed):
        # The key never comes. The op counts as held; what still matters of it, its author
        # publishes again.
        judgement = judge(sealed.stub, core.state)
        sealed = judgement.sealed
    if judgement.verdict is Verdict.DUP:
        return _fill(core, judgement)
    if sealed is None or judgement.device is None:
        if judgement.verdict is Verdict.REJECT:
            _complain(core, judgement, raw)
        return judgement
    if judgement.counted:
        _count(core, judgement, sealed)
    elif judgement.verdict is Verdict.FORK:
        _fork(core, judgement, sealed)
    elif judgement.verdict is Verdict.REJECT:
        _complain(core, judgement, raw)
    return judgement


def _fill(core: Core, judgement: Judgement) -> Judgement:
    """An op that is held already. If only its stub is, the whole one is judged and taken."""
    sealed, device = judgement.sealed, judgement.device
    if sealed is None or device is None or sealed.ct is None:
        return judgement
    seq = sealed.header.dev_seq
    kept = core.oplog.ops.get((device.index, seq))
    if kept is None or not kept.stub or kept.op_hash != sealed.op_hash:
        return judgement
    if kept.epoch not in core.view.keys:
        return judgement  # nobody can read it any more
    whole = review(sealed, device, core.state)
    if whole.verdict is not Verdict.HOLD:
        core.oplog.fill(device.index, sealed, core.journal)
        _take_content(core, whole, sealed, device.index)
    return whole


def _is_over(core: Core, sealed: SealedOp) -> bool:
    return sealed.header.epoch < core.state.chain.epoch


def _count(core: Core, judgement: Judgement, sealed: SealedOp) -> None:
    device = judgement.device
    assert device is not None
    if device.device_id == core.identity.device_id:
        _count_own(core, device.index, sealed)
    apply(judgement, core.state)
    core.oplog.add(device.index, sealed, core.journal)
    core.progress = True
    _take_content(core, judgement, sealed, device.index)
    if sealed.header.kind == Kind.RECORD:
        core.look_again(device.index, sealed)


def _count_own(core: Core, index: int, sealed: SealedOp) -> None:
    seq = sealed.header.dev_seq
    row = core.outbox.committed(seq, sealed.op_hash, core.journal)
    if row is not None:
        core.past.added((index, seq), row.delta, core.journal)
        return
    if doubt.take_late(core, index, sealed):
        return
    core.past.end(index, seq - 1, core.journal)
    core.set_cloned(sealed.raw)


def _write_disputed(core: Core) -> None:
    """Who has no proof of what a part's own device wrote learns it from that device: it
    writes its part again, above whatever somebody else wrote there."""
    me = core.me
    for name in core.disputed:
        part, entry = part_of(name.key), core.profile.find(name)
        if me is None or part is None or part[1] != me.index or name in core.outbox.edits:
            continue
        if entry is not None and core.writes:
            views.edit(core, name, entry.value, core.now_ms)
    core.disputed.clear()


def _take_content(core: Core, judgement: Judgement, sealed: SealedOp, index: int) -> None:
    payload = judgement.payload
    if judgement.verdict is not Verdict.OK:
        core.put_aside(index, sealed.header.dev_seq, str(judgement))
        _complain(core, judgement, sealed.raw)
    elif payload is not None:
        if sealed.header.dev_seq == core.state.logs[index].seq:
            core.last_seen[index] = payload.wall_ms
        if sealed.header.kind == Kind.RECORD:
            core.merge(index, sealed, payload)
        elif payload.verb is Verb.CHECKPOINT:
            core.checkpoint_epoch = max(core.checkpoint_epoch, sealed.header.epoch)
            core.ops_at_checkpoint = len(core.oplog.ops)


def _fork(core: Core, judgement: Judgement, sealed: SealedOp) -> None:
    device, seq = judgement.device, judgement.fork_seq
    assert device is not None
    if seq is None:
        _complain(core, judgement, sealed.raw)
        return
    kept = core.oplog.ops.get((device.index, seq))
    apply(judgement, core.state)
    log = core.state.logs[device.index]
    core.journal.set(
        f"fork:{device.index:03d}", pack(log.fork_seq, [bytes(h) for h in sorted(log.stopped)])
    )
    dropped = core.drop_ops(device.index, seq - 1)
    _reconsider(core)
    core.state.saw(sealed.header.lamport)
    regain.say_again(core, device.index, dropped)
    mine = device.device_id == core.identity.device_id
    late = doubt.both_ours(core, device.index, seq, kept, sealed) if mine else None
    if late is not None:
        # The other devices can't tell who is to blame: they set both versions aside.
        core.cloned = True
        core.alarm(
            "refused-but-held",
            "The service shows a change that it refused and did not hold, beside the one that "
            "took its place: it took it later, or a copy of this device sent it again. This "
            "device takes a new identity and says everything again.",
            *filter(None, (late.receipt, kept.raw if kept is not None else b"")),
            sealed.raw,
            about=sealed.op_hash,
            device_id=device.device_id,
        )
        return
    core.alarm(
        "fork",
        "Two versions of one change of a device exist: it was copied, or somebody forged its "
        "history with its keys. What it wrote from there on is set aside, on no device's word "
        "but yours; remove that device and add it again.",
        *((kept.raw,) if kept is not None else ()),
        sealed.raw,
        about=device.device_id,
        device_id=device.device_id,
    )
    if mine:
        core.set_cloned(sealed.raw)


def _reconsider(core: Core) -> None:
    """After a fork showed: whose ops were set aside because they saw its other side?"""
    for index, log in enumerate(core.state.logs):
        for seq, verdict in list(log.aside.items()):
            kept = core.oplog.ops.get((index, seq))
            if verdict != "FORK:heads" or kept is None or kept.stub:
                continue
            sealed = op.parse(kept.raw)
            payload = reconsider(sealed, core.state.chain.devices[index], core.state)
            if payload is not None:
                core.take_back_aside(index, seq)
                if kept.record:
                    core.merge(index, sealed, payload)


def _complain(core: Core, judgement: Judgement, raw: bytes) -> None:
    rule, sealed = judgement.rule, judgement.sealed
    if rule == "set-aside" or (rule == "cut" and judgement.verdict is Verdict.REJECT):
        return  # what a removed device wrote before it learned of it: nobody is to blame
    core.alarm(
        rule,
        _SENTENCES.get(rule, "One of your devices wrote a record that breaks a rule."),
        raw,
        about=bytes(sealed.op_hash) + raw[-64:] if sealed is not None else raw[:64],
        device_id=DeviceId(sealed.header.device_id) if sealed is not None else None,
    )


def _hold(core: Core, judgement: Judgement, sealed: SealedOp) -> None:
    if judgement.rule in ("chain", "key"):
        core.chain_due = True
    journal = None if core.fresh else core.journal
    if judgement.device is None:
        # Too many are dropped. If one of them was a new device's after all, the next receipt
        # tells, and everything is pulled again.
        if len(core.holds.strangers(core.state)) < STRANGERS_MAX:
            core.holds.add(sealed, journal, room=FRESH_HOLDS_MAX)
        return
    room = FRESH_HOLDS_MAX if core.fresh else HOLDS_MAX
    if not core.holds.add(sealed, journal, room=room):
        core.overflow = True


def retry(core: Core) -> None:
    """Offers ops on hold again, as long as one of them gets further."""
    if not core.ready or not len(core.holds):
        return
    further = True
    while further:
        further = False
        for sealed in core.holds.next_ones(core.state):
            if offer(core, sealed.raw).verdict is not Verdict.HOLD:
                core.holds.remove(sealed, core.journal)
                further = True
    for sealed in core.holds.passed(core.state):
        if offer(core, sealed.raw).verdict is not Verdict.HOLD:
            core.holds.remove(sealed, core.journal)


def _caught_up(core: Core) -> None:
    core.unpulled = False
    core.blocked = False
    core.link_refusals = core.receipt_tries = 0
    if core.fresh:
        for refused in bootstrap.finish(core):
            _complain(core, refused, refused.sealed.raw if refused.sealed else b"")
        retry(core)
    _turn_strangers_away(core)
    if core.overflow and not any(core.holds.known(core.state)):
        core.overflow = False
        core.cursor = b""
        core.behind = True
    healing.caught_up(core)
    if not core.behind:
        doubt.weigh_claim(core)
    _check_withheld(core)
    _check_orphans(core)
    upkeep.run(core)


def _turn_strangers_away(core: Core) -> None:
    """Who is not in the chain after it was fetched again is not of this account. The chain may
    have been on its way when the op came; so it is asked for once more."""
    if core.chain_due:
        return
    asked = core.holds.asked_about
    strangers = core.holds.strangers(core.state)
    for sealed in strangers:
        if sealed.header.device_id in asked:
            core.holds.remove(sealed, core.journal)
            _complain(core, Judgement(Verdict.REJECT, "author", sealed), sealed.raw)
        else:
            core.chain_due = True
    core.holds.asked_about = {
        sealed.header.device_id for sealed in strangers if sealed.header.device_id not in asked
    }


def _check_withheld(core: Core) -> None:
    waiting = next(core.holds.known(core.state), None)
    if waiting is None or core.progress:
        core.holds.quiet_rounds = 0
        if waiting is None:
            core.notices.forget("withheld", b"")
        return
    if core.chain_due:
        return  # the chain has not been asked yet
    core.holds.quiet_rounds += 1
    if core.holds.quiet_rounds >= _QUIET_ROUNDS_MAX and not core.fresh:
        core.alarm(
            "withheld",
            "The service does not deliver records that others of your devices have seen.",
            waiting.raw,
        )


def _check_orphans(core: Core) -> None:
    epoch = core.state.chain.epoch
    if any(core.holds.known(core.state)) or any(
        log.fork_seq is not None for log in core.state.logs
    ):
        return  # the winner may be on hold, or one that we set aside ourselves
    for at in core.oplog.orphans:
        if at[0] == epoch:
            place = core.oplog.winners[at]
            core.alarm(
                "payload-withheld",
                "The service says that a record was replaced, but not by what.",
                core.oplog.ops[place].raw,
                about=bytes(at[1]),
            )
