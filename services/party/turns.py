"""Which rounds may gather for a job now: so many at once, in an order that all parties share.

A party that has said that it is ready must begin when the others are, so bounding the jobs
that run would let parties wait for one another in a ring. What is bounded is who may say it.
The first round of all that want to always may: its parties all have it first, so it gets on.
"""

from __future__ import annotations

from collections.abc import Callable

Place = tuple[int, bytes]
"""When a round's boxes were complete, and its id: the same at all of its parties."""


class Turns:
    """The turns of one party. `expires_s`: how long a round that gathers keeps others waiting."""

    def __init__(
        self, at_once: int, *, expires_s: float, monotonic_s: Callable[[], float]
    ) -> None:  # fmt: skip
        self._at_once = at_once
        self._expires_s = expires_s
        self._now_s = monotonic_s
        self._wanting: set[Place] = set()
        self._since_s: dict[Place, float] = {}
        self._late: set[Place] = set()

    def take(self, place: Place) -> bool:
        """Whether this round may gather, to be asked again until `done`. Once it may, it may."""
        now_s = self._now_s()
        for other, since_s in list(self._since_s.items()):
            if now_s >= since_s + self._expires_s:
                del self._since_s[other]
                self._late.add(other)
        if place in self._since_s or place in self._late:
            return True
        self._wanting.add(place)
        first = min(self._wanting | self._since_s.keys())
        if len(self._since_s) >= self._at_once and place != first:
            return False
        self._wanting.discard(place)
        self._since_s[place] = now_s
        return True

    def done(self, place: Place) -> None:
        """It gathers no more."""
        self._wanting.discard(place)
        self._late.discard(place)
        self._since_s.pop(place, None)
