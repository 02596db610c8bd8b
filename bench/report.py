"""Figures as they come, the goals beside them, and the program that runs parts of a benchmark."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvloop


@dataclass(slots=True)
class Report:
    """Figures as they come, for people and for programs."""

    quick: bool
    store: str = "sqlite"
    """Where the service keeps what is pushed, in parts that look at that."""
    figures: dict[str, Any] = field(default_factory=dict)

    def row(self, name: str, **values: float) -> None:
        """One line."""
        self.figures[name] = {key: round(value, 4) for key, value in values.items()}
        shown = "  ".join(f"{key} {_number(value)}" for key, value in values.items())
        print(f"{name:34}  {shown}", file=sys.stderr, flush=True)

    def goal(self, name: str, value: float, wanted: float, *, at_most: bool = False) -> None:
        """A figure beside what it should reach."""
        reached = value <= wanted if at_most else value >= wanted
        self.figures.setdefault("goals", {})[name] = {
            "value": round(value, 3), "wanted": wanted, "reached": reached,
        }  # fmt: skip
        word = "at most" if at_most else "at least"
        mark = "reached" if reached else "MISSED"
        line = f"  -> {name}: {_number(value)} ({word} {_number(wanted)}) {mark}"
        print(line, file=sys.stderr, flush=True)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


Part = Callable[[Report], Coroutine[Any, Any, None] | None]


def run(
    prog: str, about: str | None, parts: Mapping[str, Part], arguments: Sequence[str] | None
) -> int:
    """Runs the parts that are asked for; 0 even if a goal is missed, which is printed."""
    parser = argparse.ArgumentParser(prog=prog, description=about)
    parser.add_argument("parts", nargs="*", default=list(parts), help=", ".join(parts))
    parser.add_argument("--quick", action="store_true", help="fewer rounds, noisier figures")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument(
        "--store", choices=("sqlite", "redis"), default="sqlite", help="where pushes go"
    )
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.parts) - set(parts)
    if unknown:
        parser.error(f"unknown part: {', '.join(sorted(unknown))}")
    report = Report(chosen.quick, chosen.store)
    report.figures["machine"] = f"{platform.platform()}, Python {platform.python_version()}"
    for name in chosen.parts:
        running = parts[name](report)
        if running is not None:
            uvloop.run(running)
    if chosen.json:
        print(json.dumps(report.figures, indent=1))
    return 0
