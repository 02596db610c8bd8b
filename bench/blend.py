"""`python -m bench.blend`: how good a ranking is that popularity and a person's own ratings make.

Half of the people are those whom a joint aggregate was taken of: each device works out its
cohort and tells the bins of what it likes most; encodings are summed, noised as three parties
do, opened, and read as a device reads a result. The other half is ranked for: of each person's
ratings some are known to the device, and the order of all that they rated is held against their
ratings. Ratings: FiveThirtyEight's Food World Cup (the file that `rookery demo
--ratings` takes, named by ROOKERY_RATINGS); without it a synthetic population.
"""

from __future__ import annotations

import math
import os
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

from bench.report import Part, Report, run
from client.demo.ratings import Person, load, synthesise
from client.intelligence import blend
from client.intelligence.cohorts import EVERYBODY, cohort_of, joint_labels
from client.intelligence.facts import Fact, Facts
from client.intelligence.ranking import NOTHING_ELSE, Elsewhere, rank
from client.intelligence.recipe import Recipe, Term
from client.intelligence.uses import Use
from client.origins import Origin
from crypto.field import FIELD31
from crypto.policy.cohorts import CohortRule, Comparison, Op, When
from mpc import privacy, result as results
from mpc.kinds import Multihot
from mpc.noise import Law, Mechanism
from mpc.oracle import aggregate
from mpc.result import Counted
from mpc.tail_params import AsTheyAre
from mpc.task import KAPPA, Caps, Task

RATINGS: Final = "ROOKERY_RATINGS"
"""Names the file; without it a synthetic population stands in."""
LIKED: Final = 4
"""Stars from which a cuisine is liked."""
MOST: Final = 8
"""Bins that one report marks: its cohort, and the seven best liked."""
KNOWN: Final = (0, 1, 3, 10)
RATED_LEAST: Final = 15
"""People who are ranked for have rated as many."""
RATED_LEAST_SYNTHETIC: Final = 12
PARTIES, CORRUPT = 3, 1
RHOS: Final = (1_000_000, 200_000, 50_000, 10_000)
RHO: Final = 50_000
TOP: Final = 10
_RECIPE: Final = Recipe((Term("setting", "rating"),))
_ORIGIN: Final = Origin((0,), 0)
_FAMILIAR: Final = ("france", "germany", "italy", "mexico", "united-states")
_FAR: Final = ("china", "ethiopia", "india", "japan", "south-korea", "thailand", "vietnam")
STYLE: Final = CohortRule(
    "style",
    1,
    (
        When("familiar", True, (Comparison("rating", Op.TOP_IN, _FAMILIAR),)),
        When("far", True, (Comparison("rating", Op.TOP_IN, _FAR),)),
        When("between", True, (Comparison("rating", Op.COUNT_AT_LEAST, 1),)),
    ),
    "new",
    "What a person likes best, as far as they have rated.",
)


@dataclass(frozen=True, slots=True)
class Rated:
    """Signals of a person."""

    ratings: Mapping[str, int]

    def values(self, signal: str) -> Mapping[str, object]:
        """The ratings are the only one."""
        return self.ratings if signal == "rating" else {}


def people(report: Report) -> tuple[list[Person], list[Person]]:
    """(whom the aggregate is of, whom to rank for)."""
    path = os.environ.get(RATINGS)
    population = load(Path(path)) if path else synthesise(1_200, seed=7)
    print(f"ratings: {population.source}", file=sys.stderr)
    every = sorted(population.people, key=lambda one: one.number)
    random.Random("halves").shuffle(every)
    half = len(every) // 2
    least = RATED_LEAST if path else RATED_LEAST_SYNTHETIC
    ranked = [one for one in every[half:] if len(one.ratings) >= least]
    return every[:half], ranked[: 100 if report.quick else None]


