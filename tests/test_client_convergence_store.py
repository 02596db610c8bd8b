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
HOUR_MS = 3_600_000
ACTIONS = [
    "set", "set", "remove", "score", "score", "member", "sync", "sync", "crash", "again",
    "page", "rotate", "step", "reload", "join", "checkpoint", "days", "sweep", "keep", "lose",
]  # fmt: skip
any_actions = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(ACTIONS), st.integers(0, 12)), max_size=25
)


# Without backups: what one lacks of an epoch that some have left is theirs alone to give back.
BEHIND = [name for name in ACTIONS if name not in ("keep", "lose", "checkpoint")]
behind_actions = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([*BEHIND, "rotate"]), st.integers(0, 12)),
    max_size=25,
)


class RealRun(Run):
    """Phones, one real store, and what the people expect."""

    records_max = 500

    def __init__(self, count: int, folder: Path) -> None:
        limits = Limits(records_max=self.records_max, grace_ms=30 * DAY_MS)
        self.real = self._start(folder, limits)
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

    def _start(self, folder: Path, limits: Limits) -> RealService:
        return RealService(folder, limits)

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


class BehindRun(RealRun):
    """Who rotates goes on alone: the others come by when they do, an epoch or two later, with
    edits and batches of the old one, within the grace of the service or long after it."""

    left_behind = 0
    """By how many epochs, at most."""

    def _rotate(self, phone: Phone, number: int) -> None:
        try:
            phone.device.rotate()
        except NotAllowed:
            return
        phone.store()
        phone.poke()
        epochs = [one.device.chain.epoch for one in self.phones]
        self.left_behind = max(self.left_behind, max(epochs) - min(epochs))


class FullRun(BehindRun):
    """An account that may hold fewer records than the people want, until it may hold more."""

    records_max = 6
    waited = 0
    """Edits that the account had no room for at the end."""

    def check(self) -> None:
        settle(*self.phones)
        assert all(phone.alarms == [] for phone in self.phones)
        self.waited = sum(phone.device.status.edits_waiting for phone in self.phones)
        self.real.stop()
        self.real.limits = Limits(records_max=500, grace_ms=30 * DAY_MS)
        self.real.open()
        self.real.now_ms += 2 * HOUR_MS
        for phone in self.phones:
            phone.now_ms = self.real.now_ms
        super().check()


def live(count: int, actions: list[tuple[int, str, int]], kind: type[RealRun] = RealRun) -> RealRun:
    """One life of some phones, and the check at its end."""
    with tempfile.TemporaryDirectory() as folder:
        run = kind(count, Path(folder))
        try:
            for who, action, number in actions:
                run.do(who, action, number)
            run.check()
        finally:
            run.real.close()
    return run


@examples(30)
@given(count=COUNTS, actions=any_actions)
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


@examples(30)
@given(count=COUNTS, actions=behind_actions)
def test_devices_that_are_left_behind_at_a_rotation_converge(
    count: int, actions: list[tuple[int, str, int]]
) -> None:
    """Rotations that some devices miss, and come to late, lose no edit and raise no alarm."""
    live(count, actions, BehindRun)


@examples(30)
@given(count=COUNTS, actions=behind_actions)
def test_a_full_account_converges_once_there_is_room(
    count: int, actions: list[tuple[int, str, int]]
) -> None:
    """At the limit edits wait on their devices; changes of what is there go on; nothing is lost."""
    live(count, actions, FullRun)


def test_a_long_life_of_devices_left_behind_converges() -> None:
    """One seeded run of two hundred events, at the limit of records."""
    rng = random.Random(3)
    names = [*(name for name in BEHIND if name != "join"), "rotate"]
    actions = [(rng.randrange(3), rng.choice(names), rng.randrange(12)) for _ in range(200)]
    run = live(3, actions, FullRun)
    assert isinstance(run, FullRun)
    assert run.left_behind > 1
    assert run.waited
