"""One check that tasks, kinds and tails share."""

from __future__ import annotations

from crypto.errors import FormatError


def whole(what: str, value: object, low: int, high: int, *, rule: str) -> None:
    """FormatError unless `value` is a whole number from low to high, both included."""
    if type(value) is not int or not low <= value <= high:
        raise FormatError(rule, f"{what} must be a whole number from {low} to {high}")
