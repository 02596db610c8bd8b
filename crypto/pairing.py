"""Pairing: the existing device E shows a code, the new device N reads it (docs/protocol.md, 1.8).

The 256-bit secret in the QR authenticates both sides. The six digits, shown on N and typed
on E, are bound by a commitment that N made before it saw E's nonce: who only stole the QR
has one guess in 10^6. They bind the policy that N is put under, too. What this does not give:
protection of somebody who types digits that a stranger reads out to them.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from crypto import labels
from crypto.cert import CERT_BYTES, DeviceCert
from crypto.errors import FormatError, SignatureError
from crypto.ids import AccountId, DeviceId, LinkHash
from crypto.link import ADD_BYTES
from crypto.primitives import (
    AEAD_NONCE_BYTES,
    KEY_BYTES,
    aead_open,
    aead_seal,
    ds,
    equal,
    hash_,
    need,
    pack,
    prf,
)

INVITE_BYTES = 149
MESSAGE_BYTES_MAX = 8192
LIFETIME_MS = 300_000
RENDEZVOUS_BYTES = 16
SECRET_BYTES = 32
TYPED_BYTES = 16
TYPED_CHARS = 26
POLICY_KEYS_MAX = 4
_INVITE = struct.Struct(">4sB32s16s16s32sQQ32s")
_U64 = struct.Struct(">Q")
_MAGIC, _SUITE = b"PSP1", 1
_POLICY = b"PSG1"
_BASE45 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"


@dataclass(frozen=True, slots=True)
class Invite:
    """What the QR says. repr hides the secret."""

    account_id: AccountId
    inviter: DeviceId
    rendezvous: bytes
    secret: bytes
    expiry_ms: int
    chain_seq: int
    chain_head: LinkHash

    def __repr__(self) -> str:
        return f"Invite(account {self.account_id!r}, secret hidden)"

    def encode(self) -> bytes:
        """The 149 bytes of the QR."""
        return pack(
            _INVITE,
            _MAGIC,
            _SUITE,
            self.account_id,
            self.inviter,
            need("rendezvous", self.rendezvous, RENDEZVOUS_BYTES),
            need("QR secret", self.secret, SECRET_BYTES),
            self.expiry_ms,
            self.chain_seq,
            self.chain_head,
        )

    @classmethod
    def decode(cls, data: bytes) -> Invite:
        """Strict; FormatError otherwise."""
        need("invite", data, INVITE_BYTES)
        magic, suite, account, inviter, rendezvous, secret, expiry, seq, head = _INVITE.unpack(data)
        if (magic, suite) != (_MAGIC, _SUITE):
            raise FormatError("invite", "not a pairing code of this version")
        return cls(
            AccountId(account), DeviceId(inviter), rendezvous, secret, expiry, seq, LinkHash(head)
        )

    def text(self) -> str:
        """Base45 (RFC 9285): the QR's alphanumeric mode holds it in the fewest modules."""
        return base45_encode(self.encode())

    @classmethod
    def from_text(cls, text: str) -> Invite:
        """Reads base45 or base64url; FormatError otherwise."""
        text = text.strip()
        try:
            return cls.decode(base45_decode(text))
        except FormatError:
            return cls.decode(base64url_decode(text))


class M2(NamedTuple):
    """What E answers N with. repr hides the nonce."""

    e_nonce: bytes
    link: bytes
    """The ADD link that N proves possession over."""
    policy_keys: tuple[bytes, ...]
    """Whose policies E is under, and N from its first moment on; none: E is not governed."""

    def __repr__(self) -> str:
        return f"M2({len(self.policy_keys)} policy keys, nonce hidden)"


