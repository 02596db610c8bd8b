"""Statistics with what noise leaves open, as a drawing: a bar from end to end, a mark in it.

Pure: numbers in, places on a canvas out. The template draws them; a table beside it says them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from client.analyst.estimates import Estimate

WIDTH: Final = 720
ROW: Final = 26
LEFT: Final = 220
"""Where the labels end, from the left."""
RIGHT: Final = 24
ROWS_MAX: Final = 40
_LABEL_CHARS: Final = 30


@dataclass(frozen=True, slots=True)
class Row:
    """One statistic on the canvas."""

    label: str
    y: float
    low: float
    high: float
    at: float
    said: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """A canvas of `width` times `height` units."""

    width: int
    height: int
    zero: float
    """Where nought is."""
    rows: tuple[Row, ...]
    more: int


def drawing(found: Sequence[Estimate]) -> Drawing:
    """Of estimates that stand beside each other. What has no interval is a mark alone."""
    ends = [_ends(one) for one in found[:ROWS_MAX]]
    low = min(0.0, *(one[0] for one in ends)) if ends else 0.0
    high = max(0.0, *(one[2] for one in ends)) if ends else 1.0
    scale = (WIDTH - LEFT - RIGHT) / ((high - low) or 1.0)
    rows = tuple(
        Row(
            label=one.label[:_LABEL_CHARS],
            y=ROW * (number + 0.5) + ROW / 2,
            low=LEFT + (first - low) * scale,
            at=LEFT + (middle - low) * scale,
            high=LEFT + (last - low) * scale,
            said=f"{one.label}: {middle:,.4g}, between {first:,.4g} and {last:,.4g}",
        )
        for number, (one, (first, middle, last)) in enumerate(zip(found, ends, strict=False))
    )
    return Drawing(
        WIDTH, ROW * (len(rows) + 1), LEFT - low * scale, rows, max(0, len(found) - ROWS_MAX)
    )


def _ends(one: Estimate) -> tuple[float, float, float]:
    middle = 0.0 if one.value is None else float(one.value)
    low = middle if one.low is None else one.low
    high = middle if one.high is None else one.high
    return min(low, middle), middle, max(high, middle)
