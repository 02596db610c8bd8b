"""`rookery device allow`, `disallow`: what joint aggregates may use values for."""

from __future__ import annotations

import argparse

from client.cli.output import Output
from client.cli.profile import edit
from client.device import Device
from client.measure.consent import ConsentSettings


async def allow(arguments: argparse.Namespace, out: Output) -> int:
    """Switches a purpose on, for all devices of the account."""

    def change(core: Device, now_ms: int) -> None:
        ConsentSettings(core).allow(arguments.name, now_ms=now_ms)

    text = f"{arguments.name} is allowed, on all devices of this account"
    return await edit(arguments, out, change, text)


async def disallow(arguments: argparse.Namespace, out: Output) -> int:
    """Switches a purpose off."""

    def change(core: Device, now_ms: int) -> None:
        ConsentSettings(core).disallow(arguments.name, now_ms=now_ms)

    text = (
        f"{arguments.name} is not allowed any more, on any device of this account. What was"
        " contributed before can't be taken back: nobody can tell it from the rest."
    )
    return await edit(arguments, out, change, text)
