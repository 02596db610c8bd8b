"""Settings, scores and sets, seen through the profile and the edits that wait; and editing.

An edit shows at once: it stands where it will stand once it is committed. What stays on this
device (`client.local`) shows like all else, and wins over a record of its name.
"""

from __future__ import annotations

from client.core import Core
from client.errors import BadName, BadValue, Revoked, ValueTooLong
from client.local import Kept
from client.outbox import Edit
from client.profile import Name, Order, part_of
from client.values import Part, Value, decode, encode
from crypto.errors import FormatError
from crypto.names import check_name

VALUE_BYTES_MAX = 30_000
"""Leaves room for names and a causal vector of 255 devices in the largest bucket."""
AGGREGATION_KEY = Name(".rookery", "aggregation-key")


def shown(core: Core, name: Name) -> bytes | None:
    """The value that counts for a name, edits included; None if there is none, and for what may
    not be read now."""
    if hidden(core, name):
        return None
    kept = local_value(core, name)
    return kept.value if kept is not None else synced(core, name)


def local_value(core: Core, name: Name) -> Kept | None:
    """A setting or a member that stays here. While a task is answered there is none: what was
    recorded to stay stays, also if a later policy lets tasks read what is recorded by it."""
    return core.local.value(name) if core.only is None else None


def hidden(core: Core, name: Name) -> bool:
    """Whether a name is one that may not be read now: see `Core.only`."""
    if core.only is None or name.collection.startswith("."):
        return False
    part = part_of(name.key)
    return not core.only(name.collection, part[0] if part else name.key)


def synced(core: Core, name: Name) -> bytes | None:
    """The same of what the account's devices share."""
    entry, edit = core.profile.find(name), core.outbox.edits.get(name)
    if edit is None:
        return None if entry is None else entry.value
    order = Order(edit.lamport, core.profile.epoch, core.identity.device_id)
    return edit.value if entry is None or order > entry.order else entry.value


def names_in(core: Core, collection: str) -> list[str]:
    """Keys of a collection that have a value, sorted."""
    keys = set(core.profile.keys(collection))
    keys |= {name.key for name in core.outbox.edits if name.collection == collection}
    keys |= {name.key for name, _ in core.local.values() if name.collection == collection}
    return sorted(key for key in keys if shown(core, Name(collection, key)) is not None)


def collections(core: Core) -> tuple[str, ...]:
    """Collections with something in them; the protocol's own are left out."""
    found = set(core.profile.collections()) | {name.collection for name in core.outbox.edits}
    here: set[str] = set()
    if core.only is None:
        here = {name.collection for name, _ in (*core.local.values(), *core.local.scores())}
    filled = {name for name in found - here if names_in(core, name)}
    return tuple(sorted(name for name in filled | here if not name.startswith(".")))


def value(core: Core, name: Name) -> Value:
    """The typed value; None also if somebody stored bytes that are no value."""
    return _decoded(shown(core, name))


def synced_value(core: Core, name: Name) -> Value:
    """The same of what the account's devices share."""
    return _decoded(synced(core, name))


def _decoded(data: bytes | None) -> Value:
    try:
        return None if data is None else decode(data)
    except BadValue:
        return None


def score(core: Core, collection: str, key: str, now_ms: int, half_life_ms: int | None) -> float:
    """Sum of all devices' parts, and of what stays here, decayed to now."""
    half_life_ms = core.gate.half_life_ms(collection, key, half_life_ms)
    return sum(part.at(now_ms, half_life_ms) for part in parts(core, collection, key, now_ms))


def parts(core: Core, collection: str, key: str, now_ms: int) -> list[Part]:
    """Of all devices, and what stays here. What is past its time does not count, though it
    stands until its own device, which alone may, removes it."""
    kept_ms = core.gate.retention_ms(collection, key)
    return [
        part
        for part in shares(core, collection, key).values()
        if kept_ms is None or now_ms < part.changed_ms + kept_ms
    ]


def shares(core: Core, collection: str, key: str) -> dict[int | None, Part]:
    """The parts of a score by their devices' indexes. None: what stays here."""
    found: dict[int | None, Part] = {}
    for index in range(len(core.view.chain.devices)):
        data = shown(core, Name(collection, f"{key}#{index}"))
        part = None if data is None else Part.decode(data)
        if part is not None:
            found[index] = part
    kept = core.local.score(Name(collection, key)) if core.only is None else None
    return found if kept is None else {**found, None: kept}


def scores(core: Core, collection: str, now_ms: int | None = None) -> list[str]:
    """Keys of all scores of a collection; of those that count, if it is said for when."""
    found = (part_of(key) for key in names_in(core, collection))
    keys = {part[0] for part in found if part is not None}
    if core.only is None:
        keys |= {name.key for name, _ in core.local.scores() if name.collection == collection}
    return sorted(
        key
        for key in keys
        if now_ms is None
        or core.gate.retention_ms(collection, key) is None
        or parts(core, collection, key, now_ms)
    )


def written_ms(core: Core, name: Name) -> int:
    """When the value that counts was written, by the clock of the device that wrote it; 0 if
    there is none."""
    if hidden(core, name):
        return 0
    kept = local_value(core, name)
    return kept.at_ms if kept is not None else synced_ms(core, name)


def synced_ms(core: Core, name: Name) -> int:
    """The same of what the account's devices share."""
    entry, edit = core.profile.find(name), core.outbox.edits.get(name)
    if edit is not None and synced(core, name) is edit.value:
        return edit.wall_ms
    return 0 if entry is None else entry.wall_ms


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


def put(core: Core, name: Name, new: Value, now_ms: int) -> None:
    """Queues a typed value."""
    edit(core, name, encode(new), now_ms)


__all__ = [
    "AGGREGATION_KEY", "app_name", "collections", "edit", "hidden", "local_value", "names_in",
    "parts", "put", "queue", "score", "scores", "shares", "shown", "synced", "synced_ms",
    "synced_value", "value", "written_ms",
]  # fmt: skip
