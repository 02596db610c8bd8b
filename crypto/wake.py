"""Wake handles: a push token that only the push gateway can read (docs/protocol.md, 10).

A sealed box authenticates nobody, and a handle is no proof of anything: who knows a token and
the gateway's key can make one. It is bound to the deployment whose service may use it, and it
ends by itself. All handles have one length, whatever the token's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from crypto.errors import FormatError, OpenError, SignatureError
from crypto.keys import Recipient
from crypto.primitives import (
    KEY_BYTES,
    SEAL_BYTES,
    box_public,
    equal,
    need,
    pack,
    refuse_low_order,
    seal_open,
)
from crypto.request import audience_hash

_HEAD = struct.Struct(">4sBBH16sQH")
_MAGIC, _SUITE = b"PSW1", 1
PLAIN_BYTES = 512
HANDLE_BYTES = PLAIN_BYTES + SEAL_BYTES
TOKEN_BYTES_MAX = PLAIN_BYTES - _HEAD.size


class Platform(IntEnum):
    """Whose push service knows the token."""

    APNS = 1
    FCM = 2
    LOOPBACK = 255
    """A socket beside the gateway, for trying out."""


@dataclass(frozen=True, slots=True)
class PushToken:
    """Where a device can be woken. Its repr hides the token."""

    platform: Platform
    token: bytes

    def __repr__(self) -> str:
        return f"PushToken({self.platform.name}, hidden)"


def encode(push_token: PushToken, *, audience: str, expires_ms: int) -> bytes:
    """The 512 bytes that are sealed; FormatError for an empty token, or a longer one than fits."""
    token = push_token.token
    if not 1 <= len(token) <= TOKEN_BYTES_MAX:
        raise FormatError("length", f"a push token has 1 to {TOKEN_BYTES_MAX} bytes")
    head = pack(
        _HEAD,
        _MAGIC,
        _SUITE,
        push_token.platform,
        0,
        audience_hash(audience),
        expires_ms,
        len(token),
    )
    return (head + token).ljust(PLAIN_BYTES, b"\0")


def seal(gateway: Recipient, push_token: PushToken, *, audience: str, expires_ms: int) -> bytes:
    """A handle, 560 bytes; another one each time, so that nobody but the gateway can tell that
    two hold one token. FormatError for a key of low order."""
    refuse_low_order(gateway.box_pk)
    return gateway.seal(encode(push_token, audience=audience, expires_ms=expires_ms))


class GatewayKey:
    """The push gateway's X25519 key, which opens handles. repr shows the public half only."""

    __slots__ = ("_sk", "public")

    def __init__(self, secret: bytes) -> None:
        self._sk = need("gateway key", secret, KEY_BYTES)
        self.public = box_public(secret)

    def open(self, handle: bytes, *, audience: str, now_ms: int) -> PushToken:
        """The token in a handle that the service of this audience may use until later than now.

        OpenError if it isn't for this key, FormatError for a wrong form, SignatureError for
        another deployment's or one that has ended.
        """
        if len(handle) != HANDLE_BYTES:
            raise OpenError
        plain = seal_open(self._sk, self.public, handle)
        magic, suite, platform, flags, bound, expires_ms, size = _HEAD.unpack_from(plain)
        if (magic, suite, flags) != (_MAGIC, _SUITE, 0):
            raise FormatError("handle", "not a wake handle of this suite")
        if platform not in set(Platform):
            raise FormatError("platform", "unknown platform")
        if not 1 <= size <= TOKEN_BYTES_MAX:
            raise FormatError("length", "the token's length does not fit")
        end = _HEAD.size + size
        if plain.count(0, end) != PLAIN_BYTES - end:
            raise FormatError("padding", "padding must be zero")
        if not equal(bound, audience_hash(audience)):
            raise SignatureError("audience", "the handle is for another deployment")
        if expires_ms <= now_ms:
            raise SignatureError("expired", "the handle has ended")
        return PushToken(Platform(platform), plain[_HEAD.size : end])

    def __repr__(self) -> str:
        return f"GatewayKey(public {self.public.hex()}, secret hidden)"
