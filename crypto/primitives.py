"""Every use of a cryptographic primitive (docs/protocol.md, 1): nothing else calls PyNaCl.

PyNaCl's bindings don't check every length and raise several error types; here lengths are
checked first and one family of errors comes out.
"""

from __future__ import annotations

import hmac
import re
import struct
from functools import lru_cache
from hashlib import blake2b

import nacl.bindings as sodium
import nacl.exceptions

from crypto.errors import FormatError, OpenError, SignatureError

KEY_BYTES = 32
SIG_BYTES = 64
AEAD_TAG_BYTES = 16
AEAD_NONCE_BYTES = 24
SEAL_BYTES = 48
SALT_BYTES = sodium.crypto_pwhash_SALTBYTES
PASSPHRASE_OPS = sodium.crypto_pwhash_argon2id_OPSLIMIT_MODERATE
PASSPHRASE_MEMORY_BYTES = sodium.crypto_pwhash_argon2id_MEMLIMIT_MODERATE
"""libsodium's "moderate": 3 passes over 256 MiB, about a second on a phone."""
_FIELD = re.compile(r"([0-9]*)([a-zA-Z])")
_ALL_ONES_SCALAR = b"\x01" * KEY_BYTES


@lru_cache(maxsize=256)
def ds(label: bytes) -> bytes:
    """`u8(len L) || L`, the prefix that keeps one use apart from every other."""
    return bytes((len(label),)) + label


def need(name: str, data: bytes, size: int) -> bytes:
    """`data`, if it is `size` bytes long; FormatError otherwise."""
    if len(data) != size:
        raise FormatError("length", f"{name} must be {size} bytes, not {len(data)}")
    return data


@lru_cache(maxsize=64)
def _widths(form: str) -> tuple[int, ...]:
    return tuple(int(width or 1) if code == "s" else 0 for width, code in _FIELD.findall(form))


def pack(form: struct.Struct, *values: int | bytes) -> bytes:
    """`form.pack`, but FormatError for a number that doesn't fit or bytes of a wrong length.

    `struct` itself cuts off or fills up bytes in silence.
    """
    for value, width in zip(values, _widths(form.format), strict=True):
        if isinstance(value, bytes):
            need("field", value, width)
    try:
        return form.pack(*values)
    except struct.error:
        raise FormatError("range", "a number does not fit its field") from None


