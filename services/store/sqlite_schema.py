"""The SQLite file: who may open it, its tables, and how an older one is brought up.

Keys that begin with an account are integers or bytes that begin with `account_n`, a small
number that is never given twice, so that all of an account is one range of every table.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from services import owner
from services.store.errors import StoreUnavailable
from services.store.observer import Fault
from services.store.packed import pack
from services.store.sqlite_bulk import make_counter
from services.store.sqlite_state import WINNER

APPLICATION_ID = 0x526B7279
PAGE_BYTES = 8192
WAL_PAGES = 2000
WAL_BYTES_KEPT = 16 << 20
BUSY_MS = 2000
SQLITE_MIN = (3, 35)
"""UPDATE ... RETURNING."""
_UNAVAILABLE = frozenset((
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
))  # fmt: skip

_SCHEMA_1 = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;

-- chain: services.store.snapshot.
CREATE TABLE account (
  account_n INTEGER PRIMARY KEY,
  account_id BLOB NOT NULL UNIQUE,
  subject_row BLOB,
  chain BLOB NOT NULL
);
CREATE INDEX account_by_subject ON account (subject_row) WHERE subject_row IS NOT NULL;

-- What every push moves. records: live rows of kind 1 in the current epoch, and the one before.
CREATE TABLE tail (
  account_n INTEGER PRIMARY KEY,
  position INTEGER NOT NULL,
  lamport_max INTEGER NOT NULL,
  records INTEGER NOT NULL,
  records_before INTEGER NOT NULL
);

-- link_id: account_n << 32 | seq. grants: of 312 bytes each, recipient | epoch | sealed.
CREATE TABLE link (
  link_id INTEGER PRIMARY KEY,
  link BLOB NOT NULL,
  sig BLOB NOT NULL,
  pop BLOB NOT NULL,
  grants BLOB NOT NULL
);

-- Epochs that a ROTATE ended and whose ops are still here. epoch_id: account_n << 32 | epoch.
CREATE TABLE epoch_end (epoch_id INTEGER PRIMARY KEY, ended_ms INTEGER NOT NULL);

-- device_key: account_n << 8 | index. dev_seq 0: has not written.
CREATE TABLE device (
  device_key INTEGER PRIMARY KEY,
  dev_seq INTEGER NOT NULL,
  op_hash BLOB NOT NULL,
  passed INTEGER NOT NULL DEFAULT 0
);

-- op_id: account_n << 32 | position. push_rest: how many ops of the same push were committed
-- behind this one. ct_hash: NULL once `raw` is the stub, which holds it.
CREATE TABLE op (
  op_id INTEGER PRIMARY KEY,
  push_rest INTEGER NOT NULL,
  ct_hash BLOB,
  raw BLOB NOT NULL
);

-- The winner of every tag. name: u32 account_n | u32 epoch | tag. author: kind << 8 | index.
CREATE TABLE live (
  name BLOB PRIMARY KEY,
  position INTEGER NOT NULL,
  lamport INTEGER NOT NULL,
  author INTEGER NOT NULL
) WITHOUT ROWID;

-- Which ops are stubs, and the end of the push that made them so.
CREATE TABLE superseded (
  account_n INTEGER NOT NULL,
  at INTEGER NOT NULL,
  position INTEGER NOT NULL,
  PRIMARY KEY (account_n, at, position)
) WITHOUT ROWID;

-- Where a device's ops lie: from dev_seq on at consecutive positions, until the next run.
CREATE TABLE run (
  account_n INTEGER NOT NULL,
  device_index INTEGER NOT NULL,
  dev_seq INTEGER NOT NULL,
  position INTEGER NOT NULL,
  PRIMARY KEY (account_n, device_index, dev_seq)
) WITHOUT ROWID;

-- Eight bytes of the hash of every op that was trimmed, so that a clone which writes another
-- op in its place is still told that it forked.
CREATE TABLE gone (
  account_n INTEGER NOT NULL,
  device_index INTEGER NOT NULL,
  dev_seq INTEGER NOT NULL,
  hash_start BLOB NOT NULL,
  PRIMARY KEY (account_n, device_index, dev_seq)
) WITHOUT ROWID;

-- Ops that were marked as checkpoints; kept whole while they stand here.
CREATE TABLE checkpoint (
  account_n INTEGER NOT NULL,
  position INTEGER NOT NULL,
  covers INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  PRIMARY KEY (account_n, position)
) WITHOUT ROWID;

CREATE TABLE mailbox (
  rendezvous BLOB NOT NULL,
  number INTEGER NOT NULL,
  body BLOB NOT NULL,
  expires_ms INTEGER NOT NULL,
  PRIMARY KEY (rendezvous, number)
) WITHOUT ROWID;
CREATE INDEX mailbox_by_end ON mailbox (expires_ms) WHERE number = 1;
"""

