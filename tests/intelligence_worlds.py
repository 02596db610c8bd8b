"""A policy under which food is rated, and a person's switches: for tests of what a device makes
of its profile. Shared by tests; the bundle is a real one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from crypto.policy import Bundle
from crypto.policy.cohorts import CohortRule, Comparison, Op, When
from crypto.policy.experiments import ExperimentRule
from crypto.policy.flags import Flag
from crypto.policy.purposes import Purpose
from crypto.policy.signals import Reach, Signal
from crypto.policy.tasks import TaskRule
from crypto.policy.values import Choices, Delta, Members, Values, Whole
from tests import policy_samples

ADVICE: Final = "advice"
PRODUCT: Final = "product"
"""The purpose of the tasks that tests of measuring use."""
DAY_MS: Final = 86_400_000
MICRO: Final = 1_000_000
ITEMS: Final = ("georgian", "lao", "thai")
POPULAR: Final = "popular/cuisine-by-style"
TRIAL: Final = "ab/home-first"
BOTH: Final = (ADVICE, PRODUCT)
STYLE: Final = CohortRule(
    "style",
    1,
    (
        When("coast", True, (Comparison("region", Op.IN, ("pacific", "atlantic")),)),
        When(
            "explorer",
            False,
            (
                Comparison("rating", Op.COUNT_AT_LEAST, 3),
                Comparison("rating", Op.AT_LEAST, 5, "lao"),
            ),
        ),
        When("cosy", True, (Comparison("taste", Op.TOP_IN, ("soup", "stew")),)),
        When("new", True, (Comparison("visits", Op.BELOW, 2),)),
        When("saver", True, (Comparison("saved", Op.IS, True, "cake"),)),
    ),
    "other",
    "How you eat.",
)
HOME_FIRST: Final = ExperimentRule(
    "home-first", TRIAL, ("as-before", "home-first"), 100, 2_000, "Home cuisine first."
)


def signal(name: str, kind: str, values: Values, **changes: Any) -> Signal:
    """Of a collection that has its name, under any key, for both purposes."""
    fields: dict[str, Any] = {
        "collection": name,
        "keys": ("*",),
        "generalise": (),
        "purposes": BOTH,
        "reach": Reach.AGGREGATE,
        "retention_days": 400,
        "half_life_days": None,
        "text": f"What {name} is.",
    }
    return Signal(name=name, kind=kind, values=values, **fields | changes)


SIGNALS: Final = (
    signal(
        "region", "setting", Choices(("pacific", "atlantic", "inland")),
        collection="about", keys=("region",),
    ),
    signal("visits", "setting", Whole(0, 1000), collection="about", keys=("visits",)),
    signal("rating", "setting", Whole(1, 5)),
    signal("taste", "score", Delta(-MICRO, MICRO, 100 * MICRO), half_life_days=30),
    signal("saved", "set", Members(50)),
    signal("rating.hidden", "set", Members(50), purposes=(ADVICE,), reach=Reach.SYNC),
    signal(
        "rating.at.evening", "score", Delta(-MICRO, MICRO, 100 * MICRO),
        purposes=(ADVICE,), reach=Reach.DEVICE,
    ),
)  # fmt: skip


def bundle(**changes: Any) -> Bundle:
    """The policy; `changes` are fields of it."""
    names = tuple(one.name for one in SIGNALS if PRODUCT in one.purposes)
    made: dict[str, Any] = {
        "purposes": (
            Purpose(ADVICE, "Shows what suits you first.", "Less to look through.", False),
            Purpose(PRODUCT, "Counts, of many together.", "The menu gets better.", False),
        ),
        "signals": SIGNALS,
        "tasks": (
            TaskRule(
                POPULAR, names, PRODUCT, "multihot", 20, 1_000_000, 180,
                "style", "What is liked, by how people eat.",
            ),
            TaskRule(
                TRIAL, ("rating",), PRODUCT, "experiment", 20, 1_000_000, 90,
                None, "Whether home cuisine comes first.",
            ),
        ),
        "flags": (),
        "cohorts": (STYLE,),
        "experiments": (HOME_FIRST,),
    }  # fmt: skip
    access = policy_samples.bundle().access
    grants = tuple(one for one in access.grants if one.purposes == ("*",))
    made["access"] = type(access)(access.roles, grants)
    return policy_samples.bundle(**made | changes)


def kill(subject: str, name: str) -> Flag:
    """A switch that stops something everywhere."""
    return Flag(f"stop-{name.replace('/', '-')}", "kill", (subject, name), True, 100, None)


@dataclass
class Switches:
    """What a person agreed to."""

    on: set[str] = field(default_factory=lambda: set(BOTH))
    paused: bool = False

    def allows(self, purpose: str) -> bool:
        """Whether it is on."""
        return purpose in self.on
