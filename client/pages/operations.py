"""The operator's page: how a service keeps to its policy. Read only: it has no form.

Each look is a call, signed by the operator's key, that the service's access matrix allows and its
audit log keeps.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from client.analyst import present
from client.analyst.errors import NotVerified
from client.analyst.estimates import estimates, worth_a_plot
from client.analyst.evidence import Pins
from client.analyst.times import show_instant
from client.errors import UserError
from client.operator.auditlog import ANYWHERE, AuditEntry, ChainHead, LogBroken, Start
from client.operator.calls import Operations
from client.operator.reports import Health, OverviewRound
from client.pages.intervals import drawing
from client.pages.local import LocalSite, Page
from client.remoteerrors import RemoteError

NAME: Final = "Rookery operations"
ROUNDS_MAX: Final = 32
AUDIT_SHOWN: Final = 200
_DAY_MS: Final = 86_400_000
_CLOSED: Final = ("sealed", "blinded", "digest", "public_key")
"""Forms that tell whoever reads the store nothing of what they stand for."""


class OperatorPages:
    """What the pages show, for one operator of one service."""

    def __init__(
        self,
        operations: Operations,
        *,
        pins: Pins,
        noted: ChainHead | None = None,
        start: Start = ANYWHERE,
    ) -> None:
        """`pins`: whose results are taken; `noted`: a head of the audit log that must be in it;
        `start`: where it may begin."""
        self._operations = operations
        self._pins = pins
        self._noted = noted
        self._start = start

    def site(self) -> LocalSite:
        """To be started and stopped by whoever serves it."""
        return LocalSite(
            NAME,
            [
                Page("", "Privacy health", "operator_health.html", self._health),
                Page("rounds", "Rounds and results", "operator_rounds.html", self._rounds),
                Page("exposure", "What is stored", "operator_exposure.html", self._exposure),
                Page("audit", "Audit log", "operator_audit.html", self._audit),
            ],
            [],
            rand=secrets.token_bytes,
            monotonic_s=time.monotonic,
        )

    async def _health(self) -> dict[str, Any]:
        async with _reached():
            found = await self._operations.health()
        overdue = sum(found.overdue.values())
        past = found.rows_past_deletion
        return {
            "verdicts": [
                _verdict("A policy is in force", bool(found.policy_sequence), _policy(found)),
                _verdict(
                    "Nothing is kept past its retention",
                    overdue == 0,
                    f"{overdue:,} rows are overdue: {_listed(found.overdue)}"
                    if overdue
                    else "no row is overdue",
                ),
                _verdict(
                    "Nothing is left of deleted accounts",
                    None if past is None else past == 0,
                    "this store cannot tell at once" if past is None else f"{past:,} rows",
                ),
            ],
            "consent": {"grants": f"{found.grants:,}", "withdrawals": f"{found.withdrawals:,}"},
            "since": show_instant(found.counted_since_ms),
            "refusals": sorted(found.refusals.items(), key=lambda row: (-row[1], row[0])),
            "budgets": [
                {
                    "task": one.task_id,
                    "spent": f"{one.spent:,}",
                    "cap": f"{one.cap:,}",
                    "rounds": f"{one.left // one.round_cost if one.round_cost else 0:,}",
                    "share": min(1.0, one.spent / one.cap) if one.cap else 1.0,
                }
                for one in found.budgets
            ],
            "keys": [
                (kind, _age(found.server_ms - since_ms))
                for kind, since_ms in found.key_since_ms.items()
            ],
            "epoch": _epoch(found),
            "head": str(found.audit_head),
        }

    async def _rounds(self) -> dict[str, Any]:
        async with _reached():
            found = await self._operations.overview(rounds_max=ROUNDS_MAX)
        return {
            "states": [(state.value, f"{count:,}") for state, count in found.states.items()],
            "rounds": [self._round(one) for one in found.rounds],
            "pinned": self._pins.parties is not None,
        }

    def _round(self, one: OverviewRound) -> dict[str, Any]:
        summary = one.summary
        said: dict[str, Any] = {
            "id": summary.round_id.hex(),
            "state": summary.state.value,
            "opens": show_instant(summary.open_ms),
            "closes": show_instant(summary.close_ms),
            "title": "A round",
            "note": "",
            "table": None,
            "drawing": None,
        }
        if one.withheld:
            return said | {"note": "The policy does not let this operator read its result."}
        try:
            opened = one.open(self._pins)
        except NotVerified as error:
            return said | {"note": f"Its result is not taken: {error}"}
        if opened is None:
            return said | {"note": "It has no result."}
        evidence, told = opened
        drawn = worth_a_plot(estimates(evidence.task, told))
        return said | {
            "title": evidence.task.title,
            "table": present.table(evidence.task, told),
            "drawing": drawing(drawn) if drawn else None,
            "note": present.privacy(evidence.task),
        }

    async def _exposure(self) -> dict[str, Any]:
        async with _reached():
            rows = await self._operations.exposure()
        return {
            "rows": [
                {
                    "field": row.field,
                    "form": row.form.replace("_", " "),
                    "open": row.form not in _CLOSED,
                    "about": row.about,
                    "readers": ", ".join(row.readers) or "nobody by a call",
                }
                for row in rows
            ],
            "clear": sum(row.form not in _CLOSED for row in rows),
        }

    async def _audit(self) -> dict[str, Any]:
        entries: list[AuditEntry] = []
        broken = ""
        async with _reached():
            try:
                async for page in self._operations.whole_audit(self._noted, self._start):
                    entries += page
            except LogBroken as error:
                broken = str(error)
        return {
            "broken": broken,
            "noted": None if self._noted is None else str(self._noted),
            "head": str(ChainHead(entries[-1].seq, entries[-1].hash)) if entries else "",
            "count": f"{len(entries):,}",
            "gone": f"{entries[0].seq - 1:,}" if entries and entries[0].seq > 1 else "",
            "start_known": self._start.is_known,
            "entries": [_entry(one) for one in reversed(entries[-AUDIT_SHOWN:])],
        }


@asynccontextmanager
async def _reached() -> AsyncIterator[None]:
    """What the service says against a look is said on the page; UserError."""
    try:
        yield
    except RemoteError as error:
        raise UserError(f"the service does not answer this: {error}") from None


def _verdict(claim: str, holds: bool | None, said: str) -> dict[str, Any]:
    words = {True: "holds", False: "does not hold", None: "not known"}
    return {"claim": claim, "state": words[holds], "good": holds, "said": said}


def _policy(found: Health) -> str:
    if not found.governed:
        return "the service is not governed: its settings name no key for policies"
    if not found.policy_sequence:
        return "none was published yet: everything is denied"
    age = _age(found.server_ms - found.policy_issued_ms)
    return f"number {found.policy_sequence}, {age} old"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in counts.items() if count)


def _epoch(found: Health) -> str:
    ended = found.oldest_ended_epoch_ms
    if ended is None:
        return "this store cannot tell"
    return f"ended {_age(found.server_ms - ended)} ago" if ended else "none is held"


def _age(ms: int) -> str:
    days = max(0, ms) // _DAY_MS
    return f"{days:,} day{'s' * (days != 1)}"


def _entry(one: AuditEntry) -> dict[str, Any]:
    said = one.as_data()
    return {
        "seq": one.seq,
        "at": show_instant(one.at_ms),
        "who": said.get("who", "unreadable"),
        "what": said.get("what", "unreadable"),
        "outcome": said.get("outcome", ""),
    }
