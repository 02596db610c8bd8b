"""What an app writes: it passes the gate first, and goes where the gate says.

Either it becomes an edit, which syncs, or it is kept on this device (`client.local`). What the
library itself writes does not come this way.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from client import views
from client.core import Core
from client.errors import BadValue, Revoked, ValueTooLong
from client.gate import Admitted, Held, Kind, SignalRefused
from client.profile import Name
from client.values import Part, Value, encode
from crypto.names import score_part


def put(core: Core, kind: Kind, collection: str, key: str, new: Value, now_ms: int) -> None:
    """A setting or a member. BadName, BadValue, ValueTooLong, SignalRefused."""
    name = views.app_name(collection, key)
    admitted = core.gate.admit(kind, collection, key, new, now_ms)
    data, at_ms = encode(admitted.value), max(0, admitted.at_ms)
    if len(data) > views.VALUE_BYTES_MAX:
        raise ValueTooLong
    surplus = _surplus(core, kind, name, Held(_size(admitted.value), at_ms))
    if admitted.stays_here:
        core.local.put(name, data, at_ms, core.journal)
    else:
        views.edit(core, name, data, at_ms)
        core.local.drop(name, core.journal)
    for other in surplus:
        remove(core, Name(collection, other), at_ms)


def add_score(
    core: Core, collection: str, key: str, delta: float, now_ms: int, half_life_ms: int | None
) -> None:
    """Adds to our own part: a new running total, worked out now, waiting edits included."""
    name = views.app_name(collection, key)
    admitted = core.gate.admit("score", collection, key, delta, now_ms)
    half_life_ms = core.gate.half_life_ms(collection, key, half_life_ms)
    part, at_ms = _my_part(core, name), max(0, admitted.at_ms)
    # The newest is kept, whatever its size: only the others are weighed.
    surplus = _surplus(core, "score", name, Held(0, at_ms))
    if admitted.stays_here:
        before = core.local.score(name) or Part(0, at_ms)
        after, _ = _added(core, name, before, admitted, half_life_ms)
        core.local.put_score(name, after, core.journal)
    else:
        data = views.shown(core, part)
        before = (Part.decode(data) if data is not None else None) or Part(0, at_ms)
        after, added = _added(core, name, before, admitted, half_life_ms)
        waiting = core.outbox.edits.get(part)
        folded = added + (waiting.delta if waiting is not None else 0)
        views.edit(core, part, after.encode(), at_ms, delta=folded)
    for other in surplus:
        remove_score(core, Name(collection, other), at_ms)


def _my_part(core: Core, name: Name) -> Name:
    if core.me is None:
        raise Revoked("This device is not part of the account yet.")
    return Name(name.collection, score_part(name.key.encode(), core.me.index).decode())


def _added(
    core: Core, name: Name, before: Part, admitted: Admitted, half_life_ms: int | None
) -> tuple[Part, float]:
    """Our part with what was added, and how much that is: the account's total stays within its
    bound."""
    at_ms, delta = admitted.at_ms, _number(admitted)
    own = before.at(at_ms, half_life_ms)
    if admitted.total_within is not None:
        total, most = views.score(core, *name, at_ms, half_life_ms), admitted.total_within
        delta = max(-most, min(most, total + delta)) - total
    return Part(own + delta, max(0, at_ms)), delta


def _number(admitted: Admitted) -> float:
    if not isinstance(admitted.value, int | float):
        raise BadValue("what is added to a score is a number")
    return admitted.value


def admitted_back(core: Core, name: Name, value: Value, at_ms: int) -> tuple[Kind, Admitted]:
    """A setting or a member that was recorded once, as the gate lets it come back; SignalRefused.
    Only the policy can tell a member from a setting that is `true`."""
    if value is True:
        try:
            return "set", core.gate.readmit("set", *name, value, at_ms)
        except SignalRefused as error:
            if error.rule != "kind":
                raise
    return "setting", core.gate.readmit("setting", *name, value, at_ms)


def put_back(core: Core, kind: Kind, name: Name, admitted: Admitted, *, stays_here: bool) -> bool:
    """A setting or a member at the time that it had. False, and nothing is done, if there are so
    many by now that it is the first that has to go."""
    data, at_ms = encode(admitted.value), max(0, admitted.at_ms)
    surplus = _surplus_of_back(core, kind, name, Held(_size(admitted.value), at_ms))
    if surplus is None:
        return False
    if stays_here or admitted.stays_here:
        core.local.put(name, data, at_ms, core.journal)
    else:
        views.edit(core, name, data, at_ms)
    for other in surplus:
        remove(core, Name(name.collection, other), at_ms)
    return True


def put_back_score(core: Core, name: Name, admitted: Admitted, *, stays_here: bool) -> bool:
    """Adds what a score once was to what it is, at the later one's time; the account's total stays
    within its bound. False as above."""
    stays_here = stays_here or admitted.stays_here
    half_life_ms = core.gate.half_life_ms(*name, None)
    own = _my_part(core, name)
    data = views.shown(core, own)
    held = core.local.score(name) if stays_here else None if data is None else Part.decode(data)
    once = Part(float(_number(admitted)), max(0, admitted.at_ms))
    at_ms = once.changed_ms if held is None else max(held.changed_ms, once.changed_ms)
    more = replace(admitted, value=once.at(at_ms, half_life_ms), at_ms=at_ms)
    after, added = _added(core, name, held or Part(0, at_ms), more, half_life_ms)
    size = views.score(core, *name, at_ms, half_life_ms) + added
    surplus = _surplus_of_back(core, "score", name, Held(size, at_ms))
    if surplus is None:
        return False
    if stays_here:
        core.local.put_score(name, after, core.journal)
    else:
        waiting = core.outbox.edits.get(own)
        folded = added + (waiting.delta if waiting is not None else 0)
        views.edit(core, own, after.encode(), at_ms, delta=folded)
    for other in surplus:
        remove_score(core, Name(name.collection, other), at_ms)
    return True


def remove(core: Core, name: Name, now_ms: int) -> None:
    """Removes a setting or a member wherever it is: here, and by a tombstone in the account.
    What never leaves the device leaves no tombstone either."""
    here = core.local.drop(name, core.journal) or core.gate.stays_here(*name)
    if not here or views.synced(core, name) is not None:
        views.edit(core, name, None, now_ms)


def remove_score(core: Core, name: Name, now_ms: int) -> None:
    """Removes this device's share of a score: nobody else may, and it may no other's."""
    core.local.drop_score(name, core.journal)
    part = _my_part(core, name)
    if views.synced(core, part) is not None:
        views.edit(core, part, None, now_ms)


def drop_surplus(core: Core, kind: Kind, collection: str, now_ms: int) -> None:
    """Removes what the gate finds too many in a collection; of scores, this device's share."""
    drop = remove_score if kind == "score" else remove
    if core.gate.limits(kind, collection):
        for key in core.gate.surplus(kind, collection, _held(core, kind, collection, now_ms)):
            drop(core, Name(collection, key), now_ms)


