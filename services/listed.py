"""Public keys as settings list them: 64 hex digits, and maybe the last day on which they count.

Two keys in a list are an overlap: the new one, and the one before with its end.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass

from services.settings import ConfigError

KEY_BYTES = 32
_UNTIL = " until "


@dataclass(frozen=True, slots=True)
class Listed:
    """A public key, and when it ends: with the end of a day (UTC), or never."""

    key: bytes
    until_ms: int | None = None

    def is_valid(self, now_ms: int) -> bool:
        """Whether it still counts."""
        return self.until_ms is None or now_ms < self.until_ms


def parse(name: str, texts: Iterable[str]) -> tuple[Listed, ...]:
    """The keys of a setting; ConfigError names the setting."""
    return tuple(_parse(name, text) for text in texts)


def valid(rows: Iterable[Listed], now_ms: int) -> tuple[bytes, ...]:
    """Those that count now."""
    return tuple(row.key for row in rows if row.is_valid(now_ms))


def day_end_ms(name: str, text: str) -> int:
    """The end of a day that is written as 2027-01-31; ConfigError."""
    try:
        day = datetime.date.fromisoformat(text)
        after = datetime.datetime.combine(
            day + datetime.timedelta(days=1), datetime.time(), datetime.UTC
        )
    except (ValueError, OverflowError):
        raise ConfigError(f"{name}: a day is written as 2027-01-31") from None
    return int(after.timestamp()) * 1000


def _parse(name: str, text: str) -> Listed:
    digits, marked, day = text.partition(_UNTIL)
    try:
        key = bytes.fromhex(digits.strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f'{name}: a public key has 64 hex digits, and may end: "KEY until 2027-01-31"'
        )
    return Listed(key, day_end_ms(name, day.strip()) if marked else None)