# Ops in pieces instead of one a row, and what is known of a winner in one value.
_SCHEMA_2 = """
-- Ops of one push at consecutive positions, packed (services.store.packed). segment_id:
-- account_n << 32 | position of the first. held: bit i: the op at the i-th position is here,
-- and was not trimmed. push_rest: how many positions of the push come after the first.
CREATE TABLE segment (
  segment_id INTEGER PRIMARY KEY,
  held INTEGER NOT NULL,
  push_rest INTEGER NOT NULL,
  ops BLOB NOT NULL
);
INSERT INTO segment SELECT op_id, 1, push_rest, packed(raw) FROM op ORDER BY op_id;
DROP TABLE op;

-- name: u32 account_n | u32 epoch | tag. winner: services.store.sqlite_state.WINNER.
CREATE TABLE winner (name BLOB PRIMARY KEY, winner BLOB NOT NULL) WITHOUT ROWID;
INSERT INTO winner SELECT name, winner(position, lamport, author) FROM live;
DROP TABLE live;
ALTER TABLE winner RENAME TO live;
"""

# Joint aggregates: nothing in here can be opened by who holds the file.
_SCHEMA_3 = """
CREATE TABLE task (
  task_n INTEGER PRIMARY KEY,
  task_id BLOB NOT NULL UNIQUE,
  spec_hash BLOB NOT NULL UNIQUE,
  publisher BLOB NOT NULL,
  task BLOB NOT NULL,
  sig BLOB NOT NULL
);

-- round_n is never given twice. sigs: 64 bytes a party. until_ms: close_ms and the task's
-- grace; contributions are taken before, unless `sealed`. position: the newest one. held: how
-- many contributions are here. over: boxes are not given out any more, and go; dropped: they
-- are gone.
CREATE TABLE round (
  round_n INTEGER PRIMARY KEY,
  round_id BLOB NOT NULL UNIQUE,
  task_n INTEGER NOT NULL,
  manifest BLOB NOT NULL,
  sigs BLOB NOT NULL,
  m INTEGER NOT NULL,
  open_ms INTEGER NOT NULL,
  close_ms INTEGER NOT NULL,
  until_ms INTEGER NOT NULL,
  sealed INTEGER NOT NULL DEFAULT 0,
  position INTEGER NOT NULL DEFAULT 0,
  held INTEGER NOT NULL DEFAULT 0,
  over INTEGER NOT NULL DEFAULT 0,
  dropped INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX round_by_task ON round (task_n, close_ms);
CREATE INDEX round_to_drop ON round (round_n) WHERE over = 1 AND dropped = 0;

-- key_id: the id that requests signed by `ik` carry.
CREATE TABLE round_party (
  round_n INTEGER NOT NULL,
  party INTEGER NOT NULL,
  key_id BLOB NOT NULL,
  ik BLOB NOT NULL,
  PRIMARY KEY (round_n, party)
) WITHOUT ROWID;
CREATE INDEX round_party_by_key ON round_party (key_id);

-- Who took part. contribution_id: round_n << 32 | position. digest: of all its boxes.
CREATE TABLE contribution (
  contribution_id INTEGER PRIMARY KEY,
  account_n INTEGER NOT NULL,
  digest BLOB NOT NULL
);
CREATE INDEX contribution_by_account ON contribution (account_n);

-- What one party gets. box_id: (round_n << 8 | party) << 32 | position. data: as it is sent.
CREATE TABLE box (box_id INTEGER PRIMARY KEY, data BLOB NOT NULL);

-- sigs: of 65 bytes each, party | signature.
CREATE TABLE result (round_n INTEGER PRIMARY KEY, result BLOB NOT NULL, sigs BLOB NOT NULL);

CREATE TABLE abandonment (
  round_n INTEGER NOT NULL,
  party INTEGER NOT NULL,
  statement BLOB NOT NULL,
  sig BLOB NOT NULL,
  PRIMARY KEY (round_n, party)
) WITHOUT ROWID;
"""

