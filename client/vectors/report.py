"""What a run over a vector file found: cases that passed, failures with a reason, notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from client.vectors.fields import Malformed, Mismatch
from crypto.errors import CryptoError

EXIT_PASSED, EXIT_FAILED, EXIT_UNREADABLE = 0, 1, 2


@dataclass(slots=True)
class Report:
    """Counts one case for every statement of the file."""

    passed: int = 0
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 if nothing failed, 1 otherwise."""
        return EXIT_FAILED if self.failures else EXIT_PASSED

    @property
    def lines(self) -> list[str]:
        """Notes, failures, and the count as the last line."""
        return [
            *(f"note: {note}" for note in self.notes),
            *(f"FAILED {failure}" for failure in self.failures),
            f"{self.passed} passed, {len(self.failures)} failed",
        ]

    def fail(self, name: str, reason: str) -> None:
        """Counts a case as failed."""
        self.failures.append(f"{name}: {reason}")

    def holds(self, name: str, check: Callable[[], object]) -> bool:
        """Counts a case that must go through; says whether it did."""
        reason = _reason(check)
        if reason is None:
            self.passed += 1
        else:
            self.fail(name, reason)
        return reason is None

    def refused(self, name: str, attempt: Callable[[], object]) -> None:
        """Counts a case that must end in a CryptoError and in no other way."""
        try:
            reason = _reason(attempt, refusal_passes=True)
        except CryptoError:
            self.passed += 1
        else:
            self.fail(name, reason or "accepted, and must be refused")


def _reason(check: Callable[[], object], *, refusal_passes: bool = False) -> str | None:
    """Why `check` did not go through; None if it did."""
    try:
        check()
    except CryptoError as error:
        if refusal_passes:
            raise
        return f"refused: {error}"
    except (Malformed, Mismatch) as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - any other error is what the case is about
        return f"{type(error).__name__} instead of an answer: {error}"
    return None
