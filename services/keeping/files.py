"""Files that are whole or not there, whenever the power fails."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.keeping.errors import KeepingError

_PRIVATE = 0o600


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
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE))
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


def replace(draft: Path, path: Path) -> None:
    """Gives the draft its name, durably, in the place of what had it."""
    sync_file(draft)
    draft.replace(path)
    sync_folder(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """The file holds the content, for its owner alone; until that is so, what it held before."""
    with beside(path) as draft:
        draft.write_bytes(content)
        replace(draft, path)
