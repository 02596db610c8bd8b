"""Keys of those who are no device: publishers of tasks, analysts, parties, and services."""

from __future__ import annotations

from crypto.keys import device_id
from crypto.primitives import sign, sign_keypair


class _Signer:
    __slots__ = ("_sk", "device_id", "public")

    def __init__(self, seed: bytes) -> None:
        self.public, self._sk = sign_keypair(seed)
        # By what a service finds the key of a signed call (crypto.request.Caller).
        self.device_id = device_id(self.public)

    def sign(self, label: bytes, message: bytes) -> bytes:
        """`SIG(sk, L, m)`, 64 bytes."""
        return sign(self._sk, label, message)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(public {self.public[:4].hex()}…, secret hidden)"


class PublisherKey(_Signer):
    """The Ed25519 key that signs tasks; devices pin its public half."""

    __slots__ = ()


class AnalystKey(_Signer):
    """The Ed25519 key of one who may read tasks, rounds and results; it signs calls alone."""

    __slots__ = ()


class PartyKey(_Signer):
    """A party's Ed25519 identity key; devices, analysts and other parties pin its public half."""

    __slots__ = ()


class ServiceKey(_Signer):
    """The Ed25519 key by which a push gateway knows a service; it signs calls alone. Another one
    than the identity key that signs receipts."""

    __slots__ = ()
