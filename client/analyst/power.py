"""How sure an experiment can be, before and after it: power, and the least effect it would see.

The standard error of a difference has two parts: the people's own differences, which shrink with
1/n, and the noise of the round, which shrinks with 1/n^2 but is there whatever people do. Both
are counted here as `mpc.tail.welch` counts them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

from mpc import student
from mpc.kinds import Experiment
from mpc.task import Task

POWER: Final = 0.8
"""What is asked of an experiment by custom."""
_NORMAL: Final = NormalDist()
_STEPS: Final = 200


@dataclass(frozen=True, slots=True)
class Arm:
    """What is expected of one variant."""

    reports: float
    mean: float
    """From the centre of the task's range: the noise of the count weighs with it."""
    variance: float
    """Of the values of its people."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Variances of the noise in each variant's count and sum."""

    count: float
    total: float

    @classmethod
    def of(cls, task: Task, *, present: int | None = None) -> Noise:
        """Of a task of kind `experiment`, if so many parties (by default all) add theirs."""
        assert isinstance(task.kind, Experiment)
        if task.noise is None:
            return cls(0, 0)
        opened = task.noise.opened_variance(present=present or task.m, t=task.t)
        count, total, _ = task.kind.scales[:3]
        return cls(float(opened / count**2), float(opened / total**2))


def standard_error(arms: Sequence[Arm], noise: Noise) -> float:
    """Of the difference of two variants' means."""
    return math.sqrt(
        sum(
            one.variance / one.reports
            + (noise.total + one.mean**2 * noise.count) / one.reports**2
            for one in arms
        )
    )  # fmt: skip


def power(effect: float, error: float, *, alpha: float) -> float:
    """The chance of a verdict in the right direction, if the means differ by `effect`."""
    return _NORMAL.cdf(abs(effect) / error - _NORMAL.inv_cdf(1 - alpha / 2))


def detectable(error: float, *, alpha: float, power: float = POWER) -> float:
    """The least difference that is found with this chance."""
    return error * (_NORMAL.inv_cdf(1 - alpha / 2) + _NORMAL.inv_cdf(power))


def quantile(alpha: float, df: float) -> float:
    """The t that is passed to either side with chance `alpha` together."""
    low, high = 0.0, 1.0
    while student.two_sided(high, df) > alpha:
        high *= 2
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if student.two_sided(middle, df) > alpha else (low, middle)
    return high
