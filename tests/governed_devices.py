"""What can be looked up of a governed device: all that it stored, and all that it ever sent."""

from __future__ import annotations

from client.profile import Name
from crypto import op
from crypto.op import Payload
from tests.client_worlds import Phone


def payloads(phone: Phone) -> list[Payload]:
    """Every op that the service ever took of this account, opened with the device's keys."""
    keys = phone.device._core.view.keys
    sealed = [row.sealed for row in phone.service.rows if row.sealed.ct is not None]
    pushed = [op.parse_any(raw) for push in phone.pushes for raw in push.ops]
    whole = [one for one in (*sealed, *pushed) if one.ct is not None]
    return [op.open_(one, keys[one.header.epoch]) for one in whole if one.header.epoch in keys]


def told(phone: Phone) -> set[Name]:
    """Names in ops that the service took, in edits that wait and in the batch in flight."""
    core = phone.device._core
    flying = {row.name for row in core.outbox.flying.values() if row.name is not None}
    sent = {Name(one.collection.decode(), one.key.decode()) for one in payloads(phone)}
    return sent | set(core.outbox.edits) | flying


def stored(phone: Phone) -> bytes:
    """All that the vault holds, and the plaintext of all ops: to be searched for a value."""
    opened = [b"%s %s %s %d" % (one.collection, one.key, one.value or b"", one.wall_ms)
              for one in payloads(phone)]  # fmt: skip
    rows = [name.encode() + b" " + value for name, value in phone.rows.items()]
    return b"\n".join(rows + opened)
