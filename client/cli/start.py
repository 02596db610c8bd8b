"""`rookery device init`, `join`, `recover`: the three ways to become a device."""

from __future__ import annotations

import argparse
import secrets
import textwrap
from collections.abc import Mapping
from typing import Any

from client.cli import policyheld, session
from client.cli.introduce import introduce
from client.cli.output import OK, UNREACHABLE, Output
from client.cli.tokencommand import token_for
from client.cli.typed import read_line
from client.device import Device
from client.errors import ClientError, UserError
from client.pairflow import Admission, find_invite, read_code
from client.recoverflow import recover as recover_device
from client.remoteerrors import RemoteError
from client.sync import SyncedDevice
from crypto import link, recovery
from crypto.cert import DeviceCert, Role
from crypto.errors import CryptoError
from crypto.ids import AccountId, DeviceId
from crypto.link import SignedLink

_RECOVERY_TEXT = """
Recovery kit. Write both lines down, on paper; they are shown once and stored nowhere.

  account       {account}
  recovery key  {key}

With them, `rookery device recover` makes a new device when all others are lost. Without them
and without a device, nobody can give the data back: there is no reset.
"""
_NO_RECOVERY = (
    "No recovery key was made: who loses all devices loses the data, and nobody can reset it."
    " `rookery device recovery-key` makes one later."
)


async def init(arguments: argparse.Namespace, out: Output) -> int:
    """Makes an account with this machine as its first device."""
    async with session.new_state(arguments) as (vault, transport):
        core = Device.create(
            recovery_secret=None, now_ms=transport.clock.wall_ms(), rand=secrets.token_bytes
        )
        token = await token_for(arguments.token_command, core)
        # Before anything is stored or shown: a mistyped service is no account.
        reached = await introduce(core, transport, token, out)
        synced = session.settle(core, vault, transport)
        synced.token = token
        data = _identity(synced) | {"account_made": reached}
        if not arguments.no_recovery:
            _add_paper(synced, out, data)
        elif out.as_json:
            out.result(data, "")
        else:
            out.note(textwrap.fill(_NO_RECOVERY, 88))
        made = reached and await _first_sync(synced, out)
        if not out.as_json and made:
            out.result(data, f"This is device {data['device'][:8]} of a new account.")
        if policyheld.is_left_out(synced):
            out.note(policyheld.HINT)
    return OK if made else UNREACHABLE


def _add_paper(synced: SyncedDevice, out: Output, data: Mapping[str, Any]) -> DeviceId:
    """Makes a recovery key and shows it with `data`; only then it becomes part of what is sent,
    so that there never is one in the account which nobody has seen."""
    secret = secrets.token_bytes(recovery.SECRET_BYTES)
    paper, kit = recovery.identity(secret), recovery.to_paper(secret)
    draft = synced.core.build_add(DeviceCert.of(paper, Role.RECOVERY))
    text = _RECOVERY_TEXT.format(account=synced.core.account_id.hex(), key=kit)
    out.result({**data, "recovery_key": kit}, text)
    pop = link.prove_possession(paper, draft.raw)
    synced.edit(lambda core, _: core.submit_add(SignedLink(draft.raw, draft.sig, pop)))
    return paper.device_id


async def _first_sync(synced: SyncedDevice, out: Output) -> bool:
    try:
        await synced.sync_once()
    except RemoteError as error:
        if not error.transient:
            raise
        out.note(f"rookery: {error}")
        out.note("This device is set up; `rookery device sync` makes the account later.")
        return False
    return True


