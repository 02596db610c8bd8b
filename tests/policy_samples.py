"""A small bundle in which every noun of the model occurs, and changed copies of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from crypto.policy import FIRST, Bundle
from crypto.policy.access import Access, Grant, Role
from crypto.policy.cohorts import CohortRule, Comparison, Op, When
from crypto.policy.experiments import ExperimentRule
from crypto.policy.flags import Flag
from crypto.policy.generalise import Bucket, Day, Round, TopK
from crypto.policy.purposes import Purpose
from crypto.policy.retention import ServiceRetention
from crypto.policy.signals import Reach, Signal
from crypto.policy.tasks import TaskRule
from crypto.policy.values import (
    Boolean,
    Choices,
    Delta,
    Members,
    Number,
    Text,
    Values,
    Vector,
    Whole,
)

PUBLISHER_SEED: Final = b"\x51" * 32
ISSUED_MS: Final = 1_790_000_000_000
MICRO: Final = 1_000_000


def signal(name: str, values: Values, **changes: Any) -> Signal:
    """A signal called NAME, under the key NAME of the collection `app`, with all of its fields."""
    kind = "score" if isinstance(values, Delta) else "set" if isinstance(values, Members) else None
    made = Signal(
        name=name,
        kind=kind or "setting",
        collection="app",
        keys=(name,),
        values=values,
        generalise=(),
        purposes=("advice",),
        reach=Reach.SYNC,
        retention_days=90,
        half_life_days=None,
        text=f"What {name} is.",
    )
    return replace(made, **changes)


def bundle(**changes: Any) -> Bundle:
    """One that has everything; `changes` are fields of it."""
    made: dict[str, Any] = {
        "sequence": 1,
        "previous": FIRST,
        "title": "A policy for tests",
        "issued_ms": ISSUED_MS,
        "purposes": (
            Purpose("advice", "Shows what suits you first.", "Less to look through.", False),
            Purpose("statistics", "Counts, of many together.", "The menu gets better.", True),
        ),
        "signals": (
            signal("age", Whole(0, 120), generalise=(Bucket((0, 18 * MICRO, 65 * MICRO)),)),
            signal("opened", Whole(0, 4_000_000_000_000), generalise=(Day(),)),
            signal("distance", Number(0, 50 * MICRO), generalise=(Round(500_000),)),
            signal("spicy", Boolean()),
            signal("note", Text(140), reach=Reach.DEVICE),
            signal("model", Vector(8, -MICRO, MICRO)),
            signal(
                "region",
                Choices(("north", "south")),
                purposes=("advice", "statistics"),
                reach=Reach.AGGREGATE,
            ),
            signal(
                "taste",
                Delta(-MICRO, MICRO, 100 * MICRO),
                collection="taste",
                keys=("*",),
                generalise=(TopK(5),),
                purposes=("advice", "statistics"),
                reach=Reach.AGGREGATE,
                half_life_days=30,
            ),
            signal("saved", Members(50), collection="saved", keys=("soup", "cake")),
        ),
        "tasks": (
            TaskRule(
                "app/region", ("region",), "statistics", "histogram", 50, 100_000, 180,
                "region", "How many live where.",
            ),
            TaskRule(
                "ab/order", ("taste",), "statistics", "experiment", 50, 50_000, 90,
                None, "Which order people like better.",
            ),
        ),
        "flags": (
            Flag("stop-region", "kill", ("signal", "region"), False, 100, None),
            Flag("new-order", "feature", ("feature", "new-order"), True, 25, None),
            Flag("north", "feature", ("feature", "winter"), True, 100, ("region", "north")),
        ),
        "access": Access(
            (
                Role("operator", (), ("61" * 32,)),
                Role("reader", ("spiffe://example.org/ns/read/*",), ()),
            ),
            (
                Grant("device", "/rookery.v1.Sync/*", ("*",)),
                Grant("publisher", "/rookery.v1.Rounds/PublishTask", ("statistics",)),
                Grant("reader", "/rookery.v1.Rounds/GetResult", ("*",)),
            ),
        ),
        "cohorts": (
            CohortRule(
                "region", 1,
                (
                    When("north", True, (Comparison("region", Op.IS, "north"),)),
                    When("south", True, (Comparison("region", Op.IN, ("south",)),)),
                ),
                "none", "Where you live.",
            ),
            CohortRule(
                "liking", 2,
                (
                    When("hot", True, (Comparison("spicy", Op.IS, True),)),
                    When(
                        "soup", False,
                        (
                            Comparison("taste", Op.TOP_IN, ("soup", "stew")),
                            Comparison("taste", Op.AT_LEAST, 2, "soup"),
                            Comparison("taste", Op.COUNT_AT_LEAST, 9),
                            Comparison("saved", Op.IS, True, "soup"),
                            Comparison("age", Op.BELOW, 65),
                        ),
                    ),
                ),
                "mild", "How you like it.",
            ),
        ),
        "experiments": (
            ExperimentRule(
                "order", "ab/order", ("as-before", "new"), 50, 4_000,
                "Whether the new order is better.",
            ),
        ),
        "retention": ServiceRetention(365, 730, 30, 90, 14),
        "assessment": b"\x07" * 32,
    }  # fmt: skip
    return Bundle(**made | changes)
