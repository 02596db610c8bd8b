"""When a round opens: windows of one task must not overlap. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from client.analyst import times
from client.errors import UserError


class Window(NamedTuple):
    """From its opening to before its end."""

    open_ms: int
    close_ms: int

    def overlaps(self, other: Window) -> bool:
        """Whether some moment is in both."""
        return self.open_ms < other.close_ms and other.open_ms < self.close_ms


def when_ms(text: str, now_ms: int) -> int | None:
    """What `now`, `+36h` or a time means; None for `next`. UserError."""
    if text == "next":
        return None
    if text == "now":
        return now_ms
    try:
        if text.startswith("+"):
            return now_ms + times.duration_ms(text[1:])
        return times.instant_ms(text)
    except ValueError as error:
        raise UserError(f"--open {text}: {error}; or `now`, `next`, `+DURATION`") from None


def next_free(busy: Iterable[Window], now_ms: int, window_ms: int) -> int:
    """The first moment from now on at which a window of this length overlaps none."""
    open_ms = now_ms
    for other in sorted(busy):
        if other.overlaps(Window(open_ms, open_ms + window_ms)):
            open_ms = other.close_ms
    return open_ms


def overlapping(busy: Iterable[Window], window: Window) -> Window | None:
    """One that overlaps, if there is any."""
    return next((other for other in sorted(busy) if other.overlaps(window)), None)
