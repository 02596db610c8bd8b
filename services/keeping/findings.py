"""What a check found: one line each, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from services.keeping.foreseen import FORESEEN


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `text` says what to fix where there is something to."""

    level: Level
    check: str
    text: str

    def line(self, *, as_json: bool) -> str:
        """As it is printed."""
        if as_json:
            row = {"check": self.check, "level": self.level.value, "text": self.text}
            return json.dumps(row)
        return f"{self.level.value:8} {self.check}: {self.text}"


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, check, text)


def warning(check: str, text: str) -> Finding:
    """It runs, and somebody should look at it."""
    return Finding(Level.WARNING, check, text)


def failed(check: str, text: str) -> Finding:
    """It does not run, or not for long."""
    return Finding(Level.FAILED, check, text)


Check = Callable[[], Iterable[Finding]]


def run(checks: Iterable[tuple[str, Check]]) -> Iterator[Finding]:
    """All findings. What a check can't foresee ends that check, and is its finding."""
    for name, check in checks:
        try:
            yield from check()
        except FORESEEN as error:
            yield failed(name, str(error))
