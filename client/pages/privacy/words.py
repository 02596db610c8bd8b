"""How things are said to a person: values, times, places. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from client.device import Device
from client.values import Value

_TEXT_CHARS_MAX: Final = 200
REACH: Final = {
    "device": "Stays on this device",
    "sync": "Shared by your devices, sealed: the service cannot read it",
    "aggregate": (
        "Shared by your devices, sealed; may be counted with many others, with noise, never alone"
    ),
}
"""How far a signal gets, by its reach."""


def day(at_ms: int | None) -> str:
    """`3 March 2026`; a dash where there is none."""
    if at_ms is None:
        return "-"
    when = datetime.fromtimestamp(at_ms / 1000, UTC)
    return f"{when.day} {when:%B %Y}"


def value(what: Value) -> str:
    """A value as people read it."""
    match what:
        case True:
            return "yes"
        case False:
            return "no"
        case float():
            return f"{what:.3g}"
        case int() | str():
            return str(what)[:_TEXT_CHARS_MAX]
        case bytes():
            return f"{len(what)} bytes"
        case list():
            return f"a list of {len(what)}"
        case dict():
            return f"a table of {len(what)}"
        case _:
            return "-"


def written_by(device: Device, indexes: Iterable[int]) -> str:
    """`this device or device #2`: one of these wrote it. Empty for none."""
    mine = {row.index for row in device.devices if row.this_device}
    return " or ".join("this device" if one in mine else f"device #{one}" for one in indexes)


def count(number: int, one: str, many: str = "") -> str:
    """`1 device`, `3 devices`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
