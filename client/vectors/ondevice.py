"""Variants of experiments and cohorts: what all devices of an account must agree on."""

from __future__ import annotations

from collections.abc import Mapping

from client.intelligence.cohorts import cohort_of
from client.intelligence.experiments import assign
from client.vectors.fields import Entry, data, entry, expect, number, text
from client.vectors.world import World
from crypto.policy.cohorts import CohortRule
from crypto.policy.experiments import ExperimentRule


class _Signals:
    def __init__(self, signals: Entry) -> None:
        self._signals = signals

    def values(self, signal: str) -> Mapping[str, object]:
        return entry(self._signals.get(signal, {}))


def check_variant(_: World, row: Entry) -> None:
    """The variant that an account's secret draws; none where it is not in the experiment."""
    names = tuple(f"v{at}" for at in range(number(row, "variants")))
    rule = ExperimentRule(text(row, "name"), "ab/x", names, number(row, "percent"))
    expect("variant", assign(data(row, "secret"), rule), row.get("variant"))


def check_cohort(_: World, row: Entry) -> None:
    """The label of a profile by a rule, which has one plain form."""
    rule = CohortRule.of(dict(entry(row["rule"])))
    expect("rule", rule.plain(), row["rule"])
    expect("label", cohort_of(rule, _Signals(entry(row["signals"]))), text(row, "label"))