def utf8(text: str) -> bytes:
    """The text's bytes; FormatError for lone surrogates, which have none."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise FormatError("text", "the text can't be written as UTF-8") from None


def hash_(label: bytes, message: bytes, size: int = 32) -> bytes:
    """`H(L, m, n)`: BLAKE2b of `size` bytes (1..64) without key."""
    hashing = blake2b(ds(label), digest_size=size)
    hashing.update(message)
    return hashing.digest()


def prf(key: bytes, label: bytes, message: bytes, size: int = 32) -> bytes:
    """`PRF(k, L, m, n)`: BLAKE2b keyed with 32 bytes, output 16..64 bytes."""
    need("key", key, KEY_BYTES)
    return blake2b(ds(label) + message, digest_size=size, key=key).digest()


def equal(a: bytes, b: bytes) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(a, b)


def sign_keypair(seed: bytes) -> tuple[bytes, bytes]:
    """(public key, 64-byte secret key) of an Ed25519 seed of 32 bytes."""
    return sodium.crypto_sign_seed_keypair(need("seed", seed, KEY_BYTES))


def sign(secret_key: bytes, label: bytes, message: bytes) -> bytes:
    """`SIG(sk, L, m)`: Ed25519, detached, 64 bytes, over `ds(L) || m`."""
    need("signing key", secret_key, 64)
    return sodium.crypto_sign(ds(label) + message, secret_key)[:SIG_BYTES]


def verify(public_key: bytes, label: bytes, message: bytes, sig: bytes) -> None:
    """SignatureError unless `sig` is libsodium-valid over `ds(L) || m`.

    libsodium's rule, not "any Ed25519": it refuses small-order keys and non-canonical
    encodings, so that a chain is valid on every phone or on none.
    """
    if len(public_key) != KEY_BYTES or len(sig) != SIG_BYTES:
        raise SignatureError("signature", "signature or key has a wrong length")
    try:
        sodium.crypto_sign_open(sig + ds(label) + message, public_key)
    except nacl.exceptions.CryptoError:
        raise SignatureError("signature", "signature does not verify") from None


def box_public(secret_key: bytes) -> bytes:
    """X25519 public key of a 32-byte secret key."""
    return sodium.crypto_scalarmult_base(need("box key", secret_key, KEY_BYTES))


def refuse_low_order(public_key: bytes) -> None:
    """FormatError if the X25519 point would give an all-zero shared secret."""
    box_shared(_ALL_ONES_SCALAR, public_key)


def box_shared(secret_key: bytes, public_key: bytes) -> bytes:
    """X25519 shared secret, 32 bytes, to be hashed before use; FormatError for a low-order key."""
    need("box key", secret_key, KEY_BYTES)
    need("box public key", public_key, KEY_BYTES)
    try:
        return sodium.crypto_scalarmult(secret_key, public_key)
    except (nacl.exceptions.CryptoError, RuntimeError):
        raise FormatError("low-order", "box public key has low order") from None


def seal(public_key: bytes, plain: bytes) -> bytes:
    """`crypto_box_seal`: 48 bytes longer than `plain`. Authenticates nobody, binds nothing."""
    need("box public key", public_key, KEY_BYTES)
    try:
        return sodium.crypto_box_seal(plain, public_key)
    except (nacl.exceptions.CryptoError, RuntimeError):
        raise FormatError("low-order", "can't seal to this public key") from None


def seal_open(secret_key: bytes, public_key: bytes, sealed: bytes) -> bytes:
    """Opens a sealed box; OpenError for every cause."""
    if len(sealed) < SEAL_BYTES or len(secret_key) != KEY_BYTES or len(public_key) != KEY_BYTES:
        raise OpenError
    try:
        return sodium.crypto_box_seal_open(sealed, public_key, secret_key)
    except (nacl.exceptions.CryptoError, RuntimeError, ValueError):
        raise OpenError from None


def aead_seal(key: bytes, nonce: bytes, ad: bytes, plain: bytes) -> bytes:
    """XChaCha20-Poly1305-IETF; 16 bytes longer than `plain`."""
    need("key", key, KEY_BYTES)
    need("nonce", nonce, AEAD_NONCE_BYTES)
    return sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(plain, ad, nonce, key)


def aead_open(key: bytes, nonce: bytes, ad: bytes, ct: bytes) -> bytes:
    """Opens XChaCha20-Poly1305-IETF; OpenError for every cause."""
    if len(ct) < AEAD_TAG_BYTES or len(key) != KEY_BYTES or len(nonce) != AEAD_NONCE_BYTES:
        raise OpenError
    try:
        return sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(ct, ad, nonce, key)
    except (nacl.exceptions.CryptoError, ValueError):
        raise OpenError from None


def keystream(key: bytes, size: int) -> bytes:
    """The first `size` bytes of XChaCha20's keystream under nonce 0^24, behind Poly1305's block.

    As the AEAD of zeros without its tag, so that every build of libsodium can do it. A key
    that is used here must serve nothing else.
    """
    return aead_seal(key, bytes(AEAD_NONCE_BYTES), b"", bytes(size))[:size]


def passphrase_key(passphrase: str, salt: bytes, *, ops: int, memory_bytes: int) -> bytes:
    """Argon2id: 32 bytes. FormatError for parameters that libsodium refuses or can't afford.

    Makes guessing dear, not impossible: a passphrase that is in a word list stays one.
    """
    need("salt", salt, SALT_BYTES)
    try:
        return sodium.crypto_pwhash_alg(
            KEY_BYTES, passphrase.encode(), salt, ops, memory_bytes,
            sodium.crypto_pwhash_ALG_ARGON2ID13,
        )  # fmt: skip
    except (nacl.exceptions.CryptoError, RuntimeError, ValueError, TypeError, MemoryError):
        raise FormatError("passphrase", "these costs of a passphrase can't be paid") from None
