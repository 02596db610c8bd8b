"""Verdicts on experiments: right as often as they promise, and honest about what they can't see."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from bench import experiments as trials
from bench.experiments import ALPHA, PEOPLE, Setting
from client.analyst import power
from client.analyst.power import Arm, Noise
from client.analyst.verdict import Compared, Decision, Plan, decide
from client.errors import UserError
from crypto.field import FIELD31, FIELD61
from mpc import oracle, student
from mpc.kinds import Experiment, Histogram
from mpc.noise import Law, Mechanism
from mpc.result import Sums
from mpc.tail import Verdict
from mpc.tail_params import Welch
from mpc.task import Task
from tests.analyst_samples import result, roomy

RUNS, NULL_RUNS = 40, 150
RIGHT_LEAST, FALSE_MOST = 0.90, 0.08


def test_a_round_of_the_simulation_opens_what_the_oracle_says() -> None:
    """Without noise its sums are those of plain arithmetic; with noise they are others, within
    the noise's reach."""
    values = trials.reports("oracle", Setting(300, 0.5))
    made = trials.task()
    truth = oracle.aggregate(made.kind, values)
    exact = trials.open_round(replace(made, noise=None), values, "oracle").outcome
    noisy = trials.open_round(made, values, "oracle").outcome
    assert isinstance(exact, Sums)
    assert isinstance(noisy, Sums)
    assert (exact.sums, truth.refused) == (truth.sums, 0)
    assert made.noise is not None
    reach = made.noise.reach(present=made.m, t=made.t)
    gaps = [abs(one - other) for one, other in zip(noisy.sums, exact.sums, strict=True)]
    assert max(gaps) <= reach
    assert min(gaps) > 0


@pytest.mark.parametrize(("sign", "right"), [(1, Verdict.HIGHER), (-1, Verdict.LOWER)])
def test_a_planted_effect_is_found_as_often_as_promised(sign: int, right: Verdict) -> None:
    """Of 40 rounds planned at power 0.95 at least 90 % find it in its direction, none finds the
    opposite, and what each round says its power was is near what was planned."""
    made = trials.task()
    effect = trials.planned(made)
    plan = Plan(ALPHA, PEOPLE, effect)
    told = [
        trials.verdict(made, f"planted {sign} {at}", Setting(effect=sign * effect), plan)
        for at in range(RUNS)
    ]
    decided = [one for one in told if one is not None]
    assert sum(one.verdict is right for one in decided) >= RIGHT_LEAST * RUNS
    assert not any(one.verdict not in (right, Verdict.UNDECIDED) for one in decided)
    assert all(one.power is not None and abs(one.power - trials.POWER) < 0.05 for one in decided)


def test_where_there_is_nothing_little_is_found() -> None:
    """Of 150 rounds without an effect at most 8 % come to a verdict (5 % are expected). Without
    the noise in the standard error it would be more than 8 %: counting it in is what does it."""
    made, plan = trials.task(), Plan(ALPHA, PEOPLE)
    told = [trials.verdict(made, f"null {at}", Setting(), plan) for at in range(NULL_RUNS)]
    decided = [one for one in told if one is not None]
    assert len(decided) == NULL_RUNS
    found = [one for one in decided if one.verdict is not Verdict.UNDECIDED]
    assert len(found) <= FALSE_MOST * NULL_RUNS
    assert all(one.p < ALPHA for one in found)
    bare = power.standard_error([Arm(PEOPLE / 2, 0, trials.USUAL)] * 2, Noise(0, 0))
    naive = sum(student.two_sided(one.effect / bare, PEOPLE - 2) < ALPHA for one in decided)
    assert naive > FALSE_MOST * NULL_RUNS
    assert naive > 2 * len(found)


# --- on one result ---

KIND = Experiment(FIELD61, 3, ("old", "new", "other"), 0, 10)


def made_task(**changes: Any) -> Task:
    """Three variants and little noise."""
    quiet = Law(Mechanism.GAUSSIAN, 10_000)
    return roomy(**{"kind": KIND, "kappa": 1, "noise": quiet, **changes})


VALUES = [
    (variant, value)
    for variant, values in enumerate(([4, 5, 6], [5, 6, 7], [4, 5, 6]))
    for value in values
    for _ in range(100)
]


def said(plan: Plan, task: Task | None = None) -> Decision:
    """On those values."""
    task = task or made_task()
    return decide(task, result(task, VALUES, seed="verdict"), plan)


def by_label(decision: Decision) -> dict[str, Compared]:
    """The comparisons."""
    return {one.label: one for one in decision.compared}


