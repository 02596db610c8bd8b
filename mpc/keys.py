"""Keys of those who are no device: the publisher of tasks, and the parties."""

from __future__ import annotations

from crypto.primitives import sign, sign_keypair


class _Signer:
    __slots__ = ("_sk", "public")

    def __init__(self, seed: bytes) -> None:
        self.public, self._sk = sign_keypair(seed)

    def sign(self, label: bytes, message: bytes) -> bytes:
        """`SIG(sk, L, m)`, 64 bytes."""
        return sign(self._sk, label, message)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(public {self.public[:4].hex()}…, secret hidden)"


class PublisherKey(_Signer):
    """The Ed25519 key that signs tasks; devices pin its public half."""

    __slots__ = ()


class PartyKey(_Signer):
    """A party's Ed25519 identity key; devices, analysts and other parties pin its public half."""

    __slots__ = ()
