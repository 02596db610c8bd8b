"""services/party/turns.py: which rounds may gather, so that parties never wait in a ring."""

from __future__ import annotations

import random

from services.party.turns import Place, Turns

PLACES: list[Place] = [(at, b"r") for at in range(12)]


class Moment:
    """A clock that stands until it is moved."""

    now_s = 0.0


def turns(at_once: int, moment: Moment | None = None) -> Turns:
    clock = moment or Moment()
    return Turns(at_once, expires_s=10, monotonic_s=lambda: clock.now_s)


def test_so_many_gather_at_once_and_the_first_of_all_always_may() -> None:
    one = turns(2)
    assert [one.take(PLACES[at]) for at in (5, 6, 7)] == [True, True, False]
    assert one.take(PLACES[5])
    assert one.take(PLACES[1])
    assert not one.take(PLACES[2])
    one.done(PLACES[1])
    one.done(PLACES[5])
    assert one.take(PLACES[2])
    assert not one.take(PLACES[7])


def test_one_that_gathers_in_vain_keeps_no_other_waiting_for_ever() -> None:
    """And may still gather."""
    moment = Moment()
    one = turns(1, moment)
    assert one.take(PLACES[1])
    assert not one.take(PLACES[2])
    moment.now_s = 10
    assert one.take(PLACES[2])
    assert one.take(PLACES[1])
    assert not one.take(PLACES[3])


def test_parties_that_want_rounds_in_any_order_end_all_of_them() -> None:
    """A round is done once all of its parties gather for it. With one turn each, parties that
    began with different rounds would wait for one another for ever."""
    rng = random.Random(1)
    for _ in range(50):
        parties = {party: turns(1) for party in range(5)}
        rounds = {place: rng.sample(range(5), 3) for place in PLACES}
        while rounds:
            gathered: dict[Place, set[int]] = {place: set() for place in rounds}
            asks = [(place, party) for place, among in rounds.items() for party in among]
            rng.shuffle(asks)
            for place, party in asks:
                if parties[party].take(place):
                    gathered[place].add(party)
            over = [place for place, among in gathered.items() if among == set(rounds[place])]
            assert over
            for place in over:
                for party in rounds.pop(place):
                    parties[party].done(place)
