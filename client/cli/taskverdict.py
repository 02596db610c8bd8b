"""`rookery task verdict`: what an experiment's round decides, and what it could have seen."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from client.analyst import present
from client.analyst.verdict import Decision, Plan, decide
from client.cli import taskresult
from client.cli.output import OK, Output, table
from client.cli.resultpage import paragraphs

_HEAD = ("", "effect", "interval", "p", "least found", "power", "verdict")
_NUMBERS = frozenset({1, 3, 4, 5})
_ROUND_ID = re.compile(r"[0-9a-fA-F]{32}")


async def verdict(arguments: argparse.Namespace, out: Output) -> int:
    """The verdict on a verified result, of the service or of a file."""
    plan = Plan(arguments.alpha, arguments.planned, arguments.effect)
    if _ROUND_ID.fullmatch(arguments.round):
        kept, pins = await taskresult.fetch(arguments, out)
    else:
        kept, pins = taskresult.read(arguments, Path(arguments.round))
    opened, told = kept.open(pins)
    decision = decide(opened.task, told, plan)
    data = {
        "task": opened.task.task_id,
        "round_id": opened.manifest.round_id.hex(),
        "pinned": not arguments.unpinned,
        **decision.data(),
    }
    parts = [present.headline(opened.task, opened.manifest)]
    if decision.compared:
        parts.append(table(_HEAD, _rows(decision), right=_NUMBERS))
    out.result(data, "\n\n".join([*parts, paragraphs(decision.sentences())]))
    return OK


def _rows(decision: Decision) -> list[tuple[str, ...]]:
    return [
        (
            f"{one.label} less {one.first}",
            f"{one.effect:+.3g}",
            f"{one.low:+.3g} to {one.high:+.3g}",
            f"{one.p:.2g}",
            f"{one.detectable:.3g}",
            "" if one.power is None else f"{one.power:.0%}",
            str(one.verdict),
        )
        for one in decision.compared
    ]
