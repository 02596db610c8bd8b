"""Whose a file is that the service reads and a command writes, which may have been run as root."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

PRIVATE = 0o600


def open_private(path: Path, flags: int) -> int:
    """A descriptor of the file, which is made for its owner alone if it is not there. What root
    makes belongs to the owner of its folder, who is to open it afterwards."""
    flags |= os.O_CREAT | os.O_CLOEXEC
    try:
        handle = os.open(path, flags | os.O_EXCL, PRIVATE)
    except FileExistsError:
        return os.open(path, flags, PRIVATE)
    give_to_folders(handle, path.parent)
    return handle


def give_to_folders(handle: int, folder: Path) -> None:
    """A file that root has made goes to the owner of the folder. It stays root's where root may
    not give files away (a container without that power): then root is who serves there."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            found = folder.stat()
            os.fchown(handle, found.st_uid, found.st_gid)


def give_as(handle: int, like: os.stat_result) -> None:
    """The file gets owner, group and mode of another one; OSError."""
    mine = os.fstat(handle)
    if (mine.st_uid, mine.st_gid) != (like.st_uid, like.st_gid):
        os.fchown(handle, like.st_uid, like.st_gid)
    os.fchmod(handle, stat.S_IMODE(like.st_mode) & 0o777)
