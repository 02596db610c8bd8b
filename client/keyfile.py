"""A secret of 32 bytes in a file: 64 hexadecimal characters, mode 0600, never overwritten."""

from __future__ import annotations

import os
from pathlib import Path

KEY_BYTES = 32
_OTHERS = 0o077


class KeyFileError(Exception):
    """There is no usable key in a file. `why` goes behind the path; content is never shown."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} {why}")
        self.why = why


def create(path: Path, key: bytes) -> None:
    """A new file, readable by its owner only; FileExistsError if one stands there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(key.hex() + "\n")
        file.flush()
        # What was done with a key that a power cut then lost could not be undone.
        os.fsync(file.fileno())


def read(path: Path) -> bytes:
    """The key; KeyFileError."""
    try:
        mode = path.stat().st_mode
        text = path.read_text("ascii").strip()
    except FileNotFoundError:
        raise KeyFileError(path, "is missing") from None
    except (OSError, UnicodeDecodeError):
        raise KeyFileError(path, "can't be read") from None
    if mode & _OTHERS:
        raise KeyFileError(path, "can be read by others (chmod 600 it)")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise KeyFileError(path, "is no key file")
    return key
