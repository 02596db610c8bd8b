"""Rules of cohorts and experiments in their plain form: what is read, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from crypto import canonical
from crypto.errors import FormatError
from crypto.policy import cohorts, experiments
from crypto.policy.cohorts import CohortRule
from crypto.policy.experiments import ExperimentRule

RULE: dict[str, Any] = {
    "name": "taste",
    "version": 2,
    "cohorts": [
        {"label": "coast", "any": [{"signal": "region", "in": ["pacific", "atlantic"]}]},
        {
            "label": "explorer",
            "all": [
                {"signal": "rating", "count_at_least": 12},
                {"signal": "rating", "key": "thai", "at_least": 4},
                {"signal": "rating", "top_in": ["thai", "lao"]},
                {"signal": "adult", "is": True},
                {"signal": "visits", "below": 9},
            ],
        },
    ],
    "otherwise": "other",
    "text": "How people eat.",
}
TRIAL: dict[str, Any] = {
    "name": "home-first",
    "task": "trial/home-first",
    "variants": ["as-before", "home-first"],
    "percent": 50,
    "reports_planned": 2_000,
    "text": "Home cuisine first.",
}


def test_a_rule_survives_its_canonical_form() -> None:
    """Plain form, canonical CBOR and back give the same rule, at the stated depth."""
    rule = CohortRule.of(RULE)
    data = canonical.encode(rule.plain(), depth=cohorts.PLAIN_DEPTH)
    assert CohortRule.of(canonical.decode(data, depth=cohorts.PLAIN_DEPTH)) == rule
    assert rule.labels == ("coast", "explorer", "other")
    assert rule.signals == {"region", "rating", "adult", "visits"}


def test_an_experiment_survives_its_canonical_form() -> None:
    """Plain form, canonical CBOR and back give the same experiment, at the stated depth."""
    trial = ExperimentRule.of(TRIAL)
    data = canonical.encode(trial.plain(), depth=experiments.PLAIN_DEPTH)
    assert ExperimentRule.of(canonical.decode(data, depth=experiments.PLAIN_DEPTH)) == trial


def _with(test: dict[str, Any]) -> dict[str, Any]:
    return RULE | {"cohorts": [{"label": "a", "all": [test]}]}


@pytest.mark.parametrize(
    ("plain", "rule"),
    [
        (RULE | {"version": 0}, "cohort-version"),
        (RULE | {"name": "Taste!"}, "name"),
        (RULE | {"otherwise": 3}, "name"),
        (RULE | {"cohorts": []}, "cohort-labels"),
        (RULE | {"cohorts": {}}, "cohort"),
        (RULE | {"more": 1}, "cohort"),
        ({"name": "taste"}, "cohort"),
        (["taste"], "cohort"),
        (RULE | {"cohorts": [{"label": "a", "all": []}]}, "cohort-tests"),
        (RULE | {"cohorts": [{"label": "a", "all": [], "any": []}]}, "cohort-label"),
        (RULE | {"cohorts": [{"label": "a", "all": "x"}]}, "cohort-tests"),
        (_with({"signal": "rating"}), "cohort-op"),
        (_with({"signal": "rating", "is": 1, "in": [1]}), "cohort-op"),
        (_with({"signal": "rating", "like": 1}), "cohort-op"),
        (_with({"signal": "rating", "is": 1, "else": 1}), "cohort-test"),
        (_with({"signal": "rating", "is": 1.5}), "cohort-value"),
        (_with({"signal": "rating", "is": [1]}), "cohort-value"),
        (_with({"signal": "rating", "in": []}), "cohort-value"),
        (_with({"signal": "rating", "top_in": [1]}), "cohort-value"),
        (_with({"signal": "rating", "at_least": "4"}), "cohort-value"),
        (_with({"signal": "rating", "at_least": True}), "cohort-value"),
        (_with({"signal": "rating", "at_least": 1 << 54}), "cohort-value"),
        (_with({"signal": "rating", "count_at_least": 0}), "cohort-value"),
        (_with({"signal": "rating", "key": "a", "count_at_least": 1}), "cohort-key"),
    ],
)
def test_what_is_no_rule_is_refused_by_name(plain: object, rule: str) -> None:
    """Each way to be wrong has its own rule's name, or that of the names."""
    with pytest.raises(FormatError) as refused:
        CohortRule.of(plain)
    assert refused.value.rule == rule


@pytest.mark.parametrize(
    ("plain", "rule"),
    [
        (TRIAL | {"variants": ["one"]}, "experiment-variants"),
        (TRIAL | {"variants": ["one", "one"]}, "experiment-variants"),
        (TRIAL | {"variants": "ab"}, "experiment-variants"),
        (TRIAL | {"percent": 101}, "experiment-range"),
        (TRIAL | {"reports_planned": -1}, "experiment-range"),
        (TRIAL | {"reports_planned": True}, "experiment-range"),
        (TRIAL | {"text": 1}, "experiment-text"),
        (TRIAL | {"arms": 2}, "experiment"),
        ({"name": "x"}, "experiment"),
        (TRIAL | {"task": ""}, "name"),
    ],
)
def test_what_is_no_experiment_is_refused_by_name(plain: object, rule: str) -> None:
    """Each way to be wrong has its own rule's name, or that of the names."""
    with pytest.raises(FormatError) as refused:
        ExperimentRule.of(plain)
    assert refused.value.rule == rule
