"""Results of every kind over known values, with or without noise. A helper of tests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from mpc import result as results
from mpc.oracle import aggregate
from mpc.result import Counted, RoundResult
from mpc.task import Caps, Task
from tests.mpc_samples import task

LARGE = Caps(1_000_000_000, 1_000, 1_000_000_000)


def roomy(**other: Any) -> Task:
    """A task whose caps let any noise through."""
    return task(**{"caps": LARGE, "k_min": 2, "kappa": 2, **other})


def result(of: Task, values: Sequence[Any], *, seed: object = None) -> RoundResult:
    """What a round over these values gives; `seed`: of the noise of three parties."""
    return noised_results(of, values, 1, seed=seed)[0]


def noised_results(
    of: Task, values: Sequence[Any], rounds: int, *, seed: object = None
) -> list[RoundResult]:
    """The same of many rounds, each with noise of its own."""
    told = aggregate(of.kind, values)
    counted = Counted(told.reports + 5, 2, 3, ({}, {"open": 2, "header": 1}, {}))
    noise = np.zeros((rounds, of.kind.d), np.int64)
    if of.noise is not None:
        rng = random.Random(f"noise {seed}")
        for _ in range(3):
            drawn = of.noise.share(noise.size, present=3, t=1, rand=rng.randbytes)
            noise += drawn.reshape(noise.shape)
    return [
        results.make(
            of,
            [one + int(more) for one, more in zip(told.sums, row, strict=True)],
            counted,
            noise_of=(1, 2, 3),
            checked=True,
        )
        for row in noise
    ]
