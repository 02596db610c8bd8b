"""What the demo measures: three tasks, how a profile gives their values, and the truth.

The devices compute values from their own profiles. The demo made these people up or read them
from a file, so it can compute the same without any device: that is the column of truth.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from client.demo.people import ABOUT, RATINGS, REGION
from client.demo.ratings import Person, Population
from client.device import Device
from crypto.field import FIELD61
from crypto.policy.tasks import source_of
from crypto.primitives import hash_
from mpc import kinds, privacy
from mpc.kinds import Kind
from mpc.noise import GAUSSIAN_SHARE_VARIANCE_MIN, MILLI, Law, Mechanism
from mpc.tail_params import AsTheyAre
from mpc.task import KAPPA, Caps, Task

PURPOSE: Final = "statistics"
CUISINES: Final = "demo/favourite-by-region"
RATING: Final = "demo/mean-rating"
EXPERIMENT: Final = "demo/experiment"
VARIANTS: Final = ("as before", "home first")
STARS: Final = (1, 5)
RHO_MICRO, RHO_MICRO_FEW = 50_000, 200_000
"""What one round may cost: rho = 0.05; 0.2 among so few people that noise would hide all."""
FEW: Final = 500
PARTIES, CORRUPT = 3, 1
REPORTS_MAX = 100_000
K_MIN_MAX: Final = 100
_REGIONS_MAX, _ITEMS_MAX = 32, 64
_NAME_CHARS = 30
_OTHER = "other"
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What a publisher knows beforehand: which regions and cuisines there are."""

    regions: tuple[str, ...]
    items: tuple[str, ...]

    @classmethod
    def of(cls, population: Population) -> Catalogue:
        """Everything that occurs, by name; of very many the last ones are one, `other`."""
        regions = {person.region for person in population.people}
        items = {item for person in population.people for item in person.ratings}
        return cls(_names(regions, _REGIONS_MAX), _names(items, _ITEMS_MAX))

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the bins of favourites: region and cuisine. The task itself has none: what is
        found of these words at a server was a person's."""
        return tuple(
            f"{_short(region, at)}, {_short(item, place)}"
            for at, region in enumerate(self.regions)
            for place, item in enumerate(self.items)
        )

    def bin_of(self, region: str, item: str) -> int:
        """Where a favourite is counted."""
        return _place(self.regions, region) * len(self.items) + _place(self.items, item)


def _names(found: Collection[str], most: int) -> tuple[str, ...]:
    names = sorted(found)
    return tuple(names if len(names) <= most else [*names[: most - 1], _OTHER])


def _place(names: tuple[str, ...], name: str) -> int:
    return names.index(name) if name in names else len(names) - 1


def _short(name: str, at: int) -> str:
    return name if len(name) <= _NAME_CHARS else f"{name[: _NAME_CHARS - 4]}~{at}"


def favourite(ratings: Mapping[str, int]) -> str:
    """The best rated, by name among equals."""
    return min(ratings, key=lambda item: (-ratings[item], item))


def mean_tenths(ratings: Mapping[str, int]) -> int:
    """Of a person's ratings."""
    return round(10 * sum(ratings.values()) / len(ratings))


