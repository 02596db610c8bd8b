"""What an experiment's round says: the effect, how sure that is, and what it could have seen.

Welch's test with the noise counted in (`mpc.tail.welch`), at the level that the reader names;
where the task's own tail is `welch`, the parties have done that test, at the task's level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from client.analyst import power as powers
from client.analyst.estimates import labels_of
from client.analyst.power import Arm, Noise
from client.errors import UserError
from mpc import tail
from mpc.kinds import Experiment
from mpc.kinds.results import Groups, Moments
from mpc.result import Comparisons, RoundResult, Sums, Undecided
from mpc.tail import MICRO, Comparison, Sample, Undecidable, Verdict
from mpc.tail_params import Welch
from mpc.task import Task

ALPHA: Final = 0.05
_UNDECIDED: Final = (
    "Undecided: a variant's count or spread is too close to the noise. A round with more reports"
    " may tell."
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What was laid down before the round, or is asked now."""

    alpha: float = ALPHA
    """The chance of any verdict if all means are equal."""
    reports: int | None = None
    """At how many valid reports the verdict is to be read; None: at as many as there are."""
    effect: float | None = None
    """The least difference that would matter."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 0.5:
            raise UserError("alpha is above 0, and 0.5 at most")
        if self.reports is not None and self.reports < 2:
            raise UserError("the planned number of reports is 2 or more")
        if self.effect is not None and not self.effect > 0:
            raise UserError("the least effect that matters is above 0")


@dataclass(frozen=True, slots=True)
class Compared:
    """A variant beside the first one."""

    label: str
    first: str
    verdict: Verdict
    effect: float
    """Its mean less the first one's."""
    low: float
    high: float
    """Holds the true difference with chance 1 - alpha (divided among the comparisons): people's
    differences and noise both counted."""
    error: float
    p: float
    df: int
    detectable: float
    """The least difference that the planned number of reports finds in 80 of 100 rounds."""
    power: float | None
    """The chance that the planned number finds the least effect that matters; None: not named."""

    @property
    def sentence(self) -> str:
        """For people."""
        words = {
            Verdict.HIGHER: f"{self.label} is higher than {self.first}",
            Verdict.LOWER: f"{self.label} is lower than {self.first}",
            Verdict.UNDECIDED: f"{self.label} and {self.first} may be equal",
        }
        return (
            f"{words[self.verdict]}: {self.effect:+.3g}"
            f" (between {self.low:+.3g} and {self.high:+.3g}; p = {self.p:.2g})"
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """All comparisons of a round."""

    plan: Plan
    alpha: float
    """The level that was tested at."""
    reports: int
    """Valid ones."""
    compared: tuple[Compared, ...]
    """None: undecided, for the noise hides too much."""

    @property
    def early(self) -> bool:
        """Read before as many reports were in as was planned: who looks again and again until
        something shows finds what is not there."""
        return self.plan.reports is not None and self.reports < self.plan.reports

    def sentences(self) -> list[str]:
        """What a reader must know, a line each."""
        said = [one.sentence + "." for one in self.compared] or [_UNDECIDED]
        planned = self.plan.reports or self.reports
        for one in self.compared:
            said.append(
                f"{planned:,} reports find a difference of {one.detectable:.3g} in 80 of 100"
                f" rounds ({one.label})."
            )
            if one.power is not None:
                said.append(
                    f"A difference of {self.plan.effect:g} is found by {planned:,} reports with"
                    f" chance {one.power:.0%} ({one.label})."
                )
        said.append(
            f"Tested at {self.alpha:g}, noise counted in: so often any verdict is given if all"
            " means are equal."
        )
        if self.early:
            said.append(
                f"EARLY: {self.reports:,} of {planned:,} planned reports. Looking until something"
                " shows finds what is not there: read the verdict at the planned number."
            )
        return said

    def data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "alpha": self.alpha,
            "reports": self.reports,
            "planned_reports": self.plan.reports,
            "least_effect": self.plan.effect,
            "early": self.early,
            "undecided": not self.compared,
            "comparisons": [
                {
                    "variant": one.label,
                    "first": one.first,
                    "verdict": str(one.verdict),
                    "effect": one.effect,
                    "low": one.low,
                    "high": one.high,
                    "error": one.error,
                    "p": one.p,
                    "df": one.df,
                    "detectable_at_80": one.detectable,
                    "power": one.power,
                }
                for one in self.compared
            ],
        }