class PairingKeys:
    """The keys of one pairing, one each way. repr hides them."""

    __slots__ = ("_k_en", "_k_ne", "_rendezvous", "_secret", "refusal_rendezvous")

    def __init__(self, invite: Invite) -> None:
        context = (
            invite.rendezvous + invite.account_id + invite.inviter + pack(_U64, invite.expiry_ms)
        )
        okm = prf(invite.secret, labels.PAIR_KEYS, context, 64)
        self._k_ne, self._k_en = okm[:32], okm[32:]
        self._secret = invite.secret
        self._rendezvous = invite.rendezvous
        self.refusal_rendezvous = prf(
            invite.secret, labels.PAIR_REFUSAL_RENDEZVOUS, invite.rendezvous, RENDEZVOUS_BYTES
        )

    def __repr__(self) -> str:
        return "PairingKeys(hidden)"

    def _seal(self, key: bytes, label: bytes, nonce: bytes, plain: bytes) -> bytes:
        return nonce + aead_seal(key, nonce, ds(label) + self._rendezvous, plain)

    def _open(self, key: bytes, label: bytes, message: bytes) -> bytes:
        nonce, ct = message[:AEAD_NONCE_BYTES], message[AEAD_NONCE_BYTES:]
        return aead_open(key, nonce, ds(label) + self._rendezvous, ct)

    def seal_refusal(self, *, aead_nonce: bytes) -> bytes:
        """E to N: this pairing is over. Message 1 of the mailbox `refusal_rendezvous`."""
        return self._seal(self._k_en, labels.PAIR_REFUSAL, aead_nonce, b"")

    def open_refusal(self, message: bytes) -> None:
        """OpenError or FormatError if E didn't say so."""
        plain = self._open(self._k_en, labels.PAIR_REFUSAL, message)
        need("refusal", plain, 0)

    def seal_m1(self, cert: DeviceCert, n_nonce: bytes, *, aead_nonce: bytes) -> bytes:
        """N to E: who I am, and a commitment to my nonce."""
        plain = cert.encode() + commitment(n_nonce)
        return self._seal(self._k_ne, labels.PAIR_1, aead_nonce, plain)

    def open_m1(self, message: bytes) -> tuple[DeviceCert, bytes]:
        """(N's certificate, commitment)."""
        plain = self._open(self._k_ne, labels.PAIR_1, message)
        need("message 1", plain, CERT_BYTES + 32)
        return DeviceCert.decode(plain[:CERT_BYTES]), plain[CERT_BYTES:]

    def seal_m2(
        self, e_nonce: bytes, link: bytes, *, policy_keys: Sequence[bytes] = (), aead_nonce: bytes
    ) -> bytes:
        """E to N: my nonce, the ADD link that N proves possession over, and whose policies N is
        put under."""
        plain = need("nonce", e_nonce, 32) + link + _encode_policy(policy_keys)
        return self._seal(self._k_en, labels.PAIR_2, aead_nonce, plain)

    def open_m2(self, message: bytes) -> M2:
        """What E said; the link's bytes are still to be judged."""
        plain = self._open(self._k_en, labels.PAIR_2, message)
        end = 32 + ADD_BYTES
        if len(plain) < end:
            raise FormatError("length", "message 2 is cut off")
        return M2(plain[:32], plain[32:end], _decode_policy(plain[end:]))

    def seal_m3(self, n_nonce: bytes, pop: bytes, *, aead_nonce: bytes) -> bytes:
        """N to E: my nonce, opened, and the proof of possession."""
        plain = need("nonce", n_nonce, 32) + need("pop", pop, 64)
        return self._seal(self._k_ne, labels.PAIR_3, aead_nonce, plain)

    def open_m3(self, message: bytes, committed: bytes) -> tuple[bytes, bytes]:
        """(N's nonce, pop); SignatureError if the nonce is not the one committed to."""
        plain = need("message 3", self._open(self._k_ne, labels.PAIR_3, message), 96)
        if not equal(commitment(plain[:32]), committed):
            raise SignatureError("pair-commit", "the nonce is not the one committed to")
        return plain[:32], plain[32:]

    def code(
        self, m1: bytes, e_nonce: bytes, n_nonce: bytes, policy_keys: Sequence[bytes] = ()
    ) -> str:
        """Six digits, shown on N and typed on E, one attempt. Bound to the policy keys as well:
        who stole the QR can't take N out of E's policy, or put it under another one."""
        seed = hash_(labels.PAIR_M1, m1) + need("nonce", e_nonce, 32) + need("nonce", n_nonce, 32)
        if policy_keys:
            seed += hash_(labels.PAIR_POLICY, _encode_policy(policy_keys))
        number = int.from_bytes(prf(self._secret, labels.PAIR_CODE, seed, 16)[:8], "big")
        return f"{number % 1_000_000:06d}"


def _encode_policy(keys: Sequence[bytes]) -> bytes:
    """Nothing if there is no key: M2 is then as it was before there were policies."""
    if not keys:
        return b""
    _check_policy(keys)
    return _POLICY + bytes((len(keys),)) + b"".join(keys)


