"""`rookery task list`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from client.analyst.journal import Journal, Plan
from client.analyst.publisher import explained
from client.analyst.times import show_instant
from client.cli import tasksession
from client.cli.output import OK, Output, clean
from client.cli.tasksession import Line
from client.errors import NothingThere
from client.rounds import ListedTask, RoundSummary, SignedTask
from crypto.errors import CryptoError
from mpc import task as tasks
from mpc.task import Task

OLD_ROUNDS_MAX = 8
"""Of a task's rounds that this key opened and that the service lists no more: the newest."""
_GONE = "gone"


@dataclass(frozen=True, slots=True)
class _Row:
    signed: SignedTask
    task: Task | None
    """None: not a task that the named publisher signed."""
    own: bool
    rounds: Sequence[RoundSummary | Plan]
    """A plan: opened by this key, and gone from the service."""


async def list_(arguments: argparse.Namespace, out: Output) -> int:
    """All tasks, each with its rounds."""
    async with tasksession.opened(arguments) as line:
        plans = Journal.beside(arguments.key).plans()
        rows = [await _row(line, one, plans) for one in await tasksession.listed(line)]
    text = "\n".join(_text(row) for row in rows) or "no tasks"
    out.result({"tasks": [_data(row) for row in rows]}, text)
    return OK


async def _row(line: Line, listed: ListedTask, plans: Sequence[Plan]) -> _Row:
    signed = listed.task
    try:
        task = tasks.open_(signed.published, signed.publisher)
    except CryptoError:
        return _Row(signed, None, False, listed.rounds)
    known = {row.round_id for row in listed.rounds}
    old = [
        plan
        for plan in plans
        if plan.spec_hash == task.spec_hash and plan.collected and plan.round_id not in known
    ]
    older = [await _looked_up(line, plan) for plan in old[-OLD_ROUNDS_MAX:]]
    rounds = sorted([*older, *listed.rounds], key=lambda row: row.open_ms)
    return _Row(signed, task, signed.publisher == line.key.public, rounds)


async def _looked_up(line: Line, plan: Plan) -> RoundSummary | Plan:
    asked = line.rounds.round(plan.round_id)
    try:
        return (await explained(asked, line.key.public, tasksession.READERS)).summary
    except NothingThere:
        return plan


def _text(row: _Row) -> str:
    if row.task is None:
        return f"a task that {row.signed.publisher.hex()} did not sign, or none of this version"
    task = row.task
    by = "this key" if row.own else row.signed.publisher.hex()
    lines = [
        f"{task.task_id}  {clean(task.title)}",
        f"  {task.kind.name}, tail {task.tail.name}, published by {by}",
        f"  spec_hash {task.spec_hash.hex()}",
    ]
    for one in row.rounds:
        opens, closes = show_instant(one.open_ms), show_instant(_closes_ms(one, task))
        lines.append(f"  {one.round_id.hex()}  {_state(one):9}  {opens} to {closes}")
    return "\n".join(lines)


def _state(one: RoundSummary | Plan) -> str:
    return one.state.value if isinstance(one, RoundSummary) else _GONE


def _closes_ms(one: RoundSummary | Plan, task: Task) -> int:
    """The end of the window; the service's `close_ms` is that of the grace."""
    return one.close_ms - task.grace_ms if isinstance(one, RoundSummary) else one.close_ms


def _data(row: _Row) -> dict[str, Any]:
    task, publisher = row.task, row.signed.publisher.hex()
    if task is None:
        return {"task": None, "publisher": publisher, "rounds": []}
    return {
        "task": task.task_id,
        "title": task.title,
        "kind": task.kind.name,
        "tail": task.tail.name,
        "spec_hash": task.spec_hash.hex(),
        "publisher": publisher,
        "own": row.own,
        "rounds": [
            {
                "round_id": one.round_id.hex(),
                "state": _state(one),
                "open_ms": one.open_ms,
                "close_ms": _closes_ms(one, task),
            }
            for one in row.rounds
        ],
    }
