"""How long a store keeps what it holds, and what it holds for too long.

The bounds are the settings', or what the policy in force says where that is less; a store is
told them with every sweep, and knows nothing of a policy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from services.store.governance import GovernanceStore

if TYPE_CHECKING:
    from services.store.base import Limits

BOXES: Final = "boxes"
"""Rounds whose sealed boxes should be gone."""
RESULTS: Final = "results"
"""Rounds that should be forgotten, with their results."""
MAILBOXES: Final = "mailboxes"
WAKE: Final = "wake"
"""Handles that were not renewed."""
AUDIT: Final = "audit"
"""1 if the log goes back further than it should."""
DELETED: Final = "deleted"
"""Rows of accounts that were deleted."""
KINDS: Final = (BOXES, RESULTS, MAILBOXES, WAKE, AUDIT, DELETED)


def _no_own_bound(_task_id: bytes) -> int | None:
    return None


@dataclass(frozen=True, slots=True)
class Retention:
    """In milliseconds: boxes and results from the end of a round on, entries of the audit log
    from their time on (None: for good)."""

    boxes_ms: int
    results_ms: int
    audit_ms: int | None = None
    own_results_ms: Callable[[bytes], int | None] = field(default=_no_own_bound, repr=False)
    """Of a task by its id: how long its results are kept, if it says so itself."""

    @classmethod
    def of(cls, limits: Limits) -> Retention:
        """That of the settings alone."""
        return cls(limits.boxes_ms, limits.results_ms)

    def result_ms(self, task_id: bytes) -> int:
        """How long results of a task are kept: the shorter of the two bounds."""
        own_ms = self.own_results_ms(task_id)
        return self.results_ms if own_ms is None else min(self.results_ms, own_ms)

    def box_ms(self, task_id: bytes) -> int:
        """How long boxes of a task are kept: no longer than its results."""
        return min(self.boxes_ms, self.result_ms(task_id))


def bounds_by_task(
    retention: Retention, tasks: Sequence[tuple[int, bytes]], now_ms: int
) -> list[tuple[int, int, int]]:
    """Of tasks (number, id): the number, and the ends before which a round's boxes and results
    are past their time."""
    return [
        (number, now_ms - retention.box_ms(task_id), now_ms - retention.result_ms(task_id))
        for number, task_id in tasks
    ]


async def trim_audit(store: GovernanceStore, retention: Retention, *, now_ms: int) -> None:
    """Removes the entries of the audit log that are past their time."""
    kept_ms = retention.audit_ms
    while kept_ms is not None and await store.trim_audit(before_ms=now_ms - kept_ms):
        pass


async def audit_overdue(store: GovernanceStore, retention: Retention, *, now_ms: int) -> int:
    """1 if an entry of the audit log is past its time, beside the one that trimming leaves."""
    if retention.audit_ms is None:
        return 0
    anchor = await store.audit_anchor()
    oldest = await store.read_audit(anchor.seq, rows_max=2)
    return int(len(oldest) == 2 and oldest[1].at_ms < now_ms - retention.audit_ms)
