"""What people type: names, values, ids, and lines read from standard input."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence

from client.errors import NoSuchDevice, UserError
from client.steps import DeviceInfo
from client.values import Value
from crypto.ids import DeviceId

_DIGITS_MIN = 4
_LINE_BYTES_MAX = 4096


def split_name(name: str) -> tuple[str, str]:
    """`COLLECTION/KEY`, parted at the first slash."""
    collection, slash, key = name.partition("/")
    if not (collection and slash and key):
        raise UserError(f"{name!r} is no COLLECTION/KEY, as in ui/theme")
    return collection, key


def _bool(text: str) -> bool:
    return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}[
        text.lower()
    ]


TYPES: dict[str, Callable[[str], Value]] = {
    "text": str,
    "int": int,
    "float": float,
    "bool": _bool,
    "json": json.loads,
    "bytes": lambda text: base64.b64decode(text, validate=True),
}


def parse_value(text: str, kind: str) -> Value:
    """The value of a given type; UserError."""
    try:
        return TYPES[kind](text)
    except (ValueError, KeyError, binascii.Error):
        raise UserError(f"this is no {kind}: see `rookery device set --help`") from None


def find_device(devices: Sequence[DeviceInfo], text: str) -> DeviceId:
    """An active device by its number (`#1`) or the beginning of its id."""
    active = [device for device in devices if device.active]
    if text.startswith("#"):
        found = [device for device in active if str(device.index) == text[1:]]
    elif len(text) < _DIGITS_MIN:
        raise UserError(f"give at least {_DIGITS_MIN} digits of the id, or its number as in #1")
    else:
        found = [device for device in active if device.device_id.hex().startswith(text.lower())]
    if not found:
        raise NoSuchDevice
    if len(found) > 1:
        raise UserError("more than one device begins with this id: give more of it")
    return found[0].device_id


async def read_line(*, blank: bool = False, instead: str = "") -> str:
    """One line of standard input; UserError if it is over, or blank unless that is allowed.
    `instead`: what its sentence says to do without anybody who types.

    Read in a thread that the process does not wait for, so that Ctrl-C ends it at once; and
    byte by byte, so that what follows is there for the next reader.
    """
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def deliver(text: str) -> None:
        if not line.done():
            line.set_result(text)

    def read() -> None:
        text = _read_raw(sys.stdin.fileno())
        if not loop.is_closed():
            loop.call_soon_threadsafe(deliver, text)

    threading.Thread(target=read, daemon=True).start()
    text = await line
    if not text or not (blank or text.strip()):
        raise UserError(f"nothing was typed{instead and ': ' + instead}")
    return text.strip()


def _read_raw(descriptor: int) -> str:
    data = b""
    while len(data) < _LINE_BYTES_MAX:
        try:
            char = os.read(descriptor, 1)
        except OSError:
            break
        if not char:
            break
        data += char
        if char == b"\n":
            break
    return data.decode("utf-8", "replace")
