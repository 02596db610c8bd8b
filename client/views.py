"""Settings, scores and sets, seen through the profile and the edits that wait; and editing.

An edit shows at once: it stands where it will stand once it is committed.
"""

from __future__ import annotations

from client.core import Core
from client.errors import BadName, BadValue, Revoked, ValueTooLong
from client.outbox import Edit
from client.profile import Name, Order, part_of
from client.values import Part, Value, decode, encode
from crypto.errors import FormatError
from crypto.names import check_name, score_part

VALUE_BYTES_MAX = 30_000
"""Leaves room for names and a causal vector of 255 devices in the largest bucket."""
AGGREGATION_KEY = Name(".rookery", "aggregation-key")


def shown(core: Core, name: Name) -> bytes | None:
    """The value that counts for a name, edits included; None if there is none."""
    entry, edit = core.profile.find(name), core.outbox.edits.get(name)
    if edit is None:
        return None if entry is None else entry.value
    order = Order(edit.lamport, core.profile.epoch, core.identity.device_id)
    return edit.value if entry is None or order > entry.order else entry.value


def names_in(core: Core, collection: str) -> list[str]:
    """Keys of a collection that have a value, sorted."""
    keys = set(core.profile.keys(collection))
    keys |= {name.key for name in core.outbox.edits if name.collection == collection}
    return sorted(key for key in keys if shown(core, Name(collection, key)) is not None)


def collections(core: Core) -> tuple[str, ...]:
    """Collections with something in them; the protocol's own are left out."""
    found = set(core.profile.collections()) | {name.collection for name in core.outbox.edits}
    return tuple(
        sorted(name for name in found if not name.startswith(".") and names_in(core, name))
    )


def value(core: Core, name: Name) -> Value:
    """The typed value; None also if somebody stored bytes that are no value."""
    data = shown(core, name)
    try:
        return None if data is None else decode(data)
    except BadValue:
        return None


def score(core: Core, collection: str, key: str, now_ms: int, half_life_ms: int | None) -> float:
    """Sum of all devices' parts, decayed to now."""
    devices = len(core.view.chain.devices)
    total: float = 0
    for index in range(devices):
        data = shown(core, Name(collection, f"{key}#{index}"))
        part = Part.decode(data) if data is not None else None
        if part is not None:
            total += part.at(now_ms, half_life_ms)
    return total


def scores(core: Core, collection: str) -> list[str]:
    """Keys of all scores of a collection."""
    parts = (part_of(key) for key in names_in(core, collection))
    return sorted({part[0] for part in parts if part is not None})


def app_name(collection: str, key: str) -> Name:
    """A name that an app may write; BadName otherwise."""
    try:
        check_name(collection.encode())
        check_name(key.encode())
    except (FormatError, UnicodeEncodeError):
        raise BadName from None
    if collection.startswith("."):
        raise BadName
    return Name(collection, key)


def edit(core: Core, name: Name, data: bytes | None, now_ms: int, *, delta: float = 0) -> None:
    """Queues an edit, with the lamport that it has from now on."""
    me = core.me
    if me is not None and not me.active:
        raise Revoked
    if data is not None and len(data) > VALUE_BYTES_MAX:
        raise ValueTooLong
    queue(core, name, data, now_ms, delta=delta)


def queue(core: Core, name: Name, data: bytes | None, now_ms: int, *, delta: float = 0) -> None:
    """An edit whose value was an op's already."""
    me = core.me
    seen = core.state.lamport_max if core.ready else 0
    sent = [row.lamport for row in core.outbox.flying.values() if row.name == name]
    if core.ready and me is not None:
        # What was taken back may still come: it must not pass for this edit.
        sent += core.past.lamports_open(me.index, core.state.logs[me.index].seq, name)
    held = core.profile.find(name)
    lamport = max(seen, *sent, held.order.lamport if held else 0, 0) + 1
    core.outbox.put(Edit(name, data, lamport, max(0, now_ms), delta), core.journal)
    core.blocked = False


def add_score(
    core: Core, collection: str, key: str, delta: float, now_ms: int, half_life_ms: int | None
) -> None:
    """Adds to our own part: a new running total, worked out now, waiting edits included."""
    app_name(collection, key)
    me = core.me
    if me is None:
        raise Revoked("This device is not part of the account yet.")
    name = Name(collection, score_part(key.encode(), me.index).decode())
    data = shown(core, name)
    before = (Part.decode(data) if data is not None else None) or Part(0, now_ms)
    total = before.at(now_ms, half_life_ms) + delta
    waiting = core.outbox.edits.get(name)
    folded = delta + (waiting.delta if waiting is not None else 0)
    edit(core, name, Part(total, max(0, now_ms)).encode(), now_ms, delta=folded)


def put(core: Core, name: Name, new: Value, now_ms: int) -> None:
    """Queues a typed value."""
    edit(core, name, encode(new), now_ms)


__all__ = [
    "AGGREGATION_KEY", "add_score", "app_name", "collections", "edit", "names_in",
    "put", "queue", "score", "scores", "shown", "value",
]  # fmt: skip
