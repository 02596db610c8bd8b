"""What this device had sent and what counts no more, since a fork or a cut took it back: it is
said again, by edits, under whatever identity this device has or is about to take.

The other devices drop the same ops by the same rule. So what is said again stands once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from client import views
from client.core import Core
from client.oplog import Kept
from client.outbox import Edit
from client.profile import Name, part_of
from client.values import Part
from crypto import op
from crypto.names import score_part
from crypto.op import Payload, Verb


def say_again(core: Core, index: int, dropped: Sequence[Kept]) -> None:
    """`dropped`: ops at `index` that were taken back, in their order. What this device wrote
    itself is said again, and its part of a score where only another one's copy was left."""
    me = core.me
    if me is None or not me.active:
        return
    newest: dict[Name, tuple[Kept, Payload]] = {}
    added: dict[Name, list[tuple[int, float]]] = defaultdict(list)
    for kept in dropped:
        place = (index, op.parse_any(kept.raw).header.dev_seq)
        delta = core.past.take_added(place, core.journal)
        payload = core.open_kept(kept) if kept.record else None
        name = _name(payload) if payload is not None else None
        if payload is None or name is None:
            continue
        part = part_of(name.key)
        if not core.past.wrote(place, me.index) and (part is None or part[1] != me.index):
            continue
        added[name].append((kept.order.lamport, delta))
        if name not in newest or kept.order > newest[name][0].order:
            newest[name] = (kept, payload)
    for name, (kept, payload) in newest.items():
        part = part_of(name.key)
        if part is None:
            _setting(core, name, kept, payload)
        elif part[1] in (index, me.index):
            _own_part(core, Name(name.collection, part[0]), name, payload, added[name])
        elif core.profile.find(name) is None and name not in core.outbox.edits:
            # A copy of another device's part: valid with the lamport of what it is a copy of.
            value = _value(payload)
            core.outbox.put(Edit(name, value, kept.order.lamport, payload.wall_ms), core.journal)


def _name(payload: Payload) -> Name | None:
    try:
        return Name(payload.collection.decode("ascii"), payload.key.decode("ascii"))
    except UnicodeDecodeError:
        return None


def _value(payload: Payload) -> bytes | None:
    return payload.value if payload.verb is Verb.PUT else None


def _setting(core: Core, name: Name, kept: Kept, payload: Payload) -> None:
    left, value = core.profile.find(name), _value(payload)
    if name in core.outbox.edits:
        return  # something newer waits
    if left is not None and (left.order > kept.order or left.value == value):
        return
    views.queue(core, name, value, payload.wall_ms)


def _own_part(
    core: Core, score: Name, name: Name, payload: Payload, added: Sequence[tuple[int, float]]
) -> None:
    """Our part of a score lacks what the dropped ops added, but for what a copy of it that
    counts has. If nothing is left of it, it lacks everything."""
    left, last = core.profile.find(name), Part.decode(payload.value)
    if last is None:
        return
    if left is None:
        lost = last.total
    else:
        lost = sum(delta for lamport, delta in added if lamport > left.order.lamport)
    if lost:
        _add(core, score, name, lost, last)


def _add(core: Core, score: Name, name: Name, lost: float, last: Part) -> None:
    """Adds to this device's part what was at `last` when it was lost from the part `name`."""
    me = core.me
    assert me is not None
    own = Name(score.collection, score_part(score.key.encode(), me.index).decode())
    waiting = core.outbox.edits.get(own)
    total = last.total
    if waiting is not None or own != name:
        data = views.shown(core, own)
        now = (Part.decode(data) if data is not None else None) or Part(0, last.changed_ms)
        # An edit of the same part holds the sum already; another part's lacks it.
        total = now.total + (lost if own != name else 0)
        last = Part(total, max(now.changed_ms, last.changed_ms))
    folded = lost + (waiting.delta if waiting is not None else 0)
    views.queue(core, own, Part(total, last.changed_ms).encode(), last.changed_ms, delta=folded)
