"""How two parties prove to each other who they are, and agree on the keys of one stream.

Pure: bytes in, bytes out, randomness an argument. Each side sends an ephemeral X25519 key (the
`nonce` of LinkHello), then signs both identity keys and both ephemeral keys with its pinned
identity key. A proof is good for one stream only, and who terminates TLS in between sees
neither shares nor control messages. Normative: rookery/v1/parties.proto, Link.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from crypto import labels
from crypto.errors import FormatError, SignatureError
from crypto.primitives import (
    KEY_BYTES,
    aead_open,
    aead_seal,
    box_public,
    box_shared,
    need,
    prf,
    verify,
)
from mpc.keys import PartyKey

_NONCE = struct.Struct(">16xQ")
_HEAD = struct.Struct(">16sIQ")
ROUND_ID_BYTES = 16


class Side(IntEnum):
    """Who opened the stream."""

    DIALER = 1
    ACCEPTOR = 2

    @property
    def other(self) -> Side:
        """The other side."""
        return Side.ACCEPTOR if self is Side.DIALER else Side.DIALER


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a side."""

    ik: bytes
    nonce: bytes

    def __post_init__(self) -> None:
        need("identity key", self.ik, KEY_BYTES)
        need("link nonce", self.nonce, KEY_BYTES)


class Handshake:
    """One side of one stream, up to its keys."""

    __slots__ = ("_key", "_secret", "hello", "side")

    def __init__(self, key: PartyKey, side: Side, ephemeral: bytes) -> None:
        self.side = side
        self._key = key
        self._secret = need("ephemeral key", ephemeral, KEY_BYTES)
        self.hello = Hello(key.public, box_public(ephemeral))

    def __repr__(self) -> str:
        return f"Handshake({self.side.name}, secrets hidden)"

    def _said(self, peer: Hello) -> bytes:
        dialer, acceptor = (self.hello, peer) if self.side is Side.DIALER else (peer, self.hello)
        return dialer.ik + acceptor.ik + dialer.nonce + acceptor.nonce

    def check(self, peer: Hello) -> None:
        """FormatError for what can't be a peer: this party itself."""
        if peer.ik == self.hello.ik or peer.nonce == self.hello.nonce:
            raise FormatError("reflection", "the peer sent back what it was sent")

    def proof(self, peer: Hello) -> bytes:
        """The signature that this side sends."""
        return self._key.sign(labels.PARTY_LINK_PROOF, bytes((self.side,)) + self._said(peer))

    def finish(self, peer: Hello, proof: bytes) -> Session:
        """The stream's keys; SignatureError unless the peer holds its identity key now."""
        self.check(peer)
        verify(
            peer.ik, labels.PARTY_LINK_PROOF, bytes((self.side.other,)) + self._said(peer), proof
        )
        shared = box_shared(self._secret, peer.nonce)
        keys = {
            side: prf(shared, labels.PARTY_LINK_KEY, bytes((side,)) + self._said(peer))
            for side in Side
        }
        return Session(seal=keys[self.side], open_=keys[self.side.other])


class Session:
    """Seals what is sent and opens what comes, each in its order. repr hides the keys."""

    __slots__ = ("_open", "_opened", "_seal", "_sealed")

    def __init__(self, *, seal: bytes, open_: bytes) -> None:
        self._seal, self._open = seal, open_
        self._sealed = self._opened = 0

    def __repr__(self) -> str:
        return "Session(keys hidden)"

    def seal(self, round_id: bytes, channel: int, counter: int, plain: bytes) -> bytes:
        """The next payload to send, 16 bytes longer; bound to its head and its place."""
        sealed = aead_seal(
            self._seal, _NONCE.pack(self._sealed), _HEAD.pack(round_id, channel, counter), plain
        )
        self._sealed += 1
        return sealed

    def open(self, round_id: bytes, channel: int, counter: int, sealed: bytes) -> bytes:
        """The next payload; SignatureError or OpenError if anything was changed, left out,
        repeated or moved."""
        if len(round_id) != ROUND_ID_BYTES:
            raise SignatureError("frame", "a frame must name a round")
        head = _HEAD.pack(round_id, channel, counter)
        plain = aead_open(self._open, _NONCE.pack(self._opened), head, sealed)
        self._opened += 1
        return plain
