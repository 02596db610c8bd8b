"""`python -m bench.experiments`: how often an experiment's verdict is right, noise and all.

A run is a population of its own: each account draws its variant from its secret as a device
does, and reports an outcome; reports are encoded, summed, noised by three parties' shares and
opened as a round's are, and the verdict is read off the result. Only the transport is left out.
Runs with a planted effect say how often it is found, runs without one how often something is
found that is not there. Seeded: a run gives the same figures on every machine.
"""

from __future__ import annotations

import math
import random
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.report import Part, Report, run
from client.analyst import power
from client.analyst.power import Arm, Noise
from client.analyst.verdict import Compared, Plan, decide
from client.intelligence.experiments import assign
from crypto.field import FIELD61
from crypto.policy.experiments import ExperimentRule
from mpc import privacy, result as results
from mpc.kinds import Experiment
from mpc.noise import Law, Mechanism
from mpc.result import Counted
from mpc.tail import Verdict
from mpc.tail_params import AsTheyAre
from mpc.task import KAPPA, Caps, Task

RULE: Final = ExperimentRule("home-first", "ab/home-first", ("as-before", "home-first"))
ORDERS: Final = (0, 10)
"""Bounds of the outcome: orders in the time of the experiment."""
USUAL: Final = 3.0
"""Mean of the first variant; Poisson, cut off at the bounds."""
PEOPLE: Final = 2_000
RHO_MICRO: Final = 50_000
"""What a round costs: epsilon of about 1.8 at delta 10^-6."""
ALPHA: Final = 0.05
POWER: Final = 0.95
PARTIES, CORRUPT = 3, 1
RUNS, NULL_RUNS = 400, 1_000
RIGHT_LEAST, FALSE_MOST = 0.90, 0.08


@dataclass(frozen=True, slots=True)
class Setting:
    """How many people, and how much the second variant lifts the mean."""

    people: int = PEOPLE
    effect: float = 0.0


def task(rho_micro: int = RHO_MICRO) -> Task:
    """The experiment's task, with the noise that makes a round cost at most so much."""
    kind = Experiment(FIELD61, len(RULE.variants), RULE.variants, *ORDERS)
    sigma = math.isqrt(kind.l2_squared * privacy.MICRO * 1_000_000 // (2 * rho_micro))
    return Task(
        task_id=RULE.task,
        title="Orders, by variant",
        purpose="product",
        kind=kind,
        kappa=KAPPA[61][0],
        window_ms=86_400_000,
        grace_ms=0,
        reports_max=100_000,
        k_min=100,
        noise=Law(Mechanism.GAUSSIAN, sigma + sigma // 1_000),
        caps=Caps(10 * rho_micro, 86_400_000, 100 * rho_micro),
        m=PARTIES,
        t=CORRUPT,
        tail=AsTheyAre(),
        expires_ms=1 << 52,
    )


def reports(seed: str, setting: Setting) -> list[tuple[int, int]]:
    """(variant, outcome) of each account."""
    rng = random.Random(f"secrets {seed}")
    drawn = np.random.default_rng(rng.getrandbits(64))
    variants = [assign(rng.randbytes(32), RULE) for _ in range(setting.people)]
    assert None not in variants
    means = [USUAL + setting.effect * (variant or 0) for variant in variants]
    outcomes = np.minimum(drawn.poisson(means), ORDERS[1])
    return [(variant or 0, int(one)) for variant, one in zip(variants, outcomes, strict=True)]


def open_round(made: Task, values: Iterable[tuple[int, int]], seed: str) -> results.RoundResult:
    """The round's result: encodings summed as the parties sum them, each party's noise in it."""
    field, counts = made.kind.field, Counter(values)
    total = sum(
        count * made.kind.encode(value).astype(object) for value, count in sorted(counts.items())
    )
    rows = np.array(total % field.p, dtype=np.uint64)
    people = counts.total()
    sums = np.array(field.decode(made.kind.project(rows, people)), dtype=object)
    rand = random.Random(f"noise {seed}").randbytes
    for _ in range(made.m if made.noise else 0):
        assert made.noise is not None
        sums = sums + made.noise.share(made.kind.d, present=made.m, t=made.t, rand=rand)
    counted = Counted(people, 0, 0, ({},) * made.m)
    parties = tuple(range(1, made.m + 1))
    return results.make(
        made, [int(one) for one in sums], counted, noise_of=parties, checked=True
    )  # fmt: skip


def verdict(made: Task, seed: str, setting: Setting, plan: Plan) -> Compared | None:
    """What a round says; None: undecided, for the noise hides too much."""
    decision = decide(made, open_round(made, reports(seed, setting), seed), plan)
    return decision.compared[0] if decision.compared else None


def planned(made: Task, people: int = PEOPLE, *, wanted: float = POWER) -> float:
    """The effect that so many people find with the wanted chance: laid down before any round."""
    assert isinstance(made.kind, Experiment)
    centre = made.kind.range.centre
    arm = Arm(people / 2, USUAL - centre, USUAL)
    error = power.standard_error([arm, arm], Noise.of(made))
    return power.detectable(error, alpha=ALPHA, power=wanted)


def _planted(report: Report) -> None:
    """How often a planted effect is found, upwards and downwards."""
    made, runs = task(), RUNS if not report.quick else RUNS // 4
    effect = planned(made)
    plan = Plan(ALPHA, PEOPLE, effect)
    for sign, right in ((1, Verdict.HIGHER), (-1, Verdict.LOWER)):
        setting = Setting(effect=sign * effect)
        told = [verdict(made, f"planted {sign} {at}", setting, plan) for at in range(runs)]
        found = sum(one is not None and one.verdict is right for one in told) / runs
        covered = sum(
            one is not None and one.low <= sign * effect <= one.high for one in told
        ) / runs  # fmt: skip
        promised = float(np.mean([one.power for one in told if one is not None and one.power]))
        report.row(
            f"planted {sign * effect:+.2f}, {PEOPLE:,} people", runs=runs, right=found,
            promised=promised, interval_holds_it=covered,
        )  # fmt: skip
        report.goal(f"verdicts right at power {POWER:g} ({right})", found, RIGHT_LEAST)


def _null(report: Report) -> None:
    """How often something is found where there is nothing."""
    made, runs = task(), NULL_RUNS if not report.quick else NULL_RUNS // 10
    plan = Plan(ALPHA, PEOPLE)
    told = [verdict(made, f"null {at}", Setting(), plan) for at in range(runs)]
    found = sum(one is not None and one.verdict is not Verdict.UNDECIDED for one in told) / runs
    report.row(f"no effect, {PEOPLE:,} people", runs=runs, verdicts=found)
    report.goal("false positives", found, FALSE_MOST, at_most=True)


def _noise(report: Report) -> None:
    """What the noise costs: people needed for the same effect, by rho."""
    for rho in (10_000, 50_000, 200_000, 1_000_000):
        made = task(rho)
        report.row(
            f"rho {rho / privacy.MICRO:g}: least effect at power 0.8",
            **{f"{people}": planned(made, people, wanted=0.8) for people in (500, 2_000, 10_000)},
        )


PARTS: dict[str, Part] = {"planted": _planted, "null": _null, "noise": _noise}

if __name__ == "__main__":
    sys.exit(run("python -m bench.experiments", __doc__, PARTS, None))
