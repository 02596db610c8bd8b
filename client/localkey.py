"""The key of a vault: from a key file or from a passphrase, and what it seals.

Parameters of the passphrase's hash stand in clear in the vault, so that they can be raised
later without locking anybody out.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from client import keyfile
from client.keyfile import KEY_BYTES, KeyFileError
from client.vaulterrors import VaultDamaged, VaultKeyMissing, VaultLocked
from crypto import labels
from crypto.errors import CryptoError
from crypto.primitives import (
    PASSPHRASE_MEMORY_BYTES,
    PASSPHRASE_OPS,
    SALT_BYTES,
    aead_open,
    aead_seal,
    ds,
    passphrase_key,
    prf,
)

_NONCE_BYTES = 24
_CHECK = b"this key opens this vault"
_U16 = struct.Struct(">H")
_COST = struct.Struct(">IQ")
# What a file may make us spend: a state file is input, too.
_OPS_MAX = 32
_MEMORY_MAX = 2 << 30


class VaultKeys:
    """Hides names and seals rows. repr shows nothing."""

    __slots__ = ("_names", "_rows")

    def __init__(self, secret: bytes, salt: bytes) -> None:
        self._names = prf(secret, labels.LOCAL_KEY, salt)
        self._rows = prf(self._names, labels.LOCAL_ROW, b"")

    def __repr__(self) -> str:
        return "VaultKeys(hidden)"

    def hide(self, name: str) -> bytes:
        """What the file calls a row, 16 bytes."""
        return prf(self._names, labels.LOCAL_NAME, name.encode(), 16)

    def seal_row(self, name: str, value: bytes, nonce: bytes) -> tuple[bytes, bytes]:
        """(hidden name, nonce | AEAD of name and value); the hidden name is bound in."""
        hidden, name_bytes = self.hide(name), name.encode()
        plain = _U16.pack(len(name_bytes)) + name_bytes + value
        return hidden, nonce + aead_seal(self._rows, nonce, _ad(hidden), plain)

    def open_row(self, path: Path, hidden: bytes, sealed: bytes) -> tuple[str, bytes]:
        """(name, value); VaultDamaged if it is not what `seal_row` made."""
        try:
            plain = aead_open(self._rows, sealed[:_NONCE_BYTES], _ad(hidden), sealed[_NONCE_BYTES:])
        except CryptoError:
            raise VaultDamaged(path) from None
        end = 2 + int.from_bytes(plain[:2], "big")
        return plain[2:end].decode(), plain[end:]

    def make_check(self, nonce: bytes) -> bytes:
        """A row that only this key opens."""
        return nonce + aead_seal(self._rows, nonce, _ad(b"check"), _CHECK)

    def passes(self, check: bytes) -> bool:
        """Whether this is the key that made `check`."""
        try:
            aead_open(self._rows, check[:_NONCE_BYTES], _ad(b"check"), check[_NONCE_BYTES:])
        except CryptoError:
            return False
        return True


def _ad(hidden: bytes) -> bytes:
    return ds(labels.LOCAL_ROW) + hidden


class Unlock(Protocol):
    """A way to get at a vault's key."""

    def create(self, path: Path) -> tuple[VaultKeys, dict[str, bytes]]:
        """Keys of a new vault, and what its meta rows say of them."""
        ...

    def open(self, path: Path, meta: Mapping[str, bytes]) -> VaultKeys:
        """Keys of an existing vault; VaultLocked or VaultKeyMissing."""
        ...


@dataclass(frozen=True, slots=True)
class KeyFile:
    """64 hexadecimal characters in a file of mode 0600; by default `<state>.key`."""

    KDF: ClassVar[bytes] = b"file"
    key_path: Path | None = None

    def path_for(self, path: Path) -> Path:
        """Where the key of the vault at `path` is."""
        return self.key_path or path.with_name(path.name + ".key")

    def create(self, path: Path) -> tuple[VaultKeys, dict[str, bytes]]:
        """Uses the key file that is there (deployed by a keystore), or makes one."""
        key_path, salt = self.path_for(path), secrets.token_bytes(16)
        if not key_path.exists():
            keyfile.create(key_path, secrets.token_bytes(KEY_BYTES))
        return VaultKeys(_read_key(key_path), salt), {"kdf": self.KDF, "salt": salt}

    def open(self, path: Path, meta: Mapping[str, bytes]) -> VaultKeys:
        """Reads the key file."""
        if meta.get("kdf") != self.KDF:
            raise VaultLocked(path, "a key file")
        keys = VaultKeys(_read_key(self.path_for(path)), _meta(path, meta, "salt"))
        return _checked(keys, path, meta, "this key file")


@dataclass(frozen=True, slots=True)
class Passphrase:
    """Argon2id of what a person types."""

    KDF: ClassVar[bytes] = b"argon2id"
    text: str = field(repr=False)
    ops: int = PASSPHRASE_OPS
    memory_bytes: int = PASSPHRASE_MEMORY_BYTES

    def create(self, path: Path) -> tuple[VaultKeys, dict[str, bytes]]:
        """Draws a salt; the cost is written down beside it."""
        salt = secrets.token_bytes(SALT_BYTES)
        keys = self._derive(path, salt, self.ops, self.memory_bytes)
        cost = _COST.pack(self.ops, self.memory_bytes)
        return keys, {"kdf": self.KDF, "salt": salt, "cost": cost}

    def open(self, path: Path, meta: Mapping[str, bytes]) -> VaultKeys:
        """Spends what the vault says that its key costs."""
        if meta.get("kdf") != self.KDF:
            raise VaultLocked(path, "a passphrase")
        try:
            ops, memory_bytes = _COST.unpack(_meta(path, meta, "cost"))
        except struct.error:
            raise VaultDamaged(path) from None
        if ops > _OPS_MAX or memory_bytes > _MEMORY_MAX:
            raise VaultDamaged(path)
        keys = self._derive(path, _meta(path, meta, "salt"), ops, memory_bytes)
        return _checked(keys, path, meta, "this passphrase")

    def _derive(self, path: Path, salt: bytes, ops: int, memory_bytes: int) -> VaultKeys:
        try:
            secret = passphrase_key(self.text, salt, ops=ops, memory_bytes=memory_bytes)
        except CryptoError:
            raise VaultDamaged(path) from None
        return VaultKeys(secret, salt)


def _meta(path: Path, meta: Mapping[str, bytes], name: str) -> bytes:
    try:
        return meta[name]
    except KeyError:
        raise VaultDamaged(path) from None


def _checked(keys: VaultKeys, path: Path, meta: Mapping[str, bytes], what: str) -> VaultKeys:
    if not keys.passes(_meta(path, meta, "check")):
        raise VaultLocked(path, what)
    return keys


def _read_key(key_path: Path) -> bytes:
    try:
        return keyfile.read(key_path)
    except KeyFileError as error:
        raise VaultKeyMissing(key_path, error.why) from None