# Waking sleeping devices: nothing in here can be read by who holds the file, either.
_SCHEMA_4 = """
-- device_key: as in `device`. due_ms: when to poke, or when the claim's lease ends. turn: of the
-- newest claim. again: ops came since the claim. tries: pokes in vain.
CREATE TABLE wake (
  device_key INTEGER PRIMARY KEY,
  handle BLOB NOT NULL,
  expires_ms INTEGER NOT NULL,
  due_ms INTEGER,
  sent_ms INTEGER NOT NULL DEFAULT 0,
  turn INTEGER NOT NULL DEFAULT 0,
  claimed INTEGER NOT NULL DEFAULT 0,
  again INTEGER NOT NULL DEFAULT 0,
  tries INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX wake_by_due ON wake (due_ms) WHERE due_ms IS NOT NULL;
"""

# Governance (services.store.governance): three chains, each entry with the hash of the one before.
_SCHEMA_5 = """
CREATE TABLE policy (
  sequence INTEGER PRIMARY KEY,
  previous BLOB NOT NULL,
  hash BLOB NOT NULL,
  data BLOB NOT NULL,
  sig BLOB NOT NULL,
  publisher BLOB NOT NULL,
  at_ms INTEGER NOT NULL
);

-- consent_id: account_n << 32 | seq. tag: of a purpose that nobody can read who holds the file.
CREATE TABLE consent (
  consent_id INTEGER PRIMARY KEY,
  prev BLOB NOT NULL,
  hash BLOB NOT NULL,
  tag BLOB NOT NULL,
  granted INTEGER NOT NULL,
  device_id BLOB NOT NULL,
  entry BLOB NOT NULL,
  sig BLOB NOT NULL,
  at_ms INTEGER NOT NULL
);

-- The newest entry of each tag.
CREATE TABLE consent_now (
  account_n INTEGER NOT NULL,
  tag BLOB NOT NULL,
  seq INTEGER NOT NULL,
  granted INTEGER NOT NULL,
  PRIMARY KEY (account_n, tag)
) WITHOUT ROWID;

-- at_ms never goes back along the log.
CREATE TABLE audit (
  seq INTEGER PRIMARY KEY,
  at_ms INTEGER NOT NULL,
  prev BLOB NOT NULL,
  body BLOB NOT NULL,
  hash BLOB NOT NULL
);

-- One row at most: the last entry that was trimmed, on which the first one left follows.
CREATE TABLE audit_anchor (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  seq INTEGER NOT NULL,
  hash BLOB NOT NULL,
  at_ms INTEGER NOT NULL
);
"""

MIGRATIONS: tuple[str, ...] = (_SCHEMA_1, _SCHEMA_2, _SCHEMA_3, _SCHEMA_4, _SCHEMA_5)
"""Number n brings a file of schema n to n + 1. Never edited once released, only added to."""
AUDIT_SCHEMA = 5
"""The first one with an audit log."""


