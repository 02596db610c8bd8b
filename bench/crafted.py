"""Ops that a service takes and no client would: true chain and size, random bytes as payload.

The service can't tell (it reads headers and hashes), and they cost a hundredth of a sealed one.
"""

from __future__ import annotations

import os
from hashlib import blake2b

from bench.accounts import Account
from crypto import labels, op
from crypto.ids import OpHash
from crypto.primitives import SIG_BYTES, ds
from rookery.v1 import sync_pb2

_CT = os.urandom(min(op.CT_SIZES))
_CT_DIGEST = blake2b(ds(labels.OP_CT) + _CT, digest_size=32).digest()
_HASHED = blake2b(ds(labels.OP_HASH), digest_size=32)
_SIG = bytes(SIG_BYTES)
RECORDS = 64
"""Names that an account writes to in turn."""


def push(account: Account, batch: int) -> bytes:
    """The next PushRequest of an account."""
    ops = []
    for _ in range(batch):
        seq = len(account.heads) + 1
        prev = (
            account.heads[-1]
            if account.heads
            else op.init_hash(account.account_id, account.identity.device_id)
        )
        tag = (seq % RECORDS).to_bytes(16, "big")
        header = op.HEADER.pack(
            b"PSO1", 1, op.Kind.RECORD, 0, account.account_id, 1, account.identity.device_id,
            seq, prev, seq, tag, bytes(24), bytes(32), len(_CT),
        )  # fmt: skip
        hashed = _HASHED.copy()
        hashed.update(header + _CT_DIGEST)
        account.heads.append(OpHash(hashed.digest()))
        ops.append(header + _CT + _SIG)
    return sync_pb2.PushRequest(ops=ops).SerializeToString()
