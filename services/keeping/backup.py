"""`rookery-server backup` and `restore`: the database as one file, and back.

A backup holds no key file. It names those that it needs: the public half of the identity key, and
a mark of the pepper which says nothing about it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from crypto import enrol, succession
from crypto.receipt import ServerKey
from services import keys
from services.keeping import copying, files, ring
from services.keeping.errors import KeepingError
from services.keeping.progress import Tell
from services.keys import KeyFileError
from services.store import sqlite_schema as schema


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """Where the keys of the deployment are."""

    identity: Path
    pepper: Path
    audience: str
    """The deployment's: successions are its own."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What was written."""

    accounts: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put in place."""

    made_ms: int | None
    """When the backup was made; None of a file that `backup` did not make."""
    aside: Path | None
    """Where the database is that was here before."""
    warnings: tuple[str, ...]


def backup(database: Path, target: Path, key_files: KeyFiles, tell: Tell) -> Backup:
    """Writes the database of this moment to a new file, while the service runs or not.

    KeepingError; then there is no such file. Once it has its name it is whole, on the disk, and
    was read through.
    """
    if target.exists():
        raise KeepingError(f"{target}: stands there already and is not overwritten")
    if not target.parent.is_dir():
        raise KeepingError(f"{target.parent}: is not a folder")
    with files.beside(target) as draft:
        with copying.moment(database) as source:
            counts = copying.copy(source, draft, _notes(key_files), tell)
        copying.verify(draft, counts)
        size = draft.stat().st_size
        files.place_new(draft, target)
    return Backup(counts["account"], size)


def restore(
    source: Path, database: Path, key_files: KeyFiles, tell: Tell, *, replace: bool
) -> Restored:
    """Puts a backup in the place of the database, with a new generation.

    KeepingError, KeyFileError, StoreUnavailable while a process has the database; then nothing
    has changed. `replace`: a database that stands there is set aside under another name.
    """
    known = _Known.read(key_files)
    if source.exists() and database.exists() and source.samefile(database):
        raise KeepingError(f"{source}: is the database itself")
    if database.exists() and not replace:
        raise KeepingError(
            f"{database}: stands there already; --replace sets it aside under another name"
        )
    lock = schema.lock_file(database)
    try:
        with files.beside(database) as draft:
            with copying.moment(source) as moment:
                copying.check_sound(moment, source)
                notes = copying.notes_of(moment)
                counts = copying.copy(moment, draft, {}, tell)
            copying.verify(draft, counts)
            aside = None
            if database.exists():
                aside = _set_aside(database)
                try:
                    # The file is whole without its log then, which loses its name first.
                    copying.fold_log(database)
                except KeepingError:
                    for name in ("-wal", ""):
                        aside.with_name(aside.name + name).unlink(missing_ok=True)
                    raise
            for name in ("-wal", "-shm"):
                database.with_name(database.name + name).unlink(missing_ok=True)
            files.replace(draft, database)
    finally:
        os.close(lock)
    made_ms = notes.get("ms")
    return Restored(
        made_ms if isinstance(made_ms, int) else None,
        aside,
        tuple(_warnings(notes, known)),
    )


def _notes(key_files: KeyFiles) -> dict[str, int | bytes]:
    """A backup without its keys is made all the same: they may be in a safe."""
    notes: dict[str, int | bytes] = {"ms": time.time_ns() // 1_000_000}
    with contextlib.suppress(KeyFileError):
        notes["identity"] = ServerKey(keys.read(key_files.identity)).public
    with contextlib.suppress(KeyFileError):
        notes["pepper"] = enrol.pepper_mark(keys.read(key_files.pepper))
    return notes


@dataclass(frozen=True, slots=True)
class _Known:
    """What a backup may name: the keys in force, and those before that still count."""

    identities: frozenset[bytes]
    """From which devices come to the one in force."""
    peppers: frozenset[bytes]
    """Their marks."""

    @classmethod
    def read(cls, key_files: KeyFiles) -> _Known:
        """KeyFileError."""
        audience = key_files.audience
        identity = ring.read_identity(key_files.identity, audience=audience)
        before = [succession.open_(row, audience=audience).old for row in identity.successions]
        pepper = ring.read_pepper(key_files.pepper)
        marks = map(enrol.pepper_mark, (pepper.secret, *pepper.before))
        return cls(frozenset((identity.public, *before)), frozenset(marks))


def _warnings(notes: dict[str, int | bytes], known: _Known) -> list[str]:
    told = []
    if notes.get("identity") not in (None, *known.identities):
        told.append(
            "the identity key is another one than when the backup was made, and no succession"
            " leads from that one: devices that pinned it refuse the service (docs/keys.md)"
        )
    if notes.get("pepper") not in (None, *known.peppers):
        told.append(
            "the pepper is another one than when the backup was made, and that one is not"
            " kept beside it: accounts of before don't count against accounts_per_subject_max"
            " (docs/keys.md)"
        )
    return told


def _set_aside(database: Path) -> Path:
    """A second name for the database and its log, before either loses its own: a restore that is
    cut off has lost nothing."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    aside = database.with_name(f"{database.name}.before-{stamp}-{secrets.token_hex(2)}")
    try:
        aside.hardlink_to(database)
        log = database.with_name(database.name + "-wal")
        if log.exists():
            aside.with_name(aside.name + "-wal").hardlink_to(log)
    except OSError as error:
        raise KeepingError(f"{database}: can't be set aside ({error.strerror})") from None
    files.sync_folder(database.parent)
    return aside
