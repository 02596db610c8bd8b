"""What is popular, out of a verified aggregate, as a prior for one person's ranking. Pure.

Three levels, each drawn towards the one above as far as its own uncertainty demands: an item in
a cohort towards the item among all, and that towards the average item. Uncertainty is sampling
and noise; how much items (or cohorts) really differ is estimated by moments, as what their
spread exceeds the uncertainty by. So a result that is all noise says nothing, and a cohort that
is too small to be seen through the noise counts as everybody.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, pvariance
from typing import Final

from client.intelligence.cohorts import EVERYBODY, joint_labels, parse_label, version_of
from client.intelligence.ranking import Prior
from client.measure.results import Ended
from client.measure.values import source as source_of
from crypto.policy.cohorts import CohortRule
from mpc.kinds import Histogram, Multihot
from mpc.kinds.results import Counts
from mpc.result import RoundResult
from mpc.task import Task

LOCATION: Final = 0.2
"""Where the average item stands on the scale from -1 to 1: people rate what they chose to try,
so above the middle. This and the next three are round numbers near what ratings of food show."""
SPREAD: Final = 0.2
"""By how much items differ in what people in general hold of them (a standard deviation)."""
PEOPLE_VARIANCE: Final = 0.2
"""How people differ about one item: (0.9 stars of 5)^2 on the scale from -1 to 1."""
UNIT_VARIANCE: Final = 0.06
"""How well one unit of evidence tells what a person holds of an item: (half a star)^2."""
SIZE_SIGMAS_MIN: Final = 5
"""A cohort whose size is closer to its noise than this can't be told from nobody."""
RATE_MIN: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of people, and how uncertain it is."""

    value: float
    variance: float


@dataclass(frozen=True, slots=True)
class Popular:
    """How many like which items, in all and by cohort; noised, with the noise's variance."""

    reports: int
    sizes: Mapping[str, float]
    """Of each cohort."""
    counts: Mapping[str, Mapping[str, float]]
    """By cohort and item."""
    variance: float
    """Of the noise in each count."""
    source: str
    """The task's id."""

    @property
    def items(self) -> tuple[str, ...]:
        """In the task's order."""
        return tuple(dict.fromkeys(item for counts in self.counts.values() for item in counts))


def read(task: Task, result: RoundResult, rule: CohortRule) -> Popular | None:
    """What a verified result says; None if its bins are not those of the rule and its version,
    or its tail keeps some back."""
    kind, told = task.kind, result.statistics(task)
    if not isinstance(kind, Histogram | Multihot) or not isinstance(told, Counts):
        return None
    pairs = [pair for label in kind.labels if (pair := parse_label(label)) is not None]
    items = tuple(dict.fromkeys(item for _, item in pairs if item != EVERYBODY))
    if version_of(task.task_id) != rule.version or kind.labels != joint_labels(rule, items):
        return None
    by_label = dict(zip(kind.labels, map(float, told.counts), strict=True))
    counts: dict[str, dict[str, float]] = {cohort: {} for cohort in rule.labels}
    sizes: dict[str, float] = {}
    for label, count in by_label.items():
        pair = parse_label(label)
        assert pair is not None
        if pair[1] == EVERYBODY:
            sizes[pair[0]] = count
        else:
            counts[pair[0]][pair[1]] = count
    if isinstance(kind, Histogram):  # who says one item says no cohort beside it
        sizes = {cohort: math.fsum(counts[cohort].values()) for cohort in counts}
    variance = float(result.variances(task)[0])
    return Popular(result.counted.valid, sizes, counts, variance, task.task_id)


def newest(ended: Iterable[Ended], source: str, rule: CohortRule) -> Popular | None:
    """Of the rounds of a task (its id, or the id without a version), the last one with a result
    that can be read by the rule."""
    rounds = sorted(
        (one for one in ended if source in (one.task.task_id, source_of(one.task))),
        key=lambda one: -one.shown.manifest.close_ms,
    )
    found = (read(one.task, one.result, rule) for one in rounds if one.result is not None)
    return next((one for one in found if one is not None), None)


def priors(popular: Popular, cohort: str | None) -> dict[str, Prior]:
    """For each item what a person in this cohort (None: not known) is likely to hold of it.

    `weight` is in units of evidence: how well the person's own evidence tells against how well
    the prior does, which people's differences limit, and the noise a little more.
    """
    among_all = _among_all(popular)
    between = _between([one.value for one in among_all.values()], among_all.values())
    middle = fmean(one.value for one in among_all.values()) if among_all else 0.0
    drawn = {item: _draw(one, middle, between) for item, one in among_all.items()}
    if cohort is not None:
        drawn |= _in_cohort(popular, cohort, drawn)
    scale = SPREAD / math.sqrt(between) if between > 0 else 0.0
    return {
        item: Prior(
            mean=max(-1.0, min(1.0, LOCATION + scale * (one.value - middle))),
            weight=UNIT_VARIANCE / (PEOPLE_VARIANCE + scale**2 * one.variance),
            source=popular.source,
        )
        for item, one in drawn.items()
    }


def _among_all(popular: Popular) -> dict[str, Rate]:
    """Each item's share of all reports, whose number is exact."""
    people, cohorts = max(1, popular.reports), len(popular.counts)
    rates = {}
    for item in popular.items:
        count = math.fsum(one.get(item, 0.0) for one in popular.counts.values())
        noise = cohorts * popular.variance / people**2
        rates[item] = Rate(count / people, _sampling(count / people, people) + noise)
    return rates


def _in_cohort(
    popular: Popular, cohort: str, among_all: Mapping[str, Rate]
) -> dict[str, Rate]:  # fmt: skip
    size, counts = popular.sizes.get(cohort, 0.0), popular.counts.get(cohort, {})
    if size <= 0 or size**2 < SIZE_SIGMAS_MIN**2 * popular.variance or not counts:
        return {}
    rates = {}
    for item, count in counts.items():
        # To first order in the noise of the count and of the size.
        value = count / size
        noise = popular.variance * (1 + value**2) / size**2
        rates[item] = Rate(value, _sampling(value, size) + noise)
    # A cohort that likes more of everything (it rates more) is no different taste.
    level = fmean(one.value for one in rates.values()) - fmean(
        among_all[item].value for item in rates
    )
    off = [one.value - level - among_all[item].value for item, one in rates.items()]
    between = _between(off, rates.values())
    return {
        item: _draw(Rate(one.value - level, one.variance), among_all[item].value, between)
        for item, one in rates.items()
    }


def _sampling(rate: float, people: float) -> float:
    """Of a share among so many people; noise can push it out of 0 to 1."""
    bounded = min(1 - RATE_MIN, max(RATE_MIN, rate))
    return bounded * (1 - bounded) / people


def _between(values: Iterable[float], rates: Iterable[Rate]) -> float:
    """How much things differ beyond what their uncertainty explains; 0: not at all, as far as
    can be told."""
    found = list(values)
    if len(found) < 2:
        return 0.0
    return max(0.0, pvariance(found) - fmean(one.variance for one in rates))


def _draw(one: Rate, towards: float, between: float) -> Rate:
    """The posterior of a normal prior with this mean and variance."""
    if between <= 0:
        return Rate(towards, 0.0)
    own = between / (between + one.variance)
    return Rate(towards + own * (one.value - towards), own * one.variance)
