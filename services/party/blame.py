"""Which parties keep an opening from ending, as far as this party can tell.

One that stalls, floods or sends garbage does it itself. One that is gone, that began anew or was
in another job may only have been hit by another, or by the network: it takes several of these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

DIRECT: Final = frozenset(("stalled", "garbage", "flood"))
POINTS_MAX: Final = 3


class Blame:
    """Of one round."""

    def __init__(self) -> None:
        self._points: Counter[int] = Counter()

    def failed(self, party: int, rule: str) -> None:
        """It was lost to the opening by that rule."""
        self._points[party] += POINTS_MAX if rule in DIRECT else 1

    def began_anew(self, party: int) -> None:
        """It left the opening that ran."""
        self._points[party] += 1

    def silent(self, parties: Iterable[int]) -> None:
        """They can be reached, and say nothing for as long as a message may take."""
        for party in parties:
            self._points[party] = POINTS_MAX

    @property
    def shunned(self) -> frozenset[int]:
        """Who is done without, if enough others are left."""
        return frozenset(party for party, points in self._points.items() if points >= POINTS_MAX)

    def forgive(self) -> None:
        """Too few are left: all may try again."""
        self._points.clear()
