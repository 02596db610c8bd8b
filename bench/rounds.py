"""A round over a histogram with all its keys, and contributions to it, made ahead."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crypto import contribution
from crypto.contribution import Contribution, PartyBox, Shape
from crypto.field import FIELD31
from crypto.keys import Identity
from mpc.kinds import Histogram
from mpc.manifest import Manifest, Party
from mpc.noise import Law, Mechanism
from mpc.tail_params import AsTheyAre
from mpc.task import Caps, Task

M, T = 3, 1
PUBLISHER_SEED = b"\x50" * 32
WORKERS = 2

Counts = NDArray[np.int64]
Box = tuple[bytes, bytes]
"""A contribution's header, and what is sealed for one party."""


def task_of(bins: int, *, window_ms: int = 3_600_000, grace_ms: int = 0) -> Task:
    """A histogram over three parties."""
    return Task(
        task_id=f"bench/{bins}",
        title="Favourite cuisine",
        purpose="statistics",
        kind=Histogram(FIELD31, bins, ()),
        kappa=2,
        window_ms=window_ms,
        grace_ms=grace_ms,
        reports_max=1_000_000,
        k_min=100,
        noise=Law(Mechanism.GAUSSIAN, 20_000),
        caps=Caps(50_000, 86_400_000, 500_000),
        m=M,
        t=T,
        tail=AsTheyAre(),
        expires_ms=1 << 52,
    )


@dataclass(frozen=True)
class World:
    """A task, one round of it, and the secret keys of its parties."""

    task: Task
    manifest: Manifest
    identities: tuple[Identity, ...]
    box_keys: tuple[bytes, ...]

    @classmethod
    def make(cls, task: Task, open_ms: int = 1_790_000_000_000) -> World:
        """Fresh keys and a round that opens then."""
        identities = tuple(Identity(os.urandom(32), os.urandom(32)) for _ in range(task.m))
        box_keys = tuple(os.urandom(32) for _ in range(task.m))
        parties = tuple(
            Party(identity.ik_pk, PartyBox(at, key).public)
            for at, (identity, key) in enumerate(zip(identities, box_keys, strict=True), 1)
        )
        manifest = Manifest(
            round_id=os.urandom(16),
            spec_hash=task.spec_hash,
            t=task.t,
            open_ms=open_ms,
            close_ms=open_ms + task.window_ms,
            k_min=task.k_min,
            parties=parties,
        )
        return cls(task, manifest, identities, box_keys)

    @property
    def shape(self) -> Shape:
        """What contributions to the round are like."""
        return self.manifest.shape(self.task)

    def box(self, party: int) -> PartyBox:
        """What opens the boxes of a party, from 1."""
        return PartyBox(party, self.box_keys[party - 1])

    def vote(self, choice: int) -> Contribution:
        """What a device does for one report: encodes, splits, seals."""
        return contribution.make(
            self.shape,
            self.task.kind.encode(choice),
            box_keys=self.manifest.box_keys(),
            aggregation_key=os.urandom(32),
            rand=os.urandom,
        )


def votes(job: tuple[World, int, int]) -> tuple[list[Contribution], Counts]:
    """(round, seed of the choices, how many) to contributions, each of another account, and how
    many chose each bin."""
    world, seed, count = job
    bins = world.task.kind.d
    choices = [random.Random(f"{seed} {at}").randrange(bins) for at in range(count)]
    return [world.vote(choice) for choice in choices], np.bincount(choices, minlength=bins)


class Devices:
    """Makes contributions on all cores. Idle whenever it is not asked."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool
        self._seed = 0

    def counted(self, world: World, count: int) -> tuple[list[Contribution], Counts]:
        """So many, with choices unlike those of the call before; and how many chose each bin."""
        jobs = []
        for worker in range(WORKERS):
            self._seed += 1
            part = count // WORKERS + (worker < count % WORKERS)
            jobs.append((world, self._seed, part))
        parts = list(self._pool.map(votes, jobs))
        made = [one for part, _ in parts for one in part]
        return made, np.sum([counts for _, counts in parts], axis=0)

    def boxes(self, world: World, party: int, count: int) -> list[Box]:
        """What one party gets of so many."""
        made, _ = self.counted(world, count)
        return [(one.header, one.boxes[party - 1]) for one in made]


@contextmanager
def devices() -> Iterator[Devices]:
    """For the time of the block."""
    with ProcessPoolExecutor(WORKERS) as pool:
        yield Devices(pool)
