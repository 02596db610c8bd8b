"""How long to leave a gateway alone that does not answer. Time and chance are arguments."""

from __future__ import annotations

from collections.abc import Callable

FIRST_S = 1.0
LONGEST_S = 60.0


class Circuit:
    """Closed while calls succeed. Each failure opens it for twice as long as the one before, with
    jitter; then one call tries."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._failures = 0
        self._until_s = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether the last call succeeded."""
        return not self._failures

    def wait_s(self, now_s: float) -> float:
        """How long until a call may be made."""
        return max(0.0, self._until_s - now_s)

    def failed(self, now_s: float, *, hint_s: float = 0.0) -> None:
        """A call failed; `hint_s` is how long the gateway itself wants to be left alone."""
        pause_s = min(LONGEST_S, FIRST_S * 2 ** min(self._failures, 16))
        self._failures += 1
        self._until_s = now_s + max(min(hint_s, LONGEST_S), pause_s * (0.5 + self._jitter() / 2))

    def succeeded(self) -> None:
        """A call succeeded."""
        self._failures = 0
        self._until_s = 0.0
