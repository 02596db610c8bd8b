"""The SQLite file of one party: its tables, those of each round, and how an older one is brought
up. It holds no account and no device: reports have an id, and a nullifier of their round."""

from __future__ import annotations

import sqlite3

from services.store.sqlite_schema import bring_up

APPLICATION_ID = 0x526B7270

_SCHEMA_1 = """
-- round_n is never given twice. box_sk: NULL once the round has ended. manifest: NULL until this
-- party signed it. again: the relay began anew, so that what it repeats is no replay.
CREATE TABLE round (
  round_n INTEGER PRIMARY KEY AUTOINCREMENT,
  round_id BLOB NOT NULL UNIQUE,
  spec_hash BLOB NOT NULL,
  open_ms INTEGER NOT NULL,
  close_ms INTEGER NOT NULL,
  retain_until_ms INTEGER NOT NULL,
  task BLOB NOT NULL,
  task_sig BLOB NOT NULL,
  publisher BLOB NOT NULL,
  box_sk BLOB,
  manifest BLOB,
  round_digest BLOB UNIQUE,
  cursor BLOB NOT NULL DEFAULT x'',
  again INTEGER NOT NULL DEFAULT 0,
  state INTEGER NOT NULL DEFAULT 1,
  agreed BLOB,
  valid INTEGER,
  verified_ms INTEGER,
  reason TEXT
);
CREATE INDEX round_by_window ON round (spec_hash, open_ms);

-- Boxes that this party left out while it took them in, by rule.
CREATE TABLE refused (
  round_n INTEGER NOT NULL,
  rule TEXT NOT NULL,
  boxes INTEGER NOT NULL,
  PRIMARY KEY (round_n, rule)
) WITHOUT ROWID;

-- What the round's steps stored (services.party.items). party: whose it is; 0: of the round.
CREATE TABLE item (
  round_n INTEGER NOT NULL,
  name TEXT NOT NULL,
  party INTEGER NOT NULL,
  bytes BLOB NOT NULL,
  PRIMARY KEY (round_n, name, party)
);

-- What was spent, for good: a window of a task opens once (mpc.budget.PartyLedger).
CREATE TABLE ledger (
  spec_hash BLOB NOT NULL,
  window_ms INTEGER NOT NULL,
  round_digest BLOB NOT NULL,
  micro_rho INTEGER NOT NULL,
  PRIMARY KEY (spec_hash, window_ms)
) WITHOUT ROWID;
"""

# The policy bundle that the party holds (services.party.governing).
_SCHEMA_2 = """
-- One row at most.
CREATE TABLE policy (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  sequence INTEGER NOT NULL,
  hash BLOB NOT NULL,
  data BLOB NOT NULL,
  sig BLOB NOT NULL,
  publisher BLOB NOT NULL
);
"""

MIGRATIONS: tuple[str, ...] = (_SCHEMA_1, _SCHEMA_2)
"""Number n brings a file of schema n to n + 1. Never edited once released, only added to."""


def round_tables(round_n: int) -> tuple[str, str]:
    """The names of a round's own tables: reports, and micro-batches of share rows."""
    return f"r{round_n:d}_report", f"r{round_n:d}_batch"


def position_table(round_n: int) -> str:
    """Where the relay has the reports of a round, as far as it says so."""
    return f"r{round_n:d}_position"


def create_round_tables(connection: sqlite3.Connection, round_n: int) -> None:
    """place: batch << 20 | row. rows: fixed-width share rows, one after the other."""
    report, batch = round_tables(round_n)
    connection.execute(
        f"CREATE TABLE {report} (report_id BLOB PRIMARY KEY, nullifier BLOB NOT NULL UNIQUE,"
        " report_hash BLOB NOT NULL, place INTEGER NOT NULL) WITHOUT ROWID"
    )
    connection.execute(
        f"CREATE TABLE {batch} (batch_n INTEGER PRIMARY KEY, reports INTEGER NOT NULL,"
        " rows BLOB NOT NULL)"
    )
    create_position_table(connection, round_n)


def create_position_table(connection: sqlite3.Connection, round_n: int) -> None:
    """A round of before has none: its reports are dropped with the round, and not before."""
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {position_table(round_n)} (position INTEGER PRIMARY KEY,"
        " report_id BLOB NOT NULL)"
    )


def drop_round_tables(connection: sqlite3.Connection, round_n: int) -> None:
    """Nothing of a single report is left after it."""
    for table in (*round_tables(round_n), position_table(round_n)):
        connection.execute(f"DROP TABLE IF EXISTS {table}")


def migrate(connection: sqlite3.Connection) -> None:
    """Brings a party's file to this version's schema; StoreUnavailable as `bring_up`."""
    bring_up(
        connection,
        MIGRATIONS,
        APPLICATION_ID,
        others="another program's data, or the service's own",
    )
