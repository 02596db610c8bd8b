"""Enrolment: proof of work, or a token by the app's backend (docs/protocol.md, 8)."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

from crypto import labels
from crypto.errors import FormatError, SignatureError
from crypto.ids import LinkHash
from crypto.primitives import (
    SIG_BYTES,
    ds,
    equal,
    need,
    pack,
    prf,
    sign as sign_raw,
    sign_keypair,
    utf8,
    verify,
)
from crypto.request import audience_hash

TOKEN_BODY_BYTES = 96
TOKEN_BYTES = TOKEN_BODY_BYTES + SIG_BYTES
HOUR_MS = 3_600_000
_TOKEN = struct.Struct(">4sB3s16s32s32sQ")
_U64 = struct.Struct(">Q")
_MAGIC, _SUITE = b"PSE1", 1


def _pow_prefix(genesis: LinkHash, hour: int) -> bytes:
    return ds(labels.ENROL_POW) + LinkHash.of(genesis) + pack(_U64, hour)


def _limit(bits: int) -> int:
    if not 0 <= bits <= 256:
        raise FormatError("range", "a hash has 0 to 256 zero bits")
    return 1 << (256 - bits)


def prove_work(genesis: LinkHash, hour: int, bits: int) -> Iterator[int | None]:
    """Searches for a counter; yields None now and then, so that callers can stop or wait.

    The last item is the counter: the hash of genesis link, hour and counter starts with
    `bits` zero bits. Takes 2^bits hashes on average.
    """
    prefix = _pow_prefix(genesis, hour)
    limit = _limit(bits)
    for counter in itertools.count():
        digest = blake2b(prefix + counter.to_bytes(8, "big"), digest_size=32).digest()
        if int.from_bytes(digest, "big") < limit:
            yield counter
            return
        if counter % 8192 == 8191:
            yield None


def check_work(genesis: LinkHash, hour: int, counter: int, bits: int) -> None:
    """SignatureError unless the counter is a proof for this link and hour."""
    digest = blake2b(_pow_prefix(genesis, hour) + pack(_U64, counter), digest_size=32).digest()
    if int.from_bytes(digest, "big") >= _limit(bits):
        raise SignatureError("proof-of-work", "the proof of work is too weak")


def subject(salt: bytes, user_id: str) -> bytes:
    """An app's user id as the service may see it: keyed with a salt only the backend has.

    A hash without a secret would be reversed by trying all phone numbers.
    """
    return prf(need("salt", salt, 32), labels.SUBJECT, utf8(user_id))


def subject_row(pepper: bytes, subject_bytes: bytes) -> bytes:
    """What the service stores to bound accounts per subject; the pepper is not in the store."""
    return prf(pepper, labels.SUBJECT_ROW, need("subject", subject_bytes, 32))


def pepper_mark(pepper: bytes) -> bytes:
    """Eight bytes by which an operator tells one pepper from another; they say nothing of it."""
    return prf(pepper, labels.PEPPER_MARK, b"", 16)[:8]


@dataclass(frozen=True, slots=True)
class Token:
    """What the app's backend vouches for: this subject may make this account."""

    genesis: LinkHash
    subject: bytes
    expiry_ms: int


class TokenKey:
    """The backend's Ed25519 key. repr shows the public half only."""

    __slots__ = ("_sk", "public")

    def __init__(self, seed: bytes) -> None:
        self.public, self._sk = sign_keypair(seed)

    def issue(self, token: Token, audience: str) -> bytes:
        """`body[96] | sig[64]`."""
        body = pack(
            _TOKEN,
            _MAGIC,
            _SUITE,
            bytes(3),
            audience_hash(audience),
            token.genesis,
            need("subject", token.subject, 32),
            token.expiry_ms,
        )
        return body + sign_raw(self._sk, labels.ENROL_TOKEN, body)

    def __repr__(self) -> str:
        return f"TokenKey(public {self.public.hex()}, secret hidden)"


def open_token(
    data: bytes, issuer_pk: bytes, *, audience: str, genesis: LinkHash, now_ms: int
) -> Token:
    """Verifies a token for this deployment, this genesis link and this moment."""
    need("token", data, TOKEN_BYTES)
    body = data[:TOKEN_BODY_BYTES]
    verify(issuer_pk, labels.ENROL_TOKEN, body, data[TOKEN_BODY_BYTES:])
    magic, suite, reserved, aud, link_hash, subject_bytes, expiry = _TOKEN.unpack(body)
    if (magic, suite, reserved) != (_MAGIC, _SUITE, bytes(3)):
        raise FormatError("token", "not a token of this suite")
    if not equal(aud, audience_hash(audience)) or not equal(link_hash, genesis):
        raise SignatureError("token", "the token was made for something else")
    if expiry <= now_ms:
        raise SignatureError("token-expired", "the token has expired")
    return Token(LinkHash(link_hash), subject_bytes, expiry)
