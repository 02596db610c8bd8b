"""What tasks may still spend, by the rounds that the service holds. Pure.

The ledger that counts is each party's own: what a party refuses, no figure in here can allow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from mpc import task as tasks
from services.store.rounds import HeldRound, Phase, TaskRow


@dataclass(frozen=True, slots=True)
class Budget:
    """Of one task over all its rounds, in micro-rho of zCDP."""

    spec_hash: bytes
    task_id: str
    cap: int
    spent: int
    round_cost: int

    @property
    def left(self) -> int:
        """Never below 0: a relay that holds more rounds than the cap has room for says so by
        `spent`."""
        return max(0, self.cap - self.spent)


def budgets(published: Iterable[TaskRow], rounds: Iterable[HeldRound], now_ms: int) -> list[Budget]:
    """One for each task, in their order. A round counts from its window's end on, whatever
    became of it: what was entered is spent."""
    ended: Counter[bytes] = Counter()
    for held in rounds:
        row = held.row
        phase = Phase.of(row.open_ms, row.until_ms, held.standing, now_ms)
        ended[row.spec_hash] += phase not in (Phase.ANNOUNCED, Phase.OPEN)
    found = []
    for published_row in published:
        task = tasks.decode(published_row.task)
        spec_hash = published_row.spec_hash
        cost = task.cost_micro_rho
        found.append(
            Budget(
                spec_hash,
                task.task_id,
                task.caps.task_micro_rho,
                cost * ended[spec_hash],
                cost,
            )
        )
    return found
