"""Which cohort a person is in, by a published rule, worked out on the device and kept nowhere.

A cohort is never sent by itself. All that a device says of it is a bin of a joint aggregate,
which opens only with at least `k_min` reports and with noise: this is the one place that turns
a profile into a label, and what it returns to is either this device or such a contribution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from client.device import Device
from client.intelligence import facts
from client.intelligence.recipe import Recipe
from client.intelligence.uses import PolicyUses
from client.measure.errors import Ineligible
from crypto.policy import Bundle
from crypto.policy.cohorts import CohortRule, Comparison, Op, When
from crypto.policy.signals import Signal
from mpc.kinds import Histogram, Multihot
from mpc.task import Task

K_MIN_LEAST: Final = 20
"""A cohort is not told in a round that could open over fewer reports."""
EVERYBODY: Final = "*"
"""The item that stands for all who are in a cohort. No record can have this name."""
_PARTED: Final = "|"
_VERSION: Final = re.compile(r"/v([1-9][0-9]*)\Z")


class SignalValues(Protocol):
    """What may be read of a signal."""

    def values(self, signal: str) -> Mapping[str, object]:
        """By key: settings as they are, scores as numbers, members as True. Empty: nothing is
        known, or nothing may be used."""
        ...


# --- what a rule says ---


def cohort_of(rule: CohortRule, signals: SignalValues) -> str:
    """The label of the first entry whose comparisons hold; `otherwise` if none does."""
    read: dict[str, Mapping[str, object]] = {}
    for one in rule.cohorts:
        if _holds(one, signals, read):
            return one.label
    return rule.otherwise


def _holds(one: When, signals: SignalValues, read: dict[str, Mapping[str, object]]) -> bool:
    each = (_compare(test, _read(test.signal, signals, read)) for test in one.tests)
    return all(each) if one.every else any(each)


def _read(
    name: str, signals: SignalValues, read: dict[str, Mapping[str, object]]
) -> Mapping[str, object]:
    if name not in read:
        read[name] = signals.values(name)
    return read[name]


def _compare(test: Comparison, values: Mapping[str, object]) -> bool:
    if test.op is Op.COUNT_AT_LEAST:
        assert type(test.value) is int
        return len(values) >= test.value
    if test.op is Op.TOP_IN:
        assert isinstance(test.value, tuple)
        return _top(values) in test.value
    if test.key is None and len(values) != 1:
        return False
    value = next(iter(values.values())) if test.key is None else values.get(test.key)
    match test.op, test.value:
        case Op.IS, wanted:
            return type(value) is type(wanted) and value == wanted
        case Op.IN, tuple(choices):
            return any(type(value) is type(one) and value == one for one in choices)
        case Op.AT_LEAST, int(bound):
            return _is_number(value) and value >= bound  # type: ignore[operator]
        case Op.BELOW, int(bound):
            return _is_number(value) and value < bound  # type: ignore[operator]
    raise AssertionError(test.op)


def _top(values: Mapping[str, object]) -> str | None:
    """The key with the largest number; of equal ones the first by name."""
    numbers = {key: value for key, value in values.items() if _is_number(value)}
    return min(numbers, key=lambda key: (-numbers[key], key), default=None)  # type: ignore[operator]


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


# --- what a device reads for it ---


class DeviceSignals:
    """The profile of a governed device, as far as it may be used for a purpose."""

    def __init__(self, device: Device, bundle: Bundle, uses: PolicyUses, *, now_ms: int) -> None:
        self._device = device
        self._bundle = bundle
        self._uses = uses
        self._now_ms = now_ms

    def values(self, signal: str) -> Mapping[str, object]:
        """As `SignalValues` says."""
        declared = self._bundle.signal(signal)
        use = None if declared is None else self._uses.use(declared)
        if declared is None or use is None:
            return {}
        held = self._held(declared, use.half_life_ms)
        return {key: value for key, value in held.items() if value is not None}

    def _held(self, signal: Signal, half_life_ms: int | None) -> dict[str, object]:
        device, name = self._device, signal.collection
        held: Mapping[str, object]
        if signal.kind == "score":
            held = device.scores(name, now_ms=self._now_ms, half_life_ms=half_life_ms)
        elif signal.kind == "set":
            held = dict.fromkeys(device.members(name), True)
        else:
            held = device.list(name)
        return {key: held[key] for key in sorted(held) if signal.covers(name, key)}


# --- what it says to a task ---


def joint_labels(rule: CohortRule, items: Sequence[str]) -> tuple[str, ...]:
    """The bins of a task that counts items by cohort: each cohort's size, then its items."""
    return tuple(
        f"{cohort}{_PARTED}{item}" for cohort in rule.labels for item in (EVERYBODY, *items)
    )


