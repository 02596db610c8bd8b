"""Joint aggregates in the SQLite file: what the writer's thread does.

A round's boxes lie party by party, in the order in which they were committed: a party reads
one range of the table. Boxes go in slices, so that nobody's push waits for a whole round.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from hashlib import blake2b

from crypto.ids import AccountId
from crypto.keys import device_id
from crypto.primitives import SIG_BYTES
from services.store.errors import (
    ConsentStale,
    ContributedAlready,
    QuotaExceeded,
    ResultConflict,
    RoundClosed,
    RoundConflict,
    RoundNotClosed,
    RoundNotOpen,
    RoundOver,
    RoundUnknown,
    TaskConflict,
    TaskUnknown,
)
from services.store.governance import ConsentState
from services.store.retention import BOXES, RESULTS, Retention, bounds_by_task
from services.store.rounds import Contribution, RoundRow, TaskRow
from services.store.sqlite_governance import consent_state
from services.store.sqlite_transaction import Transaction

POSITION_BITS = 32
PARTY_BITS = 8
ROUND_N_MAX = (1 << 22) - 1
SLICE_ROWS = 1_024


def contribution_base(round_n: int) -> int:
    """`contribution_id` is this plus the position."""
    return round_n << POSITION_BITS


def box_base(round_n: int, party: int) -> int:
    """`box_id` is this plus the position."""
    return (round_n << PARTY_BITS | party) << POSITION_BITS


def publish_task(tx: Transaction, row: TaskRow) -> bool:
    """See `RoundStore.publish_task`."""
    standing = tx.db.execute(
        "SELECT publisher, task FROM task WHERE task_id = ?", (row.task_id,)
    ).fetchone()
    if standing is not None:
        if standing != (row.publisher, row.task):
            raise TaskConflict("other bytes stand under this task id: a change is a new task")
        return False
    (count,) = tx.db.execute("SELECT count(*) FROM task").fetchone()
    if count >= tx.limits.tasks_max:
        raise QuotaExceeded("tasks", tx.limits.tasks_max)
    tx.db.execute(
        "INSERT INTO task (task_id, spec_hash, publisher, task, sig) VALUES (?, ?, ?, ?, ?)",
        (row.task_id, row.spec_hash, row.publisher, row.task, row.sig),
    )
    return True


def collect_round(tx: Transaction, row: RoundRow) -> bool:
    """See `RoundStore.collect_round`."""
    standing = tx.db.execute(
        "SELECT manifest FROM round WHERE round_id = ?", (row.round_id,)
    ).fetchone()
    if standing is not None:
        if standing[0] != row.manifest:
            raise RoundConflict("another manifest stands under this round id")
        return False
    task = tx.db.execute("SELECT task_n FROM task WHERE spec_hash = ?", (row.spec_hash,)).fetchone()
    if task is None:
        raise TaskUnknown("no task with this spec_hash")
    _check_room(tx, task[0], row)
    (round_n,) = tx.db.execute(
        "UPDATE meta SET value = value + 1 WHERE name = 'rounds_ever' RETURNING value"
    ).fetchone()
    if round_n > ROUND_N_MAX:
        raise QuotaExceeded("rounds_ever", ROUND_N_MAX)
    tx.db.execute(
        "INSERT INTO round (round_n, round_id, task_n, manifest, sigs, m, open_ms, close_ms,"
        " until_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            round_n, row.round_id, task[0], row.manifest, b"".join(row.sigs), len(row.parties),
            row.open_ms, row.close_ms, row.until_ms,
        ),
    )  # fmt: skip
    tx.db.executemany(
        "INSERT INTO round_party VALUES (?, ?, ?, ?)",
        [(round_n, party, device_id(ik), ik) for party, ik in enumerate(row.parties, start=1)],
    )
    return True


def _check_room(tx: Transaction, task_n: int, row: RoundRow) -> None:
    overlapping = tx.db.execute(
        "SELECT 1 FROM round WHERE task_n = ? AND close_ms > ? AND open_ms < ? LIMIT 1",
        (task_n, row.open_ms, row.close_ms),
    ).fetchone()
    if overlapping is not None:
        raise RoundConflict("a round of the task overlaps this window")
    (count,) = tx.db.execute("SELECT count(*) FROM round").fetchone()
    if count >= tx.limits.rounds_max:
        raise QuotaExceeded("rounds", tx.limits.rounds_max)


def contribute(tx: Transaction, given: Contribution) -> bool:
    """See `RoundStore.contribute`. Judged in the writer's order: once a round is sealed,
    nothing comes after, however early it was sent."""
    account_n = tx.account(given.account_id).account_n
    if given.consent is not None and consent_state(tx.db, account_n, given.consent.tag) != (
        ConsentState(given.consent.seq, granted=True)
    ):
        raise ConsentStale("no consent that stands")
    row = tx.db.execute(
        "SELECT round_n, open_ms, until_ms, sealed, over, position FROM round WHERE round_id = ?",
        (given.round_id,),
    ).fetchone()
    if row is None:
        raise RoundUnknown("no such round")
    round_n, open_ms, until_ms, sealed, over, position = row
    base = contribution_base(round_n)
    digest = blake2b(
        b"".join(len(data).to_bytes(4, "big") + data for data in given.rows), digest_size=32
    ).digest()
    held = tx.db.execute(
        "SELECT digest FROM contribution WHERE account_n = ? AND contribution_id BETWEEN ? AND ?",
        (account_n, base, contribution_base(round_n + 1) - 1),
    ).fetchone()
    if held is not None:
        if held[0] != digest:
            raise ContributedAlready("the account has given other bytes to this round")
        return False
    if given.now_ms < open_ms:
        raise RoundNotOpen(open_ms)
    if sealed or over or given.now_ms >= until_ms:
        raise RoundClosed(until_ms)
    maximum = min(tx.limits.contributions_max, given.reports_max)
    if position >= maximum:
        raise QuotaExceeded("contributions", maximum)
    position += 1
    tx.db.execute(
        "UPDATE round SET position = ?, held = held + 1 WHERE round_n = ?", (position, round_n)
    )
    tx.db.execute("INSERT INTO contribution VALUES (?, ?, ?)", (base + position, account_n, digest))
    tx.db.executemany(
        "INSERT INTO box VALUES (?, ?)",
        [
            (box_base(round_n, party) + position, data)
            for party, data in enumerate(given.rows, start=1)
        ],
    )
    return True


def seal_round(tx: Transaction, round_id: bytes) -> int:
    """See `RoundStore.seal_round`."""
    row = tx.db.execute(
        "UPDATE round SET sealed = 1 WHERE round_id = ? RETURNING over, held", (round_id,)
    ).fetchone()
    if row is None:
        raise RoundUnknown("no such round")
    over, held = row
    if over:
        raise RoundOver("the boxes of this round were dropped")
    return int(held)


def publish_result(
    tx: Transaction, round_id: bytes, result: bytes, sigs: Mapping[int, bytes], now_ms: int
) -> bool:
    """See `RoundStore.publish_result`. Here the round is over; `drop_slice` does the rest."""
    row = tx.db.execute(
        "SELECT round_n, until_ms, sealed FROM round WHERE round_id = ?", (round_id,)
    ).fetchone()
    if row is None:
        raise RoundUnknown("no such round")
    round_n, until_ms, sealed = row
    if not sealed and now_ms < until_ms:
        raise RoundNotClosed(until_ms)
    standing = tx.db.execute(
        "SELECT result, sigs FROM result WHERE round_n = ?", (round_n,)
    ).fetchone()
    if standing is not None:
        if standing[0] != result:
            raise ResultConflict("another result stands")
        merged = {**unpack_sigs(standing[1]), **sigs}
        tx.db.execute("UPDATE result SET sigs = ? WHERE round_n = ?", (_pack_sigs(merged), round_n))
        return False
    tx.db.execute("INSERT INTO result VALUES (?, ?, ?)", (round_n, result, _pack_sigs(sigs)))
    tx.db.execute("UPDATE round SET sealed = 1, over = 1 WHERE round_n = ?", (round_n,))
    return True


def _pack_sigs(sigs: Mapping[int, bytes]) -> bytes:
    return b"".join(bytes((party,)) + sigs[party] for party in sorted(sigs))


def unpack_sigs(packed: bytes) -> dict[int, bytes]:
    """Party to signature, from a row of the table `result`."""
    step = 1 + SIG_BYTES
    return {packed[at]: packed[at + 1 : at + step] for at in range(0, len(packed), step)}


def abandon(
    tx: Transaction, round_id: bytes, party: int, statement: bytes, sig: bytes, quorum: int
) -> bool:
    """See `RoundStore.abandon`."""
    row = tx.db.execute("SELECT round_n, m FROM round WHERE round_id = ?", (round_id,)).fetchone()
    if row is None:
        raise RoundUnknown("no such round")
    round_n, m = row
    standing = tx.db.execute(
        "SELECT statement FROM abandonment WHERE round_n = ? AND party = ?", (round_n, party)
    ).fetchone()
    if standing is not None:
        if standing[0] != statement:
            raise ResultConflict("another abandonment of this party stands")
        return False
    tx.db.execute("INSERT INTO abandonment VALUES (?, ?, ?, ?)", (round_n, party, statement, sig))
    (gone,) = tx.db.execute(
        "SELECT count(*) FROM abandonment WHERE round_n = ?", (round_n,)
    ).fetchone()
    if m - gone < quorum:
        tx.db.execute("UPDATE round SET sealed = 1, over = 1 WHERE round_n = ?", (round_n,))
    return True


def forget_account(tx: Transaction, account_n: int) -> None:
    """Deletes every contribution of the account that is still held."""
    for contribution_id, m, _ in _given(tx, account_n):
        _erase(tx, contribution_id, m)


def take_back(tx: Transaction, round_id: bytes, account_id: AccountId) -> bool:
    """See `RoundStore.take_back`."""
    there = tx.db.execute("SELECT 1 FROM round WHERE round_id = ?", (round_id,)).fetchone()
    if there is None:
        raise RoundUnknown("no such round")
    given = _given(tx, tx.account(account_id).account_n)
    mine = [row for row in given if row[2] == round_id]
    for contribution_id, m, _ in mine:
        _erase(tx, contribution_id, m)
        tx.deleted = True
    return bool(mine)


def _given(tx: Transaction, account_n: int) -> list[tuple[int, int, bytes]]:
    return tx.db.execute(
        "SELECT contribution_id, m, round_id FROM contribution"
        " JOIN round ON round_n = contribution_id >> ? WHERE account_n = ?",
        (POSITION_BITS, account_n),
    ).fetchall()


def _erase(tx: Transaction, contribution_id: int, m: int) -> None:
    """Its position stays empty: that is how parties hear of it."""
    round_n, position = divmod(contribution_id, 1 << POSITION_BITS)
    tx.db.executemany(
        "DELETE FROM box WHERE box_id = ?",
        [(box_base(round_n, party) + position,) for party in range(1, m + 1)],
    )
    tx.db.execute("UPDATE round SET held = held - 1 WHERE round_n = ?", (round_n,))
    tx.db.execute("DELETE FROM contribution WHERE contribution_id = ?", (contribution_id,))


def end_rounds(tx: Transaction, now_ms: int, retention: Retention) -> None:
    """Rounds whose boxes were kept long enough are over."""
    for task_n, boxes_before_ms, _ in _bounds(tx.db, now_ms, retention):
        tx.db.execute(
            "UPDATE round SET sealed = 1, over = 1 WHERE task_n = ? AND over = 0 AND until_ms <= ?",
            (task_n, boxes_before_ms),
        )


def drop_slice(tx: Transaction) -> bool:
    """Drops some boxes of a round that is over, and who gave them; True if there may be more."""
    row = tx.db.execute("SELECT round_n FROM round WHERE over = 1 AND dropped = 0").fetchone()
    if row is None:
        return False
    (round_n,) = row
    tx.deleted = True
    for table, column, first, end in (
        ("box", "box_id", box_base(round_n, 0), box_base(round_n + 1, 0)),
        (
            "contribution", "contribution_id",
            contribution_base(round_n), contribution_base(round_n + 1),
        ),
    ):  # fmt: skip
        gone = tx.db.execute(
            f"DELETE FROM {table} WHERE {column} IN (SELECT {column} FROM {table}"  # noqa: S608
            f" WHERE {column} >= ? AND {column} < ? LIMIT ?)",
            (first, end, SLICE_ROWS),
        ).rowcount
        if gone == SLICE_ROWS:
            return True
    tx.db.execute("UPDATE round SET dropped = 1, held = 0 WHERE round_n = ?", (round_n,))
    return True


def forget_rounds(tx: Transaction, now_ms: int, retention: Retention) -> None:
    """Rounds whose results were kept long enough leave with all that is theirs."""
    for task_n, _, results_before_ms in _bounds(tx.db, now_ms, retention):
        rounds = tx.db.execute(
            "SELECT round_n FROM round WHERE task_n = ? AND dropped = 1 AND until_ms <= ?",
            (task_n, results_before_ms),
        ).fetchall()
        for table in ("result", "abandonment", "round_party", "round"):
            tx.db.executemany(f"DELETE FROM {table} WHERE round_n = ?", rounds)  # noqa: S608


def overdue(db: sqlite3.Connection, now_ms: int, retention: Retention) -> dict[str, int]:
    """How many rounds have boxes, or stand at all, past their retention."""
    counts = {BOXES: 0, RESULTS: 0}
    for task_n, boxes_before_ms, results_before_ms in _bounds(db, now_ms, retention):
        boxes, results = db.execute(
            "SELECT count(*) FILTER (WHERE dropped = 0 AND until_ms <= ?),"
            " count(*) FILTER (WHERE until_ms <= ?) FROM round WHERE task_n = ?",
            (boxes_before_ms, results_before_ms, task_n),
        ).fetchone()
        counts[BOXES] += boxes
        counts[RESULTS] += results
    return counts


def _bounds(
    db: sqlite3.Connection, now_ms: int, retention: Retention
) -> list[tuple[int, int, int]]:
    tasks = db.execute("SELECT DISTINCT task_n, task_id FROM round JOIN task USING (task_n)")
    return bounds_by_task(retention, tasks.fetchall(), now_ms)
