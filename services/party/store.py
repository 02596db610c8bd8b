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
from pathlib import Path
from typing import NamedTuple, Self

from mpc.budget import Opening, PartyLedger
from services.party import items, reports as rows
from services.party.records import (
    COLUMNS,
    PROGRESS_COLUMNS,
    Round,
    Window,
    progress_of,
    progress_row,
)
from services.party.reports import Batch, Held, Report
from services.party.retention import BOXES, RESULTS
from services.party.schema import create_round_tables, drop_round_tables, migrate
from services.party.states import Progress, Reason, State, abandoned
from services.store.errors import RoundClosed, RoundConflict, RoundUnknown
from services.store.sqlite_schema import connect, lock_file, make_private

CACHE_KIB = 16 << 10
_SELECT = f"SELECT {COLUMNS} FROM round "  # noqa: S608 - names of columns
_ENDED = (int(State.SIGNED), int(State.ABANDONED))


class HeldPolicy(NamedTuple):
    """A bundle as its publisher signed it, and what it says of itself."""

    sequence: int
    hash: bytes
    data: bytes
    sig: bytes
    publisher: bytes


class PartyStore:
    """The file of one party, held by one process."""

    def __init__(self, lock: int, connection: sqlite3.Connection) -> None:
        self._lock = lock
        self._db = connection
        self._uncut = False

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
        return cls(lock, connection)

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

    # The policy

    def policy(self) -> HeldPolicy | None:
        """The bundle that is held."""
        row = self._db.execute("SELECT sequence, hash, data, sig, publisher FROM policy").fetchone()
        return None if row is None else HeldPolicy(*row)

    def keep_policy(self, held: HeldPolicy) -> None:
        """In the place of the one before."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO policy VALUES (1, ?, ?, ?, ?, ?)", held)

    # Rounds

    def prepare(self, window: Window, box_sk: bytes) -> bytes:
        """Keeps a round to come, with its box key; the key that stands. Again with equal
        values: the first key. RoundConflict for other values, or where another round's manifest
        was signed for the window; RoundClosed once it has ended."""
        with self._transaction():
            there = self._find(window.round_id)
            if there is not None:
                if there.box_sk is None:
                    raise RoundClosed(there.window.close_ms)
                if there.window != window:
                    raise RoundConflict("the round was prepared with other values")
                return there.box_sk
            self._refuse_overlap(window)
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
            return box_sk

    def accept(self, round_id: bytes, manifest: bytes, round_digest: bytes, sig: bytes) -> bytes:
        """Keeps the manifest with this party's signature before it is given out; the signature
        that stands. RoundConflict for another manifest."""
        with self._transaction():
            there = self.round(round_id)
            if there.manifest not in (None, manifest):
                raise RoundConflict("another manifest of this round was signed")
            given = items.get(self._db, there.round_n, items.MANIFEST_SIG)
            if given is not None:
                return given
            if there.progress.state.ended:
                raise RoundClosed(there.window.close_ms)
            self._refuse_overlap(there.window)
            self._db.execute(
                "UPDATE round SET manifest = ?, round_digest = ? WHERE round_n = ?",
                (manifest, round_digest, there.round_n),
            )
            items.put(self._db, there.round_n, items.MANIFEST_SIG, sig)
            return sig

    def _refuse_overlap(self, window: Window) -> None:
        """One manifest is signed for a window. What was only prepared, for a round that never
        came about, is in nobody's way."""
        signed = self._db.execute(
            "SELECT 1 FROM round WHERE spec_hash = ? AND open_ms < ? AND close_ms > ?"
            " AND manifest IS NOT NULL AND round_id <> ? LIMIT 1",
            (window.spec_hash, window.close_ms, window.open_ms, window.round_id),
        ).fetchone()
        if signed:
            raise RoundConflict("a round of the task that was signed overlaps this window")

    def round(self, round_id: bytes) -> Round:
        """RoundUnknown if it was not prepared here."""
        found = self._find(round_id)
        if found is None:
            raise RoundUnknown("no such round here")
        return found

    def progress(self, round_id: bytes) -> Progress:
        """How far it is; RoundUnknown."""
        row = self._db.execute(
            f"SELECT {PROGRESS_COLUMNS} FROM round WHERE round_id = ?",  # noqa: S608 - columns
            (round_id,),
        ).fetchone()
        if row is None:
            raise RoundUnknown("no such round here")
        return progress_of(row)

    def tally(self) -> dict[State, int]:
        """How many rounds are in each state; states without one are left out."""
        found = self._db.execute("SELECT state, count(*) FROM round GROUP BY state")
        return {State(state): count for state, count in found}

    def spendings(self) -> list[tuple[bytes, int]]:
        """Every task that a round is kept of, as it was published, and its micro-rho so far."""
        return self._db.execute(
            "SELECT task, (SELECT coalesce(sum(micro_rho), 0) FROM ledger"
            " WHERE ledger.spec_hash = round.spec_hash) FROM round"
            " WHERE round_n IN (SELECT min(round_n) FROM round GROUP BY spec_hash)"
        ).fetchall()

    def to_do(self) -> list[bytes]:
        """Ids of rounds with a manifest that have not ended, or whose end the relay may not
        know of yet; oldest window first."""
        found = self._db.execute(
            "SELECT round_id FROM round WHERE manifest IS NOT NULL AND NOT EXISTS"
            " (SELECT 1 FROM item WHERE item.round_n = round.round_n AND name = ?)"
            " ORDER BY close_ms, round_n",
            (items.HANDED_IN,),
        )
        return [round_id for (round_id,) in found]

    def _find(self, round_id: bytes) -> Round | None:
        row = self._db.execute(_SELECT + "WHERE round_id = ?", (round_id,)).fetchone()
        return None if row is None else Round.of(row)

    def advance(
        self,
        round_id: bytes,
        step: Callable[[Progress], Progress],
        more: Mapping[tuple[str, int], bytes] | None = None,
        *,
        instead_of: Sequence[str] = (),
    ) -> Progress:
        """Applies a transition to what is stored, together with what it was made of (by name
        and party), in place of what stands under some names. At the end of a round its box key,
        reports, rows and shares are destroyed."""
        with self._transaction():
            there = self.round(round_id)
            after = step(there.progress)
            items.drop(self._db, there.round_n, instead_of)
            for (name, party), value in (more or {}).items():
                items.put(self._db, there.round_n, name, value, party)
            self._db.execute(
                f"UPDATE round SET ({PROGRESS_COLUMNS}) = (?, ?, ?, ?, ?) WHERE round_n = ?",  # noqa: S608
                (*progress_row(after), there.round_n),
            )
            if after.state.ended:
                self._destroy(there.round_n)
        if after.state.ended:
            self._cut_log()
        return after

    def _destroy(self, round_n: int) -> None:
        drop_round_tables(self._db, round_n)
        self._db.execute(
            "UPDATE round SET box_sk = NULL, cursor = x'' WHERE round_n = ?",
            (round_n,),
        )
        items.keep_only(self._db, round_n)

    def sweep(self, *, now_ms: int, history_ms: Callable[[bytes], int]) -> None:
        """Ends rounds that were prepared and never signed, once their window is over, and
        forgets those that ended with a window so long ago; `history_ms`: by the task as it was
        published. Spendings stay."""
        unsigned = self._db.execute(
            "SELECT round_id FROM round WHERE manifest IS NULL AND box_sk IS NOT NULL"
            " AND close_ms <= ?",
            (now_ms,),
        ).fetchall()
        for (round_id,) in unsigned:
            self.advance(round_id, lambda p: abandoned(p, Reason.RETENTION))
        with self._transaction():
            old = self._past(now_ms, history_ms)
            for table in ("item", "refused", "round"):
                self._db.executemany(f"DELETE FROM {table} WHERE round_n = ?", old)  # noqa: S608
        if self._uncut:
            self._cut_log()

    def overdue(self, *, now_ms: int, history_ms: Callable[[bytes], int]) -> dict[str, int]:
        """How many rounds are here past their retention: not ended, and ended too long ago."""
        (boxes,) = self._db.execute(
            "SELECT count(*) FROM round WHERE box_sk IS NOT NULL AND"
            " (CASE WHEN manifest IS NULL THEN close_ms ELSE retain_until_ms END) <= ?",
            (now_ms,),
        ).fetchone()
        return {BOXES: boxes, RESULTS: len(self._past(now_ms, history_ms))}

    def _past(self, now_ms: int, history_ms: Callable[[bytes], int]) -> list[tuple[int]]:
        """`round_n` of rounds that ended too long ago."""
        tasks = self._db.execute(
            "SELECT spec_hash, min(task) FROM round GROUP BY spec_hash"
        ).fetchall()
        found: list[tuple[int]] = []
        for spec_hash, task in tasks:
            found += self._db.execute(
                "SELECT round_n FROM round WHERE spec_hash = ? AND state IN (?, ?)"
                " AND close_ms < ?",
                (spec_hash, *_ENDED, now_ms - history_ms(task)),
            )
        return found

    # Taking in

    def add_batch(
        self,
        round_id: bytes,
        *,
        cursor: bytes,
        reports: Sequence[Report],
        refused: Mapping[str, int],
        reports_max: int,
    ) -> int:
        """Stores a micro-batch, the refusals on the way, and where the relay goes on; how many
        were new. Of reports with one id or one nullifier the first stands, and of more than
        `reports_max` the first so many."""
        with self._transaction():
            there = self.round(round_id)
            if there.progress.state is not State.OPEN:
                raise RoundClosed(there.window.close_ms)
            new, dropped = rows.insert(
                self._db, there.round_n, reports, again=there.again, reports_max=reports_max
            )
            for counts in (refused, dropped):
                self._db.executemany(
                    "INSERT INTO refused VALUES (?, ?, ?) ON CONFLICT (round_n, rule)"
                    " DO UPDATE SET boxes = boxes + excluded.boxes",
                    [(there.round_n, rule, count) for rule, count in counts.items() if count],
                )
            self._db.execute(
                "UPDATE round SET cursor = ? WHERE round_n = ?", (cursor, there.round_n)
            )
            return new

    def start_over(self, round_id: bytes) -> None:
        """The relay lost its place: it is read from the start, and what is held is no replay.
        What it refuses again is counted once, so the counts begin anew."""
        with self._transaction():
            there = self.round(round_id)
            self._db.execute(
                "UPDATE round SET cursor = x'', again = 1 WHERE round_n = ?", (there.round_n,)
            )
            self._db.execute("DELETE FROM refused WHERE round_n = ?", (there.round_n,))
            rows.forget_positions(self._db, there.round_n)

    def erase(self, round_id: bytes, positions: Sequence[int]) -> int:
        """Destroys reports by where the relay had them, for their accounts were deleted; how many
        were held. None once others were told what this party has (`tell`): the set is theirs as
        well by then, and all of it goes with the round."""
        with self._transaction():
            there = self.round(round_id)
            if not self._may_erase(there):
                return 0
            gone = rows.erase(self._db, there.round_n, positions)
        self._uncut |= gone > 0
        if self._uncut:
            self._cut_log()
        return gone

    def _cut_log(self) -> None:
        """Else what was destroyed still lies in the log of the file. Somebody who reads the file
        may be in the way: then it is tried again when the relay is next asked."""
        (busy, *_) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._uncut = bool(busy)

    def may_erase(self, round_id: bytes) -> bool:
        """Whether no other party was told which reports this one has."""
        return self._may_erase(self.round(round_id))

    def _may_erase(self, there: Round) -> bool:
        if there.progress.state > State.CLOSED or there.progress.agreed is not None:
            return False
        told = (items.get(self._db, there.round_n, name) for name in (items.TOLD, items.SET))
        return all(one is None for one in told)

    def refused(self, round_id: bytes) -> dict[str, int]:
        """Boxes that were left out, by rule."""
        found = self._db.execute(
            "SELECT rule, boxes FROM refused WHERE round_n = ? ORDER BY rule",
            (self.round(round_id).round_n,),
        )
        return dict(found.fetchall())

    def reports(self, round_id: bytes) -> list[Held]:
        """All that are held, in the order in which they came."""
        return rows.held(self._db, self._live(round_id))

    def batch(self, round_id: bytes, number: int) -> Batch:
        """One micro-batch of share rows."""
        return rows.batch(self._db, self._live(round_id), number)

    def _live(self, round_id: bytes) -> int:
        there = self.round(round_id)
        if there.progress.state.ended:
            raise RoundClosed(there.window.close_ms)
        return there.round_n

    # What is written once

    def put(self, round_id: bytes, name: str, value: bytes, party: int = 0) -> None:
        """Rewritten if other bytes stand there; RoundClosed for what an ended round drops."""
        with self._transaction():
            kept = name in items.KEPT
            round_n = self.round(round_id).round_n if kept else self._live(round_id)
            items.put(self._db, round_n, name, value, party)

    def get(self, round_id: bytes, name: str, party: int = 0) -> bytes | None:
        """None if it was not written."""
        return items.get(self._db, self.round(round_id).round_n, name, party)

    def by_party(self, round_id: bytes, name: str) -> dict[int, bytes]:
        """What was written of each party."""
        return items.by_party(self._db, self.round(round_id).round_n, name)

    def once(self, round_id: bytes, name: str, draw: Callable[[], bytes]) -> bytes:
        """What stands there, or what `draw` gives, durably stored before it is returned.

        For noise, above all: it is drawn once, whatever is killed when.
        """
        with self._transaction():
            round_n = self._live(round_id)
            there = items.get(self._db, round_n, name)
            if there is None:
                there = draw()
                items.put(self._db, round_n, name, there)
            return there

    # Budget

    def spend(self, round_id: bytes, *, micro_rho: int, cap_micro_rho: int | None) -> None:
        """Enters the opening of the round's window, for good. Again for the same round: no
        change. OverBudget past the cap; OpenedBefore if another round opened the window.
        Without a cap: it was opened by others, and is entered whatever that comes to."""
        with self._transaction():
            there = self.round(round_id)
            assert there.round_digest is not None
            task, window_ms = there.window.spec_hash, there.window.open_ms
            opening = Opening(there.round_digest, micro_rho)
            if cap_micro_rho is not None:
                self._ledger(task).enter(task, window_ms, opening, cap_micro_rho=cap_micro_rho)
            self._db.execute(
                "INSERT OR IGNORE INTO ledger VALUES (?, ?, ?, ?)", (task, window_ms, *opening)
            )

    def spent(self, spec_hash: bytes) -> int:
        """Micro-rho of a task so far."""
        return self._ledger(spec_hash).spent(spec_hash)

    def _ledger(self, spec_hash: bytes) -> PartyLedger:
        """The part of it that is about one task."""
        found = self._db.execute(
            "SELECT window_ms, round_digest, micro_rho FROM ledger WHERE spec_hash = ?",
            (spec_hash,),
        )
        openings = {window_ms: Opening(digest, cost) for window_ms, digest, cost in found}
        return PartyLedger({spec_hash: openings})
