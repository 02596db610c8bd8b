"""Durations and instants as people write them in tasks and on the command line. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

UNITS_MS: Final = {
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
}
_DURATION = re.compile(r"(0|[1-9][0-9]{0,15})(ms|s|m|h|d|w)")


def duration_ms(text: str) -> int:
    """`90m`, `1d`, `2w`; ValueError otherwise."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError("a duration is a whole number and ms, s, m, h, d or w, as in 36h")
    return int(found[1]) * UNITS_MS[found[2]]


def instant_ms(text: str) -> int:
    """`2027-01-31T00:00Z`, or another offset; ValueError otherwise."""
    try:
        return at_ms(datetime.fromisoformat(text))
    except ValueError:
        raise ValueError(
            "a time is a date and a time with its offset, as in 2027-01-31T12:00Z"
        ) from None


def at_ms(instant: datetime) -> int:
    """Milliseconds since 1970; ValueError for a time without an offset."""
    if instant.tzinfo is None:
        raise ValueError("the time needs an offset, as in 2027-01-31T12:00Z")
    since = instant - datetime.fromtimestamp(0, UTC)
    return since.days * UNITS_MS["d"] + since.seconds * 1_000 + since.microseconds // 1_000


def show_instant(ms: int) -> str:
    """In UTC, to the second; the bare number for one that has no date."""
    try:
        return datetime.fromtimestamp(ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms after 1970"


def show_duration(ms: int) -> str:
    """In the largest unit that it is whole in."""
    for unit in ("w", "d", "h", "m", "s"):
        if ms and ms % UNITS_MS[unit] == 0:
            return f"{ms // UNITS_MS[unit]}{unit}"
    return f"{ms}ms"
