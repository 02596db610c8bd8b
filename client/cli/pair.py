"""`rookery device pair`: the existing device's side of a pairing."""

from __future__ import annotations

import argparse

from client.cli import session
from client.cli.output import OK, Output
from client.cli.qr import terminal_qr
from client.cli.typed import read_line
from client.pairflow import Invitation

_DIGITS = 6
_PAIR_TEXT = """\
{qr}
On the new device, run `rookery device join`, and scan this or type:

    {typed}

Nobody but you should see this. It is good for five minutes."""


async def _digits(out: Output) -> str:
    """Six digits. Anything else is no attempt: it is asked for again."""
    while True:
        typed = "".join((await read_line(blank=True)).split())
        if len(typed) == _DIGITS and typed.isascii() and typed.isdigit():
            return typed
        out.note("these are not six digits: type them again")
        out.ask("the six digits: ")


async def pair(arguments: argparse.Namespace, out: Output) -> int:
    """Adds a new device: shows a code, then takes the six digits that the new device shows."""
    async with session.opened(arguments) as synced:
        await synced.sync_once()
        async with Invitation(synced) as invitation:
            await invitation.show()
            qr, typed = invitation.invite.text(), invitation.typed.text
            text = _PAIR_TEXT.format(qr=terminal_qr(qr), typed=typed)
            out.step({"event": "code", "qr": qr, "typed": typed}, text)
            await invitation.wait_for_reader()
            out.step({"event": "reader"}, "The new device shows six digits.")
            out.ask("the six digits: ")
            added = await invitation.enter(await _digits(out))
        name = added.hex()
        governed = synced.governed
        text = f"Device {name[:8]} is added."
        if governed:
            text += " It is governed by the policy of this one."
        out.result({"event": "added", "device": name, "governed": governed}, text)
    return OK
