"""Ops that a device of the account signs although its own client never would."""

from __future__ import annotations

from crypto import op
from crypto.heads import Head
from crypto.op import Payload, SealedOp, Vector, Verb
from tests.client_worlds import Phone


def crafted(
    phone: Phone, collection: bytes, key: bytes, value: bytes, *, lamport: int | None = None
) -> SealedOp:
    """The next op of this phone, with a name and a value of our choice."""
    core = phone.device._core
    me, state = core.me, core.state
    assert me is not None
    log = state.logs[me.index]
    own = [Head(me.index, log.seq, log.head)] if log.seq else []
    others = [head for head in state.heads() if head.device_index != me.index]
    payload = Payload(
        verb=Verb.PUT,
        wall_ms=phone.now_ms,
        chain_seq=state.chain.seq,
        chain_head=state.chain.head,
        vector=Vector.of((*others, *own)),
        collection=collection,
        key=key,
        value=value,
    )
    return op.seal(
        core.identity,
        core.view.keys[state.chain.epoch],
        payload,
        dev_seq=log.seq + 1,
        prev=log.head,
        lamport=lamport or state.lamport_max + 1,
        rand=phone.rand(32),
    )