def decide(task: Task, result: RoundResult, plan: Plan) -> Decision:
    """The decision on a verified result; UserError if the task is no experiment."""
    if not isinstance(task.kind, Experiment):
        raise UserError(f"a verdict is on an experiment, and this task is a {task.kind.name}")
    valid = result.counted.valid
    match result.outcome:
        case Sums():
            return _from_sums(task, result, plan)
        case Comparisons(comparisons=told):
            assert isinstance(task.tail, Welch)
            alpha = task.tail.alpha_micro / MICRO
            planned = plan.reports or valid
            # The parts of the error are not told: as if all of it shrank with 1/n, which the
            # noise's does faster. So more reports than these find a little more than is said.
            shrunk = [one.error_micro / MICRO * (valid / planned) ** 0.5 for one in told]
            return _decision(task, plan, alpha, valid, list(told), shrunk)
        case Undecided():
            return Decision(plan, plan.alpha, valid, ())
        case _:
            raise AssertionError(task.tail.name)


def _from_sums(task: Task, result: RoundResult, plan: Plan) -> Decision:
    groups, valid = result.statistics(task), result.counted.valid
    assert isinstance(groups, Groups)
    assert isinstance(result.outcome, Sums)
    assert isinstance(task.kind, Experiment)
    noises = result.variances(task)
    samples = _samples(result.outcome.sums, task.kind, noises)
    try:
        told = list(tail.welch(samples, alpha_micro=round(plan.alpha * MICRO)))
    except Undecidable:
        return Decision(plan, plan.alpha, valid, ())
    noise = Noise(float(noises[0]), float(noises[1]))
    grown = (plan.reports or valid) / max(1, valid)
    first, *others = [_arm(one, task.kind.range.centre, grown) for one in groups.groups]
    errors = [powers.standard_error([first, one], noise) for one in others]
    return _decision(task, plan, plan.alpha, valid, told, errors)


def _samples(sums: tuple[int, ...], kind: Experiment, noises: tuple[Any, ...]) -> list[Sample]:
    opened = noises[0] * kind.scales[0] ** 2
    return tail.samples(sums, kind.scales, opened)


def _arm(group: Moments, centre: int, grown: float) -> Arm:
    """As measured, with as many reports as are planned; `welch` has seen that both are known."""
    assert group.mean is not None
    assert group.variance is not None
    return Arm(float(group.count) * grown, float(group.mean - centre), float(group.variance))


def _decision(
    task: Task,
    plan: Plan,
    alpha: float,
    valid: int,
    told: list[Comparison],
    errors: list[float],
) -> Decision:
    """`errors`: the standard error at the planned number of reports, of each comparison."""
    first, *labels = labels_of(task.kind)
    each = alpha / len(labels)
    compared = []
    for label, one, planned in zip(labels, told, errors, strict=True):
        effect, error = one.difference_micro / MICRO, one.error_micro / MICRO
        margin = powers.quantile(each, one.df) * error
        compared.append(
            Compared(
                label=label,
                first=first,
                verdict=one.verdict,
                effect=effect,
                low=effect - margin,
                high=effect + margin,
                error=error,
                p=one.p_micro / MICRO,
                df=one.df,
                detectable=powers.detectable(planned, alpha=each),
                power=None
                if plan.effect is None
                else powers.power(plan.effect, planned, alpha=each),
            )
        )
    return Decision(plan, alpha, valid, tuple(compared))