def _surplus(core: Core, kind: Kind, name: Name, new: Held) -> Collection[str]:
    """What has to go so that this may come in."""
    if not core.gate.limits(kind, name.collection):
        return ()
    held = {**_held(core, kind, name.collection, new.at_ms), name.key: new}
    return core.gate.surplus(kind, name.collection, held, put=name.key)


def _surplus_of_back(core: Core, kind: Kind, name: Name, new: Held) -> Collection[str] | None:
    """The same of what comes back, which is weighed like all else. None: it is what has to go."""
    try:
        _surplus(core, kind, name, new)
    except SignalRefused:
        return None
    if not core.gate.limits(kind, name.collection):
        return ()
    held = {**_held(core, kind, name.collection, new.at_ms), name.key: new}
    surplus = core.gate.surplus(kind, name.collection, held)
    return None if name.key in surplus else surplus


def _held(core: Core, kind: Kind, collection: str, now_ms: int) -> dict[str, Held]:
    return (
        _held_scores(core, collection, now_ms)
        if kind == "score"
        else _held_values(core, collection)
    )


def _held_values(core: Core, collection: str) -> dict[str, Held]:
    held = {}
    for key in views.names_in(core, collection):
        if "#" not in key:
            name = Name(collection, key)
            held[key] = Held(_size(views.value(core, name)), views.written_ms(core, name))
    return held


def _size(value: Value) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _held_scores(core: Core, collection: str, now_ms: int) -> dict[str, Held]:
    held = {}
    for key in views.scores(core, collection):
        parts = views.parts(core, collection, key, now_ms)
        if parts:
            half_life_ms = core.gate.half_life_ms(collection, key, None)
            size = sum(part.at(now_ms, half_life_ms) for part in parts)
            held[key] = Held(size, max(part.changed_ms for part in parts))
    return held
