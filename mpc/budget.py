"""Ledgers of privacy budget, in whole micro-rho of zCDP: a device's own and each party's.

Pure: an entry gives a new ledger, which the caller stores before anything leaves. Nothing takes
an entry back: what was entered is spent, whether or not the upload or the opening came about.
The same entry again costs nothing, so that a retry of stored bytes goes through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

import cbor2

from crypto.errors import CryptoError, FormatError
from crypto.primitives import need

HASH_BYTES: Final = 32
TIME_MS_MAX: Final = (1 << 63) - 1
MICRO_RHO_MAX: Final = (1 << 63) - 1
TASKS_MAX: Final = 256
"""Tasks of a device's ledger that have not expired: a ledger stays small enough to be synced."""
_VERSION: Final = 1


class Cap(StrEnum):
    """Whose room an entry needs."""

    TASK = "task"
    """All rounds of the task."""
    TASK_PERIOD = "task-period"
    """The task's rounds in this period."""
    PERIOD = "period"
    """All tasks in this period."""
    GLOBAL = "global"
    """All tasks, for ever."""


class OverBudget(CryptoError):
    """A cap has less left than the entry costs. Nothing was entered."""

    def __init__(self, cap: Cap, task: bytes, *, wanted: int, left: int) -> None:
        super().__init__(
            "budget",
            f"task {task.hex()} costs {wanted} micro-rho and the {cap} cap has {left} left",
        )
        self.cap = cap
        self.task = task
        self.wanted = wanted
        self.left = left


class OpenedBefore(CryptoError):
    """Another round of the same task and window has been opened. Nothing was entered."""

    def __init__(self, task: bytes, window_ms: int) -> None:
        super().__init__(
            "opened", f"window {window_ms} of task {task.hex()} was opened in another round"
        )
        self.task = task
        self.window_ms = window_ms


