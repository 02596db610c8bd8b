"""A party's store in processes that kill themselves: `python -m tests.party_store_child DIR SIDE`.

Each does one round to its end, on a file of its own, and dies at its first transaction, the
next one's at its second, and so on: just before the COMMIT if SIDE is -1, just after it if 1.
Then another goes on where the file stands. What they say, as the noise that a peer would see,
is in a file beside. Forked from one process that has imported all, which is what takes time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.party import items, states
from services.party.records import Window
from services.party.reports import Report
from services.party.states import State, Terms
from services.party.store import PartyStore
from services.store.errors import RoundClosed

WINDOW = Window(
    round_id=b"r" * 16, spec_hash=b"s" * 32, open_ms=0, close_ms=10, retain_until_ms=1_000_000,
    task=b"task", task_sig=b"g" * 64, publisher=b"p" * 32,
)  # fmt: skip
TERMS = Terms(m=3, t=1, me=1, until_ms=10, retain_until_ms=1_000_000, k_min=2)
POINTS_MAX = 40
EVERYONE = TERMS.everyone
REPORTS = [Report(bytes((n,)) * 16, bytes((n,)) * 32, bytes((n, 1)) * 16, bytes((n,)) * 8)
           for n in range(20)]  # fmt: skip


class Dying:
    """Passes statements on to a connection until it is time."""

    def __init__(self, connection: sqlite3.Connection, point: int) -> None:
        self._connection = connection
        self._left = abs(point)
        self._before = point < 0

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Counts COMMITs."""
        if statement == "COMMIT":
            self._left -= 1
        if statement == "COMMIT" and not self._left and self._before:
            os.kill(os.getpid(), signal.SIGKILL)
        cursor = self._connection.execute(statement, *values)
        if statement == "COMMIT" and not self._left:
            os.kill(os.getpid(), signal.SIGKILL)
        return cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def play(store: PartyStore, say: Callable[[str], None]) -> None:
    """Goes on where the file stands, to the end."""
    round_id = WINDOW.round_id
    with contextlib.suppress(RoundClosed):  # it has ended
        store.prepare(WINDOW, os.urandom(32))
    store.accept(round_id, b"manifest", b"d" * 32, b"m" * 64)
    while True:
        there = store.round(round_id)
        progress = there.progress
        match progress.state:
            case State.OPEN:
                at = int.from_bytes(there.cursor, "big")
                if at < len(REPORTS):
                    store.add_batch(
                        round_id, cursor=(at + 5).to_bytes(4, "big"),
                        reports=REPORTS[at : at + 5], refused={"open": 1}, reports_max=100,
                    )  # fmt: skip
                else:
                    store.advance(round_id, lambda p: states.ingested(p, TERMS, 10))
            case State.CLOSED:
                store.put(round_id, items.SET, b"set")
                store.put(round_id, items.SET_SIG, b"2" * 64, party=2)
                store.advance(round_id, lambda p: states.agreed(p, b"a" * 32))
                noise = store.once(round_id, items.NOISE, lambda: os.urandom(8))
                say(f"noise {noise.hex()}")
                store.advance(
                    round_id,
                    lambda p: states.verified(p, 20, 11),
                    {(items.VERDICTS, 0): b"\xff", (items.SHARING, 0): os.urandom(8)},
                )
            case State.VERIFIED:
                store.advance(round_id, lambda p: states.summed(p, TERMS), {(items.SUM, 0): b"sum"})
            case State.SUMMED:
                store.spend(round_id, micro_rho=7, cap_micro_rho=10)
                store.advance(round_id, states.noised)
            case State.NOISED:
                store.advance(round_id, states.opened, {(items.RESULT, 0): b"result"})
            case State.OPENED:
                store.put(round_id, items.RESULT_SIG, b"1" * 64, party=1)
                store.advance(round_id, lambda p: states.signed(p, TERMS, EVERYONE))
            case _:
                return


def run(path: Path, point: int) -> int:
    """One process, which says what it does behind `path`; its exit code, or its signal."""
    child = os.fork()
    if not child:
        store = PartyStore.open(path)
        if point:
            store._db = Dying(store._db, point)  # type: ignore[assignment]
        with path.with_suffix(".said").open("a") as said:
            play(store, lambda line: print(line, file=said, flush=True))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: str, side: str) -> None:
    """Prints how many points there were at which one died."""
    for point in range(1, POINTS_MAX):
        path = Path(folder) / f"{point}.db"
        died = run(path, int(side) * point)
        if died != -signal.SIGKILL:
            print(point - 1)
            return
        run(path, 0)
    raise SystemExit("it was killed at every point")


if __name__ == "__main__":
    main(*sys.argv[1:])
