"""Speaking with the other parties of one round: who can be reached, and what they were told.

Nothing that is said is acknowledged; it is said again while it matters, at most once a tick, or
once a link if it is large. A link that was lost is a new peer: it may have begun anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from services.party.messages import Message, encode


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
        self._said: dict[tuple[int, object], tuple[bytes, float]] = {}

    def number_of(self, ik: bytes) -> int | None:
        """Which party of the round a peer is."""
        return next((party for party, key in self.others.items() if key == ik), None)

    @property
    def alive(self) -> frozenset[int]:
        """The others that can be reached."""
        up = self._up()
        return frozenset(party for party, key in self.others.items() if key in up)

    def forget(self, party: int) -> None:
        """Its link is down: it is told all again."""
        self._said = {key: said for key, said in self._said.items() if key[0] != party}

    def tell(self, party: int, message: Message, *, once: object = None) -> None:
        """Says it; the same again not before a tick is over, for what is heard wakes the
        hearer, and two that answer each other at once would do nothing else. `once`: a name
        under which it is said once a link."""
        place = (party, type(message) if once is None else once)
        encoded, now_s = encode(message), self._now_s()
        before = self._said.get(place)
        if before is not None and (
            once is not None or (before[0] == encoded and now_s < before[1] + self._tick_s)
        ):
            return
        if self._say(self.others[party], encoded):
            self._said[place] = (b"" if once is not None else encoded, now_s)

    def tell_all(self, message: Message) -> None:
        """To every other party."""
        for party in self.others:
            self.tell(party, message)
