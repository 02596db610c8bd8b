"""`rookery device experiment`, `features`: what the policy tries out, as this account sees it."""

from __future__ import annotations

import argparse
from typing import Any

from client.cli import session
from client.cli.output import OK, Output, clean
from client.errors import UserError
from client.intelligence.experiments import Experiments
from client.intelligence.ondevice import OnDevice

_UNGOVERNED = "this device is under no policy: nobody declared any"


async def experiment(arguments: argparse.Namespace, out: Output) -> int:
    """Shows experiments; with a name, shows its variant now, or adds to its outcome."""
    acts = arguments.expose or arguments.outcome is not None
    if acts and arguments.name is None:
        raise UserError("of which experiment? Give its NAME")
    async with session.opened(arguments, patient=False) as synced:
        await session.try_sync(synced, arguments, out)
        trials = OnDevice(synced).experiments
        names = sorted(trials.rules) if arguments.name is None else [arguments.name]
        counted = True
        if arguments.expose:
            synced.edit(lambda _, now_ms: trials.expose(arguments.name, now_ms=now_ms))
        if arguments.outcome is not None:
            counted = synced.edit(
                lambda _, now_ms: trials.outcome(
                    arguments.name, arguments.outcome, now_ms=now_ms
                )
            )  # fmt: skip
        if acts:
            await session.try_send(synced, arguments, out)
        rows = [_row(trials, name) for name in names]
    if not counted:
        out.note("rookery: not counted: the variant was not shown here, or this account is not in")
    text = "\n".join(_line(row) for row in rows) or "the policy declares no experiment"
    out.result({"experiments": rows, "counted": counted}, text)
    return OK


def _row(trials: Experiments, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "task": trials.rule(name).task,
        "variants": list(trials.rule(name).variants),
        "takes_part": trials.takes_part(name),
        "variant": trials.variant(name),
        "outcome": trials.total(name),
    }


def _line(row: dict[str, Any]) -> str:
    if not row["takes_part"]:
        return clean(f"{row['name']}: not in it: {row['variant']} is shown, and nothing is kept")
    told = "not shown yet" if row["outcome"] is None else f"outcome {row['outcome']:,} so far"
    return clean(f"{row['name']}: {row['variant']} ({told}); {row['task']} measures it")


async def features(arguments: argparse.Namespace, out: Output) -> int:
    """Shows every feature that the policy has a flag for."""
    async with session.opened(arguments, patient=False) as synced:
        await session.try_sync(synced, arguments, out)
        flags = OnDevice(synced).features
        found = {name: flags.is_on(name) for name in flags.known}
        governed = synced.governed
    lines = [clean(f"{name}: {'on' if on else 'off'}") for name, on in found.items()]
    out.result({"features": found}, "\n".join(lines) or _none(governed))
    return OK


def _none(governed: bool) -> str:
    return "the policy has a flag for no feature" if governed else _UNGOVERNED
