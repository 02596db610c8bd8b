"""The service's own secrets: 32 random bytes a file, as hex, readable by the owner alone."""

from __future__ import annotations

import os
from pathlib import Path

from services.keeping import files
from services.keeping.errors import KeepingError

KEY_BYTES = 32
_OTHERS, _OTHERS_OF_ROOTS = 0o077, 0o037


class KeyFileError(Exception):
    """A key file is missing, open to others, or holds something else. Never shows content."""


def create(path: Path, secret: bytes) -> None:
    """Writes a new file with mode 0600, whole or not at all; KeyFileError if one stands there
    already."""
    try:
        with files.beside(path) as draft:
            draft.write_text(secret.hex() + "\n", encoding="ascii")
            files.place_new(draft, path)
    except KeepingError as error:
        raise KeyFileError(str(error)) from None


def read(path: Path) -> bytes:
    """The 32 bytes; KeyFileError otherwise."""
    try:
        with path.open(encoding="ascii") as file:
            found = os.fstat(file.fileno())
            text = file.read(2 * KEY_BYTES + 2)
    except FileNotFoundError:
        raise KeyFileError(
            f"{path}: is not there; `rookery-server keys init` makes the service's,"
            " `rookery-server party --init` a party's"
        ) from None
    except (OSError, UnicodeDecodeError):
        raise KeyFileError(f"{path}: can't be read") from None
    if open_to_others(found, os.geteuid(), os.getegid()):
        raise KeyFileError(f"{path}: others may read it; chmod 600 it")
    try:
        secret = bytes.fromhex(text)
    except ValueError:
        secret = b""
    if len(secret) != KEY_BYTES:
        raise KeyFileError(f"{path}: is not a key of {2 * KEY_BYTES} hex digits")
    return secret


def open_to_others(file: os.stat_result, user: int, group: int) -> bool:
    """Whether more than its owner may read a key file, or than root and the own group.

    Secrets that Kubernetes mounts are root's, and a process that is not root reads them by its
    group (fsGroup): such a file may have mode 0640.
    """
    by_group = file.st_uid == 0 and user != 0 and file.st_gid == group
    return bool(file.st_mode & (_OTHERS_OF_ROOTS if by_group else _OTHERS))
