"""Speaking with the other parties of one round: who can be reached, and what they were told.

Nothing that is said is acknowledged; it is said again while it matters, after a tick and then
ever more seldom. A link that was lost is a new peer: it may have begun anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from services.party.messages import Message, encode

AGAIN_TICKS_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class _Said:
    encoded: bytes
    wait_s: float
    again_s: float


class Parley:
    """The others by number. `say`: (identity key, message) -> whether it can be reached."""

    def __init__(
        self,
        others: Mapping[int, bytes],
        *,
        say: Callable[[bytes, bytes], bool],
        up: Callable[[], frozenset[bytes]],
        monotonic_s: Callable[[], float],
        tick_s: float,
    ) -> None:
        self.others = dict(others)
        self._say = say
        self._up = up
        self._now_s = monotonic_s
        self._tick_s = tick_s
        self._said: dict[tuple[int, type], _Said] = {}
        self._heard: dict[tuple[int, type], Message] = {}

    def number_of(self, ik: bytes) -> int | None:
        """Which party of the round a peer is."""
        return next((party for party, key in self.others.items() if key == ik), None)

    @property
    def alive(self) -> frozenset[int]:
        """The others that can be reached."""
        up = self._up()
        return frozenset(party for party, key in self.others.items() if key in up)

    def forget(self, party: int) -> None:
        """Its link is down: it is told all again, and what it says is news."""
        self._said = {key: said for key, said in self._said.items() if key[0] != party}
        self._heard = {key: heard for key, heard in self._heard.items() if key[0] != party}

    def is_news(self, party: int, message: Message) -> bool:
        """Whether it says something else than before; most of what is heard is repeated."""
        before = self._heard.get((party, type(message)))
        self._heard[party, type(message)] = message
        return before != message

    def tell(self, party: int, message: Message) -> None:
        """Says it; the same again not before its time, for what is heard wakes the hearer, and
        two that answer each other at once would do nothing else."""
        encoded, now_s = encode(message), self._now_s()
        before = self._said.get((party, type(message)))
        wait_s = self._tick_s
        if before is not None and before.encoded == encoded:
            if now_s < before.again_s:
                return
            wait_s = min(2 * before.wait_s, AGAIN_TICKS_MAX * self._tick_s)
        if self._say(self.others[party], encoded):
            self._said[party, type(message)] = _Said(encoded, wait_s, now_s + wait_s)

    def tell_all(self, message: Message) -> None:
        """To every other party."""
        for party in self.others:
            self.tell(party, message)
