"""Epoch keys and what is derived from them (docs/protocol.md, 1.4 and 2)."""

from __future__ import annotations

import struct

from crypto import labels
from crypto.errors import FormatError
from crypto.ids import AccountId
from crypto.primitives import KEY_BYTES, hash_, need, prf

_U32 = struct.Struct(">I")


def u32(value: int) -> bytes:
    """Four bytes, big-endian; FormatError if it doesn't fit."""
    if not 0 <= value < 1 << 32:
        raise FormatError("range", "value does not fit 32 bits")
    return _U32.pack(value)


class EpochKeys:
    """One epoch's secret key and the three that it is used through. Hides them in repr."""

    __slots__ = ("_ek", "account_id", "epoch", "nonce", "record", "tag")

    def __init__(self, account_id: AccountId, epoch: int, ek: bytes) -> None:
        context = AccountId.of(account_id) + u32(epoch)
        self._ek = need("epoch key", ek, KEY_BYTES)
        self.account_id = account_id
        self.epoch = epoch
        self.record = prf(ek, labels.K_RECORD, context)
        self.tag = prf(ek, labels.K_TAG, context)
        self.nonce = prf(ek, labels.K_NONCE, context)

    @property
    def secret(self) -> bytes:
        """The epoch key itself, for grants and the keystore alone."""
        return self._ek

    @property
    def commitment(self) -> bytes:
        """What the chain says of this key."""
        return commitment(self.epoch, self._ek)

    def __repr__(self) -> str:
        return f"EpochKeys(epoch {self.epoch}, secrets hidden)"


def commitment(epoch: int, ek: bytes) -> bytes:
    """`ek_commit = H("pss1/ek-commit", u32 epoch || EK)`, 32 bytes."""
    return hash_(labels.EK_COMMIT, u32(epoch) + need("epoch key", ek, KEY_BYTES))


def generate(rand: bytes, ik_seed: bytes) -> bytes:
    """A new epoch key from 32 random bytes, hedged with the device's own secret.

    The hedge keeps a weak random generator from giving the key away; nobody else sees it.
    """
    return prf(need("rand", rand, KEY_BYTES), labels.EK_GEN, need("seed", ik_seed, KEY_BYTES))
