"""Where a device keeps its state: one encrypted SQLite file, or memory.

A vault is a map from names to bytes. It decides nothing about what is in it; the core says
what changed, and `apply` makes all of it durable or none of it.

What the file protects: names and values are sealed (XChaCha20-Poly1305) and the names of
rows are keyed hashes, so a copy of the file without its key shows sizes and number of rows
and nothing else. The key is either 32 random bytes in a key file, by default beside the
state, which helps where the state is copied and the key isn't (a backup that leaves `*.key`
out, a disk that is thrown away after the key was erased) and does not help against somebody
who reads your home folder; or a passphrase, which does help there.

What it can't see: that the whole file was put back to an older copy. No file can. The
service refuses the second op with one number (DEVICE_FORKED), and the device then makes
itself a new identity.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol, Self

from client.localkey import Passphrase, Unlock, VaultKeys
from client.rows import Changes, Rows
from client.vaulterrors import VaultBusy, VaultDamaged, VaultExists, VaultMissing

_FORMAT = b"rookery-vault-1"
_MARK = "mark"
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE row (name BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""


class Vault(Protocol):
    """What the shell needs of a place for state."""

    def load(self) -> dict[str, bytes]:
        """Every row."""
        ...

    def apply(self, changes: Changes) -> None:
        """All of it durably, or none of it."""
        ...

    def close(self) -> None:
        """Lets another process have it. Idempotent."""
        ...


class MemoryVault:
    """State that lives as long as the process: demos and tests."""

    def __init__(self, rows: Rows | None = None) -> None:
        self._rows = dict(rows or {})

    def load(self) -> dict[str, bytes]:
        """Every row."""
        return dict(self._rows)

    def apply(self, changes: Changes) -> None:
        """All of it, at once."""
        for name, value in changes.items():
            if value is None:
                self._rows.pop(name, None)
            else:
                self._rows[name] = value

    def close(self) -> None:
        """Nothing to release."""

    def __repr__(self) -> str:
        return f"MemoryVault({len(self._rows)} rows, content hidden)"


class FileVault:
    """State in one file that one process at a time may hold."""

    def __init__(self, path: Path, db: sqlite3.Connection, keys: VaultKeys) -> None:
        self.path = path
        self._db = db
        self._keys = keys

    @classmethod
    def create(cls, path: Path, unlock: Unlock, *, mark: bytes = b"") -> Self:
        """Makes a new, empty vault; VaultExists if there is a file already. `mark` is stored in
        clear, for `read_mark`."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            # Only for a file that is not there yet: opening and closing a file that SQLite
            # has open in this process would drop its locks (POSIX).
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            db = _connect_unborn(path)
        else:
            db = _connect(path)
        try:
            keys, meta = unlock.create(path)
            _initialise(db, keys, {**meta, _MARK: mark})
        except BaseException:
            db.close()
            path.unlink(missing_ok=True)
            raise
        return cls(path, db, keys)

    @classmethod
    def open(cls, path: Path, unlock: Unlock) -> Self:
        """Opens an existing vault.

        VaultMissing, VaultBusy (another process has it), VaultLocked (wrong key or
        passphrase), VaultDamaged.
        """
        db = _connect_existing(path)
        try:
            keys = unlock.open(path, _read_meta(path, db))
        except BaseException:
            db.close()
            raise
        return cls(path, db, keys)

    def load(self) -> dict[str, bytes]:
        """Every row; VaultDamaged if one does not open."""
        try:
            rows = self._db.execute("SELECT name, value FROM row").fetchall()
        except sqlite3.DatabaseError:
            raise VaultDamaged(self.path) from None
        return dict(self._keys.open_row(self.path, hidden, sealed) for hidden, sealed in rows)

    def apply(self, changes: Changes) -> None:
        """One transaction, on the disk before this returns."""
        if not changes:
            return
        keys = self._keys
        gone = [(keys.hide(name),) for name, value in changes.items() if value is None]
        kept = [
            keys.seal_row(name, value, secrets.token_bytes(24))
            for name, value in changes.items()
            if value is not None
        ]
        with _transaction(self._db):
            self._db.executemany("DELETE FROM row WHERE name = ?", gone)
            self._db.executemany("INSERT OR REPLACE INTO row VALUES (?, ?)", kept)

    @property
    def mark(self) -> bytes:
        """What `create` was given, until `unmark`."""
        return _read_meta(self.path, self._db).get(_MARK, b"")

    def unmark(self) -> None:
        """The mark was true; durably it isn't any more."""
        self._db.execute("DELETE FROM meta WHERE name = ?", (_MARK,))

    def close(self) -> None:
        """Lets another process have the file. Idempotent."""
        self._db.close()

    def __repr__(self) -> str:
        return f"FileVault({str(self.path)!r}, content hidden)"


def needs_passphrase(path: Path) -> bool:
    """Whether the vault at `path` is opened with a passphrase; raises as `FileVault.open`."""
    return _meta_at(path).get("kdf") == Passphrase.KDF


def read_mark(path: Path) -> bytes:
    """The mark of the vault at `path`, which needs no key; raises as `FileVault.open`."""
    return _meta_at(path).get(_MARK, b"")


def _meta_at(path: Path) -> dict[str, bytes]:
    db = _connect_existing(path)
    try:
        return _read_meta(path, db)
    finally:
        db.close()


def _connect(path: Path) -> sqlite3.Connection:
    """A connection that holds the file's exclusive lock until it is closed.

    The lock is the system's: it ends with the process, however that ends.
    """
    db = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)
    try:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("PRAGMA journal_mode=DELETE")
        db.execute("PRAGMA synchronous=FULL")
        # An epoch key that is destroyed shall not stand in a free page.
        db.execute("PRAGMA secure_delete=ON")
        db.execute("BEGIN EXCLUSIVE")
        db.execute("COMMIT")
    except sqlite3.OperationalError as error:
        db.close()
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise VaultBusy(path) from None
        raise VaultDamaged(path) from None
    except sqlite3.DatabaseError:
        db.close()
        raise VaultDamaged(path) from None
    return db


def _connect_unborn(path: Path) -> sqlite3.Connection:
    """For a file whose making was cut off before it held anything; VaultExists otherwise."""
    try:
        db = _connect(path)
    except (VaultBusy, VaultDamaged):
        raise VaultExists(path) from None
    if _is_unborn(db):
        return db
    db.close()
    raise VaultExists(path)


def _is_unborn(db: sqlite3.Connection) -> bool:
    count: tuple[int] = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return count == (0,)


def _connect_existing(path: Path) -> sqlite3.Connection:
    if not path.is_file() or path.stat().st_size == 0:
        raise VaultMissing(path)
    db = _connect(path)
    if _is_unborn(db):
        db.close()
        raise VaultMissing(path)
    return db


def _initialise(db: sqlite3.Connection, keys: VaultKeys, meta: Mapping[str, bytes]) -> None:
    rows = {**meta, "format": _FORMAT, "check": keys.make_check(secrets.token_bytes(24))}
    with _transaction(db):
        for statement in filter(None, map(str.strip, _SCHEMA.split(";"))):
            db.execute(statement)
        db.executemany("INSERT INTO meta VALUES (?, ?)", sorted(rows.items()))


def _read_meta(path: Path, db: sqlite3.Connection) -> dict[str, bytes]:
    try:
        meta = {str(name): bytes(value) for name, value in db.execute("SELECT * FROM meta")}
    except (sqlite3.DatabaseError, TypeError, ValueError):
        raise VaultDamaged(path) from None
    if meta.get("format") != _FORMAT:
        raise VaultDamaged(path)
    return meta


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
