"""`rookery device pause`, `resume`, `reset`, `undo`: recording stops, goes on, starts anew."""

from __future__ import annotations

import argparse

from client import resetting
from client.cli import session
from client.cli.asking import ask
from client.cli.output import OK, Output
from client.errors import NotAllowed, Revoked

_RESET = (
    "This removes everything that apps recorded, on all devices of the account. What you agreed to"
    " stays agreed to. For seven days `rookery device undo` brings it back, on this device alone."
)


async def pause(arguments: argparse.Namespace, out: Output) -> int:
    """Nothing is recorded or contributed any more, until `resume`."""
    text = "paused, on all devices of this account; `rookery device resume` goes on"
    return await _pause(arguments, out, True, text)


async def resume(arguments: argparse.Namespace, out: Output) -> int:
    """Goes on as it was granted."""
    return await _pause(arguments, out, False, "goes on, on all devices of this account")


async def _pause(arguments: argparse.Namespace, out: Output, paused: bool, text: str) -> int:
    async with session.opened(arguments, patient=False) as synced:
        if synced.core.status.revoked:
            raise Revoked
        if not synced.governed:
            raise NotAllowed(
                "this device is under no policy, so that nothing asks before it records: `rookery"
                " device disallow PURPOSE` stops contributions"
            )
        synced.consenting.pause(paused)
        done = await session.try_send(synced, arguments, out)
        rest = "" if done else " (kept here; the others follow with the next sync)"
        out.result({"paused": paused, "synced": done}, text + rest)
    return OK


async def reset(arguments: argparse.Namespace, out: Output) -> int:
    """Removes everything that apps recorded."""
    async with session.opened(arguments, patient=False) as synced:
        if synced.core.status.revoked:
            raise Revoked
        if not arguments.yes:
            await ask(out, _RESET, "reset", done="reset")
        await session.try_sync(synced, arguments, out)
        count = synced.consenting.reset()
        done = await session.try_send(synced, arguments, out)
        until_ms = resetting.undo_until_ms(synced.kept)
        assert until_ms is not None
        text = f"{count} removed; for a week `rookery device undo` brings them back, here alone"
        out.result({"removed": count, "undo_until_ms": until_ms, "synced": done}, text)
    return OK


async def undo(arguments: argparse.Namespace, out: Output) -> int:
    """Brings back what the last reset on this device removed."""
    async with session.opened(arguments, patient=False) as synced:
        # First what the other devices say: a share that they removed comes back here.
        await session.try_sync(synced, arguments, out)
        made = synced.consenting.undo()
        done = await session.try_send(synced, arguments, out)
        lines = [f"{made.restored} things are back"]
        if made.newer:
            lines.append(f"{made.newer} were written since, and stay as they are")
        if made.refused:
            lines.append(f"{made.refused} stay gone: the policy, or what is agreed to, is another")
        data = {"restored": made.restored, "refused": made.refused, "newer": made.newer}
        out.result(data | {"synced": done}, "\n".join(lines))
    return OK
