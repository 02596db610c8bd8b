"""`rookery device status`, `export`, `restore-account`, `delete-account`: what this device
knows, and an account's end and return."""

from __future__ import annotations

import argparse
from typing import Any

from client.cli import policyheld, session
from client.cli.asking import ask
from client.cli.output import NOT_FOUND, OK, Output
from client.cli.times import ago
from client.cli.tokencommand import token_for
from client.errors import AccountGone, Revoked
from client.steps import Notice
from client.sync import SyncedDevice

_LOST = (
    "The service does not know this device. If the account was deleted on purpose, or this"
    " device was removed, leave it so; if the service lost its data, this brings the account back."
)
_BACK = (
    "The account is back, with all that this device holds. Run `rookery device sync` on the other"
    " devices now, before you add or remove any."
)
_PARTLY_BACK = (
    "The account is back, but the service does not take all of it from this device. Run `rookery"
    " device sync` on the device that has been in the account for longest, then here again."
)


async def status(arguments: argparse.Namespace, out: Output) -> int:
    """Shows where this device stands."""
    async with session.opened(arguments, patient=False) as synced:
        known = {row.number for row in synced.core.notices}
        for number in arguments.dismiss:
            if number not in known:
                out.failure("NOT_FOUND", f"there is no notice {number}")
                return NOT_FOUND
        for number in arguments.dismiss:
            synced.core.dismiss(number)
        synced.save()
        done = await session.try_sync(synced, arguments, out)
        data = _status(synced) | {"synced": done}
        notices, now_ms = synced.core.notices, synced.now_ms()
        text = "\n".join([*_lines(data, now_ms), *(_notice_line(row, now_ms) for row in notices)])
        out.result(data | {"notices": [_notice(row) for row in notices]}, text)
        if policyheld.is_left_out(synced):
            out.note(policyheld.HINT)
    return OK


def _status(synced: SyncedDevice) -> dict[str, Any]:
    core, now = synced.core, synced.core.status
    return {
        "account": core.account_id.hex(),
        "device": core.identity.device_id.hex(),
        "server": ",".join(synced.transport.endpoint.targets),
        "account_made": now.account_made,
        "epoch": now.epoch,
        "chain_seq": now.chain_seq,
        "key_since_ms": now.key_since_ms,
        "rotation_due": now.rotation_due,
        "waiting": now.edits_waiting,
        "in_flight": now.ops_in_flight,
        "on_hold": now.ops_on_hold,
        "revoked": now.revoked,
        "cloned": now.cloned,
        "clock_offset_ms": synced.transport.wire.clock_offset_ms,
        "governed": synced.governed,
        "policy_sequence": synced.holding.sequence,
        "paused": synced.governed and synced.ledger.paused,
    }


def _lines(data: dict[str, Any], now_ms: int) -> list[str]:
    age = ago(data["key_since_ms"], now_ms)
    due = "; due for a new one: `rookery device rotate`" if data["rotation_due"] else ""
    lines = [
        f"account      {data['account']}",
        f"device       {data['device'][:8]}",
        f"service      {data['server']}",
        f"epoch        {data['epoch']} (key made {age}{due}), device list at {data['chain_seq']}",
        f"waiting      {data['waiting']} edits, {data['in_flight']} being sent",
        f"on hold      {data['on_hold']} received ops that wait for others",
        f"clock        {data['clock_offset_ms'] / 1000:+.1f} s of the service's",
        f"policy       {_policy(data)}",
    ]
    if data["paused"]:
        lines.append("everything is paused: `rookery device resume` goes on")
    if not data["account_made"]:
        lines.append("the account is not made yet: `rookery device sync` makes it")
    if data["revoked"]:
        lines.append("this device was removed; what it holds stays readable here")
    if data["cloned"]:
        lines.append("this device needs a new identity; the next sync gives it one")
    return lines


def _policy(data: dict[str, Any]) -> str:
    if not data["governed"]:
        return "this device is under none"
    return f"number {data['policy_sequence']}" if data["policy_sequence"] else "none yet: sync it"


def _notice(row: Notice) -> dict[str, Any]:
    return {
        "number": row.number,
        "kind": row.kind.value,
        "rule": row.rule,
        "message": row.sentence,
        "at_ms": row.at_ms,
        "device": row.device_id.hex() if row.device_id is not None else None,
    }


def _notice_line(row: Notice, now_ms: int) -> str:
    return f"{row.kind.value} {row.number}  {row.sentence} ({ago(row.at_ms, now_ms)})"


async def export(arguments: argparse.Namespace, out: Output) -> int:
    """Prints everything that there is of this person, in clear, as one JSON object
    (`client.consent.exporting`). Needs no service."""
    # Not at the top: the other commands of this file start without arithmetic.
    from client.consent import exporting
    from client.measure.core import Measuring

    async with session.opened(arguments) as synced:
        await session.try_sync(synced, arguments, out)
        data = exporting.export(synced, Measuring(synced.core, synced.vault.load()))
    Output(as_json=True).result(data, "")
    return OK


async def restore_account(arguments: argparse.Namespace, out: Output) -> int:
    """Brings the account back to a service that lost it. Does nothing where it stands."""
    async with session.opened(arguments) as synced:
        core = synced.core
        data = {"account": core.account_id.hex(), "device": core.identity.device_id.hex()}
        try:
            await synced.sync_once()
        except AccountGone:
            if not arguments.yes:
                await ask(out, _LOST, "restore")
        else:
            out.result(data | {"restored": False}, "The service has this account: nothing to do.")
            return OK
        synced.token = await token_for(arguments.token_command, core)
        try:
            await synced.make_again()
        except AccountGone:
            raise Revoked(
                "The service has this account, and this device was removed from it; what is"
                " stored here stays."
            ) from None
        whole = all(row.rule != "restore-refused" for row in core.notices)
        out.result(data | {"restored": True, "complete": whole}, _BACK if whole else _PARTLY_BACK)
    return OK


async def delete_account(arguments: argparse.Namespace, out: Output) -> int:
    """Deletes the account at the service, for all devices. What is stored here stays."""
    from client.consent import taken
    from client.measure.core import Measuring

    async with session.opened(arguments) as synced:
        told = taken.before_forgetting(Measuring(synced.core, synced.vault.load()))
        if arguments.yes:
            out.note(told)
        else:
            await ask(out, told, "delete")
        receipt = await synced.delete_account()
        data = {"deleted": synced.core.account_id.hex(), "receipt": receipt.data.hex()}
        out.result(
            data | {"server_ms": receipt.opened.server_ms, "told": told},
            "The account is deleted; the service has signed for it:\n"
            f"{receipt.data.hex()}\nWhat is stored on this device stays.",
        )
    return OK