def parse_label(label: str) -> tuple[str, str] | None:
    """(cohort, item) of a bin's label; None for another sort of label."""
    cohort, parted, item = label.partition(_PARTED)
    return (cohort, item) if cohort and parted and item else None


def version_of(task_id: str) -> int:
    """A task's version: that of the cohort rule whose labels it counts."""
    found = _VERSION.search(task_id)
    return int(found[1]) if found else 1


@dataclass(frozen=True, slots=True)
class CohortMeasure:
    """Answers one task that counts by cohort (a `client.measure.values.Measure`).

    The task is a histogram over the rule's labels; or over `joint_labels`, a histogram of the
    favourite item, or a multihot of the cohort's own bin and of the items that are liked most.
    """

    rule: CohortRule
    bundle: Bundle
    uses: PolicyUses
    recipe: Recipe | None = None
    """What makes an item liked, for tasks that count items."""
    k_min_least: int = K_MIN_LEAST

    def __call__(self, task: Task, device: Device, /, *, now_ms: int) -> object:
        """What is said; None if nothing may be used for the task's purpose. Ineligible for a
        task that does not keep a cohort among enough people, or has other bins."""
        kind = task.kind
        if not isinstance(kind, Histogram | Multihot):
            raise Ineligible("cohort-kind", "a cohort is told as a bin of a joint aggregate only")
        if task.k_min < self.k_min_least:
            raise Ineligible(
                "cohort-k-min", f"a cohort is told among {self.k_min_least} reports at least"
            )
        if version_of(task.task_id) != self.rule.version:
            raise Ineligible(
                "cohort-version", "the task counts by another version of the cohort rule"
            )
        items = self._items(kind.labels)
        if not self.uses.open:
            return None
        signals = DeviceSignals(device, self.bundle, self.uses, now_ms=now_ms)
        cohort = cohort_of(self.rule, signals)
        if items is None:
            return [cohort] if isinstance(kind, Multihot) else cohort
        most = kind.most - 1 if isinstance(kind, Multihot) else 1
        liked = self._liked(device, items, now_ms)[:most]
        if isinstance(kind, Multihot):
            return [f"{cohort}{_PARTED}{item}" for item in (EVERYBODY, *liked)]
        return f"{cohort}{_PARTED}{liked[0]}" if liked else None

    def _items(self, labels: Sequence[str]) -> tuple[str, ...] | None:
        """The items that a task counts; None: it counts cohorts alone."""
        if tuple(labels) == self.rule.labels:
            return None
        pairs = [pair for label in labels if (pair := parse_label(label)) is not None]
        items = tuple(dict.fromkeys(item for _, item in pairs if item != EVERYBODY))
        if not items or tuple(labels) != joint_labels(self.rule, items):
            raise Ineligible("cohort-labels", "the task's bins are not those of the cohort rule")
        return items

    def _liked(self, device: Device, items: Sequence[str], now_ms: int) -> list[str]:
        """Items that more speaks for than against, the strongest first, by name among equals."""
        if self.recipe is None:
            return []
        taken = facts.take(device, self.recipe, self.uses, now_ms=now_ms)
        units = {
            item: sum(fact.units for fact in taken.by_item.get(item, ())) for item in items
        }  # fmt: skip
        liked = [item for item in items if units[item] > 0]
        return sorted(liked, key=lambda item: (-units[item], item))
