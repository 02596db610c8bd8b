"""Opening what a command works on: the state, the service, the device that lives in both."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from client import remoteerrors as reasons
from client.backoff import Backoff
from client.cli import options
from client.cli.output import Output
from client.device import Device
from client.endpoint import Endpoint
from client.errors import AccountGone, NotJoined
from client.localkey import KeyFile
from client.remoteerrors import RemoteError
from client.rows import Rows
from client.steps import NoticeKind
from client.sync import ENDPOINT_ROW, SyncedDevice, core_rows
from client.transport import Transport
from client.vault import FileVault, read_mark
from client.vaulterrors import VaultDamaged, VaultExists, VaultMissing, VaultUnfinished
from client.wake import Waking

CLOCK_ROW = "shell/clock-offset-ms"
_CLOCK_WORTH_MS = 2_000
# Marks of a state with no device in it yet; the second: its default key file was made for it.
UNFINISHED, UNFINISHED_WITH_KEY = b"unfinished", b"unfinished with key"
_KEY_TEXT = (
    "{key} opens this state: it protects copies of the state that it is not with, and if it is"
    " lost, the state is lost."
)
# Somebody waits in front of it: a few seconds, then what is here is shown.
_PATIENCE = Backoff(first_ms=150, longest_ms=1_500, tries_max=4)
_LITTLE_PATIENCE = Backoff(first_ms=100, longest_ms=500, tries_max=2)


@contextlib.asynccontextmanager
async def opened(
    arguments: argparse.Namespace, *, patient: bool = True
) -> AsyncIterator[SyncedDevice]:
    """The device of --state. What was learned of the service's clock is kept."""
    path = options.state_path(arguments)
    vault = FileVault.open(path, options.unlock_for(arguments, path))
    try:
        rows = vault.load()
        if ENDPOINT_ROW not in rows:
            raise VaultUnfinished(path) if vault.mark else VaultDamaged(path)
        stored = Endpoint.decode(rows[ENDPOINT_ROW])
        transport = Transport(
            options.endpoint(arguments, stored),
            backoff=_PATIENCE if patient else _LITTLE_PATIENCE,
            clock_offset_ms=_clock_offset(rows),
            tracing=arguments.tracing,
        )
        synced = SyncedDevice(Device.load(core_rows(rows)), vault, transport)
        try:
            if vault.mark:
                await _finish_joining(synced, vault, arguments)
            yield synced
            _count_alarms(synced, arguments)
        finally:
            _keep_clock(synced, rows)
            await transport.close()
    finally:
        vault.close()


@contextlib.asynccontextmanager
async def new_state(arguments: argparse.Namespace) -> AsyncIterator[tuple[FileVault, Transport]]:
    """A new, empty state, and the way to the service that it is for.

    Unless a device was stored in it, state and key file are removed again.
    """
    path = options.state_path(arguments)
    mark = _mark_of(path)
    endpoint, unlock = options.endpoint(arguments, None), options.new_unlock(arguments)
    key_path = unlock.path_for(path) if isinstance(unlock, KeyFile) else None
    own_key = key_path is not None and not key_path.exists()
    if mark:
        path.unlink()
        own_key |= mark == UNFINISHED_WITH_KEY and key_path == KeyFile().path_for(path)
    own_mark = UNFINISHED_WITH_KEY if own_key else UNFINISHED
    vault = FileVault.create(path, unlock, mark=own_mark)
    transport = Transport(endpoint, backoff=_PATIENCE, tracing=arguments.tracing)
    try:
        yield vault, transport
    finally:
        born = ENDPOINT_ROW in vault.load()
        await transport.close()
        vault.close()
        if not born:
            discard(path, key_path if own_key else None)
        elif key_path is not None:
            print(_KEY_TEXT.format(key=key_path), file=sys.stderr)


def discard(path: Path, key_path: Path | None) -> None:
    """Removes a state that nobody needs."""
    path.unlink(missing_ok=True)
    if key_path is not None:
        key_path.unlink(missing_ok=True)


def settle(
    core: Device, vault: FileVault, transport: Transport, *, joining: bool = False
) -> SyncedDevice:
    """Stores a new device with the service that it belongs to, all in one. One that is still
    joining is none until `vault.unmark`."""
    endpoint = {ENDPOINT_ROW: transport.endpoint.encode()}
    vault.apply({**core.take_changes(), **endpoint})
    if not joining:
        vault.unmark()
    return SyncedDevice(core, vault, transport)


def disown(vault: FileVault) -> None:
    """The device of a new state was never admitted: `new_state` removes it."""
    vault.apply({ENDPOINT_ROW: None})


async def try_sync(synced: SyncedDevice, arguments: argparse.Namespace, out: Output) -> bool:
    """Syncs if the service can be reached and takes this device; says so if not. True if it
    did. For what is shown all the same."""
    try:
        return await try_send(synced, arguments, out)
    except AccountGone as error:
        out.note(f"rookery: not synced: {error}")
        return False


async def try_send(synced: SyncedDevice, arguments: argparse.Namespace, out: Output) -> bool:
    """Syncs if the service can be reached; says so if not. True if it did. AccountGone: what
    waits here will never be sent."""
    if getattr(arguments, "offline", False):
        return False
    try:
        await synced.sync_once()
    except RemoteError as error:
        if not error.transient:
            raise
        out.note(f"rookery: not synced: {error}")
        return False
    await renew(synced, out)
    return True


async def renew(synced: SyncedDevice, out: Output) -> None:
    """Keeps the device woken by pushes. What can't be done now is done by a later command."""
    try:
        await Waking(synced).renew_if_due()
    except RemoteError as error:
        out.note(f"rookery: what wakes this device was not renewed: {error}")


def _mark_of(path: Path) -> bytes:
    """Empty where nothing is; VaultExists where a device is."""
    try:
        mark = read_mark(path)
    except VaultMissing:
        return b""
    except VaultDamaged:
        mark = b""
    if not mark:
        raise VaultExists(path)
    return mark


async def _finish_joining(
    synced: SyncedDevice, vault: FileVault, arguments: argparse.Namespace
) -> None:
    """`join` was killed. If the other device added this one all the same, it is a device;
    NotJoined otherwise."""
    if getattr(arguments, "offline", False):
        raise NotJoined
    synced.sign_as_device()
    try:
        await synced.remote.get_receipt()
    except RemoteError as error:
        if error.reason != reasons.UNAUTHENTICATED:
            raise
        raise NotJoined from None
    vault.unmark()


def _count_alarms(synced: SyncedDevice, arguments: argparse.Namespace) -> None:
    """An alarm is not only for who asks for the status."""
    count = sum(row.kind is NoticeKind.ALARM for row in synced.core.notices)
    if count and arguments.run != "account:status":
        print(f"{count} alarm{'s' * (count > 1)}: see `rookery device status`", file=sys.stderr)


def _clock_offset(rows: Rows) -> int:
    text = rows.get(CLOCK_ROW, b"0").decode("ascii", "replace")
    return int(text) if text.removeprefix("-").isdigit() else 0


def _keep_clock(synced: SyncedDevice, rows: Rows) -> None:
    now = synced.transport.wire.clock_offset_ms
    if abs(now - _clock_offset(rows)) >= _CLOCK_WORTH_MS:
        synced.vault.apply({CLOCK_ROW: str(now).encode("ascii")})