def task(items: Sequence[str], rho_micro: int) -> Task:
    """Liked items by cohort, with the noise that makes a round cost at most so much."""
    labels = joint_labels(STYLE, items)
    kind = Multihot(FIELD31, len(labels), MOST, labels)
    sigma = math.isqrt(kind.l2_squared * privacy.MICRO * 1_000_000 // (2 * rho_micro))
    return Task(
        task_id="popular/cuisine-by-style",
        title="Cuisines that are liked, by what people like best",
        purpose="product",
        kind=kind,
        kappa=KAPPA[31][0],
        window_ms=86_400_000,
        grace_ms=0,
        reports_max=10_000,
        k_min=100,
        noise=Law(Mechanism.GAUSSIAN, sigma + sigma // 1_000),
        caps=Caps(10 * rho_micro, 86_400_000, 100 * rho_micro),
        m=PARTIES,
        t=CORRUPT,
        tail=AsTheyAre(),
        expires_ms=1 << 52,
    )


def said(one: Person, items: Sequence[str]) -> list[int]:
    """The bins that a person's device marks, as `CohortMeasure` does."""
    cohort = cohort_of(STYLE, Rated(one.ratings))
    liked = [item for item, stars in one.ratings.items() if stars >= LIKED and item in items]
    best = sorted(liked, key=lambda item: (-one.ratings[item], item))[: MOST - 1]
    at = STYLE.labels.index(cohort) * (len(items) + 1)
    places = (EVERYBODY, *items)
    return [at + places.index(item) for item in (EVERYBODY, *best)]


def popular(made: Task, those: Sequence[Person], items: Sequence[str], seed: str) -> blend.Popular:
    """The aggregate of these people, as a device reads it."""
    told = aggregate(made.kind, [said(one, items) for one in those])
    rand, sums = random.Random(f"noise {seed}").randbytes, list(told.sums)
    for _ in range(made.m):
        assert made.noise is not None
        noise = made.noise.share(len(sums), present=made.m, t=made.t, rand=rand)
        sums = [one + int(more) for one, more in zip(sums, noise, strict=True)]
    counted = Counted(told.reports, 0, 0, ({},) * made.m)
    opened = results.make(made, sums, counted, noise_of=(1, 2, 3), checked=True)
    read = blend.read(made, opened, STYLE)
    assert read is not None
    return read


# --- judging a ranking ---

Ranker = Callable[[Mapping[str, int], Sequence[str]], list[str]]


def facts(own: Mapping[str, int]) -> Facts:
    """What a device knows whose person has rated these."""
    [term] = _RECIPE.terms
    return Facts(
        {
            item: (Fact(term, Use("rating"), _ORIGIN, (stars - term.centre) / term.reach),)
            for item, stars in own.items()
        }
    )


def by(popular_: blend.Popular | None, *, local: bool = True, cohort: bool = True) -> Ranker:
    """Ranks by what is known and popular, or by one of the two."""
    cache: dict[str | None, Elsewhere] = {}

    def order(own: Mapping[str, int], items: Sequence[str]) -> list[str]:
        elsewhere = NOTHING_ELSE
        if popular_ is not None:
            label = cohort_of(STYLE, Rated(own)) if cohort else None
            if label not in cache:
                cache[label] = Elsewhere(blend.priors(popular_, label))
            elsewhere = cache[label]
        known = facts(own if local else {})
        return [one.item for one in rank(known, _RECIPE, items=items, elsewhere=elsewhere)]

    return order


def ndcg(order: Sequence[str], stars: Mapping[str, int]) -> float:
    """Of the first ten, gains by stars above one."""

    def gain(items: Sequence[str]) -> float:
        return sum((stars[item] - 1) / math.log2(at + 2) for at, item in enumerate(items[:TOP]))

    best = gain(sorted(stars, key=lambda item: -stars[item]))
    return gain(order) / best if best else 1.0


def auc(order: Sequence[str], stars: Mapping[str, int]) -> float | None:
    """The chance that a liked item stands before one that is not; None without both."""
    liked = [at for at, item in enumerate(order) if stars[item] >= LIKED]
    others = [at for at, item in enumerate(order) if stars[item] < LIKED]
    if not liked or not others:
        return None
    return fmean(one < other for one in liked for other in others)


def judge(
    order: Ranker, those: Sequence[Person], known: int, *, unseen: bool = False
) -> tuple[float, float]:
    """(NDCG at 10, AUC), the mean over people of whom so many ratings are known. `unseen`: only
    what the device knows nothing of is ranked."""
    gains, chances = [], []
    for one in those:
        items = sorted(one.ratings)
        random.Random(f"known {one.number}").shuffle(items)
        own = {item: one.ratings[item] for item in items[:known]}
        asked = items[known:] if unseen else items
        stars = {item: one.ratings[item] for item in asked}
        ranked = order(own, asked)
        gains.append(ndcg(ranked, stars))
        if (chance := auc(ranked, stars)) is not None:
            chances.append(chance)
    return fmean(gains), fmean(chances)


def _items(those: Sequence[Person]) -> list[str]:
    return sorted({item for one in those for item in one.ratings})


def _blend(report: Report) -> None:
    """Popularity alone, own ratings alone, both: at 0, 1, 3 and 10 ratings of one's own."""
    counted, ranked = people(report)
    items = _items(counted)
    read = popular(task(items, RHO), counted, items, "0")
    rankers = {
        "popularity": by(read, local=False, cohort=False),
        "own ratings": by(None),
        "both": by(read, cohort=False),
        "both, by cohort": by(read),
    }
    print(f"aggregate of {len(counted):,}, ranked for {len(ranked):,}", file=sys.stderr)
    for name, order in rankers.items():
        for metric, at in (("NDCG@10", 0), ("AUC", 1)):
            figures = {f"{known} known": judge(order, ranked, known)[at] for known in KNOWN}
            report.row(f"{name}: {metric}", **figures)
    for known in (1, 10):
        both, own = (
            judge(rankers["both"], ranked, known),
            judge(rankers["own ratings"], ranked, known),
        )
        alone = judge(rankers["popularity"], ranked, known)
        report.goal(f"both over the better one, AUC at {known}", both[1], max(own[1], alone[1]))
    for name in ("popularity", "both, by cohort"):
        figures = {
            f"{known} known": judge(rankers[name], ranked, known, unseen=True)[1] for known in KNOWN
        }
        report.row(f"{name}: AUC of unseen items", **figures)


def _noise(report: Report) -> None:
    """What noise does to it, drawn with and without regard to the noise."""
    counted, ranked = people(report)
    items = _items(counted)
    for rho in RHOS:
        made = task(items, rho)
        aware, naive = [], []
        for seed in range(2 if report.quick else 5):
            read = popular(made, counted, items, f"{rho} {seed}")
            trusting = blend.Popular(
                read.reports, read.sizes, read.counts, 0.0, read.source
            )  # fmt: skip
            aware.append(judge(by(read), ranked, 3)[1])
            naive.append(judge(by(trusting), ranked, 3)[1])
        assert made.noise is not None
        report.row(
            f"rho {rho / privacy.MICRO:g}: AUC at 3 known",
            sigma=made.noise.sigma_milli / 1000,
            noise_aware=fmean(aware),
            taken_at_its_word=fmean(naive),
        )
        gap = fmean(aware) - fmean(naive)
        report.goal(f"rho {rho / privacy.MICRO:g}: gained by regard to noise", gap, 0)


PARTS: dict[str, Part] = {"blend": _blend, "noise": _noise}

if __name__ == "__main__":
    sys.exit(run("python -m bench.blend", __doc__, PARTS, None))
