"""Times as people say them."""

from __future__ import annotations

_UNITS = ((86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute"))


def ago(then_ms: int | None, now_ms: int) -> str:
    """`3 days ago`. The clock is another device's: the future counts as now."""
    if then_ms is None:
        return "never"
    passed = now_ms - then_ms
    for size_ms, name in _UNITS:
        if passed >= size_ms:
            count = passed // size_ms
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def until(then_ms: int, now_ms: int) -> str:
    """`in 3 days`."""
    left = then_ms - now_ms
    for size_ms, name in _UNITS:
        if left >= size_ms:
            count = left // size_ms
            return f"in {count} {name}{'s' if count > 1 else ''}"
    return "in less than a minute" if left > 0 else "now"
