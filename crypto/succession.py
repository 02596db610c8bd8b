"""Successions: a service's identity key names the one that follows it (docs/protocol.md, 1.10).

Signed by both keys: the old one vouches for the new one, and the new one is not made the
successor of a key that its holder does not know.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from crypto import labels
from crypto.errors import ChainError, FormatError
from crypto.primitives import (
    KEY_BYTES,
    SIG_BYTES,
    equal,
    need,
    pack,
    sign as sign_raw,
    sign_keypair,
    verify,
)
from crypto.request import audience_hash

BODY_BYTES = 104
SUCCESSION_BYTES = BODY_BYTES + 2 * SIG_BYTES
SUCCESSIONS_MAX = 64
_BODY = struct.Struct(">4sB3s16s32s32sQQ")
_MAGIC, _SUITE = b"PSK1", 1


@dataclass(frozen=True, slots=True)
class Succession:
    """`new` takes the place of `old`, whose receipts count until `until_ms` for those who know."""

    old: bytes
    new: bytes
    made_ms: int
    until_ms: int

    def encode(self, audience: str) -> bytes:
        """The 104 signed bytes."""
        return pack(
            _BODY,
            _MAGIC,
            _SUITE,
            bytes(3),
            audience_hash(audience),
            need("key", self.old, KEY_BYTES),
            need("key", self.new, KEY_BYTES),
            self.made_ms,
            self.until_ms,
        )


def make(old_seed: bytes, new_seed: bytes, *, audience: str, made_ms: int, until_ms: int) -> bytes:
    """`body[104] | SIG(old) | SIG(new)`, each under a label of its own."""
    (old, old_sk), (new, new_sk) = sign_keypair(old_seed), sign_keypair(new_seed)
    body = Succession(old, new, made_ms, until_ms).encode(audience)
    return (
        body
        + sign_raw(old_sk, labels.SUCCESSION_OLD, body)
        + sign_raw(new_sk, labels.SUCCESSION_NEW, body)
    )


def open_(data: bytes, *, audience: str) -> Succession:
    """Verifies both signatures; FormatError (form, deployment, times, one key twice) or
    SignatureError."""
    need("succession", data, SUCCESSION_BYTES)
    body, sigs = data[:BODY_BYTES], data[BODY_BYTES:]
    magic, suite, reserved, hashed, old, new, made_ms, until_ms = _BODY.unpack(body)
    if (magic, suite, reserved) != (_MAGIC, _SUITE, bytes(3)):
        raise FormatError("succession", "not a succession of this suite")
    if not equal(hashed, audience_hash(audience)):
        raise FormatError("audience", "the succession is of another deployment")
    if old == new or until_ms < made_ms:
        raise FormatError("succession", "a key follows itself, or its end is before its time")
    verify(old, labels.SUCCESSION_OLD, body, sigs[:SIG_BYTES])
    verify(new, labels.SUCCESSION_NEW, body, sigs[SIG_BYTES:])
    return Succession(old, new, made_ms, until_ms)


def follow(pinned: bytes, statements: Iterable[bytes], *, audience: str) -> list[Succession]:
    """The successions that lead from a pinned key on, in their order; empty if it has none.

    What does not bear on the pinned key is not looked at: it may be older than this device.
    ChainError where a key has two successors, or one that was there before; FormatError or
    SignatureError of a statement on the way.
    """
    by_old: dict[bytes, set[bytes]] = {}
    for number, data in enumerate(statements):
        if number == SUCCESSIONS_MAX:
            raise FormatError("successions", f"more than {SUCCESSIONS_MAX} successions")
        need("succession", data, SUCCESSION_BYTES)
        by_old.setdefault(data[24 : 24 + KEY_BYTES], set()).add(data)
    path: list[Succession] = []
    at, seen = pinned, {pinned}
    while following := by_old.get(at):
        opened = [open_(data, audience=audience) for data in sorted(following)]
        if len({row.new for row in opened}) > 1:
            raise ChainError("succession-fork", "one key of the service has two successors")
        step = opened[-1]
        if step.new in seen:
            raise ChainError("succession-loop", "a key of the service follows itself")
        seen.add(step.new)
        path.append(step)
        at = step.new
    return path
