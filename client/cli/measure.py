"""`rookery device tasks`, `contribute`: what would be measured, and taking part in it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from typing import Any

from client.analyst.estimates import labels_of
from client.cli import session
from client.cli.learned import learner
from client.cli.output import FAILED, OK, UNREACHABLE, Output, clean
from client.cli.times import until
from client.cli.typed import read_line
from client.errors import UserError
from client.intelligence.ondevice import OnDevice
from client.measure.participant import Found, Outcome, Participant, Report
from client.measure.values import Measures
from mpc.privacy import MICRO, epsilon_of
from mpc.task import Task

DELTA = 1e-6
LABELS_SHOWN = 6
_WORDS = {
    "refused": "not answered",
    "open": "open",
    "contributed": "done",
    "waiting": "waiting",
}
_STRANGERS = "publisher"


async def tasks(arguments: argparse.Namespace, out: Output) -> int:
    """Shows every task, and whether this device answers to it."""
    async with session.opened(arguments) as synced:
        found = await Participant(synced).survey()
        now_ms, reads = synced.now_ms(), OnDevice(synced).reads
        rows = [_found(one, reads) for one in found]
        text = "\n".join(_task_lines(found, now_ms, reads)) or "the service lists no tasks"
    out.result({"tasks": rows}, text)
    return OK


def _state(found: Found) -> tuple[str, str, str]:
    """(what this device does, the rule that stands against it, the sentence)."""
    if found.refusal is not None:
        return "refused", found.refusal.rule, str(found.refusal)
    if found.offers:
        return "open", "", "`rookery device contribute` answers it"
    for _, error in found.refused:
        if error.rule != "contributed":
            return "refused", error.rule, str(error)
    if found.refused:
        return "contributed", "", "this account has contributed to the open round"
    return "waiting", "", "no round is open"


def _found(found: Found, reads: Callable[[Task], str]) -> dict[str, Any]:
    state, rule, sentence = _state(found)
    task = found.task
    data: dict[str, Any] = {"state": state, "rule": rule, "message": sentence}
    if task is not None:
        data |= {
            "task": task.task_id,
            "title": task.title,
            "purpose": task.purpose,
            "kind": task.kind.params(),
            "reads": reads(task),
            "micro_rho": task.cost_micro_rho,
            "epsilon_at_delta_1e-6": _epsilon(task),
            "parties": task.m,
            "t": task.t,
        }
    data |= {
        "publisher": found.listed.task.publisher.hex(),
        "rounds": [_offer(one.shown.manifest) for one in found.offers],
        "next_open_ms": found.next_open_ms,
    }
    return data


def _offer(manifest: Any) -> dict[str, Any]:
    return {"round": manifest.round_id.hex(), "close_ms": manifest.close_ms}


def _epsilon(task: Task) -> float | None:
    return epsilon_of(task.cost_micro_rho, DELTA) / MICRO if task.noise is not None else None


def _task_lines(found: list[Found], now_ms: int, reads: Callable[[Task], str]) -> Iterable[str]:
    strangers = 0
    for one in found:
        state, rule, sentence = _state(one)
        if rule == _STRANGERS or one.task is None:
            strangers += 1
            continue
        task = one.task
        epsilon = _epsilon(task)
        noise = "no noise" if epsilon is None else f"epsilon {epsilon:.3g} at delta 1e-6 a round"
        yield clean(f"{task.task_id}  {task.title}")
        yield clean(f"  {_what(task)}, of {reads(task)} in the profile")
        yield clean(f"  for the purpose {task.purpose}, {noise}")
        yield f"  {_WORDS[state]}: {sentence}{_when(one, now_ms)}"
    if strangers:
        yield (
            f"{strangers} more by publishers that this device does not trust: `rookery device"
            " trust`"
        )


def _what(task: Task) -> str:
    labels = labels_of(task.kind)
    shown = ", ".join(labels[:LABELS_SHOWN]) + (", …" if len(labels) > LABELS_SHOWN else "")
    return f"{task.kind.name} ({shown})"


def _when(found: Found, now_ms: int) -> str:
    if found.offers:
        close_ms = min(one.shown.manifest.close_ms for one in found.offers)
        return f" (closes {until(close_ms, now_ms)})"
    if found.next_open_ms is not None and not found.refused and found.refusal is None:
        return f" (the next opens {until(found.next_open_ms, now_ms)})"
    return ""


async def contribute(arguments: argparse.Namespace, out: Output) -> int:
    """Answers the open rounds that this device answers to."""
    said = await _said(arguments)
    async with session.opened(arguments) as synced:
        measures = Measures()
        OnDevice(synced).register(measures)
        participant = Participant(synced, measures=measures)
        for path in arguments.model:
            await learner(path, participant, out)
        reports = await participant.contribute_once(only=arguments.task, said=said)
    if arguments.task is not None and reports[-1].outcome is Outcome.REFUSED:
        last = reports[-1]
        out.failure(last.rule.upper().replace("-", "_"), f"not answered: {last.sentence}")
        return FAILED
    text = "\n".join(_report_lines(reports)) or "the service lists no tasks"
    out.result({"reports": [_report(one) for one in reports]}, text)
    if any(one.outcome is Outcome.UNSENT for one in reports):
        return UNREACHABLE
    return OK


async def _said(arguments: argparse.Namespace) -> object:
    if arguments.value is None:
        return None
    if arguments.task is None:
        raise UserError("--value is what is said to one task: give --task, too")
    text = await read_line() if arguments.value == "-" else arguments.value
    try:
        value: object = json.loads(text)
    except ValueError:
        raise UserError("--value is JSON: a text has quotes, as in '\"thai\"'") from None
    if value is None:
        raise UserError("null says nothing: leave --value out to say what the profile holds")
    return value


def _report(one: Report) -> dict[str, Any]:
    return {
        "task": one.task_id or None,
        "outcome": one.outcome.value,
        "rule": one.rule,
        "message": one.sentence,
        "round": one.round_id.hex() if one.round_id is not None else None,
    }


def _report_lines(reports: list[Report]) -> Iterable[str]:
    strangers = 0
    for one in reports:
        if one.rule == _STRANGERS or not one.task_id:
            strangers += 1
        elif one.outcome is Outcome.CONTRIBUTED:
            yield clean(f"{one.task_id}: contributed")
        elif one.outcome is Outcome.REFUSED:
            yield clean(f"{one.task_id}: not answered: {one.sentence}")
        else:
            yield clean(f"{one.task_id}: {one.sentence}")
    if strangers:
        yield (
            f"{strangers} more by publishers that this device does not trust: `rookery device"
            " trust`"
        )
