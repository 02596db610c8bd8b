"""Copies of the service's SQLite file: made in one moment of it, and read through afterwards.

The reader needs no lock: SQLite's write-ahead log shows it the file as it was when it began,
however much is committed meanwhile. The log can't be emptied for so long, and grows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from services.keeping.errors import KeepingError
from services.keeping.progress import Tell
from services.store.sqlite_schema import APPLICATION_ID, BUSY_MS, MIGRATIONS

PAGES_PER_STEP = 512
_NOTES = "backup_"
Counts = Mapping[str, int]


@contextmanager
def moment(path: Path) -> Iterator[sqlite3.Connection]:
    """The database as it is now, for reading only. KeepingError if it is none of ours."""
    if not path.is_file():
        raise KeepingError(f"{path}: is not there")
    with reported(path), closing(connect(path, "ro")) as connection:
        connection.execute("BEGIN")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID or not version:
            raise KeepingError(f"{path}: is not the database of a service")
        if version > len(MIGRATIONS):
            raise KeepingError(
                f"{path}: has schema {version}, and this version knows no newer one than"
                f" {len(MIGRATIONS)}: use the version that wrote it, or a later one"
            )
        yield connection


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise KeepingError(f"{path}: SQLite says {error}") from error


def copy(
    source: sqlite3.Connection, draft: Path, notes: Mapping[str, int | bytes], tell: Tell
) -> Counts:
    """Writes the moment into the empty file, as one file that needs no log beside it, and how
    many rows each table has. The copy's generation is a new one: whoever opens it, and however
    it came to be opened, is not at the service that clients knew."""
    tables = _count(source)
    with reported(draft), closing(connect(draft, "rw")) as target:
        source.backup(
            target,
            pages=PAGES_PER_STEP,
            progress=lambda _, left, total: tell(total - left, total),
            sleep=0,
        )
        target.execute("PRAGMA journal_mode = DELETE")
        target.execute("BEGIN IMMEDIATE")
        target.execute("DELETE FROM meta WHERE name GLOB ?", (_NOTES + "*",))
        target.executemany(
            "INSERT INTO meta VALUES (?, ?)",
            [(_NOTES + name, value) for name, value in notes.items()],
        )
        target.execute("UPDATE meta SET value = randomblob(8) WHERE name = 'generation'")
        target.execute("COMMIT")
    return tables


def fold_log(path: Path) -> None:
    """All that the log holds is in the file, which is whole without it. KeepingError while
    somebody reads the database. One that is damaged stays as it is."""
    try:
        with closing(connect(path, "rw")) as connection:
            (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.OperationalError as error:
        raise KeepingError(f"{path}: SQLite says {error}") from error
    except sqlite3.DatabaseError:
        return
    if busy:
        raise KeepingError(f"{path}: is being read, by a backup perhaps; try again after it")


def verify(path: Path, told: Counts) -> None:
    """KeepingError unless the file is sound and has as many rows as were told."""
    with moment(path) as connection:
        check_sound(connection, path)
        held = _count(connection)
    for name, count in told.items():
        if held.get(name) != count:
            raise KeepingError(
                f"{path}: {name} has {held.get(name)} rows and should have {count}: the disk"
                " does not keep what is written to it"
            )


def check_sound(connection: sqlite3.Connection, path: Path) -> None:
    """KeepingError if SQLite finds the file damaged."""
    (first, *_) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if first != "ok":
        raise KeepingError(f"{path}: is damaged: {first}")


def notes_of(connection: sqlite3.Connection) -> dict[str, int | bytes]:
    """What `copy` was told to note; empty of a file that it did not make."""
    rows = connection.execute("SELECT name, value FROM meta WHERE name GLOB ?", (_NOTES + "*",))
    return {name.removeprefix(_NOTES): value for name, value in rows}


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection to a file that is there, in autocommit mode; `ro` or `rw`."""
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode={mode}", uri=True, isolation_level=None
    )
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    return connection


def _count(connection: sqlite3.Connection) -> Counts:
    """Rows of every table but `meta`, which a copy changes."""
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'meta'"
        " AND name NOT LIKE 'sqlite%'"
    ).fetchall()
    counts = {}
    for (name,) in names:
        (counts[name],) = connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()  # noqa: S608
    return counts
