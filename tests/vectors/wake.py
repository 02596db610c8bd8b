"""Wake handles: positives of the section `more`, and handles that a gateway refuses."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from client.vectors.sealed import seal_with
from crypto import wake
from crypto.request import audience_hash
from crypto.wake import GatewayKey, Platform, PushToken
from tests.vectors.story import START_MS, Row, seeded

AUDIENCE = "sync.example.org"
EXPIRES_MS = START_MS + 90 * 86_400_000
_HEAD = struct.Struct(">4sBBH16sQH")


def positives() -> dict[str, list[Row]]:
    """A short token, a usual one and the longest."""
    tokens = (
        PushToken(Platform.APNS, seeded("apns token")),
        PushToken(Platform.FCM, seeded("fcm token", 76).hex().encode()),
        PushToken(Platform.LOOPBACK, seeded("long token", wake.TOKEN_BYTES_MAX)),
    )
    return {"wake_handles": [_row(token) for token in tokens]}


def _row(token: PushToken) -> Row:
    key, ephemeral = seeded("gateway"), seeded(f"wake/{token.platform}")
    plain = wake.encode(token, audience=AUDIENCE, expires_ms=EXPIRES_MS)
    return {
        "gateway_sk": key.hex(),
        "gateway_pk": GatewayKey(key).public.hex(),
        "audience": AUDIENCE,
        "now_ms": START_MS,
        "expires_ms": EXPIRES_MS,
        "platform": int(token.platform),
        "token": token.token.hex(),
        "plain": plain.hex(),
        "esk": ephemeral.hex(),
        "handle": seal_with(ephemeral, GatewayKey(key).public, plain).hex(),
    }


def negatives(true: Row) -> Iterator[Row]:
    """What a gateway must not take; `true` is a handle that it takes."""
    handle, plain = bytes.fromhex(true["handle"]), bytes.fromhex(true["plain"])
    gateway_pk = bytes.fromhex(true["gateway_pk"])
    size = len(bytes.fromhex(true["token"]))

    def head(**other: bytes | int) -> bytes:
        fields = {
            "magic": b"PSW1", "suite": 1, "platform": true["platform"], "flags": 0,
            "audience": audience_hash(AUDIENCE), "expires_ms": EXPIRES_MS, "size": size,
        }  # fmt: skip
        return _HEAD.pack(*(fields | other).values())

    rest = plain[_HEAD.size :]
    sealed = {
        "other magic": ("handle", head(magic=b"PSW2") + rest),
        "unknown suite": ("handle", head(suite=2) + rest),
        "flags set": ("handle", head(flags=1) + rest),
        "unknown platform": ("platform", head(platform=9) + rest),
        "platform 0": ("platform", head(platform=0) + rest),
        "token empty": ("length", head(size=0) + rest),
        "token longer than its place": ("length", head(size=len(rest) + 1) + rest),
        "token shorter than it is": ("padding", head(size=size - 1) + rest),
        "padding not zero": ("padding", plain[:-1] + b"\1"),
        "for another deployment": ("audience", head(audience=audience_hash("else")) + rest),
        "ended": ("expired", head(expires_ms=START_MS) + rest),
    }
    for name, (why, bad) in sealed.items():
        yield _refused(true, name, why, seal_with(seeded(f"wake/{name}"), gateway_pk, bad))
    for name, bad in {
        "plain cut off": seal_with(seeded("wake/cut"), gateway_pk, plain[:-1]),
        "plain prolonged": seal_with(seeded("wake/long"), gateway_pk, plain + b"\0"),
        "cut off": handle[:-1],
        "prolonged": handle + b"\0",
        "empty": b"",
        "zeros": bytes(len(handle)),
        "first bit flipped": bytes((handle[0] ^ 0x80,)) + handle[1:],
        "last bit flipped": handle[:-1] + bytes((handle[-1] ^ 1,)),
        "for another gateway": seal_with(
            seeded("wake/other"), GatewayKey(seeded("other")).public, plain
        ),
    }.items():
        yield _refused(true, name, "open", bad)


def _refused(true: Row, name: str, why: str, handle: bytes) -> Row:
    return {
        **{field: true[field] for field in ("gateway_sk", "audience", "now_ms")},
        "name": f"wake handle: {name}",
        "kind": "wake-handle",
        "expect": "reject",
        "why": why,
        "handle": handle.hex(),
    }
