"""The service's own secrets: 32 random bytes a file, as hex, readable by the owner alone."""

from __future__ import annotations

import os
from pathlib import Path

KEY_BYTES = 32
_OTHERS = 0o077


class KeyFileError(Exception):
    """A key file is missing, open to others, or holds something else. Never shows content."""


def create(path: Path, secret: bytes) -> None:
    """Writes a new file with mode 0600; KeyFileError if one stands there already."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise KeyFileError(f"{path}: stands there already and is not overwritten") from None
    except OSError as error:
        raise KeyFileError(f"{path}: can't be written ({error.strerror})") from None
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secret.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> bytes:
    """The 32 bytes; KeyFileError otherwise."""
    try:
        with path.open(encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(2 * KEY_BYTES + 2)
    except FileNotFoundError:
        raise KeyFileError(
            f"{path}: is not there; `rookery-server keys init` makes the service's,"
            " `rookery-server party --init` a party's"
        ) from None
    except (OSError, UnicodeDecodeError):
        raise KeyFileError(f"{path}: can't be read") from None
    if mode & _OTHERS:
        raise KeyFileError(f"{path}: others may read it; chmod 600 it")
    try:
        secret = bytes.fromhex(text)
    except ValueError:
        secret = b""
    if len(secret) != KEY_BYTES:
        raise KeyFileError(f"{path}: is not a key of {2 * KEY_BYTES} hex digits")
    return secret