async def join(arguments: argparse.Namespace, out: Output) -> int:
    """Becomes a device of an account by a code that an existing device shows."""
    async with session.new_state(arguments) as (vault, transport):
        out.ask("pairing code (26 characters, or the text of the QR): ")
        invite = await find_invite(transport, read_code(await read_line()))
        admission = Admission(transport, invite)
        settled: list[SyncedDevice] = []
        digits = await admission.ask(
            lambda core: settled.append(session.settle(core, vault, transport, joining=True))
        )
        out.step(
            {"event": "digits", "digits": digits},
            f"Type these six digits on the other device:  {digits[:3]} {digits[3:]}",
        )
        out.note("Waiting for the other device (Ctrl-C ends it; run `join` again then).")
        try:
            await admission.wait()
        except BaseException as error:
            if isinstance(error, RemoteError) and error.transient:
                # The other device has our proof and may have added us: the next command asks.
                out.note(_MAYBE_JOINED)
            else:
                # Ctrl-C, too: a device that does not belong is in the way of the next attempt.
                session.disown(vault)
            raise
        vault.unmark()
        synced = settled[0]
        await synced.sync_once()
        keys = [key.hex() for key in synced.holding.keys]
        data = _identity(synced) | {"event": "joined", "policy_publishers": keys}
        text = f"This is device {data['device'][:8]} of the account now."
        out.result(data, "\n".join([text, *([_GOVERNED, *keys] if keys else [])]))
    return OK


_GOVERNED = (
    "It is governed, as the device that added it: it records and answers what a policy allows"
    " that\none of these keys has signed (`rookery device policy`)."
)
_MAYBE_JOINED = (
    "Whether the other device added this one is not known; its keys are kept. `rookery device"
    " sync` finds out."
)
_MAYBE_RECOVERED = (
    "Whether the account took this device is not known; its keys are kept. `rookery device sync`"
    " finds out. If it was not taken, remove this state and recover again."
)


async def recover(arguments: argparse.Namespace, out: Output) -> int:
    """Becomes a device by the recovery key, and can remove all others at once."""
    try:
        account = AccountId.of(bytes.fromhex(arguments.account))
    except (ValueError, CryptoError):
        raise UserError("--account is the 64 hexadecimal characters of the recovery kit") from None
    async with session.new_state(arguments) as (vault, transport):
        out.ask("recovery key: ")
        try:
            secret = recovery.from_paper(await read_line())
        except CryptoError as error:
            raise UserError(error.message) from None
        settled: list[SyncedDevice] = []
        try:
            await recover_device(
                transport,
                secret,
                account,
                lambda core: settled.append(session.settle(core, vault, transport)),
            )
        except RemoteError as error:
            if settled and error.transient:
                out.note(_MAYBE_RECOVERED)
            raise
        except ClientError:
            session.disown(vault)
            raise
        synced = settled[-1]
        await synced.sync_once()
        lost = [row for row in synced.core.devices if row.active and not row.this_device]
        lost = [row for row in lost if row.role is Role.FULL] if arguments.revoke_others else []
        if lost:
            synced.edit(lambda core, _: core.rotate([row.device_id for row in lost]))
            await synced.sync_once()
        data = _identity(synced) | {"revoked": [row.device_id.hex() for row in lost]}
        out.result(data, f"This is device {data['device'][:8]} of the account now.")
    return OK


async def recovery_key(arguments: argparse.Namespace, out: Output) -> int:
    """Makes a recovery key for an account that has none, or another one."""
    async with session.opened(arguments) as synced:
        await synced.sync_once()
        paper = _add_paper(synced, out, _identity(synced))
        try:
            await synced.sync_once()
        except RemoteError as error:
            if error.transient:
                out.note("The key does not open the account yet: `rookery device sync` adds it.")
            raise
        if synced.core.chain.find(paper) is None:
            raise UserError(
                "this key does not open the account: another change of the device list came"
                " first, or the service refused it (`rookery device status` says so); make a new"
                " one"
            )
        if not out.as_json:
            out.result({}, "The key opens the account from now on.")
    return OK


def _identity(synced: SyncedDevice) -> dict[str, Any]:
    core = synced.core
    return {"account": core.account_id.hex(), "device": core.identity.device_id.hex()}
