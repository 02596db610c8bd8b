"""The lives of `test_client_convergence`, with a real store in the place of the model."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from hypothesis import given, strategies as st

from client.device import Device
from client.errors import NotAllowed
from services.store.base import Limits
from tests.client_worlds import Phone, pair, settle
from tests.judge_worlds import NOW_MS, SeededRand
from tests.real_worlds import RealPhone, RealService, as_service
from tests.test_client_convergence import COUNTS, Run, examples

DAY_MS = 86_400_000
ACTIONS = [
    "set", "set", "remove", "score", "score", "member", "sync", "sync", "crash", "again",
    "page", "rotate", "step", "reload", "join", "checkpoint", "days", "sweep", "keep", "lose",
]  # fmt: skip
_actions = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(ACTIONS), st.integers(0, 12)), max_size=25
)


class RealRun(Run):
    """Phones, one real store, and what the people expect."""

    def __init__(self, count: int, folder: Path) -> None:
        self.real = RealService(folder, Limits(records_max=500, grace_ms=30 * DAY_MS))
        self.service = as_service(self.real)
        rand = SeededRand("make a")
        device = Device.create(recovery_secret=None, now_ms=NOW_MS, rand=rand)
        self.phones: list[Phone] = [RealPhone(device, self.service, "a")]
        self.phones[0].sync()
        for number in range(1, count):
            self.phones.append(pair(self.phones[0], f"p{number}"))
        self.added = {}
        self.said = {}
        self.count = 0
        self.backup = self.real.backup()

    def _checkpoint(self, phone: Phone, number: int) -> None:
        """Everybody catches up, and what checkpoints cover is trimmed."""
        settle(*self.phones)
        self.real.sweep()

    def _days(self, phone: Phone, number: int) -> None:
        """Time passes: covers and checkpoints become due."""
        self.real.now_ms += number * DAY_MS
        for one in self.phones:
            one.now_ms = self.real.now_ms

    def _sweep(self, phone: Phone, number: int) -> None:
        self.real.sweep()

    def _keep(self, phone: Phone, number: int) -> None:
        """A backup is made."""
        self.backup = self.real.backup()

    def _lose(self, phone: Phone, number: int) -> None:
        """The backup comes back, and nobody says so."""
        settle(*self.phones)
        self.real.restore(self.backup)
        settle(*self.phones)

    def _rotate(self, phone: Phone, number: int) -> None:
        """All move on: what a backup lacks stays within what its devices can give back."""
        try:
            phone.device.rotate()
        except NotAllowed:
            return
        phone.store()
        settle(*self.phones)


def live(count: int, actions: list[tuple[int, str, int]]) -> None:
    """One life of some phones, and the check at its end."""
    with tempfile.TemporaryDirectory() as folder:
        run = RealRun(count, Path(folder))
        try:
            for who, action, number in actions:
                run.do(who, action, number)
            run.check()
        finally:
            run.real.close()


@examples(30)
@given(count=COUNTS, actions=_actions)
def test_every_interleaving_converges_on_the_real_store(
    count: int, actions: list[tuple[int, str, int]]
) -> None:
    """Compaction, trimming, covers, rotations, restarts and restored files lose no edit."""
    live(count, actions)


def test_a_long_random_life_converges_on_the_real_store() -> None:
    """One seeded run of a hundred events."""
    rng = random.Random(2)
    names = [name for name in ACTIONS if name != "join"]
    live(3, [(rng.randrange(3), rng.choice(names), rng.randrange(12)) for _ in range(100)])