def lock_file(path: Path) -> int:
    """Takes the file for this process; StoreUnavailable if another one has it.

    The lock goes with the descriptor, so a process that was killed leaves none behind.
    """
    if sqlite3.sqlite_version_info < SQLITE_MIN:
        raise StoreUnavailable(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or newer")
    lock = owner.open_private(path.with_name(path.name + ".lock"), os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise StoreUnavailable(
            f"{path.name} is open in another process; one process serves one file"
        ) from None
    return lock


def make_private(path: Path) -> None:
    """Makes the file, if need be, for its owner alone. -wal and -shm take after it, in their
    owner too if root makes them."""
    os.close(owner.open_private(path, os.O_RDWR))
    path.chmod(owner.PRIVATE)


def connect(path: Path, *, cache_kib: int, read_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode, durable on COMMIT (WAL, synchronous FULL)."""
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    run = connection.execute
    run(f"PRAGMA busy_timeout = {BUSY_MS}")
    run(f"PRAGMA page_size = {PAGE_BYTES}")
    run("PRAGMA journal_mode = WAL")
    run("PRAGMA synchronous = FULL")
    run("PRAGMA secure_delete = ON")
    run(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
    run(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
    run(f"PRAGMA cache_size = -{cache_kib}")
    run("PRAGMA temp_store = MEMORY")
    run("PRAGMA trusted_schema = OFF")
    make_counter(connection)
    if read_only:
        run("PRAGMA query_only = ON")
    return connection


@contextmanager
def one_moment(connection: sqlite3.Connection) -> Iterator[None]:
    """All reads inside see the file as it is at the first of them. Raises what `unavailable`
    makes of SQLite's errors."""
    try:
        connection.execute("BEGIN")
        try:
            yield
        finally:
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise unavailable(error) from error


def unavailable(error: sqlite3.Error) -> Exception:
    """StoreUnavailable for what passes (full disk, busy, I/O); the error itself otherwise."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in _UNAVAILABLE:
        name = getattr(error, "sqlite_errorname", "an error")
        return StoreUnavailable(f"SQLite answers {name}")
    return error


def fault_of(error: sqlite3.Error) -> Fault:
    """What kind of trouble it is."""
    code = getattr(error, "sqlite_errorcode", None)
    return Fault.OTHER if code is None else _FAULTS.get(code & 0xFF, Fault.OTHER)


_FAULTS = {
    sqlite3.SQLITE_FULL: Fault.FULL,
    sqlite3.SQLITE_IOERR: Fault.IO,
    sqlite3.SQLITE_CANTOPEN: Fault.IO,
    sqlite3.SQLITE_READONLY: Fault.IO,
    sqlite3.SQLITE_CORRUPT: Fault.IO,
    sqlite3.SQLITE_NOTADB: Fault.IO,
}


def migrate(connection: sqlite3.Connection) -> None:
    """Brings the service's file to this version's schema; StoreUnavailable as `bring_up`."""
    connection.create_function("packed", 1, lambda raw: pack((raw,)), deterministic=True)
    connection.create_function("winner", 3, WINNER.pack, deterministic=True)
    bring_up(connection, MIGRATIONS, APPLICATION_ID, others="another program's data")
    with_defaults = (("generation", secrets.token_bytes(8)), ("secret", secrets.token_bytes(32)))
    for name, value in (*with_defaults, ("accounts_ever", 0), ("rounds_ever", 0), ("beats", 0)):
        connection.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, value))


def bring_up(
    connection: sqlite3.Connection, migrations: Sequence[str], application_id: int, *, others: str
) -> None:
    """Brings a file of one application to its newest schema, one numbered step a transaction.

    StoreUnavailable if the file is newer, or holds what `others` calls it.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != application_id and (application or tables):
        raise StoreUnavailable(f"the file holds {others}")
    if version > len(migrations):
        raise StoreUnavailable(
            f"the file has schema {version}; this version knows no newer one than "
            f"{len(migrations)}: start the version that wrote it, or a later one"
        )
    for number in range(version, len(migrations)):
        try:
            connection.executescript(
                f"BEGIN EXCLUSIVE;{migrations[number]};"
                f"PRAGMA application_id = {application_id};"
                f"PRAGMA user_version = {number + 1};COMMIT;"
            )
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def check_stays(connection: sqlite3.Connection) -> None:
    """StoreUnavailable if the store is moved elsewhere, or was."""
    row = connection.execute("SELECT value FROM meta WHERE name = 'moving'").fetchone()
    if row is None:
        return
    if row[0].startswith(b"gone"):
        raise StoreUnavailable(
            "this store was moved elsewhere, and its clients with it: use the new one"
        )
    raise StoreUnavailable(
        "rookery-server migrate-store is at work on this store, or was interrupted: run it again"
    )


def read_meta(connection: sqlite3.Connection, name: str) -> bytes:
    """One of the values that live as long as the file."""
    row: tuple[bytes] = connection.execute(
        "SELECT value FROM meta WHERE name = ?", (name,)
    ).fetchone()
    return row[0]
