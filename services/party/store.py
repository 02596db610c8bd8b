"""What one party keeps: rounds, share rows in micro-batches, what was agreed and opened, spendings.

Every method is one durable transaction, and doing it again with the same bytes changes nothing;
other bytes where some were written once are `Rewritten`. So a process that is killed between
any two of them replays what it stored and never makes up other data. Synchronous: the daemon
calls it from one thread.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mpc.budget import Opening, PartyLedger
from services.party.reports import (
    BATCH_REPORTS_MAX,
    Batch,
    Report,
    batch,
    batch_numbers,
    insert,
    listed,
)
from services.party.schema import create_round_tables, drop_round_tables, migrate
from services.party.states import Progress, Reason, State
from services.store.errors import RoundClosed, RoundConflict, RoundUnknown
from services.store.sqlite_schema import connect, lock_file, make_private

CACHE_KIB = 16 << 10
KEPT_ITEMS = ("result", "result-sig", "statement", "statement-sig", "manifest-sig")
"""Of a round that has ended; all others go with its tables."""


class Rewritten(Exception):
    """Other bytes stand where this would be written, and stay."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} was written before, with other bytes")
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a round is prepared with."""

    round_id: bytes
    spec_hash: bytes
    open_ms: int
    close_ms: int
    retain_until_ms: int
    task: bytes
    task_sig: bytes
    publisher: bytes


@dataclass(frozen=True, slots=True)
class Round:
    """A round as stored. repr shows no key."""

    round_n: int
    window: Window
    box_sk: bytes | None
    manifest: bytes | None
    round_digest: bytes | None
    cursor: bytes
    progress: Progress

    def __repr__(self) -> str:
        return f"Round({self.window.round_id[:4].hex()}…, {self.progress.state.name})"


_SELECT = (
    "SELECT round_n, round_id, spec_hash, open_ms, close_ms, retain_until_ms, task, task_sig,"
    " publisher, box_sk, manifest, round_digest, cursor, state, agreed, valid, verified_ms,"
    " present, revealed, reason FROM round "
)


class PartyStore:
    """The file of one party, held by one process."""

    def __init__(self, path: Path, lock: int, connection: sqlite3.Connection) -> None:
        self._path = path
        self._lock = lock
        self._db = connection

    @classmethod
    def open(cls, path: Path) -> Self:
        """Makes the file if need be, for its owner alone. StoreUnavailable if it is in use."""
        lock = lock_file(path)
        try:
            make_private(path)
            connection = connect(path, cache_kib=CACHE_KIB)
            try:
                migrate(connection)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            os.close(lock)
            raise
        return cls(path, lock, connection)

    def close(self) -> None:
        """Nothing that was written waits for this."""
        self._db.close()
        os.close(self._lock)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    # Rounds

    def prepare(self, window: Window, box_sk: bytes) -> Round:
        """Keeps a round to come, with its box key. Again with equal values: the first key
        stays. RoundConflict for other values, or another round in the window."""
        with self._transaction():
            there = self._find(window.round_id)
            if there is not None:
                if there.window != window:
                    raise RoundConflict("the round was prepared with other values")
                return there
            overlapping = self._db.execute(
                "SELECT 1 FROM round WHERE spec_hash = ? AND open_ms < ? AND close_ms > ?"
                " AND (manifest IS NOT NULL OR state = 1) LIMIT 1",
                (window.spec_hash, window.close_ms, window.open_ms),
            ).fetchone()
            if overlapping:
                raise RoundConflict("a round of the task overlaps this window")
            row = self._db.execute(
                "INSERT INTO round (round_id, spec_hash, open_ms, close_ms, retain_until_ms, task,"
                " task_sig, publisher, box_sk) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    window.round_id, window.spec_hash, window.open_ms, window.close_ms,
                    window.retain_until_ms, window.task, window.task_sig, window.publisher, box_sk,
                ),
            )  # fmt: skip
            assert row.lastrowid is not None
            create_round_tables(self._db, row.lastrowid)
            return self.round(window.round_id)

    def accept(self, round_id: bytes, manifest: bytes, round_digest: bytes, sig: bytes) -> bytes:
        """Keeps the manifest with this party's signature before it is given out; the signature
        that stands. RoundConflict for another manifest."""
        with self._transaction():
            there = self.round(round_id)
            if there.manifest not in (None, manifest):
                raise RoundConflict("another manifest of this round was signed")
            given = self._get(there.round_n, "manifest-sig", 0)
            if given is not None:
                return given
            if there.progress.state.ended:
                raise RoundClosed(there.window.close_ms)
            self._db.execute(
                "UPDATE round SET manifest = ?, round_digest = ? WHERE round_n = ?",
                (manifest, round_digest, there.round_n),
            )
            self._put(there.round_n, "manifest-sig", 0, sig)
            return sig

    def round(self, round_id: bytes) -> Round:
        """RoundUnknown if it was not prepared here."""
        found = self._find(round_id)
        if found is None:
            raise RoundUnknown("no such round here")
        return found

    def by_digest(self, round_digest: bytes) -> Round | None:
        """The round whose manifest has this digest."""
        row = self._db.execute(_SELECT + "WHERE round_digest = ?", (round_digest,)).fetchone()
        return None if row is None else _round(row)

    def unended(self) -> list[Round]:
        """All rounds that a party has still to do with, oldest window first."""
        rows = self._db.execute(_SELECT + "WHERE state NOT IN (7, 8) ORDER BY close_ms, round_n")
        return [_round(row) for row in rows.fetchall()]

    def to_hand_in(self) -> list[Round]:
        """Rounds that have ended and that the relay may not know of yet."""
        rows = self._db.execute(_SELECT + "WHERE state IN (7, 8) AND manifest IS NOT NULL")
        ended = [_round(row) for row in rows.fetchall()]
        return [one for one in ended if self._get(one.round_n, "handed-in", 0) is None]

    def _find(self, round_id: bytes) -> Round | None:
        row = self._db.execute(_SELECT + "WHERE round_id = ?", (round_id,)).fetchone()
        return None if row is None else _round(row)

    def advance(
        self,
        round_id: bytes,
        step: Callable[[Progress], Progress],
        items: Mapping[tuple[str, int], bytes] | None = None,
    ) -> Progress:
        """Applies a transition to what is stored, together with what it was made of. At the end
        of a round its box key, reports, rows and shares are destroyed."""
        with self._transaction():
            there = self.round(round_id)
            after = step(there.progress)
            for (name, party), value in (items or {}).items():
                self._put(there.round_n, name, party, value)
            self._db.execute(
                "UPDATE round SET state = ?, agreed = ?, valid = ?, verified_ms = ?, present = ?,"
                " revealed = ?, reason = ? WHERE round_n = ?",
                (
                    after.state, after.agreed, after.valid, after.verified_ms,
                    None if after.present is None else _mask(after.present),
                    after.revealed, after.reason, there.round_n,
                ),
            )  # fmt: skip
            if after.state.ended:
                self._destroy(there.round_n)
        if after.state.ended:
            # Else what was destroyed still lies in the log of the file.
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return after

    def _destroy(self, round_n: int) -> None:
        drop_round_tables(self._db, round_n)
        self._db.execute(
            "UPDATE round SET box_sk = NULL, cursor = x'' WHERE round_n = ?", (round_n,)
        )
        self._db.execute(
            "DELETE FROM item WHERE round_n = ? AND name NOT IN (?, ?, ?, ?, ?)",
            (round_n, *KEPT_ITEMS),
        )

    # Ingest

    def add_batch(
        self,
        round_id: bytes,
        *,
        cursor: bytes,
        reports: Sequence[Report],
        refused: Mapping[str, int],
        again: bool = False,
    ) -> int:
        """Stores a micro-batch, the refusals on the way, and where the relay goes on; how many
        were new. Of reports with one id or one nullifier the first stands. `again`: the relay
        starts over, and what is held is no replay."""
        if len(reports) > BATCH_REPORTS_MAX:
            raise ValueError("a micro-batch has at most 2^20 reports")
        with self._transaction():
            there = self.round(round_id)
            if there.progress.state is not State.OPEN:
                raise RoundClosed(there.window.close_ms)
            new, dropped = insert(self._db, there.round_n, reports, again=again)
            for counts in (refused, dropped):
                for reason, count in counts.items():
                    self._refuse(there.round_n, reason, count)
            self._db.execute(
                "UPDATE round SET cursor = ? WHERE round_n = ?", (cursor, there.round_n)
            )
            return new

    def _refuse(self, round_n: int, reason: str, count: int) -> None:
        self._db.execute(
            "INSERT INTO refused VALUES (?, ?, ?)"
            " ON CONFLICT (round_n, reason) DO UPDATE SET reports = reports + excluded.reports",
            (round_n, reason, count),
        )

    def refuse(self, round_id: bytes, item: str, refused: Mapping[str, int]) -> None:
        """Counts reports that were dropped later. Once per `item`: again is no change."""
        with self._transaction():
            there = self.round(round_id)
            marked = f"refused:{item}"
            if self._get(there.round_n, marked, 0) is None:
                self._put(there.round_n, marked, 0, b"")
                for reason, count in refused.items():
                    self._refuse(there.round_n, reason, count)

    def refused(self, round_id: bytes) -> dict[str, int]:
        """Dropped reports by reason."""
        rows = self._db.execute(
            "SELECT reason, reports FROM refused WHERE round_n = ? ORDER BY reason",
            (self.round(round_id).round_n,),
        )
        return dict(rows.fetchall())

    def reports(self, round_id: bytes) -> list[tuple[bytes, bytes, int, int]]:
        """(report_id, report hash, batch, row in it) of all that are held, by report_id."""
        return listed(self._db, self._live(round_id))

    def batch_numbers(self, round_id: bytes) -> list[int]:
        """All micro-batches, in the order in which they came."""
        return batch_numbers(self._db, self._live(round_id))

    def batch(self, round_id: bytes, number: int) -> Batch:
        """One micro-batch of share rows."""
        return batch(self._db, self._live(round_id), number)

    def _live(self, round_id: bytes) -> int:
        there = self.round(round_id)
        if there.progress.state.ended:
            raise RoundClosed(there.window.close_ms)
        return there.round_n

    # What is written once

    def put(self, round_id: bytes, name: str, value: bytes, party: int = 0) -> None:
        """Rewritten if other bytes stand there."""
        with self._transaction():
            self._put(self._live(round_id), name, party, value)

    def keep(self, round_id: bytes, name: str, value: bytes) -> None:
        """Writes once about a round that has ended."""
        with self._transaction():
            self._put(self.round(round_id).round_n, name, 0, value)

    def put_over(self, round_id: bytes, name: str, value: bytes) -> None:
        """Replaces what is not final yet: a share of a sum that nobody has opened."""
        with self._transaction():
            there = self.round(round_id)
            if there.progress.state.ended or there.progress.revealed:
                raise Rewritten(name)
            self._db.execute(
                "INSERT INTO item VALUES (?, ?, 0, ?)"
                " ON CONFLICT (round_n, name, party) DO UPDATE SET bytes = excluded.bytes",
                (there.round_n, name, value),
            )

    def get(self, round_id: bytes, name: str, party: int = 0) -> bytes | None:
        """None if it was not written."""
        return self._get(self.round(round_id).round_n, name, party)

    def by_party(self, round_id: bytes, name: str) -> dict[int, bytes]:
        """What was written of each party."""
        rows = self._db.execute(
            "SELECT party, bytes FROM item WHERE round_n = ? AND name = ? ORDER BY party",
            (self.round(round_id).round_n, name),
        )
        return dict(rows.fetchall())

    def once(self, round_id: bytes, name: str, draw: Callable[[], bytes]) -> bytes:
        """What stands there, or what `draw` gives, durably stored before it is returned.

        For noise, above all: it is drawn once, whatever is killed when.
        """
        with self._transaction():
            round_n = self._live(round_id)
            there = self._get(round_n, name, 0)
            if there is None:
                there = draw()
                self._put(round_n, name, 0, there)
            return there

    def _get(self, round_n: int, name: str, party: int) -> bytes | None:
        row = self._db.execute(
            "SELECT bytes FROM item WHERE round_n = ? AND name = ? AND party = ?",
            (round_n, name, party),
        ).fetchone()
        return None if row is None else bytes(row[0])

    def _put(self, round_n: int, name: str, party: int, value: bytes) -> None:
        there = self._get(round_n, name, party)
        if there is not None and there != value:
            raise Rewritten(name)
        if there is None:
            self._db.execute("INSERT INTO item VALUES (?, ?, ?, ?)", (round_n, name, party, value))

    # Budget

    def spend(self, round_id: bytes, *, micro_rho: int, cap_micro_rho: int) -> None:
        """Enters the opening of the round's window, for good. Again for the same round: no
        change. OverBudget past the cap; OpenedBefore if another round opened the window."""
        with self._transaction():
            there = self.round(round_id)
            assert there.round_digest is not None
            task, window_ms = there.window.spec_hash, there.window.open_ms
            opening = Opening(there.round_digest, micro_rho)
            self._ledger(task).enter(task, window_ms, opening, cap_micro_rho=cap_micro_rho)
            self._db.execute(
                "INSERT OR IGNORE INTO ledger VALUES (?, ?, ?, ?)", (task, window_ms, *opening)
            )

    def spent(self, spec_hash: bytes) -> int:
        """Micro-rho of a task so far."""
        return self._ledger(spec_hash).spent(spec_hash)

    def _ledger(self, spec_hash: bytes) -> PartyLedger:
        """The part of it that is about one task."""
        rows = self._db.execute(
            "SELECT window_ms, round_digest, micro_rho FROM ledger WHERE spec_hash = ?",
            (spec_hash,),
        )
        openings = {window_ms: Opening(digest, cost) for window_ms, digest, cost in rows}
        return PartyLedger({spec_hash: openings})


def _mask(parties: frozenset[int]) -> int:
    return sum(1 << (party - 1) for party in parties)


def _parties(mask: int) -> frozenset[int]:
    return frozenset(party for party in range(1, mask.bit_length() + 1) if mask >> (party - 1) & 1)


def _round(row: tuple) -> Round:  # type: ignore[type-arg]
    (
        round_n, round_id, spec_hash, open_ms, close_ms, retain_until_ms, task, task_sig, publisher,
        box_sk, manifest, round_digest, cursor, state, agreed, valid, verified_ms, present,
        revealed, reason,
    ) = row  # fmt: skip
    window = Window(
        round_id=round_id,
        spec_hash=spec_hash,
        open_ms=open_ms,
        close_ms=close_ms,
        retain_until_ms=retain_until_ms,
        task=task,
        task_sig=task_sig,
        publisher=publisher,
    )
    progress = Progress(
        state=State(state),
        agreed=agreed,
        valid=valid,
        verified_ms=verified_ms,
        present=None if present is None else _parties(present),
        revealed=bool(revealed),
        reason=None if reason is None else Reason(reason),
    )
    return Round(round_n, window, box_sk, manifest, round_digest, cursor, progress)
