"""How long to wait before trying again: exponential, with full jitter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

HINT_MS_MAX = 300_000
"""Longest wait that a service can ask for: a hint must not silence a device for good."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Bounds of the wait, and how many tries there are in all."""

    first_ms: int = 200
    longest_ms: int = 30_000
    tries_max: int = 6

    def delay_ms(self, tries: int, uniform: Callable[[], float], hint_ms: int | None = None) -> int:
        """The wait after `tries` failed tries (1, 2, ...).

        Uniform in 0 to a doubling bound, so that devices that lost one service together
        don't come back together. A hint of the service is a floor, jitter comes on top.
        """
        bound = min(self.longest_ms, self.first_ms << min(tries - 1, 20))
        return min(hint_ms or 0, HINT_MS_MAX) + int(bound * uniform())
