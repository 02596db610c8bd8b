"""The lives of `test_client_convergence_store`, with Redis in the place of SQLite."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given

from services.store.base import Limits
from tests.real_worlds import RealService, RedisService
from tests.redis_process import RedisServer
from tests.test_client_convergence import COUNTS, examples
from tests.test_client_convergence_store import (
    ACTIONS,
    BEHIND,
    BehindRun,
    FullRun,
    RealRun,
    any_actions,
    behind_actions,
    live,
)


class OnRedis(RealRun):
    """Phones whose service keeps in Redis."""

    server: RedisServer

    def _start(self, folder: Path, limits: Limits) -> RealService:
        return RedisService(folder, limits, self.server)


class BehindOnRedis(OnRedis, BehindRun):
    """Devices are left behind at rotations."""


class FullOnRedis(OnRedis, FullRun):
    """And there is no room."""


@pytest.fixture(autouse=True)
def _server(redis_server: RedisServer) -> None:
    OnRedis.server = redis_server


@examples(12)
@given(count=COUNTS, actions=any_actions)
def test_every_interleaving_converges_on_redis(
    count: int, actions: list[tuple[int, str, int]]
) -> None:
    """Compaction, trimming, covers, rotations, restarts and restored keys lose no edit."""
    live(count, actions, OnRedis)


@examples(12)
@given(count=COUNTS, actions=behind_actions)
def test_devices_that_are_left_behind_at_a_rotation_converge_on_redis(
    count: int, actions: list[tuple[int, str, int]]
) -> None:
    """Rotations that some devices miss, and come to late, lose no edit and raise no alarm."""
    live(count, actions, BehindOnRedis)


def test_a_long_random_life_converges_on_redis() -> None:
    """One seeded run of a hundred events."""
    rng = random.Random(2)
    names = [name for name in ACTIONS if name != "join"]
    actions = [(rng.randrange(3), rng.choice(names), rng.randrange(12)) for _ in range(100)]
    live(3, actions, OnRedis)


def test_a_long_life_of_devices_left_behind_converges_on_redis() -> None:
    """One seeded run of a hundred and twenty events, at the limit of records."""
    rng = random.Random(3)
    names = [*(name for name in BEHIND if name != "join"), "rotate"]
    actions = [(rng.randrange(3), rng.choice(names), rng.randrange(12)) for _ in range(120)]
    live(3, actions, FullOnRedis)
