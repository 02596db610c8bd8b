"""Estimates as bars or points in a terminal. Pure; of any width, in one colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from client.analyst.estimates import Estimate

_LABEL_CHARS_MAX = 24
_CELLS_MIN = 16
BAR, BELOW, ABOVE, ZERO = "█", "▓", "░", "│"
POINT, SPAN, MARK = "●", "─", "◆"
_OPEN = "what the noise leaves open in 95 of 100 rounds"
LEGEND = {
    True: f"{BAR}{BELOW} estimate  {BELOW}{ABOVE} {_OPEN}",
    False: f"{POINT} estimate  {SPAN} {_OPEN}",
}


def plot(
    rows: Sequence[Estimate], *, width: int = 78, truth: Sequence[float | None] = ()
) -> str:  # fmt: skip
    """Bars from zero for counts and sums, points for what has no zero of its own.

    `truth`, where it is known, is marked in each row. Rows without a value have a line, too.
    """
    drawn = [row for row in rows if row.value is not None]
    if not drawn:
        return ""
    bars = drawn[0].what in ("count", "sum")
    known = [*truth, *[None] * (len(rows) - len(truth))]
    names = [_shorten(row.label) for row in rows]
    label_chars = max(map(len, names))
    cells = max(_CELLS_MIN, width - label_chars - 2)
    axis = _Axis.of(drawn, [one for one in known if one is not None], cells, from_zero=bars)
    lines = [
        f"{name.ljust(label_chars)}  {_line(row, axis, mark, bars=bars)}".rstrip()
        for name, row, mark in zip(names, rows, known, strict=True)
    ]
    ends = f"{axis.low:,.4g}".ljust(cells - len(f"{axis.high:,.4g}")) + f"{axis.high:,.4g}"
    marked = f"  {MARK} truth" if any(one is not None for one in known) else ""
    return "\n".join([*lines, " " * (label_chars + 2) + ends, LEGEND[bars] + marked])


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    cells: int

    @classmethod
    def of(
        cls, rows: Sequence[Estimate], marks: Sequence[float], cells: int, *, from_zero: bool
    ) -> _Axis:
        values = [float(row.value) for row in rows if row.value is not None] + list(marks)
        values += [end for row in rows for end in (row.low, row.high) if end is not None]
        values += [0.0] if from_zero else []
        low, high = min(values), max(values)
        return cls(low, high, cells) if low < high else cls(low - 1, high + 1, cells)

    def cell(self, value: float) -> int:
        """Where a value lies, 0 to cells - 1."""
        at = int((value - self.low) / (self.high - self.low) * self.cells)
        return min(self.cells - 1, max(0, at))


def _line(row: Estimate, axis: _Axis, mark: float | None, *, bars: bool) -> str:
    line = [" "] * axis.cells
    if axis.low < 0 < axis.high:
        line[axis.cell(0)] = ZERO
    if row.value is not None:
        at = axis.cell(float(row.value))
        low = at if row.low is None else axis.cell(row.low)
        high = at if row.high is None else axis.cell(row.high)
        if not bars:
            _fill(line, low, high, SPAN)
            line[at] = POINT
        else:
            zero = axis.cell(0)
            if low < high:
                _fill(line, low, high, ABOVE)
            for place in range(min(zero, at), max(zero, at) + 1):
                line[place] = BELOW if line[place] == ABOVE else BAR
    elif row.note:
        return row.note[: axis.cells]
    if mark is not None:
        line[axis.cell(mark)] = MARK
    return "".join(line)


def _fill(line: list[str], first: int, last: int, char: str) -> None:
    line[first : last + 1] = char * (last + 1 - first)


def _shorten(label: str) -> str:
    if len(label) <= _LABEL_CHARS_MAX:
        return label
    return label[: _LABEL_CHARS_MAX - 1] + "…"
