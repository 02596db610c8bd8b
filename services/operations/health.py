"""GetPrivacyHealth (proto/rookery/v1/operations.proto), and the same for `rookery-server audit`.

What can be known from here. For which purpose somebody said yes is hidden from the service, and
so is all that a profile holds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from crypto.policy import decode as decode_policy
from rookery.v1 import operations_pb2
from services.audit.local import Readable
from services.config import Config
from services.operations import facts
from services.operations.budgets import budgets
from services.operations.facts import Facts
from services.policy.retention import OVERDUE_MS, retention_of
from services.store.governance import Head
from services.store.retention import AUDIT, DELETED, audit_overdue
from services.store.rounds import HeldRound, TaskRow

GATES: Final = (
    "ACCESS_DENIED", "ROLE_MISSING", "CONSENT_MISSING", "CONSENT_INVALID", "CONSENT_CONFLICT",
    "TASK_UNDECLARED", "TASK_INVALID", "POLICY_INVALID", "POLICY_CONFLICT", "BUDGET_EXHAUSTED",
    "RATE_LIMITED", "UNAUTHENTICATED",
)  # fmt: skip
"""Reasons that say that something was kept from happening which the policy does not want."""
FACTS_S: Final = 60.0
"""Facts are looked up at most once in so long: on a large file it takes seconds."""
_ROUNDS_AT_ONCE: Final = 256


@dataclass(slots=True)
class Counted:
    """What a process counts; empty where none runs."""

    since_ms: int = 0
    refusals: Mapping[str, int] = field(default_factory=dict)
    consents: Mapping[bool, int] = field(default_factory=dict)
    overdue: Callable[[], Awaitable[Mapping[str, int]]] | None = None
    """What `Store.overdue` finds; None where no process serves."""


async def gather(
    store: Readable, config: Config, counted: Counted, found: Facts | None, now_ms: int
) -> operations_pb2.GetPrivacyHealthResponse:
    """All but the field `info`. Reads the store; StoreUnavailable."""
    answer = operations_pb2.GetPrivacyHealthResponse(
        governed=bool(config.policy_keys),
        counted_since_ms=counted.since_ms,
        grants=counted.consents.get(True, 0),
        withdrawals=counted.consents.get(False, 0),
        audit_head=chain_head(await store.governance.audit_head()),
        audit_anchor=chain_head(await store.governance.audit_anchor()),
    )
    row, bundle = await store.governance.policy(), None
    if row is not None:
        bundle = decode_policy(row.data)
        answer.policy_sequence, answer.policy_hash = row.sequence, row.hash
        answer.policy_issued_ms = bundle.issued_ms
    kept = retention_of(config.limits(), bundle if config.policy_keys else None)
    before_ms = now_ms - OVERDUE_MS
    overdue = dict(await store.rounds.overdue(now_ms=before_ms, retention=kept))
    overdue[AUDIT] = await audit_overdue(store.governance, kept, now_ms=before_ms)
    for kind, count in overdue.items():
        answer.overdue.add(kind=kind, count=count)
    for reason in GATES:
        if counted.refusals.get(reason):
            answer.refusals.add(reason=reason, count=counted.refusals[reason])
    for one in budgets(await all_tasks(store), await all_rounds(store), now_ms):
        answer.budgets.add(
            spec_hash=one.spec_hash,
            task_id=one.task_id,
            cap_micro_rho=one.cap,
            spent_micro_rho=one.spent,
            left_micro_rho=one.left,
            round_micro_rho=one.round_cost,
        )
    for kind, since_ms in key_ages(config).items():
        answer.keys.add(kind=kind, since_ms=since_ms)
    if counted.overdue is not None:
        for kind, count in (await counted.overdue()).items():
            if kind == DELETED:
                # As of the newest sweep, where the file can't be asked.
                answer.rows_past_deletion = count
            else:
                answer.overdue.add(kind=kind, count=count)
    if found is not None:
        answer.rows_past_deletion = found.past_deletion
        answer.oldest_ended_epoch_ms = found.oldest_ended_epoch_ms
    return answer


def chain_head(head: Head) -> operations_pb2.ChainHead:
    """A head as it travels."""
    return operations_pb2.ChainHead(seq=head.seq, hash=head.hash)


async def all_tasks(store: Readable) -> list[TaskRow]:
    """Every task that is held."""
    found: list[TaskRow] = []
    after, more = 0, True
    while more:
        rows, more = await store.rounds.read_tasks(after, tasks_max=256, bytes_max=8 << 20)
        found += [row for _, row in rows]
        after = rows[-1][0] if rows else after
        more = more and bool(rows)
    return found


async def all_rounds(store: Readable) -> list[HeldRound]:
    """Every round that is held."""
    found: list[HeldRound] = []
    while True:
        rows = await store.rounds.list_rounds(len(found), rounds_max=_ROUNDS_AT_ONCE)
        found += rows
        if len(rows) < _ROUNDS_AT_ONCE:
            return found


class FactsOfFile:
    """The file's facts, looked up when they are asked for and not younger. None on Redis, where
    they lie spread over all accounts."""

    def __init__(self, config: Config, monotonic_s: Callable[[], float]) -> None:
        self._path = None if config.redis_url else Path(config.database)
        self._monotonic_s = monotonic_s
        self._known: tuple[float, Facts] | None = None
        self._looking = asyncio.Lock()

    async def get(self) -> Facts | None:
        """KeepingError."""
        if self._path is None:
            return None
        async with self._looking:
            now_s = self._monotonic_s()
            if self._known is None or now_s - self._known[0] > FACTS_S:
                self._known = now_s, await asyncio.to_thread(facts.of_file, self._path)
            return self._known[1]


def key_ages(config: Config) -> dict[str, int]:
    """When the file of each key that is there was last written, in milliseconds since 1970."""
    named = {"identity": config.identity_key_file, "pepper": config.pepper_file}
    if config.wake_gateway:
        named["wake"] = config.wake_key_file
    found = {}
    for kind, name in named.items():
        with contextlib.suppress(OSError):
            found[kind] = Path(name).stat().st_mtime_ns // 1_000_000
    return found
