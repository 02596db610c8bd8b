"""Signed requests (docs/protocol.md, 1.6): what every call says of itself."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

from crypto import labels
from crypto.errors import FormatError, SignatureError
from crypto.ids import AccountId, DeviceId
from crypto.primitives import SIG_BYTES, equal, hash_, need, pack, utf8, verify as verify_sig

METADATA_KEY = "rookery-auth-bin"
HEADER_BYTES = 144
AUTH_BYTES = HEADER_BYTES + SIG_BYTES
NONCE_BYTES = 16
SKEW_MS_MAX = 120_000
_HEADER = struct.Struct(">4sBBH16s16s32s16sQ16s32s")
_MAGIC, _SUITE = b"PSR1", 1
NO_ACCOUNT: Final = AccountId(bytes(AccountId.size))
"""What stands in place of an account where a publisher, an analyst or a party signs."""


class Caller(Protocol):
    """Whoever signs calls: a device's identity, or a key without an account."""

    @property
    def device_id(self) -> DeviceId:
        """`H("pss1/device-id", ik_pk, 16)` of the key that signs."""
        ...

    def sign(self, label: bytes, message: bytes) -> bytes:
        """`SIG(ik, L, m)`, 64 bytes."""
        ...


class CallKind(IntEnum):
    """Unary call, or the opening message of a stream."""

    UNARY = 1
    STREAM = 2


@dataclass(frozen=True, slots=True)
class RequestAuth:
    """The parsed metadata value of one call."""

    raw: bytes
    kind: CallKind
    method_hash: bytes
    audience_hash: bytes
    account_id: AccountId
    device_id: DeviceId
    ts_ms: int
    nonce: bytes
    body_hash: bytes


def method_hash(method: str) -> bytes:
    """`H("pss1/method", full gRPC method, 16)`, the method as in `/rookery.v1.Sync/Push`."""
    return hash_(labels.METHOD, utf8(method), 16)


def audience_hash(audience: str) -> bytes:
    """`H("pss1/audience", name, 16)`."""
    return hash_(labels.AUDIENCE, utf8(audience), 16)


def header(
    *,
    kind: CallKind,
    method: str,
    audience: str,
    account_id: AccountId,
    device_id: DeviceId,
    ts_ms: int,
    nonce: bytes,
    payload: bytes,
) -> bytes:
    """The 144 bytes that are signed. `payload` is the message exactly as it travels."""
    return pack(
        _HEADER,
        _MAGIC,
        _SUITE,
        kind,
        0,
        method_hash(method),
        audience_hash(audience),
        AccountId.of(account_id),
        DeviceId.of(device_id),
        ts_ms,
        need("nonce", nonce, NONCE_BYTES),
        hash_(labels.BODY, payload),
    )


def sign(
    caller: Caller,
    *,
    kind: CallKind,
    method: str,
    audience: str,
    account_id: AccountId,
    ts_ms: int,
    nonce: bytes,
    payload: bytes,
) -> bytes:
    """The metadata value: `header[144] | sig[64]`."""
    signed = header(
        kind=kind,
        method=method,
        audience=audience,
        account_id=account_id,
        device_id=caller.device_id,
        ts_ms=ts_ms,
        nonce=nonce,
        payload=payload,
    )
    return signed + caller.sign(labels.REQUEST, signed)


def parse(auth: bytes) -> RequestAuth:
    """Strict; FormatError otherwise. Nothing is verified yet."""
    need("auth", auth, AUTH_BYTES)
    magic, suite, kind, flags, method, audience, account, device, ts_ms, nonce, body = (
        _HEADER.unpack_from(auth)
    )
    if (magic, suite, flags) != (_MAGIC, _SUITE, 0):
        raise FormatError("request", "not a signed request of this suite")
    if kind not in (CallKind.UNARY, CallKind.STREAM):
        raise FormatError("kind", "unknown kind of request")
    return RequestAuth(
        raw=bytes(auth),
        kind=CallKind(kind),
        method_hash=method,
        audience_hash=audience,
        account_id=AccountId(account),
        device_id=DeviceId(device),
        ts_ms=ts_ms,
        nonce=nonce,
        body_hash=body,
    )


def check_context(auth: RequestAuth, *, kind: CallKind, method: str, audience: str) -> None:
    """SignatureError if it was signed for another method, kind of call or deployment."""
    if (
        auth.kind is not kind
        or not equal(auth.method_hash, method_hash(method))
        or not equal(auth.audience_hash, audience_hash(audience))
    ):
        raise SignatureError("context", "signed for another method or deployment")


def verify(auth: RequestAuth, ik_pk: bytes, payload: bytes) -> None:
    """SignatureError unless this key signed exactly this payload."""
    if not equal(auth.body_hash, hash_(labels.BODY, payload)):
        raise SignatureError("body", "signed for another message")
    verify_sig(ik_pk, labels.REQUEST, auth.raw[:HEADER_BYTES], auth.raw[HEADER_BYTES:])
