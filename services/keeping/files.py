"""Files that are whole or not there, whenever the power fails."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services import owner
from services.keeping.errors import KeepingError


def sync_file(path: Path) -> None:
    """What was written to the file is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Names that were given, changed or removed in the folder are on the disk."""
    sync_file(folder)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A new empty file for its owner alone, in the same folder; gone after the block, unless it
    was renamed in it."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, owner.PRIVATE))
    except OSError as error:
        raise KeepingError(f"{path}: can't be written ({error.strerror})") from None
    try:
        yield draft
    finally:
        # What SQLite leaves beside a file that it did not close.
        for name in (draft.name, f"{draft.name}-journal", f"{draft.name}-wal", f"{draft.name}-shm"):
            draft.with_name(name).unlink(missing_ok=True)


def place_new(draft: Path, path: Path) -> None:
    """Gives the draft its name, durably. KeepingError if something has that name: unlike a
    rename, a link never replaces."""
    sync_file(draft)
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        raise KeepingError(f"{path}: stands there already and is not overwritten") from None
    except OSError as error:
        raise KeepingError(f"{path}: can't be written ({error.strerror})") from None
    draft.unlink()
    sync_folder(path.parent)


def replace(draft: Path, path: Path, *, like: Path | None = None) -> None:
    """Gives the draft its name, durably, in the place of what had it.

    Its owner, group and mode are those of what had the name, or of `like`: whoever could read
    that can read this. KeepingError if that can't be done; then nothing has changed.
    """
    _take_after(draft, like or path, path)
    sync_file(draft)
    draft.replace(path)
    sync_folder(path.parent)


def write_whole(path: Path, content: bytes, *, like: Path | None = None) -> None:
    """The file holds the content, for whom `replace` says; until that is so, what it held
    before."""
    with beside(path) as draft:
        draft.write_bytes(content)
        replace(draft, path, like=like)


def _take_after(draft: Path, like: Path, path: Path) -> None:
    handle = os.open(draft, os.O_RDONLY)
    try:
        try:
            found = like.stat()
        except FileNotFoundError:
            owner.give_to_folders(handle, path.parent)
            return
        try:
            owner.give_as(handle, found)
        except OSError as error:
            raise KeepingError(
                f"{path}: user {os.geteuid()} can't write it for its owner, user {found.st_uid},"
                f" group {found.st_gid} ({error.strerror}), who could then not read it: run this"
                " as that user"
            ) from None
    finally:
        os.close(handle)
