"""`rookery device consent`, `allow`, `disallow`: what a person agrees to."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from client.cli import session
from client.cli.asking import ask
from client.cli.output import OK, Output, clean
from client.cli.profile import edited
from client.cli.times import ago
from client.consent.ledger import PurposeState, Standing
from client.consent.purging import SEALED, Purged
from client.device import Device
from client.errors import NotAllowed, NothingThere, UserError, WordsChanged
from client.measure.consent import ConsentSettings
from client.sync import SyncedDevice

ACTIONS = ("list", "grant", "withdraw")
_WORDS = {
    Standing.NEVER: "off",
    Standing.GRANTED: "granted",
    Standing.WITHDRAWN: "withdrawn",
    Standing.OUTDATED: "off: its words have changed since it was granted; read them and grant anew",
    Standing.UNDECLARED: "off: the policy has no such purpose any more",
}
_FREE = (
    "this device is under no policy: `rookery device allow PURPOSE` and `disallow PURPOSE` say what"
    " joint aggregates may use"
)


async def consent(arguments: argparse.Namespace, out: Output) -> int:
    """Shows what can be agreed to, or says yes or no to a purpose."""
    if (arguments.purpose is None) != (arguments.action == "list"):
        raise UserError("name a purpose to grant or withdraw, and none to list all")
    async with session.opened(arguments, patient=arguments.action == "grant") as synced:
        if not synced.governed:
            raise NotAllowed(_FREE)
        match arguments.action:
            case "grant":
                await _grant(synced, arguments, out)
            case "withdraw":
                await _withdraw(synced, arguments, out)
            case _:
                await _list(synced, arguments, out)
    return OK


async def allow(arguments: argparse.Namespace, out: Output) -> int:
    """Switches a purpose on, for all devices of the account; on a governed device, a grant."""

    def change(core: Device, now_ms: int) -> None:
        ConsentSettings(core).allow(arguments.name, now_ms=now_ms)

    async with session.opened(arguments, patient=False) as synced:
        if synced.governed:
            await _grant(synced, arguments, out)
            return OK
        text = f"{arguments.name} is allowed, on all devices of this account"
        return await edited(synced, arguments, out, change, text)


async def disallow(arguments: argparse.Namespace, out: Output) -> int:
    """Switches a purpose off; on a governed device, a withdrawal."""

    def change(core: Device, now_ms: int) -> None:
        ConsentSettings(core).disallow(arguments.name, now_ms=now_ms)

    async with session.opened(arguments, patient=False) as synced:
        if synced.governed:
            await _withdraw(synced, arguments, out)
            return OK
        text = (
            f"{arguments.name} is not allowed any more, on any device of this account. What was"
            " contributed before can't be taken back: nobody can tell it from the rest."
        )
        return await edited(synced, arguments, out, change, text)


def _purpose(arguments: argparse.Namespace) -> str:
    name: str = getattr(arguments, "purpose", None) or arguments.name
    return name


# -- looking ----------------------------------------------------------------------------


async def _list(synced: SyncedDevice, arguments: argparse.Namespace, out: Output) -> None:
    done = await session.try_sync(synced, arguments, out)
    states, now_ms = synced.ledger.states(), synced.now_ms()
    data = {
        "governed": True,
        "policy_sequence": synced.holding.sequence,
        "paused": synced.ledger.paused,
        "purposes": [state.as_map() for state in states],
        "synced": done,
    }
    lines: list[str] = []
    if synced.ledger.paused:
        lines.append("everything is paused: `rookery device resume` goes on")
    for state in states:
        lines += _lines(state, now_ms)
    out.result(data, "\n".join(lines) or "the policy has no purposes: nothing is recorded")


def _lines(state: PurposeState, now_ms: int) -> Iterator[str]:
    since = f", {ago(state.newest.receipt.at_ms, now_ms)}" if state.newest is not None else ""
    yield clean(f"{state.name}  {_WORDS[state.standing]}{since}")
    if state.purpose is not None:
        yield clean(f"  {state.purpose.text}")
        yield clean(f"  for you: {state.purpose.benefit}")
        if state.purpose.intrusive:
            yield "  it may tell more of you than you expect"


# -- saying -----------------------------------------------------------------------------


async def _grant(synced: SyncedDevice, arguments: argparse.Namespace, out: Output) -> None:
    name = _purpose(arguments)
    if getattr(arguments, "offline", False):
        raise UserError("a grant counts once the service has it: leave --offline out")
    shown = None if synced.policy is None else synced.policy.purpose(name)
    await synced.sync_once()
    words = None if synced.policy is None else synced.policy.purpose(name)
    if words is not None and shown is not None and words.text_hash != shown.text_hash:
        raise WordsChanged(
            clean(
                f"the words of {name} have changed: {words.text} For you: {words.benefit} If you"
                " agree to them, grant it again"
            )
        )
    if words is None:
        raise NothingThere(f"the policy has no purpose {name}: `rookery device consent` lists all")
    if words.intrusive and not arguments.yes:
        text = f"{words.text} For you: {words.benefit} It may tell more of you than you expect."
        await ask(out, clean(text), "grant", done="granted")
    receipt = await synced.consenting.grant(name, text_hash=words.text_hash)
    data = {
        "purpose": name,
        "standing": Standing.GRANTED.value,
        "policy_sequence": receipt.policy_sequence,
        "receipt": receipt.hash.hex(),
        "at_ms": receipt.at_ms,
    }
    text = (
        f"{name} is granted, on all devices of this account: {words.text}\n"
        f"receipt {receipt.hash.hex()[:16]}…, for the words above; `rookery device consent withdraw"
        f" {name}` takes it back"
    )
    out.result(data, clean(text))


async def _withdraw(synced: SyncedDevice, arguments: argparse.Namespace, out: Output) -> None:
    name = _purpose(arguments)
    # Only here: they bring the arithmetic of joint aggregates along.
    from client.consent.taken import before_withdrawing
    from client.measure.core import Measuring

    synced.consenting.check_withdrawal(name)
    out.note(clean(before_withdrawing(Measuring(synced.core, synced.vault.load()), name)))
    if not arguments.yes:
        await ask(out, clean(f"This withdraws {name}."), "withdraw", done="withdrawn")
    done = await synced.consenting.withdraw(name, offline=getattr(arguments, "offline", False))
    data: dict[str, Any] = {
        "purpose": name,
        "standing": Standing.WITHDRAWN.value,
        "deleted": [{"name": one.name, "kind": one.kind.value} for one in done.purged],
        "receipt": done.receipt.hash.hex() if done.receipt is not None else None,
        "synced": done.receipt is not None,
    }
    out.result(data, clean("\n".join(_done(name, done.purged, is_told=done.receipt is not None))))


def _done(name: str, purged: tuple[Purged, ...], *, is_told: bool) -> Iterator[str]:
    yield f"{name} is withdrawn, on all devices of this account"
    if purged:
        yield f"deleted, for nothing else needs it: {', '.join(one.name for one in purged)}"
        yield SEALED
    if not is_told:
        yield "kept here: its receipt, and the other devices, follow with the next sync"
