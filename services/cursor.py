"""Cursor tokens: opaque to clients, bound to generation and owner: an account, or a round.

`generation[8] | position u64 | MAC[16]`, MAC = PRF(store secret, "pss1/cursor",
owner || generation || position, 16). Owners are hashes of 32 bytes under labels of their own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from crypto import labels
from crypto.primitives import equal, prf
from services.errors import CursorInvalid, GenerationChanged

_BODY = struct.Struct(">8sQ")
MAC_BYTES = 16
CURSOR_BYTES = _BODY.size + MAC_BYTES


class Cursors:
    """Makes and reads the tokens of one store, whose generation may change while it is open."""

    __slots__ = ("_generation", "_secret")

    def __init__(self, secret: bytes, generation: Callable[[], bytes]) -> None:
        self._secret = secret
        self._generation = generation

    @property
    def generation(self) -> bytes:
        """As of now. What was read before it changed is sealed with the one of then."""
        return self._generation()

    def __repr__(self) -> str:
        return "Cursors(secret hidden)"

    def seal(self, owner: bytes, position: int, generation: bytes | None = None) -> bytes:
        """The token of a position, which was read in this generation."""
        body = _BODY.pack(generation or self._generation(), position)
        return body + prf(self._secret, labels.CURSOR, owner + body, MAC_BYTES)

    def open(self, owner: bytes, token: bytes) -> int:
        """The position; 0 for the empty token. CursorInvalid, GenerationChanged.

        The MAC is checked first: that the generation changed is only said of a token that
        this service made for this owner.
        """
        if not token:
            return 0
        if len(token) != CURSOR_BYTES:
            raise CursorInvalid
        body, mac = token[: _BODY.size], token[_BODY.size :]
        if not equal(mac, prf(self._secret, labels.CURSOR, owner + body, MAC_BYTES)):
            raise CursorInvalid
        generation, position = _BODY.unpack(body)
        if generation != self._generation():
            raise GenerationChanged
        return int(position)
