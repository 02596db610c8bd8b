"""The SQLite store's part for joint aggregates: a `services.store.rounds.RoundStore`."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

from crypto.ids import AccountId, DeviceId
from crypto.primitives import SIG_BYTES
from services.store import sqlite_rounds as rounds
from services.store.erased import SLICE_POSITIONS, ErasedOf
from services.store.errors import RoundOver, RoundUnknown
from services.store.retention import Retention
from services.store.rounds import (
    LOOKED_AT,
    BoxPage,
    Contribution,
    HeldRound,
    Phase,
    ResultRow,
    RoundRow,
    Standing,
    Summary,
    TaskRow,
)
from services.store.sqlite_schema import one_moment
from services.store.sqlite_writer import Work

_TASK = "task_id, spec_hash, publisher, task, sig"
_STANDING = (
    "sealed, over, EXISTS (SELECT 1 FROM result WHERE result.round_n = round.round_n),"
    " EXISTS (SELECT 1 FROM abandonment WHERE abandonment.round_n = round.round_n)"
)


class SqliteRounds:
    """Writes go through the store's writer, short reads run on the event loop."""

    def __init__(
        self,
        submit: Callable[[Work], Awaitable[Any]],
        reads: sqlite3.Connection,
        check_open: Callable[[], None],
    ) -> None:
        self._submit = submit
        self._connection = reads
        self._check_open = check_open
        self._erased = ErasedOf()

    @contextmanager
    def _reads(self) -> Iterator[sqlite3.Connection]:
        self._check_open()
        with one_moment(self._connection):
            yield self._connection

    # --- tasks ---

    async def publish_task(self, row: TaskRow) -> bool:
        """See `RoundStore.publish_task`."""
        made: bool = await self._submit(lambda tx: rounds.publish_task(tx, row))
        return made

    async def read_tasks(
        self, after: int, *, tasks_max: int, bytes_max: int
    ) -> tuple[Sequence[tuple[int, TaskRow]], bool]:
        """See `RoundStore.read_tasks`."""
        found: list[tuple[int, TaskRow]] = []
        size = 0
        with self._reads() as db:
            rows = db.execute(
                f"SELECT task_n, {_TASK} FROM task WHERE task_n > ? ORDER BY task_n LIMIT ?",  # noqa: S608
                (after, tasks_max + 1),
            )
            with closing(rows):
                for task_n, *columns in rows:
                    task = TaskRow(*columns)
                    size += len(task.task)
                    if len(found) == tasks_max or (found and size > bytes_max):
                        return found, True
                    found.append((task_n, task))
        return found, False

    async def find_task(self, spec_hash: bytes) -> TaskRow | None:
        """See `RoundStore.find_task`."""
        with self._reads() as db:
            row = db.execute(
                f"SELECT {_TASK} FROM task WHERE spec_hash = ?",  # noqa: S608
                (spec_hash,),
            ).fetchone()
        return None if row is None else TaskRow(*row)

    # --- rounds ---

    async def rounds_of(
        self, spec_hash: bytes, *, now_ms: int, rounds_max: int
    ) -> Sequence[Summary]:
        """See `RoundStore.rounds_of`."""
        with self._reads() as db:
            rows = db.execute(
                f"SELECT round_id, open_ms, until_ms, {_STANDING}"  # noqa: S608
                " FROM round JOIN task USING (task_n)"
                " WHERE spec_hash = ? AND until_ms > ? AND sealed = 0 ORDER BY open_ms LIMIT ?",
                (spec_hash, now_ms, rounds_max),
            ).fetchall()
        return [Summary(row[0], row[1], row[2], _standing(row[3:])) for row in rows]

    async def newest_result(self, spec_hash: bytes, *, now_ms: int) -> bytes | None:
        """See `RoundStore.newest_result`."""
        with self._reads() as db:
            row = db.execute(
                "SELECT round_id FROM (SELECT round_n, round_id, until_ms"
                " FROM round JOIN task USING (task_n) WHERE spec_hash = ? AND until_ms <= ?"
                " ORDER BY close_ms DESC LIMIT ?)"
                " AS last WHERE EXISTS (SELECT 1 FROM result WHERE result.round_n = last.round_n)"
                " ORDER BY until_ms DESC LIMIT 1",
                (spec_hash, now_ms, LOOKED_AT),
            ).fetchone()
        return None if row is None else bytes(row[0])

    async def list_rounds(self, skip: int, *, rounds_max: int) -> Sequence[HeldRound]:
        """See `RoundStore.list_rounds`."""
        with self._reads() as db:
            rows = db.execute(
                "SELECT round_id FROM round ORDER BY until_ms DESC, round_id DESC LIMIT ? OFFSET ?",
                (rounds_max, skip),
            ).fetchall()
        found = [await self.find_round(round_id) for (round_id,) in rows]
        return [held for held in found if held is not None]

    async def tally(self, *, now_ms: int) -> Mapping[Phase, int]:
        """See `RoundStore.tally`."""
        with self._reads() as db:
            rows = db.execute(
                f"SELECT (now >= open_ms) + (now >= until_ms), {_STANDING}, count(*)"  # noqa: S608
                " FROM round, (SELECT ? AS now) GROUP BY 1, 2, 3, 4, 5",
                (now_ms,),
            ).fetchall()
        counts: dict[Phase, int] = {}
        for at, *standing, count in rows:
            # Moments that are as far from the window as the round's own.
            phase = Phase.of(1, 2, _standing(standing), at)
            counts[phase] = counts.get(phase, 0) + count
        return counts

    async def collect_round(self, row: RoundRow) -> bool:
        """See `RoundStore.collect_round`."""
        made: bool = await self._submit(lambda tx: rounds.collect_round(tx, row))
        return made

    async def find_round(self, round_id: bytes) -> HeldRound | None:
        """See `RoundStore.find_round`."""
        with self._reads() as db:
            row = db.execute(
                f"SELECT round_n, manifest, sigs, open_ms, close_ms, until_ms, {_STANDING}, task_n"  # noqa: S608
                " FROM round WHERE round_id = ?",
                (round_id,),
            ).fetchone()
            if row is None:
                return None
            round_n, manifest, sigs, open_ms, close_ms, until_ms, *standing, task_n = row
            task = TaskRow(
                *db.execute(
                    f"SELECT {_TASK} FROM task WHERE task_n = ?",  # noqa: S608
                    (task_n,),
                ).fetchone()
            )
            parties = db.execute(
                "SELECT ik FROM round_party WHERE round_n = ? ORDER BY party", (round_n,)
            ).fetchall()
        held = RoundRow(
            round_id=round_id,
            spec_hash=task.spec_hash,
            manifest=manifest,
            sigs=tuple(sigs[at : at + SIG_BYTES] for at in range(0, len(sigs), SIG_BYTES)),
            parties=tuple(ik for (ik,) in parties),
            open_ms=open_ms,
            close_ms=close_ms,
            until_ms=until_ms,
        )
        return HeldRound(held, task, _standing(standing))

    async def find_party(self, key_id: DeviceId) -> bytes | None:
        """See `RoundStore.find_party`."""
        with self._reads() as db:
            row: tuple[bytes] | None = db.execute(
                "SELECT ik FROM round_party WHERE key_id = ? LIMIT 1", (key_id,)
            ).fetchone()
        return None if row is None else row[0]

    # --- contributions ---

    async def contribute(self, given: Contribution) -> bool:
        """See `RoundStore.contribute`."""
        new: bool = await self._submit(lambda tx: rounds.contribute(tx, given))
        return new

    async def has_contributed(self, round_id: bytes, account_id: AccountId) -> bool:
        """See `RoundStore.has_contributed`."""
        with self._reads() as db:
            row = db.execute(
                "SELECT 1 FROM round, account JOIN contribution USING (account_n)"
                " WHERE round_id = ? AND account_id = ?"
                " AND contribution_id BETWEEN round_n << 32 AND (round_n + 1 << 32) - 1",
                (round_id, account_id),
            ).fetchone()
        return row is not None

    async def given_by(self, account_id: AccountId) -> Sequence[bytes]:
        """See `RoundStore.given_by`."""
        with self._reads() as db:
            rows = db.execute(
                "SELECT round_id FROM account JOIN contribution USING (account_n)"
                " JOIN round ON round_n = contribution_id >> ? WHERE account_id = ?",
                (rounds.POSITION_BITS, account_id),
            ).fetchall()
        return [round_id for (round_id,) in rows]

    async def take_back(self, round_id: bytes, account_id: AccountId, *, behind: int) -> bool:
        """See `RoundStore.take_back`. Consent is asked in the step that stores: nothing is on its
        way."""
        del behind
        taken: bool = await self._submit(lambda tx: rounds.take_back(tx, round_id, account_id))
        return taken

    async def seal_round(self, round_id: bytes) -> int:
        """See `RoundStore.seal_round`."""
        held: int = await self._submit(lambda tx: rounds.seal_round(tx, round_id))
        return held

    async def read_boxes(
        self, round_id: bytes, party: int, after: int, *, bytes_max: int
    ) -> BoxPage:
        """See `RoundStore.read_boxes`."""
        found: list[bytes] = []
        positions: list[int] = []
        size = 0
        with self._reads() as db:
            row = db.execute(
                "SELECT round_n, over, position FROM round WHERE round_id = ?", (round_id,)
            ).fetchone()
            if row is None:
                raise RoundUnknown("no such round")
            round_n, over, end = row
            if over:
                raise RoundOver("the boxes of this round were dropped")
            base = rounds.box_base(round_n, party)
            boxes = db.execute(
                "SELECT box_id, data FROM box WHERE box_id > ? AND box_id <= ? ORDER BY box_id",
                (base + after, base + end),
            )
            with closing(boxes):
                for box_id, data in boxes:
                    if found and size + len(data) > bytes_max:
                        return BoxPage(found, after, more=True, positions=positions)
                    found.append(data)
                    size += len(data)
                    after = box_id - base
                    positions.append(after)
        # Whatever was between the last box and the end has been deleted.
        return BoxPage(found, max(after, end), more=False, positions=positions)

    async def erased(self, round_id: bytes) -> Sequence[int]:
        """See `RoundStore.erased`. Looked for in slices, so that nobody waits for a whole round,
        and only when more are missing than the last time."""
        with self._reads() as db:
            row = db.execute(
                "SELECT round_n, over, position, held FROM round WHERE round_id = ?", (round_id,)
            ).fetchone()
        if row is None:
            raise RoundUnknown("no such round")
        round_n, over, end, held = row
        if over:
            raise RoundOver("the boxes of this round were dropped")
        known = self._erased.get(round_id)
        if known is None or len(known) != end - held:
            known = (
                await self._missing(rounds.contribution_base(round_n), end) if end > held else ()
            )
            self._erased.put(round_id, known)
        return known

    async def _missing(self, base: int, end: int) -> Sequence[int]:
        missing: list[int] = []
        for start in range(0, end, SLICE_POSITIONS):
            last = min(end, start + SLICE_POSITIONS)
            with self._reads() as db:
                there = db.execute(
                    "SELECT contribution_id - ? FROM contribution WHERE contribution_id > ?"
                    " AND contribution_id <= ?",
                    (base, base + start, base + last),
                ).fetchall()
            missing += sorted(set(range(start + 1, last + 1)) - {at for (at,) in there})
            await asyncio.sleep(0)
        return missing

    # --- results ---

    async def publish_result(
        self, round_id: bytes, result: bytes, sigs: Mapping[int, bytes], *, now_ms: int
    ) -> bool:
        """See `RoundStore.publish_result`. Boxes that are still there when it is cut short go
        at the next sweep."""
        new: bool = await self._submit(
            lambda tx: rounds.publish_result(tx, round_id, result, sigs, now_ms)
        )
        await self._drop()
        return new

    async def abandon(
        self, round_id: bytes, party: int, statement: bytes, sig: bytes, *, quorum: int
    ) -> bool:
        """See `RoundStore.abandon`."""
        new: bool = await self._submit(
            lambda tx: rounds.abandon(tx, round_id, party, statement, sig, quorum)
        )
        await self._drop()
        return new

    async def find_result(self, round_id: bytes) -> ResultRow | None:
        """See `RoundStore.find_result`."""
        with self._reads() as db:
            row = db.execute(
                "SELECT round_n, result, result.sigs FROM round LEFT JOIN result USING (round_n)"
                " WHERE round_id = ?",
                (round_id,),
            ).fetchone()
            if row is None:
                return None
            round_n, result, sigs = row
            abandonments = db.execute(
                "SELECT party, statement, sig FROM abandonment WHERE round_n = ? ORDER BY party",
                (round_n,),
            ).fetchall()
        return ResultRow(
            result or b"",
            rounds.unpack_sigs(sigs or b""),
            {party: (statement, sig) for party, statement, sig in abandonments},
        )

    async def sweep(self, *, now_ms: int, retention: Retention) -> None:
        """See `RoundStore.sweep`."""
        await self._submit(lambda tx: rounds.end_rounds(tx, now_ms, retention))
        await self._drop()
        await self._submit(lambda tx: rounds.forget_rounds(tx, now_ms, retention))

    async def overdue(self, *, now_ms: int, retention: Retention) -> Mapping[str, int]:
        """See `RoundStore.overdue`."""
        with self._reads() as db:
            return rounds.overdue(db, now_ms, retention)

    async def _drop(self) -> None:
        while await self._submit(rounds.drop_slice):
            pass


def _standing(columns: Sequence[int]) -> Standing:
    return Standing(*map(bool, columns))
