"""What a task costs, how noisy it is and how large, before it is published. Pure.

For tasks with noise: no other may be published.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from client.analyst import present
from client.analyst.times import show_duration, show_instant
from crypto.contribution import HEADER_BYTES, Shape
from mpc.kinds import Count, Experiment, Histogram, Kind, Mean, Multihot, Quantile, Sum, Vector
from mpc.manifest import quorum
from mpc.privacy import MICRO
from mpc.task import Task

HEAD: Final = ("statistic", "sigma", "opened by all", "opened by fewest", "")
RIGHT: Final = frozenset({1, 2, 3})


@dataclass(frozen=True, slots=True)
class Noise:
    """What noise a statistic carries. Means and shares are over `k_min` reports, the fewest."""

    statistic: str
    sigma: float
    """As the task says, over the statistic's scale."""
    by_all: float
    """What it is when all parties are present: more than the task needs."""
    by_fewest: float
    meaning: str


def noises(task: Task) -> tuple[Noise, ...]:
    """One for each sort of statistic that the task opens."""
    assert task.noise is not None
    sigma, found = Fraction(task.noise.sigma_milli, 1000), []
    for what, scale, meaning in _statistics(task.kind, task.k_min):
        own = float(sigma / scale)
        by_all, by_fewest = (
            own * math.sqrt(Fraction(there, there - task.t))
            for there in (task.m, quorum(task.m, task.t))
        )
        found.append(Noise(what, own, by_all, by_fewest, meaning.format(own / task.k_min)))
    return tuple(found)


def _statistics(kind: Kind, k_min: int) -> list[tuple[str, int, str]]:
    """Name, scale, and what a sigma of {} times the fewest reports is."""
    share = f"{{:.2%}} of {k_min:,} reports"
    mean = f"{{:.3g}} of a mean over {k_min:,} reports"
    scales = kind.scales
    match kind:
        case Count():
            return [("the count", scales[0], share)]
        case Histogram() | Multihot() | Quantile():
            return [(f"each of {kind.d:,} counts", scales[0], share)]
        case Sum():
            return [("the sum", scales[0], mean)]
        case Vector():
            return [(f"each of {kind.size:,} sums", scales[0], mean)]
        case Mean(variance=False):
            return [("the sum", scales[0], mean)]
        case Mean():
            return [("the sum", scales[0], mean), ("the sum of squares", scales[1], "")]
        case Experiment():
            each = f"each of {kind.variants:,}"
            return [
                (f"{each} counts", scales[0], share),
                (f"{each} sums", scales[1], ""),
                (f"{each} sums of squares", scales[2], ""),
            ]
        case _:
            raise AssertionError(kind.name)


def report_bytes(task: Task) -> int:
    """What a device sends."""
    shape = Shape(
        round_digest=bytes(32), m=task.m, t=task.t, field=task.field, length=task.kind.length
    )  # fmt: skip
    return HEADER_BYTES + shape.report_bytes


def sentences(task: Task) -> list[str]:
    """What a publisher should have read, a line each."""
    caps, cost = task.caps, task.cost_micro_rho
    window, grace, period = map(show_duration, (task.window_ms, task.grace_ms, caps.period_ms))
    of_task, of_device = caps.task_micro_rho / MICRO, caps.device_micro_rho / MICRO
    return [
        f"{task.title}: {task.task_id}, for the purpose {task.purpose}.",
        f"Kind {task.kind.name}, tail {task.tail.name}.",
        f"{task.m} parties, of whom {task.t} may look together and learn nothing.",
        f"Rounds of {window} with {grace} of grace, none after {show_instant(task.expires_ms)}.",
        f"Field {task.field.bits}, kappa {task.kappa}: a report is {report_bytes(task):,} bytes.",
        f"A result needs {task.k_min:,} valid reports; there can be {task.reports_max:,}.",
        f"A round costs {present.privacy(task)}",
        f"The task's cap of {of_task:g} rho has room for {_rounds(caps.task_micro_rho, cost)}.",
        f"A device's, {of_device:g} in {period}, for {_rounds(caps.device_micro_rho, cost)}.",
    ]


def _rounds(cap_micro: int, cost_micro: int) -> str:
    """How many rounds a cap has room for."""
    count = cap_micro // cost_micro
    return f"{count:,} round{'s' if count != 1 else ''}"


def rows(task: Task) -> list[tuple[str, ...]]:
    """In the columns of `HEAD`."""
    return [
        (one.statistic, *map(present.rounded, (one.sigma, one.by_all, one.by_fewest)), one.meaning)
        for one in noises(task)
    ]


def as_data(task: Task) -> dict[str, Any]:
    """The same for programs."""
    return {
        "task": task.task_id,
        "spec_hash": task.spec_hash.hex(),
        "kind": task.kind.name,
        "tail": task.tail.name,
        "field": task.field.bits,
        "kappa": task.kappa,
        "rho": task.cost_micro_rho / MICRO,
        "epsilon_at_delta_1e-6": present.epsilon(task),
        "report_bytes": report_bytes(task),
        "task_rounds_max": task.caps.task_micro_rho // task.cost_micro_rho,
        "device_rounds_max": task.caps.device_micro_rho // task.cost_micro_rho,
        "noise": [
            {
                "statistic": one.statistic,
                "sigma": one.sigma,
                "opened_by_all": one.by_all,
                "opened_by_fewest": one.by_fewest,
            }
            for one in noises(task)
        ],
    }
