"""Any interleaving of what people, networks and batteries do ends in one profile."""

from __future__ import annotations

import os
import random
from typing import Any

from hypothesis import HealthCheck, given, settings, strategies as st

from client.device import Device
from client.errors import NotAllowed, Revoked
from tests.client_worlds import Phone, Service, first_phone, pair, settle, shuffled

_PHONES_MAX = 4
View = tuple[dict[str, Any], dict[str, float], frozenset[str]]
_actions = st.tuples(
    st.integers(0, _PHONES_MAX - 1),
    st.sampled_from(
        ["set", "set", "remove", "score", "score", "member", "sync", "sync", "crash", "crash",
         "again", "shuffle", "page", "rotate", "stale", "lose", "step", "reload", "join"]
    ),
    st.integers(0, 12),
)  # fmt: skip


class Run:
    """Phones, one service, and what the people expect."""

    def __init__(self, count: int) -> None:
        self.service = Service()
        self.phones = [first_phone(self.service)]
        for number in range(1, count):
            self.phones.append(pair(self.phones[0], f"p{number}"))
        self.added: dict[str, int] = {}
        self.said: dict[str, set[Any]] = {}
        self.count = 0

    def do(self, who: int, action: str, number: int) -> None:
        phone = self.phones[who % len(self.phones)]
        getattr(self, "_" + action)(phone, number)

    def _set(self, phone: Phone, number: int) -> None:
        self.count += 1
        key = f"k{number % 4}"
        phone.device.put("ui", key, self.count, now_ms=phone.now_ms)
        phone.store()
        self.said.setdefault(key, set()).add(self.count)

    def _remove(self, phone: Phone, number: int) -> None:
        key = f"k{number % 4}"
        phone.device.remove("ui", key, now_ms=phone.now_ms)
        phone.store()
        self.said.setdefault(key, set()).add(None)

    def _member(self, phone: Phone, number: int) -> None:
        phone.device.add_member("likes", f"m{number}", now_ms=phone.now_ms)
        phone.store()

    def _score(self, phone: Phone, number: int) -> None:
        key = f"s{number % 3}"
        try:
            phone.device.add_score("scores", key, number + 1, now_ms=phone.now_ms)
        except Revoked:
            return  # it does not know its place in the chain yet
        phone.store()
        self.added[key] = self.added.get(key, 0) + number + 1

    def _sync(self, phone: Phone, number: int) -> None:
        phone.poke()

    def _step(self, phone: Phone, number: int) -> None:
        for _ in range(number):
            phone.step()

    def _crash(self, phone: Phone, number: int) -> None:
        left = iter(range(number + 1))
        phone.crash_at = lambda: next(left, None) is None
        phone.poke()
        phone.crash_at = lambda: False

    def _reload(self, phone: Phone, number: int) -> None:
        phone.reload()

    def _again(self, phone: Phone, number: int) -> None:
        """Everything is delivered twice."""
        if phone.device.chain.hashes:
            ops, _, _ = self.service.pull(b"", 1000)
            phone.device.on_page(ops, phone.device.cursor, more=False, now_ms=phone.now_ms)
            phone.store()

    def _shuffle(self, phone: Phone, number: int) -> None:
        """Everything is delivered in no order at all."""
        ops, _, _ = self.service.pull(b"", 1000)
        random.Random(number).shuffle(ops)
        phone.device.on_page(ops, phone.device.cursor, more=False, now_ms=phone.now_ms)
        phone.store()

    def _page(self, phone: Phone, number: int) -> None:
        phone.page_limit = 1 + number

    def _rotate(self, phone: Phone, number: int) -> None:
        try:
            phone.device.rotate()
        except NotAllowed:
            return
        phone.store()
        phone.poke()

    def _join(self, phone: Phone, number: int) -> None:
        if len(self.phones) <= _PHONES_MAX:
            phone.poke()
            self.phones.append(pair(phone, f"p{len(self.phones)}", sync=number % 2 == 0))

    def _stale(self, phone: Phone, number: int) -> None:
        self.service.grace = number % 2 == 0

    def _lose(self, phone: Phone, number: int) -> None:
        """A backup of the service comes back that lacks its newest ops."""
        settle(*self.phones)
        grace, self.service.grace = self.service.grace, True
        self.service.restore(max(0, self.service.position - number))
        settle(*self.phones)
        self.service.grace = grace

    def check(self) -> None:
        settle(*shuffled(random.Random(self.count), self.phones))
        views = [self.view(phone.device, phone.now_ms) for phone in self.phones]
        for phone in self.phones:
            assert phone.alarms == []
            assert phone.device.status.edits_waiting == 0
            assert phone.device.status.ops_on_hold == 0
            phone.reload()
            views.append(self.view(phone.device, phone.now_ms))
        assert all(view == views[0] for view in views)
        for key, value in views[0][0].items():
            assert value in self.said[key]
        assert views[0][1] == self.added

    @staticmethod
    def view(
        device: Device, now_ms: int
    ) -> tuple[dict[str, Any], dict[str, float], frozenset[str]]:
        return (
            device.list("ui"),
            device.scores("scores", now_ms=now_ms),
            device.members("likes"),
        )


COUNTS = st.integers(2, _PHONES_MAX)
ACTIONS = st.lists(_actions, max_size=30)


def live(count: int, actions: list[tuple[int, str, int]]) -> None:
    """One life of some phones, and the check at its end."""
    run = Run(count)
    for who, action, number in actions:
        run.do(who, action, number)
    run.check()


def examples(count: int) -> settings:
    """So many examples, always the same; ROOKERY_EXAMPLES of them, and others, for a search."""
    return settings(
        max_examples=int(os.environ.get("ROOKERY_EXAMPLES", str(count))),
        deadline=None,
        derandomize="ROOKERY_EXAMPLES" not in os.environ,
        suppress_health_check=[HealthCheck.too_slow],
    )


@examples(60)
@given(count=COUNTS, actions=ACTIONS)
def test_every_interleaving_converges_and_no_increment_is_lost(
    count: int, actions: list[tuple[int, str, int]]
) -> None:
    """Edits, pushes, pulls, duplicates, crashes, rotations and lost service state."""
    live(count, actions)


def test_a_long_random_life_converges() -> None:
    """One seeded run of three hundred events."""
    rng = random.Random(1)
    run = Run(3)
    names = ["set", "remove", "score", "member", "sync", "crash", "again", "shuffle", "page",
             "rotate", "stale", "step", "reload"]  # fmt: skip
    weights = [6, 2, 6, 2, 8, 4, 1, 1, 1, 1, 1, 4, 1]
    for _ in range(300):
        [action] = rng.choices(names, weights)
        run.do(rng.randrange(3), action, rng.randrange(12))
    run.check()
