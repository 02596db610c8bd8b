"""`rookery device set`, `unset`, `like`, `add`, `remove`, `get`, `list`, `watch`, `sync`."""

from __future__ import annotations

import argparse
from typing import Any

from client import snapshot
from client.cli import session
from client.cli.output import NOT_FOUND, OK, Output, brief, clean, show
from client.cli.typed import parse_value, read_line, split_name
from client.device import Device
from client.errors import NothingThere, Revoked, UserError
from client.gate import SignalRefused
from client.remoteerrors import RemoteError
from client.snapshot import Item, Kind, Snapshot
from client.sync import SyncedDevice
from client.watch import Watch

DAY_MS = 86_400_000
_SCORE_DIGITS = 6


def _half_life(arguments: argparse.Namespace) -> int | None:
    days: float | None = arguments.half_life
    return None if days is None else max(1, int(days * DAY_MS))


async def edit(arguments: argparse.Namespace, out: Output, change: Any, text: str) -> int:
    """Makes an edit of `arguments.name`, and sends it if the service can be reached."""
    async with session.opened(arguments, patient=False) as synced:
        return await edited(synced, arguments, out, change, text)


async def edited(
    synced: SyncedDevice, arguments: argparse.Namespace, out: Output, change: Any, text: str
) -> int:
    """The same on a device that is open."""
    if synced.core.status.revoked:
        raise Revoked
    try:
        synced.edit(change)
    except SignalRefused:
        # A newer policy, or a grant on another device, may let it in.
        if not await _renewed(synced, arguments, out):
            raise
        synced.edit(change)
    done = await session.try_send(synced, arguments, out)
    waiting = synced.core.status.edits_waiting
    data = {"name": arguments.name, "synced": done and not waiting, "waiting": waiting}
    out.result(data, text if done else f"{text} (kept here; it is sent with the next sync)")
    return OK


async def _renewed(synced: SyncedDevice, arguments: argparse.Namespace, out: Output) -> bool:
    """Syncs before a refusal is told. True if the device may be asked again."""
    try:
        done = await session.try_sync(synced, arguments, out)
    except RemoteError as error:
        out.note(f"rookery: not synced: {error}")
        return False
    return done and not synced.core.status.revoked


async def set_(arguments: argparse.Namespace, out: Output) -> int:
    """Sets a setting."""
    collection, key = split_name(arguments.name)
    text = await read_line(blank=True) if arguments.value == "-" else arguments.value
    value = parse_value(text, arguments.type)

    def change(core: Device, now_ms: int) -> None:
        core.put(collection, key, value, now_ms=now_ms)

    return await edit(arguments, out, change, f"{arguments.name} = {brief(value)}")


async def unset(arguments: argparse.Namespace, out: Output) -> int:
    """Removes a setting."""
    collection, key = split_name(arguments.name)

    def change(core: Device, now_ms: int) -> None:
        if core.get(collection, key, undeclared=True) is None:  # removing is never refused
            raise NothingThere(f"there is no setting {arguments.name} here")
        core.remove(collection, key, now_ms=now_ms)

    return await edit(arguments, out, change, f"{arguments.name} is removed")


async def like(arguments: argparse.Namespace, out: Output) -> int:
    """Adds to a score."""
    collection, key = split_name(arguments.name)
    half_life_ms = _half_life(arguments)

    def change(core: Device, now_ms: int) -> None:
        core.add_score(collection, key, arguments.amount, now_ms=now_ms, half_life_ms=half_life_ms)

    return await edit(arguments, out, change, f"{arguments.name} {arguments.amount:+g}")


def _member(arguments: argparse.Namespace) -> tuple[str, str]:
    """`SET/MEMBER` or `SET MEMBER`; from here on the name is the former."""
    if arguments.member is not None:
        arguments.name = f"{arguments.name}/{arguments.member}"
    elif "/" not in arguments.name:
        raise UserError(f"of which member? {arguments.name}/MEMBER, or {arguments.name} MEMBER")
    return split_name(arguments.name)


