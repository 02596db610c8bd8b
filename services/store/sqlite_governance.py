"""The SQLite store's part for governance: a `services.store.governance.GovernanceStore`."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from crypto.ids import AccountId, DeviceId
from services.store.account_state import POSITION_BITS
from services.store.errors import ConsentConflict, PolicyConflict, QuotaExceeded
from services.store.governance import (
    AUDIT_BODY_BYTES_MAX,
    NOTHING,
    AuditEntry,
    ConsentRow,
    ConsentState,
    Head,
    PolicyRow,
    following,
    without_gap,
)
from services.store.sqlite_schema import one_moment
from services.store.sqlite_state import Entry
from services.store.sqlite_transaction import Transaction
from services.store.sqlite_writer import Work

TRIMMED_AT_ONCE: Final = 512
_POLICY = "sequence, previous, hash, data, sig, publisher, at_ms"
_CONSENT = "consent_id, prev, hash, tag, granted, device_id, entry, sig, at_ms"
_AUDIT = "seq, at_ms, prev, body, hash"
_LOW = (1 << POSITION_BITS) - 1


def _newest_policy(db: sqlite3.Connection) -> PolicyRow | None:
    row = db.execute(f"SELECT {_POLICY} FROM policy ORDER BY sequence DESC LIMIT 1").fetchone()  # noqa: S608
    return None if row is None else PolicyRow(*row)


def policies(db: sqlite3.Connection) -> list[PolicyRow]:
    """All bundles, oldest first."""
    rows = db.execute(f"SELECT {_POLICY} FROM policy ORDER BY sequence")  # noqa: S608
    return [PolicyRow(*row) for row in rows]


def put_policy(tx: Transaction, row: PolicyRow) -> bool:
    """See `GovernanceStore.put_policy`."""
    newest = _newest_policy(tx.db)
    head = NOTHING if newest is None else Head(newest.sequence, newest.hash)
    if newest is not None and (row.data, row.sig, row.key) == (newest.data, newest.sig, newest.key):
        return False
    if (row.sequence - 1, row.previous) != head:
        raise PolicyConflict(*head)
    tx.db.execute(
        f"INSERT INTO policy ({_POLICY}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (row.sequence, row.previous, row.hash, row.data, row.sig, row.key, row.at_ms),
    )
    return True


def _consent_range(account_n: int, after: int) -> tuple[int, int]:
    base = account_n << POSITION_BITS
    return base + after + 1, base | _LOW


def _consent_row(consent_id: int, *columns: Any) -> ConsentRow:
    prev, digest, tag, granted, device_id, *rest = columns
    seq = consent_id & _LOW
    return ConsentRow(seq, prev, digest, tag, bool(granted), DeviceId(device_id), *rest)


def _newest_consent(db: sqlite3.Connection, account_n: int) -> ConsentRow | None:
    row = db.execute(
        f"SELECT {_CONSENT} FROM consent WHERE consent_id BETWEEN ? AND ?"  # noqa: S608
        " ORDER BY consent_id DESC LIMIT 1",
        _consent_range(account_n, 0),
    ).fetchone()
    return None if row is None else _consent_row(*row)


def consent_state(db: sqlite3.Connection, account_n: int, tag: bytes) -> ConsentState | None:
    """See `GovernanceStore.consent_state`."""
    row = db.execute(
        "SELECT seq, granted FROM consent_now WHERE account_n = ? AND tag = ?", (account_n, tag)
    ).fetchone()
    return None if row is None else ConsentState(row[0], bool(row[1]))


def _ends(db: sqlite3.Connection, account_n: int, row: ConsentRow) -> bool:
    """Whether it takes back what is on: so many there are at most as there were grants."""
    state = consent_state(db, account_n, row.tag)
    return not row.granted and state is not None and state.granted


def append_consent(tx: Transaction, account_id: AccountId, row: ConsentRow) -> bool:
    """See `GovernanceStore.append_consent`."""
    account_n = tx.account(account_id).account_n
    newest = _newest_consent(tx.db, account_n)
    head = NOTHING if newest is None else Head(newest.seq, newest.hash)
    if newest is not None and (newest.entry, newest.sig) == (row.entry, row.sig):
        return False
    if (row.seq - 1, row.prev) != head:
        raise ConsentConflict(*head)
    if row.seq > tx.limits.consents_max and not _ends(tx.db, account_n, row):
        raise QuotaExceeded("consents_per_account", tx.limits.consents_max)
    place = account_n << POSITION_BITS | row.seq
    tx.db.execute(
        f"INSERT INTO consent ({_CONSENT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (
            place, row.prev, row.hash, row.tag, row.granted, row.device_id, row.entry, row.sig,
            row.at_ms,
        ),
    )  # fmt: skip
    tx.db.execute(
        "INSERT INTO consent_now VALUES (?, ?, ?, ?) ON CONFLICT (account_n, tag)"
        " DO UPDATE SET seq = excluded.seq, granted = excluded.granted",
        (account_n, row.tag, row.seq, row.granted),
    )
    return True


def _audit_end(db: sqlite3.Connection) -> tuple[Head, int]:
    """The newest entry, or the anchor; and its time."""
    row = db.execute("SELECT seq, hash, at_ms FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
    row = row or db.execute("SELECT seq, hash, at_ms FROM audit_anchor").fetchone()
    return (NOTHING, 0) if row is None else (Head(*row[:2]), row[2])


def read_audit(db: sqlite3.Connection, after: int, rows_max: int) -> list[AuditEntry]:
    """See `GovernanceStore.read_audit`; here, what is missing is left out."""
    rows = db.execute(
        f"SELECT {_AUDIT} FROM audit WHERE seq > ? ORDER BY seq LIMIT ?",  # noqa: S608
        (after, rows_max),
    ).fetchall()
    return [AuditEntry(*row) for row in rows]


def audit_head(db: sqlite3.Connection) -> Head:
    """See `GovernanceStore.audit_head`."""
    return _audit_end(db)[0]


def audit_anchor(db: sqlite3.Connection) -> Head:
    """See `GovernanceStore.audit_anchor`."""
    row = db.execute("SELECT seq, hash FROM audit_anchor").fetchone()
    return NOTHING if row is None else Head(*row)


def append_audit(tx: Transaction, body: bytes, now_ms: int) -> AuditEntry:
    """See `GovernanceStore.append_audit`."""
    return put_audit(tx.db, body, now_ms)


def put_audit(db: sqlite3.Connection, body: bytes, now_ms: int) -> AuditEntry:
    """The same, inside a transaction that the caller has begun for writing: commands append
    while a service runs."""
    head, last_ms = _audit_end(db)
    entry = following(head, last_ms, body, now_ms)
    db.execute(
        f"INSERT INTO audit ({_AUDIT}) VALUES (?, ?, ?, ?, ?)",  # noqa: S608
        (entry.seq, entry.at_ms, entry.prev, entry.body, entry.hash),
    )
    return entry


def trim_audit(tx: Transaction, before_ms: int) -> int:
    """See `GovernanceStore.trim_audit`. Times never go back along the log, so what is older
    is its start."""
    rows = tx.db.execute(
        "SELECT seq, hash, at_ms FROM audit WHERE at_ms < ? ORDER BY seq LIMIT ?",
        (before_ms, TRIMMED_AT_ONCE + 1),
    ).fetchall()
    # The newest of them stays, whether or not there are more behind it.
    del rows[-1:]
    if rows:
        tx.db.execute("DELETE FROM audit WHERE seq <= ?", (rows[-1][0],))
        tx.db.execute("INSERT OR REPLACE INTO audit_anchor VALUES (1, ?, ?, ?)", rows[-1])
    return len(rows)


class SqliteGovernance:
    """Writes go through the store's writer, short reads run on the event loop."""

    def __init__(
        self,
        submit: Callable[[Work], Awaitable[Any]],
        reads: sqlite3.Connection,
        check_open: Callable[[], None],
        find: Callable[[AccountId], Entry | None],
    ) -> None:
        self._submit = submit
        self._connection = reads
        self._check_open = check_open
        self._find = find
        self._told: Callable[[], None] = lambda: None

    @contextmanager
    def _reads(self) -> Iterator[sqlite3.Connection]:
        self._check_open()
        with one_moment(self._connection):
            yield self._connection

    # --- policy bundles ---

    async def put_policy(self, row: PolicyRow) -> bool:
        """See `GovernanceStore.put_policy`."""
        made: bool = await self._submit(lambda tx: put_policy(tx, row))
        if made:
            self._told()
        return made

    async def policy(self, sequence: int | None = None) -> PolicyRow | None:
        """See `GovernanceStore.policy`."""
        with self._reads() as db:
            if sequence is None:
                return _newest_policy(db)
            row = db.execute(
                f"SELECT {_POLICY} FROM policy WHERE sequence = ?",  # noqa: S608
                (sequence,),
            ).fetchone()
        return None if row is None else PolicyRow(*row)

    async def policy_sequence(self) -> int:
        """See `GovernanceStore.policy_sequence`."""
        with self._reads() as db:
            (newest,) = db.execute("SELECT max(sequence) FROM policy").fetchone()
        return newest or 0

    def on_policy(self, told: Callable[[], None]) -> None:
        """See `GovernanceStore.on_policy`. Nobody but this process puts one."""
        self._told = told

    # --- consent ---

    async def append_consent(self, account_id: AccountId, row: ConsentRow) -> bool:
        """See `GovernanceStore.append_consent`."""
        made: bool = await self._submit(lambda tx: append_consent(tx, account_id, row))
        return made

    async def consents(
        self, account_id: AccountId, after: int, *, rows_max: int
    ) -> Sequence[ConsentRow]:
        """See `GovernanceStore.consents`."""
        entry = self._find(account_id)
        if entry is None:
            return ()
        with self._reads() as db:
            rows = db.execute(
                f"SELECT {_CONSENT} FROM consent WHERE consent_id BETWEEN ? AND ?"  # noqa: S608
                " ORDER BY consent_id LIMIT ?",
                (*_consent_range(entry.account_n, min(after, _LOW)), rows_max),
            ).fetchall()
        return [_consent_row(*row) for row in rows]

    async def consent_head(self, account_id: AccountId) -> Head:
        """See `GovernanceStore.consent_head`."""
        entry = self._find(account_id)
        if entry is None:
            return NOTHING
        with self._reads() as db:
            newest = _newest_consent(db, entry.account_n)
        return NOTHING if newest is None else Head(newest.seq, newest.hash)

    async def consent_state(self, account_id: AccountId, tag: bytes) -> ConsentState | None:
        """See `GovernanceStore.consent_state`."""
        entry = self._find(account_id)
        if entry is None:
            return None
        with self._reads() as db:
            return consent_state(db, entry.account_n, tag)

    # --- audit log ---

    async def append_audit(self, body: bytes, *, now_ms: int) -> AuditEntry:
        """See `GovernanceStore.append_audit`."""
        if len(body) > AUDIT_BODY_BYTES_MAX:
            raise ValueError(f"an entry has at most {AUDIT_BODY_BYTES_MAX} bytes")
        entry: AuditEntry = await self._submit(lambda tx: append_audit(tx, body, now_ms))
        return entry

    async def read_audit(self, after: int, *, rows_max: int) -> Sequence[AuditEntry]:
        """See `GovernanceStore.read_audit`."""
        with self._reads() as db:
            first = max(after, audit_anchor(db).seq) + 1
            return without_gap(read_audit(db, after, rows_max), first)

    async def audit_head(self) -> Head:
        """See `GovernanceStore.audit_head`."""
        with self._reads() as db:
            return audit_head(db)

    async def audit_anchor(self) -> Head:
        """See `GovernanceStore.audit_anchor`."""
        with self._reads() as db:
            return audit_anchor(db)

    async def trim_audit(self, *, before_ms: int) -> int:
        """See `GovernanceStore.trim_audit`."""
        gone: int = await self._submit(lambda tx: trim_audit(tx, before_ms))
        return gone