def _whole(name: str, value: object, most: int, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= most:
        raise FormatError("ledger", f"{name} must be a whole number from {least} to {most}")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCaps:
    """What a device allows, in micro-rho: the narrower of its own policy and the task's caps."""

    task: int
    task_period: int
    """In each `task_period_ms`: the task's own period."""
    period: int
    """In each `period_ms`: the device's, over all tasks."""
    all_time: int
    task_period_ms: int
    period_ms: int

    def __post_init__(self) -> None:
        for name in ("task", "task_period", "period", "all_time"):
            _whole(name, getattr(self, name), MICRO_RHO_MAX)
        for name in ("task_period_ms", "period_ms"):
            _whole(name, getattr(self, name), TIME_MS_MAX, 1)


class Spent(NamedTuple):
    """What one task has cost a device, in all and in its period."""

    micro_rho: int
    start_ms: int
    period_micro_rho: int
    expires_ms: int

    def at(self, now_ms: int, period_ms: int) -> Spent:
        """With a period that is over left behind."""
        if now_ms < self.start_ms + period_ms:
            return self
        return self._replace(start_ms=now_ms - now_ms % period_ms, period_micro_rho=0)


class Charge(NamedTuple):
    """One round's entry on a device; forgotten once nothing is taken for the round any more."""

    task: bytes
    micro_rho: int
    until_ms: int
    expires_ms: int
    """When the task expires: after that its total may be forgotten, but in the one over all."""


_NOTHING: Final = Spent(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class DeviceLedger:
    """What a device's contributions have cost.

    Periods are fixed stretches of time, so two caps can be spent around a border. A clock that
    is set back stays in the period of the last entry; one that is set forward begins new
    periods, and the caps per task and for all time still hold.
    """

    micro_rho: int = 0
    period_start_ms: int = 0
    period_micro_rho: int = 0
    tasks: Mapping[bytes, Spent] = field(default_factory=lambda: MappingProxyType({}))
    rounds: Mapping[bytes, Charge] = field(default_factory=lambda: MappingProxyType({}))

    def enter(
        self,
        caps: DeviceCaps,
        round_digest: bytes,
        charge: Charge,
        *,
        now_ms: int,
        others: Sequence[DeviceLedger] = (),
    ) -> Self:
        """The ledger with this contribution in it: store it before the upload begins.

        `others` are the ledgers of the account's other devices, whose entries take up room,
        too. OverBudget if a cap has no room for it; FormatError if the round is entered
        already with another task or cost, or with `TASKS_MAX` tasks that have not expired.
        """
        need("round digest", round_digest, HASH_BYTES)
        _check_charge(charge)
        _whole("now", now_ms, TIME_MS_MAX)
        if (before := self.rounds.get(round_digest)) is not None:
            if before != charge:
                raise FormatError("ledger", "this round is entered with another task or cost")
            return self
        for cap, left in self.left(caps, charge.task, now_ms=now_ms, others=others).items():
            if charge.micro_rho > left:
                raise OverBudget(cap, charge.task, wanted=charge.micro_rho, left=max(0, left))
        return self._at(now_ms, caps)._charged(caps, round_digest, charge, now_ms)

    def left(
        self,
        caps: DeviceCaps,
        task: bytes,
        *,
        now_ms: int,
        others: Sequence[DeviceLedger] = (),
    ) -> dict[Cap, int]:
        """What each cap has left for a task, in micro-rho; below 0 where a cap was narrowed."""
        rooms = {
            Cap.TASK: caps.task,
            Cap.TASK_PERIOD: caps.task_period,
            Cap.PERIOD: caps.period,
            Cap.GLOBAL: caps.all_time,
        }
        for ledger in (self, *others):
            now = ledger._at(now_ms, caps)
            spent = now.tasks.get(task, _NOTHING).at(now_ms, caps.task_period_ms)
            rooms[Cap.TASK] -= spent.micro_rho
            rooms[Cap.TASK_PERIOD] -= spent.period_micro_rho
            rooms[Cap.PERIOD] -= now.period_micro_rho
            rooms[Cap.GLOBAL] -= now.micro_rho
        return rooms

    def _at(self, now_ms: int, caps: DeviceCaps) -> Self:
        """Rounds that are over are forgotten; a period that is over is left behind."""
        rounds = {key: one for key, one in self.rounds.items() if one.until_ms >= now_ms}
        kept = replace(self, rounds=MappingProxyType(rounds))
        if now_ms < self.period_start_ms + caps.period_ms:
            return kept
        return replace(kept, period_start_ms=now_ms - now_ms % caps.period_ms, period_micro_rho=0)

    def _charged(self, caps: DeviceCaps, round_digest: bytes, charge: Charge, now_ms: int) -> Self:
        cost = charge.micro_rho
        spent = self.tasks.get(charge.task, _NOTHING).at(now_ms, caps.task_period_ms)
        now = Spent(
            spent.micro_rho + cost,
            spent.start_ms,
            spent.period_micro_rho + cost,
            charge.expires_ms,
        )
        return replace(
            self,
            micro_rho=self.micro_rho + cost,
            period_micro_rho=self.period_micro_rho + cost,
            tasks=MappingProxyType({**self._with_room(charge.task, now_ms), charge.task: now}),
            rounds=MappingProxyType({**self.rounds, round_digest: charge}),
        )

    def _with_room(self, task: bytes, now_ms: int) -> dict[bytes, Spent]:
        """The tasks; if there are too many for one more, those that have expired are let go."""
        if task in self.tasks or len(self.tasks) < TASKS_MAX:
            return dict(self.tasks)
        kept = {key: one for key, one in self.tasks.items() if one.expires_ms >= now_ms}
        if len(kept) >= TASKS_MAX:
            raise FormatError("ledger", f"a ledger holds {TASKS_MAX} tasks; wait until one ends")
        return kept

    def to_bytes(self) -> bytes:
        """Deterministic CBOR."""
        tasks = {task: list(spent) for task, spent in self.tasks.items()}
        rounds = {digest: list(charge) for digest, charge in self.rounds.items()}
        return _encode([self.micro_rho, self.period_start_ms, self.period_micro_rho, tasks, rounds])

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` wrote; FormatError `ledger` for anything else."""
        total, start_ms, period, tasks, rounds = _decode(data, 5)
        total = _whole("total", total, MICRO_RHO_MAX)
        ledger = cls(
            total,
            _whole("period start", start_ms, TIME_MS_MAX),
            _whole("period total", period, total),
            MappingProxyType({task: Spent(*_row(row, 4)) for task, row in _table(tasks)}),
            MappingProxyType({key: Charge(*_row(row, 4)) for key, row in _table(rounds)}),
        )
        ledger._check()
        return ledger

    def _check(self) -> None:
        for spent in self.tasks.values():
            _whole("a task's total", spent.micro_rho, MICRO_RHO_MAX)
            _whole("a task's period start", spent.start_ms, TIME_MS_MAX)
            _whole("a task's period", spent.period_micro_rho, spent.micro_rho)
            _whole("a task's end", spent.expires_ms, TIME_MS_MAX)
        for charge in self.rounds.values():
            _check_charge(charge)
        # Tasks that were let go are in the total alone.
        if sum(spent.micro_rho for spent in self.tasks.values()) > self.micro_rho:
            raise FormatError("ledger", "the total is less than that of the tasks")


def _check_charge(charge: Charge) -> None:
    if not isinstance(charge.task, bytes):
        raise FormatError("ledger", "a task is named by its hash")
    need("task hash", charge.task, HASH_BYTES)
    _whole("cost", charge.micro_rho, MICRO_RHO_MAX, 1)
    _whole("end of the round", charge.until_ms, TIME_MS_MAX)
    _whole("end of the task", charge.expires_ms, TIME_MS_MAX)


class Opening(NamedTuple):
    """The one round that opened a window of a task, and its cost."""

    round_digest: bytes
    micro_rho: int


@dataclass(frozen=True, slots=True)
class PartyLedger:
    """Which windows of which tasks a party has helped to open, and what that has cost."""

    tasks: Mapping[bytes, Mapping[int, Opening]] = field(
        default_factory=lambda: MappingProxyType({})
    )

    def spent(self, task: bytes) -> int:
        """Micro-rho of all of the task's opened windows."""
        return sum(one.micro_rho for one in self.tasks.get(task, {}).values())

    def enter(self, task: bytes, window_ms: int, opening: Opening, *, cap_micro_rho: int) -> Self:
        """The ledger with this opening in it: store it before a share of the sum is sent.

        OpenedBefore if another round opened this window, or this one at another cost;
        OverBudget past the cap, which is the narrower of the task's and the operator's.
        """
        need("task hash", task, HASH_BYTES)
        _whole("cap", cap_micro_rho, MICRO_RHO_MAX)
        _check_opening(window_ms, opening)
        windows = self.tasks.get(task, {})
        if (before := windows.get(window_ms)) is not None:
            if before != opening:
                raise OpenedBefore(task, window_ms)
            return self
        left = cap_micro_rho - self.spent(task)
        if opening.micro_rho > left:
            raise OverBudget(Cap.TASK, task, wanted=opening.micro_rho, left=max(0, left))
        opened = MappingProxyType({**windows, window_ms: opening})
        return replace(self, tasks=MappingProxyType({**self.tasks, task: opened}))

    def to_bytes(self) -> bytes:
        """Deterministic CBOR."""
        return _encode(
            [
                {
                    task: {window_ms: list(one) for window_ms, one in windows.items()}
                    for task, windows in self.tasks.items()
                }
            ]
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` wrote; FormatError `ledger` for anything else."""
        (tasks,) = _decode(data, 1)
        return cls(MappingProxyType({task: _openings(rows) for task, rows in _table(tasks)}))


def _openings(rows: object) -> Mapping[int, Opening]:
    if not isinstance(rows, dict) or not rows:
        raise FormatError("ledger", "a task has windows")
    openings = {window_ms: Opening(*_row(row, 2)) for window_ms, row in rows.items()}
    for window_ms, opening in openings.items():
        _check_opening(window_ms, opening)
    return MappingProxyType(openings)


def _check_opening(window_ms: int, opening: Opening) -> None:
    _whole("window", window_ms, TIME_MS_MAX)
    if not isinstance(opening.round_digest, bytes):
        raise FormatError("ledger", "a round is named by its digest")
    need("round digest", opening.round_digest, HASH_BYTES)
    _whole("cost", opening.micro_rho, MICRO_RHO_MAX, 1)


def _encode(fields: list[Any]) -> bytes:
    return cbor2.dumps([_VERSION, *fields], canonical=True)


def _decode(data: bytes, fields: int) -> list[Any]:
    """The fields; FormatError unless `_encode` writes these bytes for them."""
    rest: list[Any]
    try:
        version, *rest = cbor2.loads(data)
        same = _encode(rest) == data
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, OverflowError):
        raise FormatError("ledger", "this is not a ledger") from None
    if version != _VERSION or len(rest) != fields or not same:
        raise FormatError("ledger", "this is not a ledger of this version")
    return rest


def _table(rows: object) -> list[tuple[bytes, Any]]:
    if not isinstance(rows, dict) or not all(
        isinstance(key, bytes) and len(key) == HASH_BYTES for key in rows
    ):
        raise FormatError("ledger", "a table of a ledger is keyed by hashes")
    return list(rows.items())


def _row(row: object, fields: int) -> list[Any]:
    if not isinstance(row, list) or len(row) != fields:
        raise FormatError("ledger", "a row of a ledger has another form")
    return row