def _decode_policy(data: bytes) -> tuple[bytes, ...]:
    """Strict; FormatError otherwise."""
    if not data:
        return ()
    head, keys = data[: len(_POLICY)], data[len(_POLICY) + 1 :]
    if head != _POLICY or len(data) <= len(_POLICY):
        raise FormatError("pair-policy", "what follows the link is no list of policy keys")
    need("policy keys", keys, data[len(_POLICY)] * KEY_BYTES)
    found = tuple(keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES))
    _check_policy(found)
    return found


def _check_policy(keys: Sequence[bytes]) -> None:
    for key in keys:
        need("policy key", key, KEY_BYTES)
    if not 1 <= len(keys) <= POLICY_KEYS_MAX or len(set(keys)) < len(keys):
        raise FormatError("pair-policy", f"there are 1 to {POLICY_KEYS_MAX} different policy keys")


def commitment(n_nonce: bytes) -> bytes:
    """`H("pss1/pair-commit", n_nonce[32])`."""
    return hash_(labels.PAIR_COMMIT, need("nonce", n_nonce, 32))


class TypedInvite:
    """The fallback without a camera: 26 characters name a mailbox that holds the invite.

    The invite is sealed under the 128-bit secret, so the pairing that follows is the same.
    """

    __slots__ = ("_key", "_secret", "rendezvous")

    def __init__(self, secret: bytes) -> None:
        self._secret = need("typed secret", secret, TYPED_BYTES)
        root = hash_(labels.PAIR_TYPED, secret)
        self.rendezvous = prf(root, labels.PAIR_TYPED_RENDEZVOUS, b"", RENDEZVOUS_BYTES)
        self._key = prf(root, labels.PAIR_TYPED_KEY, b"")

    def __repr__(self) -> str:
        return "TypedInvite(hidden)"

    @property
    def text(self) -> str:
        """26 characters of base32, in groups to read out."""
        chars = base64.b32encode(self._secret).decode("ascii").rstrip("=")
        return " ".join(chars[at : at + 4] for at in range(0, len(chars), 4))

    @classmethod
    def from_text(cls, text: str) -> TypedInvite:
        """Reads what a person typed: blanks, dashes and case don't matter."""
        return cls(base32_decode(text, TYPED_CHARS, "pairing code"))

    def seal(self, invite: Invite, *, aead_nonce: bytes) -> bytes:
        """The message to leave in the mailbox."""
        ad = ds(labels.PAIR_TYPED) + self.rendezvous
        return aead_nonce + aead_seal(self._key, aead_nonce, ad, invite.encode())

    def open(self, message: bytes) -> Invite:
        """The invite from the mailbox; OpenError or FormatError."""
        ad = ds(labels.PAIR_TYPED) + self.rendezvous
        nonce, ct = message[:AEAD_NONCE_BYTES], message[AEAD_NONCE_BYTES:]
        return Invite.decode(aead_open(self._key, nonce, ad, ct))


def base32_decode(text: str, chars: int, what: str) -> bytes:
    """Typed base32 of a known length, canonical; FormatError says what to look at."""
    typed = "".join(text.split()).replace("-", "").upper()
    if len(typed) != chars:
        raise FormatError("typed", f"a {what} has {chars} characters, not {len(typed)}")
    padded = typed + "=" * (-len(typed) % 8)
    try:
        data = base64.b32decode(padded)
    except (binascii.Error, ValueError):
        raise FormatError("typed", f"a {what} only has the letters A-Z and 2-7") from None
    if base64.b32encode(data).decode("ascii") != padded:
        raise FormatError("typed", f"the {what} has a typing error at its end")
    return data


def base64url_decode(text: str) -> bytes:
    """Base64url without padding; FormatError otherwise."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise FormatError("base64", "not base45 or base64url") from None


def base45_encode(data: bytes) -> str:
    """RFC 9285."""
    out = []
    for at in range(0, len(data), 2):
        pair = data[at : at + 2]
        number = int.from_bytes(pair, "big")
        for _ in range(len(pair) + 1):
            number, digit = divmod(number, 45)
            out.append(_BASE45[digit])
    return "".join(out)


def base45_decode(text: str) -> bytes:
    """RFC 9285; FormatError otherwise."""
    out = bytearray()
    for at in range(0, len(text), 3):
        digits = [_BASE45.find(char) for char in text[at : at + 3]]
        number = sum(digit * 45**place for place, digit in enumerate(digits))
        width = len(digits) - 1
        if width < 1 or -1 in digits or number >= 1 << (8 * width):
            raise FormatError("base45", "not base45")
        out += number.to_bytes(width, "big")
    return bytes(out)
