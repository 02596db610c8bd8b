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
from services.store.base import OpRow

_CT = os.urandom(min(op.CT_SIZES))
_CT_DIGEST = blake2b(ds(labels.OP_CT) + _CT, digest_size=32).digest()
_HASHED = blake2b(ds(labels.OP_HASH), digest_size=32)
_SIG = bytes(SIG_BYTES)
RECORDS = 64
"""Names that an account writes to in turn."""


def rows(account: Account, batch: int) -> list[OpRow]:
    """The next ops of an account, as the store takes them."""
    device = account.identity.device_id
    made = []
    for _ in range(batch):
        seq = len(account.heads) + 1
        prev = account.heads[-1] if account.heads else op.init_hash(account.account_id, device)
        tag = (seq % RECORDS).to_bytes(16, "big")
        header = op.HEADER.pack(
            b"PSO1", 1, op.Kind.RECORD, 0, account.account_id, 1, device,
            seq, prev, seq, tag, bytes(24), bytes(32), len(_CT),
        )  # fmt: skip
        hashed = _HASHED.copy()
        hashed.update(header + _CT_DIGEST)
        op_hash = OpHash(hashed.digest())
        account.heads.append(op_hash)
        made.append(
            OpRow(
                header + _CT + _SIG, 1, device, seq, prev, seq, tag, op_hash, op.Kind.RECORD,
                _CT_DIGEST,
            )
        )  # fmt: skip
    return made


def push(account: Account, batch: int) -> bytes:
    """The next PushRequest of an account."""
    return sync_pb2.PushRequest(ops=[row.raw for row in rows(account, batch)]).SerializeToString()
