"""`rookery device devices`, `revoke`, `rotate`: who belongs to the account."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from client.cli import session
from client.cli.output import FAILED, OK, Output, table
from client.cli.times import ago
from client.cli.typed import find_device
from client.steps import DeviceInfo
from client.sync import SyncedDevice
from crypto.cert import Role
from crypto.ids import DeviceId


async def devices(arguments: argparse.Namespace, out: Output) -> int:
    """Shows all devices."""
    async with session.opened(arguments, patient=False) as synced:
        done = await session.try_sync(synced, arguments, out)
        rows, now_ms = synced.core.devices, synced.now_ms()
    names = {row.device_id: f"#{row.index}" for row in rows}
    text = table(
        ("", "device", "what", "last seen", "added by"), [_row(row, names, now_ms) for row in rows]
    )
    out.result({"devices": [_data(row) for row in rows], "synced": done}, text)
    return OK


async def revoke(arguments: argparse.Namespace, out: Output) -> int:
    """Removes devices: a new key for all that stay, and the profile sealed anew under it."""
    async with session.opened(arguments) as synced:
        # First all that the removed device wrote up to now: its cut is what we hold of it.
        await synced.sync_once()
        gone = [find_device(synced.core.devices, text) for text in arguments.devices]
        return await _rotate(synced, gone, out)


async def rotate(arguments: argparse.Namespace, out: Output) -> int:
    """Makes a new key without removing anybody."""
    async with session.opened(arguments) as synced:
        await synced.sync_once()
        return await _rotate(synced, (), out)


async def _rotate(synced: SyncedDevice, gone: Sequence[DeviceId], out: Output) -> int:
    before = synced.core.status.epoch
    synced.edit(lambda core, _: core.rotate(gone))
    await synced.sync_once()
    status = synced.core.status
    removed = [row.device_id for row in synced.core.devices if not row.active]
    data = {"epoch": status.epoch, "revoked": [row.hex() for row in gone]}
    if status.epoch == before or not set(gone) <= set(removed):
        out.failure(
            "NOT_ROTATED", "the service did not take it yet: `rookery device sync` tries again"
        )
        return FAILED
    names = ", ".join(row.hex()[:8] for row in gone)
    text = f"{names} removed; " if gone else ""
    out.result(data, f"{text}epoch {status.epoch} has begun.")
    return OK


def _row(row: DeviceInfo, names: dict[DeviceId, str], now_ms: int) -> tuple[str, ...]:
    return (
        names[row.device_id],
        row.device_id.hex()[:8],
        _what(row),
        ago(row.last_seen_ms, now_ms) if row.role is Role.FULL else "-",
        "itself" if row.index == 0 else names.get(row.added_by, "?"),
    )


def _what(row: DeviceInfo) -> str:
    words = ["recovery key"] if row.role is Role.RECOVERY else []
    words += ["this device"] if row.this_device else []
    words += ["removed"] if not row.active else []
    words += ["set aside: copied?"] if row.set_aside else []
    return ", ".join(words) or "device"


def _data(row: DeviceInfo) -> dict[str, Any]:
    return {
        "device": row.device_id.hex(),
        "number": row.index,
        "role": "recovery" if row.role is Role.RECOVERY else "full",
        "active": row.active,
        "this_device": row.this_device,
        "last_seen_ms": row.last_seen_ms,
        "added_by": row.added_by.hex(),
        "added_seq": row.added_seq,
        "set_aside": row.set_aside,
    }
