"""What a bundle's parts say of each other must hold: nothing is named that is not there, and
nothing is used for what it is not declared for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from crypto.errors import FormatError
from crypto.policy import fields
from crypto.policy.access import ANY
from crypto.policy.cohorts import OPS_OF_MANY, CohortRule, Comparison, Op
from crypto.policy.experiments import ExperimentRule
from crypto.policy.flags import Flag
from crypto.policy.signals import Reach, Signal, check_apart
from crypto.policy.tasks import TaskRule
from crypto.policy.values import Boolean, Choices, Delta, Number, Text, Whole

if TYPE_CHECKING:
    from crypto.policy.document import Bundle


def check(bundle: Bundle) -> None:
    """FormatError that says which entry names what is not there, or uses what it may not."""
    check_apart(bundle.signals)
    judge = _Judge(bundle, {signal.name: signal for signal in bundle.signals})
    for number, signal in enumerate(bundle.signals, start=1):
        fields.under(f"signals, number {number}", partial(judge.signal, signal))
    for number, cohort in enumerate(bundle.cohorts, start=1):
        fields.under(f"cohorts, number {number}", partial(judge.cohort, cohort))
    for number, task in enumerate(bundle.tasks, start=1):
        fields.under(f"tasks, number {number}", partial(judge.task, task))
    for number, experiment in enumerate(bundle.experiments, start=1):
        fields.under(f"experiments, number {number}", partial(judge.experiment, experiment))
    for number, flag in enumerate(bundle.flags, start=1):
        fields.under(f"flags, number {number}", partial(judge.flag, flag))
    for number, grant in enumerate(bundle.access.grants, start=1):
        if grant.purposes != (ANY,):
            fields.under(f"grants, number {number}", partial(judge.purposes, grant.purposes))


@dataclass(frozen=True, slots=True)
class _Judge:
    bundle: Bundle
    by_name: dict[str, Signal]

    def purposes(self, named: Iterable[str]) -> None:
        _known("purpose", named, {purpose.name for purpose in self.bundle.purposes})

    def signal(self, signal: Signal) -> None:
        self.purposes(signal.purposes)

    def cohort(self, cohort: CohortRule) -> None:
        _known("signal", cohort.signals, self.by_name)
        for test in cohort.tests:
            self._comparison(test)

    def _comparison(self, test: Comparison) -> None:
        signal = self.by_name[test.signal]
        many = signal.keys == (ANY,) or len(signal.keys) > 1
        if test.op in OPS_OF_MANY:
            suits = many
        elif test.key is None:
            suits = not many
        else:
            suits = signal.covers(signal.collection, test.key)
        if not suits:
            raise FormatError(
                "cohort-key", "a comparison of one value has a key of its signal's, if it has many"
            )
        if not _comparable(test, signal):
            raise FormatError("cohort-value", "a comparison is with what its signal can't have")

    def task(self, task: TaskRule) -> None:
        self.purposes([task.purpose])
        self._read(task.signals, task.purpose)
        if any(self.by_name[name].reach is not Reach.AGGREGATE for name in task.signals):
            raise FormatError("task-reach", "a task reads only signals of reach aggregate")
        if task.result_days > self.bundle.retention.result_days:
            raise FormatError("task-retention", "a result can't be kept longer than retention says")
        if task.cohort is not None:
            rules = {rule.name: rule for rule in self.bundle.cohorts}
            _known("cohort", [task.cohort], rules)
            rule = rules[task.cohort]
            if not rule.signals <= set(task.signals):
                raise FormatError(
                    "task-cohort", "a task that counts by cohort lists the cohort's signals too"
                )

    def experiment(self, experiment: ExperimentRule) -> None:
        tasks = {task.source: task for task in self.bundle.tasks}
        _known("task", [experiment.task], tasks)
        if tasks[experiment.task].kind != "experiment":
            raise FormatError("experiment-task", "its task must be of kind experiment")

    def flag(self, flag: Flag) -> None:
        subject, name = flag.about
        known: dict[str, Collection[str]] = {
            "purpose": {purpose.name for purpose in self.bundle.purposes},
            "signal": self.by_name,
            "task": {task.source for task in self.bundle.tasks},
            # What features there are, the app knows.
            "feature": {name},
        }
        _known(subject, [name], known[subject])
        if flag.cohort is not None:
            labels = {rule.name: rule.labels for rule in self.bundle.cohorts}
            _known("cohort", [flag.cohort[0]], labels)
            if flag.cohort[1] not in labels[flag.cohort[0]]:
                raise FormatError("flag-cohort", "the cohort's rule has no such label")

    def _read(self, names: Iterable[str], purpose: str) -> None:
        names = list(names)
        _known("signal", names, self.by_name)
        if any(purpose not in self.by_name[name].purposes for name in names):
            raise FormatError(
                "signal-purpose", "it reads a signal for a purpose that the signal is not for"
            )


def _known(what: str, names: Iterable[str], known: Collection[str]) -> None:
    if any(name not in known for name in names):
        raise FormatError(f"{what}-unknown", f"there is no such {what}; declare it")


def _comparable(test: Comparison, signal: Signal) -> bool:
    """Whether a signal could have what it is compared with."""
    numeric = isinstance(signal.values, Whole | Number | Delta)
    match test.op:
        case Op.COUNT_AT_LEAST:
            return True
        case Op.AT_LEAST | Op.BELOW:
            return numeric
        case Op.TOP_IN:
            assert isinstance(test.value, tuple)
            return numeric and all(
                signal.covers(signal.collection, str(one)) for one in test.value
            )  # fmt: skip
    said = test.value if isinstance(test.value, tuple) else (test.value,)
    return all(_could_be(one, signal) for one in said)


def _could_be(value: bool | int | str, signal: Signal) -> bool:
    match signal.values:
        case Choices(choices=choices):
            return value in choices
        case Text():
            return type(value) is str
        case Boolean():
            return type(value) is bool
        case Whole() | Number():
            return signal.values.admits(value)
        case _:
            return signal.kind == "set" and value is True
