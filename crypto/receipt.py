"""Receipts: what the service signs of its own state (docs/protocol.md, 1.7)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from crypto import labels
from crypto.errors import FormatError
from crypto.ids import AccountId, LinkHash
from crypto.primitives import SIG_BYTES, need, pack, sign as sign_raw, sign_keypair, verify

BODY_BYTES = 136
RECEIPT_BYTES = BODY_BYTES + SIG_BYTES
_BODY = struct.Struct(">4sB3s32sQ32s32sQ16s")
_MAGIC, _SUITE = b"PST1", 1


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the service says it holds. Two that contradict each other prove equivocation."""

    account_id: AccountId
    chain_seq: int
    chain_head: LinkHash
    heads_digest: bytes
    server_ms: int
    nonce: bytes

    def encode(self) -> bytes:
        """The 136 signed bytes."""
        return pack(
            _BODY,
            _MAGIC,
            _SUITE,
            bytes(3),
            self.account_id,
            self.chain_seq,
            self.chain_head,
            need("heads digest", self.heads_digest, 32),
            self.server_ms,
            need("nonce", self.nonce, 16),
        )


class ServerKey:
    """The service's identity key. repr shows the public half only."""

    __slots__ = ("_sk", "public")

    def __init__(self, seed: bytes) -> None:
        self.public, self._sk = sign_keypair(seed)

    def sign(self, receipt: Receipt, *, deleted: bool = False) -> bytes:
        """`body[136] | sig[64]`. A receipt of deletion has a label of its own."""
        body = receipt.encode()
        return body + sign_raw(self._sk, _label(deleted), body)

    def __repr__(self) -> str:
        return f"ServerKey(public {self.public.hex()}, secret hidden)"


def _label(deleted: bool) -> bytes:
    return labels.RECEIPT_DELETED if deleted else labels.RECEIPT


def open_(data: bytes, server_pk: bytes, *, nonce: bytes, deleted: bool = False) -> Receipt:
    """Verifies under the pinned key and checks that it answers our request.

    FormatError (form, nonce) or SignatureError.
    """
    need("receipt", data, RECEIPT_BYTES)
    body = data[:BODY_BYTES]
    verify(server_pk, _label(deleted), body, data[BODY_BYTES:])
    magic, suite, reserved, account, chain_seq, head, digest, server_ms, got = _BODY.unpack(body)
    if (magic, suite, reserved) != (_MAGIC, _SUITE, bytes(3)):
        raise FormatError("receipt", "not a receipt of this suite")
    if got != nonce:
        raise FormatError("nonce", "the receipt answers another request")
    return Receipt(AccountId(account), chain_seq, LinkHash(head), digest, server_ms, got)