async def add(arguments: argparse.Namespace, out: Output) -> int:
    """Puts a member into a set."""
    collection, member = _member(arguments)

    def change(core: Device, now_ms: int) -> None:
        core.add_member(collection, member, now_ms=now_ms)

    return await edit(arguments, out, change, f"{member} is in {collection}")


async def remove(arguments: argparse.Namespace, out: Output) -> int:
    """Takes a member out of a set."""
    collection, member = _member(arguments)

    def change(core: Device, now_ms: int) -> None:
        core.remove_member(collection, member, now_ms=now_ms)

    return await edit(arguments, out, change, f"{member} is removed from {collection}")


def _take(synced: SyncedDevice, arguments: argparse.Namespace) -> Snapshot:
    return snapshot.take(synced.core, now_ms=synced.now_ms(), half_life_ms=_half_life(arguments))


async def get(arguments: argparse.Namespace, out: Output) -> int:
    """Shows one setting or score; of a name that is both, the setting, unless told."""
    collection, key = split_name(arguments.name)
    kinds = [Kind(arguments.kind)] if arguments.kind else [Kind.SETTING, Kind.SCORE]
    async with session.opened(arguments, patient=False) as synced:
        done = await session.try_sync(synced, arguments, out)
        here = _take(synced, arguments)
    found = [
        item for kind in kinds if (item := here.get((collection, key, kind.value))) is not None
    ]
    if not found:
        what = arguments.kind or "setting or score"
        out.failure("NOT_FOUND", f"there is no {what} {arguments.name}")
        return NOT_FOUND
    item, *others = found
    for other in others:
        kind = other.kind.value
        out.note(f"rookery: there is a {kind} of this name, too: `--kind {kind}` shows it")
    out.result(_data(item) | {"synced": done}, clean(show(item.value)))
    return OK


async def list_(arguments: argparse.Namespace, out: Output) -> int:
    """Shows all settings and scores whose names begin with a prefix."""
    async with session.opened(arguments, patient=False) as synced:
        done = await session.try_sync(synced, arguments, out)
        rows = [
            item
            for item in _take(synced, arguments).values()
            if item.name.startswith(arguments.prefix)
        ]
    text = "\n".join(_line(item) for item in rows) or "nothing here"
    out.result({"items": [_data(item) for item in rows], "synced": done}, text)
    return OK


async def sync(arguments: argparse.Namespace, out: Output) -> int:
    """Sends what waits and takes what is new."""
    async with session.opened(arguments) as synced:
        await synced.sync_once()
        await session.renew(synced, out)
        waiting = synced.core.status.edits_waiting
        out.result({"synced": True, "waiting": waiting}, "in sync")
    return OK


async def watch(arguments: argparse.Namespace, out: Output) -> int:
    """Stays in sync and shows every change, until Ctrl-C."""
    async with session.opened(arguments) as synced:
        seen = _take(synced, arguments)
        told = {notice.number for notice in synced.core.notices}

        def on_change() -> None:
            nonlocal seen
            now = _take(synced, arguments)
            for item in snapshot.changes(seen, now):
                out.step({"event": "change"} | _data(item), _line(item))
            seen = now
            for notice in synced.core.notices:
                if notice.number not in told:
                    told.add(notice.number)
                    out.step(
                        {"event": notice.kind.value, "rule": notice.rule}
                        | {"message": notice.sentence},
                        f"{notice.kind.value}: {notice.sentence}",
                    )

        def on_live(live: bool) -> None:
            out.step({"event": "live" if live else "offline"}, "live" if live else "offline")

        await Watch(synced, on_change=on_change, on_live=on_live).run()
    return OK


def _data(item: Item) -> dict[str, Any]:
    return {"name": item.name, "kind": item.kind.value, "value": item.value}


def _line(item: Item) -> str:
    if item.value is None:
        return f"{item.kind.value:7}  {item.name} is removed"
    value = item.value
    if item.kind is Kind.SCORE and isinstance(value, float):
        value = float(f"{value:.{_SCORE_DIGITS}g}")  # decay makes more; `get` and `--json` have all
    return f"{item.kind.value:7}  {item.name} = {brief(value)}"
