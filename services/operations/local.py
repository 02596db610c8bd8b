"""`rookery-server audit --health`: privacy health out of the store and the settings alone, while
the service runs or not. What only a process counts (refusals) is in its metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rookery.v1 import operations_pb2
from services.audit.local import gone_before_now, reading
from services.audit.walk import Verdict, show_head, verify
from services.config import Config
from services.operations import facts
from services.operations.facts import Facts
from services.operations.health import Counted, gather

_DAY_MS: Final = 86_400_000


async def health(config: Config, *, as_json: bool) -> None:
    """Prints it. KeepingError, StoreError."""
    now_ms = time.time_ns() // 1_000_000
    async with reading(config) as store:
        found = None if config.redis_url else facts.of_file(Path(config.database))
        answer = await gather(store, config, Counted(), found, now_ms)
        log = await verify(
            store.governance, gone_before_ms=await gone_before_now(config, store.governance)
        )
    if as_json:
        print(json.dumps(_data(answer, found, log)))
        return
    for text in _lines(answer, found, log, now_ms):
        print(text)


def _data(
    answer: operations_pb2.GetPrivacyHealthResponse, found: Facts | None, log: Verdict
) -> dict[str, Any]:
    data: dict[str, Any] = {
        "governed": answer.governed,
        "policy": {
            "sequence": answer.policy_sequence,
            "issued_ms": answer.policy_issued_ms,
            "hash": answer.policy_hash.hex(),
        },
        "budgets": [
            {
                "task": one.task_id,
                "cap_micro_rho": one.cap_micro_rho,
                "spent_micro_rho": one.spent_micro_rho,
                "left_micro_rho": one.left_micro_rho,
                "round_micro_rho": one.round_micro_rho,
            }
            for one in answer.budgets
        ],
        "key_since_ms": {one.kind: one.since_ms for one in answer.keys},
        "audit": {
            "holds": log.holds,
            "entries": log.entries,
            "head": show_head(log.head),
            "anchor": show_head(log.anchor),
        },
    }
    if found is not None:
        data |= {
            "consent": {"grants": found.grants, "withdrawals": found.withdrawals},
            "rows_past_deletion": found.past_deletion,
            "oldest_ended_epoch_ms": found.oldest_ended_epoch_ms,
        }
    return data


def _lines(
    answer: operations_pb2.GetPrivacyHealthResponse,
    found: Facts | None,
    log: Verdict,
    now_ms: int,
) -> Iterator[str]:
    def age(since_ms: int) -> str:
        return f"{max(0, now_ms - since_ms) // _DAY_MS:,} days"

    if answer.policy_sequence:
        yield f"policy         number {answer.policy_sequence}, {age(answer.policy_issued_ms)} old"
    else:
        yield f"policy         none{': everything is denied' if answer.governed else ''}"
    if found is not None:
        yield (
            f"consent        {found.grants:,} entries that grant, {found.withdrawals:,} that"
            " take back; for which purpose does not show"
        )
        yield f"past deletion  {found.past_deletion:,} rows"
        ended = found.oldest_ended_epoch_ms
        yield f"oldest epoch   {f'ended {age(ended)} ago' if ended else 'none is held that ended'}"
    for key in answer.keys:
        yield f"key            {key.kind}, {age(key.since_ms)} old"
    for one in answer.budgets:
        yield (
            f"budget         {one.task_id}: {one.left_micro_rho:,} of {one.cap_micro_rho:,}"
            " micro-rho left"
        )
    state = f"{log.entries:,} entries hold" if log.holds else f"DOES NOT HOLD: {log.why}"
    yield f"audit log      {state}, head {show_head(log.head)}"