def trial(ratings: Mapping[str, int], account_id: bytes) -> tuple[int, int]:
    """The variant that a person is shown, and how they rate one dish of theirs.

    By chance, and the same on all devices of an account. The effect is planted: every other
    person who is shown the second variant gives one star more, up to five.
    """
    variant, pleased, dish = hash_(EXPERIMENT.encode(), account_id, 16)[:3]
    stars = sorted(ratings.items())[dish % len(ratings)][1]
    lift = (variant % 2) * (pleased % 2)
    return variant % 2, min(STARS[1], stars + lift)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person says to each task."""

    catalogue: Catalogue

    def of(self, task_id: str, region: str, ratings: Mapping[str, int], account: bytes) -> Any:
        """The value for a task of the demo, whatever its version."""
        source = source_of(task_id)
        if source == CUISINES:
            return self.catalogue.bin_of(region, favourite(ratings))
        if source == RATING:
            return mean_tenths(ratings)
        return trial(ratings, account)

    def of_person(self, task_id: str, person: Person, account: bytes) -> Any:
        """The truth."""
        return self.of(task_id, person.region, person.ratings, account)

    def measure(self, task: Task, device: Device, *, now_ms: int) -> object:
        """What a device reads from its profile; None from one that has no ratings."""
        ratings = {
            item: value for item, value in device.list(RATINGS).items() if type(value) is int
        }
        # The policy says which task reads what: of the others the region can't even be read.
        region = device.get(ABOUT, REGION) if source_of(task.task_id) == CUISINES else ""
        if not ratings or not isinstance(region, str):
            return None
        said = self.of(task.task_id, region, ratings, device.account_id)
        if source_of(task.task_id) != EXPERIMENT:
            return said
        variant, stars = said
        return {"variant": variant, "value": stars}


def rho_micro(people: int) -> int:
    """What a round of the demo may cost."""
    return RHO_MICRO if people >= FEW else RHO_MICRO_FEW


def k_min(people: int) -> int:
    """How many answers a round of the demo needs at least."""
    return max(2, min(K_MIN_MAX, people // 2))


def tasks(catalogue: Catalogue, *, people: int, window_ms: int, now_ms: int) -> tuple[Task, ...]:
    """Favourite cuisine by region, mean rating with variance, an experiment with a planted
    effect: each with the noise that makes a round cost what `rho_micro` says."""
    rho = rho_micro(people)
    bins = len(catalogue.labels)
    return tuple(
        _task(
            task_id, title, params, rho=rho, window_ms=window_ms, now_ms=now_ms, k_min=k_min(people)
        )
        for task_id, title, params in (
            (
                CUISINES,
                "Favourite cuisine by region",
                {"name": "histogram", "bins": bins, "labels": []},
            ),
            (
                RATING,
                "Mean rating, in tenths of a star",
                {
                    "name": "mean", "low": 10 * STARS[0], "high": 10 * STARS[1], "variance": True,
                },
            ),
            (
                EXPERIMENT,
                "Stars for one dish, by variant",
                {
                    "name": "experiment", "variants": len(VARIANTS), "labels": list(VARIANTS),
                    "low": STARS[0], "high": STARS[1],
                },
            ),
        )
    )  # fmt: skip


def _task(
    task_id: str,
    title: str,
    params: dict[str, Any],
    *,
    rho: int,
    window_ms: int,
    now_ms: int,
    k_min: int,
) -> Task:
    law = _law(kinds.make(params, FIELD61), rho)
    reach = law.reach(present=CORRUPT + 1, t=CORRUPT)
    field = kinds.smallest_field(params, REPORTS_MAX, reach)
    return Task(
        task_id=task_id,
        title=title,
        purpose=PURPOSE,
        kind=kinds.make(params, field),
        kappa=KAPPA[field.bits][0],
        window_ms=window_ms,
        grace_ms=0,
        reports_max=REPORTS_MAX,
        k_min=k_min,
        noise=law,
        caps=Caps(2 * rho, _DAY_MS, 10 * rho),
        m=PARTIES,
        t=CORRUPT,
        tail=AsTheyAre(),
        expires_ms=now_ms + 30 * _DAY_MS,
    )


def _law(kind: Kind, rho: int) -> Law:
    """The least noise with which opening the kind's sums costs at most so much."""
    least = GAUSSIAN_SHARE_VARIANCE_MIN * (PARTIES - CORRUPT)
    variance = max(Fraction(kind.l2_squared * privacy.MICRO, 2 * rho), Fraction(least))
    sigma_milli = math.isqrt(math.ceil(MILLI**2 * variance)) + 1
    while True:
        law = Law(Mechanism.GAUSSIAN, sigma_milli)
        cost = privacy.cost(
            law, l1=kind.l1, l2_squared=kind.l2_squared, outputs=kind.d, parties=PARTIES, t=CORRUPT
        )
        if cost <= rho:
            return law
        sigma_milli += 1 + sigma_milli // 10_000