def test_each_variant_is_held_against_the_first() -> None:
    """One that is one higher is found, one that is equal is not; the interval holds the truth
    and belongs to the p-value: it leaves 0 out exactly where there is a verdict."""
    decision = said(Plan())
    found = by_label(decision)
    assert found["new"].verdict is Verdict.HIGHER
    assert found["new"].low < 1 < found["new"].high
    assert found["other"].verdict is Verdict.UNDECIDED
    assert found["other"].low < 0 < found["other"].high
    assert found["new"].low > 0
    assert (decision.reports, decision.early) == (900, False)
    assert decision.data()["comparisons"][0]["verdict"] == "higher"
    assert any("new is higher than old" in line for line in decision.sentences())


def test_more_comparisons_make_each_one_stricter() -> None:
    """Alpha is divided: intervals of two comparisons are those of half the level for one."""
    one = by_label(said(Plan(0.05)))["new"]
    margin = (one.high - one.low) / 2
    assert margin == pytest.approx(one.error * power.quantile(0.025, one.df))


def test_reading_early_is_said() -> None:
    """Fewer reports than planned: the sentence warns; at the plan it does not."""
    early = said(Plan(reports=2_000))
    assert early.early
    assert any(line.startswith("EARLY") for line in early.sentences())
    assert not any(line.startswith("EARLY") for line in said(Plan(reports=900)).sentences())


def test_power_at_the_plan_grows_with_it() -> None:
    """More planned reports find less, and find the same more surely."""
    few, many = (
        by_label(said(Plan(reports=reports, effect=0.1)))["new"] for reports in (900, 9_000)
    )
    assert few.power is not None
    assert many.power is not None
    assert few.power < many.power
    assert many.detectable < few.detectable / 2
    assert few.effect == many.effect


def test_the_parties_own_test_is_read_at_the_task_s_level() -> None:
    """With the tail `welch` effect, interval and p are those of the tail, whatever the reader's
    level is, and the power is worked out from the error alone."""
    welch = made_task(tail=Welch(10_000))
    decision = said(Plan(alpha=0.2, reports=9_000, effect=0.1), welch)
    plain = by_label(said(Plan(alpha=0.01, reports=9_000, effect=0.1)))["new"]
    found = by_label(decision)["new"]
    assert decision.alpha == 0.01
    assert (found.effect, found.p) == (plain.effect, plain.p)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high))
    assert found.power == pytest.approx(plain.power, abs=0.02)


def test_noise_that_hides_all_gives_no_verdict() -> None:
    """Too few people for the noise: undecided, in words, and no number that means nothing."""
    loud = made_task(noise=Law(Mechanism.GAUSSIAN, 100_000_000))
    for task in (loud, replace(loud, tail=Welch(50_000))):
        decision = said(Plan(reports=100, effect=1), task)
        assert decision.compared == ()
        assert decision.data()["undecided"]
        assert decision.sentences()[0].startswith("Undecided")


def test_only_an_experiment_has_a_verdict() -> None:
    """Another kind is refused, and so are plans that make no sense."""
    task = roomy(kind=Histogram(FIELD31, 3, ()), noise=Law(Mechanism.GAUSSIAN, 4_000))
    with pytest.raises(UserError, match="histogram"):
        decide(task, result(task, [0, 1, 2], seed=1), Plan())
    wrongs: list[Any] = [{"alpha": 0.0}, {"alpha": 0.6}, {"reports": 1}, {"effect": 0.0}]
    for wrong in wrongs:
        with pytest.raises(UserError):
            Plan(**wrong)


@pytest.mark.parametrize("df", [1.0, 4.0, 30.0, 1e5])
@pytest.mark.parametrize("alpha", [0.5, 0.05, 0.001])
def test_a_quantile_is_passed_as_often_as_it_says(alpha: float, df: float) -> None:
    """The inverse of the two-sided tail, to the last digits."""
    assert student.two_sided(power.quantile(alpha, df), df) == pytest.approx(alpha, rel=1e-9)


def test_power_and_the_least_effect_are_each_other_s_inverse() -> None:
    """The effect that is found with a chance has that chance; none has half of alpha."""
    for wanted in (0.5, 0.8, 0.99):
        effect = power.detectable(0.3, alpha=0.05, power=wanted)
        assert power.power(effect, 0.3, alpha=0.05) == pytest.approx(wanted)
    assert power.power(0, 0.3, alpha=0.05) == pytest.approx(0.025)
    assert math.isfinite(power.quantile(1e-6, 1))
