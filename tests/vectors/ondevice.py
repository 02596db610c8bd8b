"""What all devices of an account must agree on: variants of experiments, and cohorts by a rule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from client.intelligence.cohorts import cohort_of
from client.intelligence.experiments import assign
from crypto.policy.cohorts import CohortRule, Comparison, Op, When
from crypto.policy.experiments import ExperimentRule
from tests.vectors.story import Row, seeded

_RULE: Final = CohortRule(
    "style",
    1,
    (
        When("coast", True, (Comparison("region", Op.IN, ("north", "süd")),)),
        When("explorer", False, (Comparison("rating", Op.COUNT_AT_LEAST, 3),
                                 Comparison("rating", Op.AT_LEAST, 5, "lao"))),
        When("cosy", True, (Comparison("taste", Op.TOP_IN, ("soup", "stew")),)),
        When("new", True, (Comparison("visits", Op.BELOW, 2),)),
        When("saver", True, (Comparison("saved", Op.IS, True, "cake"),)),
    ),
    "other",
    "",
)  # fmt: skip
_PROFILES: Final[tuple[dict[str, dict[str, Any]], ...]] = (
    {},
    {"region": {"region": "süd"}, "visits": {"visits": 1}},
    {"region": {"region": "west"}, "rating": {"lao": 5}},
    {"rating": {"a": 1, "b": 1, "c": 1}},
    {"rating": {"lao": 4, "b": 5}, "taste": {"stew": 2.5, "cake": 2}},
    {"taste": {"cake": 2, "stew": 2}, "visits": {"visits": 2}},
    {"taste": {"soup": 2, "stew": 2}},
    {"visits": {"visits": 0}},
    {"visits": {"visits": False}, "saved": {"cake": True}},
    {"visits": {"visits": 9, "more": 1}, "saved": {"soup": True}},
)


class _Signals:
    def __init__(self, profile: dict[str, dict[str, Any]]) -> None:
        self._profile = profile

    def values(self, signal: str) -> dict[str, Any]:
        return self._profile.get(signal, {})


def positives() -> dict[str, list[Row]]:
    """Draws of variants, and labels of profiles."""
    cohorts: list[Row] = [
        {"rule": _RULE.plain(), "signals": one, "label": cohort_of(_RULE, _Signals(one))}
        for one in _PROFILES
    ]
    return {"variants": list(_variants()), "cohorts": cohorts}


def _variants() -> Iterator[Row]:
    """`variant` is left out where the account is not in the experiment."""
    for at in range(12):
        secret = seeded(f"variants/{at}")
        names = tuple(f"v{number}" for number in range(2 + at % 3))
        rule = ExperimentRule(f"trial/{at % 4}", "ab/x", names, (100, 50, 10)[at % 3])
        drawn = assign(secret, rule)
        row: Row = {
            "secret": secret.hex(),
            "name": rule.name,
            "variants": len(names),
            "percent": rule.percent,
        }
        yield row if drawn is None else row | {"variant": drawn}
