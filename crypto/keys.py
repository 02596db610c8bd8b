"""A device's keys: `Identity` can sign and open, `Recipient` can only seal."""

from __future__ import annotations

from crypto import labels
from crypto.ids import DeviceId
from crypto.primitives import (
    KEY_BYTES,
    box_public,
    hash_,
    need,
    seal,
    seal_open,
    sign,
    sign_keypair,
)


def device_id(ik_pk: bytes) -> DeviceId:
    """`H("pss1/device-id", ik_pk, 16)` (docs/protocol.md, 1)."""
    return DeviceId(hash_(labels.DEVICE_ID, need("ik_pk", ik_pk, KEY_BYTES), DeviceId.size))


class Recipient:
    """A device's public box key. It can seal to that device and do nothing else.

    A sealed box authenticates nobody and binds no context; only signed, context-bound
    grants (`crypto.grant`) travel in one.
    """

    __slots__ = ("box_pk",)

    def __init__(self, box_pk: bytes) -> None:
        self.box_pk = need("box public key", box_pk, KEY_BYTES)

    def seal(self, plain: bytes) -> bytes:
        """Sealed box, 48 bytes longer than `plain`."""
        return seal(self.box_pk, plain)

    def __repr__(self) -> str:
        return f"Recipient({self.box_pk[:4].hex()}…)"


class Identity:
    """A device's own secret keys: Ed25519 seed (`ik`) and X25519 secret key (`bk`).

    repr and str show public halves only.
    """

    __slots__ = ("_box_sk", "_sign_sk", "box_pk", "device_id", "ik_pk")

    def __init__(self, ik_seed: bytes, box_sk: bytes) -> None:
        self.ik_pk, self._sign_sk = sign_keypair(ik_seed)
        self._box_sk = need("box secret key", box_sk, KEY_BYTES)
        self.box_pk = box_public(box_sk)
        self.device_id = device_id(self.ik_pk)

    @property
    def ik_seed(self) -> bytes:
        """The secret Ed25519 seed, for the keystore alone."""
        return self._sign_sk[:KEY_BYTES]

    @property
    def box_sk(self) -> bytes:
        """The secret X25519 key, for the keystore alone."""
        return self._box_sk

    def sign(self, label: bytes, message: bytes) -> bytes:
        """`SIG(ik, L, m)`, 64 bytes."""
        return sign(self._sign_sk, label, message)

    def open(self, sealed: bytes) -> bytes:
        """Opens a sealed box; OpenError for every cause."""
        return seal_open(self._box_sk, self.box_pk, sealed)

    def with_box_key(self, box_sk: bytes) -> Identity:
        """The same device with a new box key (REBOX)."""
        return Identity(self.ik_seed, box_sk)

    def __repr__(self) -> str:
        return f"Identity(device {self.device_id[:4].hex()}…, secrets hidden)"
