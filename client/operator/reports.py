"""What the calls of Operations answer, as values and as data for programs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from client.analyst import present
from client.analyst.errors import NotVerified
from client.analyst.evidence import Evidence, Opened, Pins
from client.operator.auditlog import AuditEntry, ChainHead
from client.rounds import GivenUp, RoundState, RoundSummary, SignedTask
from crypto.errors import CryptoError
from mpc import task as tasks
from mpc.result import RoundResult


@dataclass(frozen=True, slots=True)
class Budget:
    """What a task may still spend over all its rounds, in micro-rho of zCDP."""

    spec_hash: bytes
    task_id: str
    cap: int
    spent: int
    left: int
    round_cost: int


@dataclass(frozen=True, slots=True)
class Health:
    """Privacy health, as far as the service can know it. None: its store can't tell."""

    governed: bool
    policy_sequence: int
    policy_issued_ms: int
    policy_hash: bytes
    counted_since_ms: int
    refusals: Mapping[str, int]
    grants: int
    withdrawals: int
    budgets: tuple[Budget, ...]
    overdue: Mapping[str, int]
    rows_past_deletion: int | None
    key_since_ms: Mapping[str, int]
    oldest_ended_epoch_ms: int | None
    audit_head: ChainHead
    audit_anchor: ChainHead
    server_ms: int

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "governed": self.governed,
            "policy": {
                "sequence": self.policy_sequence,
                "issued_ms": self.policy_issued_ms,
                "hash": self.policy_hash.hex(),
            },
            "counted_since_ms": self.counted_since_ms,
            "refusals": dict(self.refusals),
            "consent": {"grants": self.grants, "withdrawals": self.withdrawals},
            "budgets": [
                {
                    "task": one.task_id,
                    "spec_hash": one.spec_hash.hex(),
                    "cap_micro_rho": one.cap,
                    "spent_micro_rho": one.spent,
                    "left_micro_rho": one.left,
                    "round_micro_rho": one.round_cost,
                }
                for one in self.budgets
            ],
            "overdue": dict(self.overdue),
            "rows_past_deletion": self.rows_past_deletion,
            "key_since_ms": dict(self.key_since_ms),
            "oldest_ended_epoch_ms": self.oldest_ended_epoch_ms,
            "audit": {"head": str(self.audit_head), "anchor": str(self.audit_anchor)},
            "server_ms": self.server_ms,
        }


@dataclass(frozen=True, slots=True)
class ExposedField:
    """A field of the store. `form` as on the wire, in small letters (`sealed`, `clear`, ...)."""

    field: str
    form: str
    about: str
    methods: tuple[str, ...]
    readers: tuple[str, ...]

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "field": self.field,
            "form": self.form,
            "about": self.about,
            "methods": list(self.methods),
            "readers": list(self.readers),
        }


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Entries, and where the log begins and ended when it was asked."""

    entries: tuple[AuditEntry, ...]
    more: bool
    anchor: ChainHead
    head: ChainHead


@dataclass(frozen=True, slots=True)
class OverviewRound:
    """A round as the service holds it; nothing of it is verified before `open`."""

    task: SignedTask
    summary: RoundSummary
    manifest: bytes
    """`manifest | m x sig[64]`."""
    result: bytes
    sigs: Mapping[int, bytes]
    given_up: tuple[GivenUp, ...]
    withheld: bool
    """There is a result, and this operator may not read it."""

    def open(self, pins: Pins) -> tuple[Opened, RoundResult] | None:
        """Task, manifest and result, verified by whom the reader trusts; None without a result.
        NotVerified."""
        if not self.result:
            return None
        return Evidence(self.task, self.manifest, self.result, self.sigs).open(pins)

    def as_data(self, pins: Pins) -> dict[str, Any]:
        """For programs: where it stands, and with a result every statistic with the sigma of
        its noise and what that leaves open, so that an interval can be drawn."""
        summary = self.summary
        data: dict[str, Any] = {
            "round_id": summary.round_id.hex(),
            "state": summary.state.value,
            "open_ms": summary.open_ms,
            "close_ms": summary.close_ms,
            "withheld": self.withheld,
            **self._task_data(),
        }
        try:
            opened = self.open(pins)
        except NotVerified as error:
            return data | {"not_verified": error.rule}
        if opened is not None:
            where, told = opened
            data["result"] = present.as_data(where.task, where.manifest, told, sorted(self.sigs))
        return data

    def _task_data(self) -> dict[str, Any]:
        try:
            task = tasks.decode(self.task.body)
        except CryptoError:
            return {"task": None}
        return {"task": task.task_id, "purpose": task.purpose, "kind": task.kind.name}


@dataclass(frozen=True, slots=True)
class Overview:
    """Rounds, newest first, and how many there are in each state."""

    states: Mapping[RoundState, int]
    rounds: tuple[OverviewRound, ...]

    def as_data(self, pins: Pins) -> dict[str, Any]:
        """For programs."""
        return {
            "states": {state.value: count for state, count in self.states.items()},
            "rounds": [one.as_data(pins) for one in self.rounds],
        }
