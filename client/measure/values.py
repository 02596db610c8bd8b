"""What a person says to a task, out of the profile, and in the numbers that its kind takes.

An app can register a function of its own for a task; by default the task's id names what is
read. Whatever comes out is checked by the kind: nothing outside its bounds is ever shared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from client.device import Device
from client.measure.errors import Ineligible
from crypto.errors import FormatError
from crypto.field import Array
from mpc.kinds import Experiment, Histogram, Kind, Multihot
from mpc.task import Task

_VERSION: Final = re.compile(r"/v[0-9]+\Z")


class Measure(Protocol):
    """An app's own way to answer a task."""

    def __call__(self, task: Task, device: Device, /, *, now_ms: int) -> object:
        """What is said, in words or numbers; None: this person has nothing to say to it.
        Ineligible: this device can't answer, for a reason."""
        ...


class Measures:
    """Who answers which task: what an app registered, or the profile."""

    def __init__(self, by_task: Mapping[str, Measure] | None = None) -> None:
        self._by_task = dict(by_task or {})
        self._by_source: dict[str, Measure] = {}

    def register(self, task_id: str, measure: Measure) -> None:
        """Answers tasks of this id from now on."""
        self._by_task[task_id] = measure

    def register_source(self, name: str, measure: Measure) -> None:
        """Answers tasks of this source, whatever their version, that no other measure answers."""
        self._by_source[name] = measure

    def source(self, task: Task) -> str | None:
        """What of the profile is read; None: an app's function decides."""
        return source(task) if self._registered(task) is None else None

    def of(self, task: Task, device: Device, *, now_ms: int) -> object:
        """What is said to this task; None: nothing. Ineligible where the measure says why not."""
        return (self._registered(task) or from_profile)(task, device, now_ms=now_ms)

    def _registered(self, task: Task) -> Measure | None:
        return self._by_task.get(task.task_id) or self._by_source.get(source(task))


def from_profile(task: Task, device: Device, *, now_ms: int) -> object:
    """What the profile holds under `source(task)`; nothing of the library's own records.

    `COLLECTION/KEY`, parted at the first slash, is that setting. `COLLECTION` alone is, for a
    kind with labels, those labels that are members of this set, or (if none is) that have the
    largest scores.
    """
    collection, slash, key = source(task).partition("/")
    if collection.startswith("."):
        return None
    if slash:
        return device.get(collection, key)
    kind = task.kind
    if isinstance(kind, Histogram):
        best = _top(kind.labels, device, collection, 1, now_ms)
        return best[0] if best else None
    if isinstance(kind, Multihot):
        members = [label for label in kind.labels if device.get(collection, label) is True]
        return members or _top(kind.labels, device, collection, kind.most, now_ms) or None
    return None


def source(task: Task) -> str:
    """What of the profile a task reads: its id. A last `/v2`, `/v3` and so on, which tells a task
    from its predecessor, is left out."""
    return _VERSION.sub("", task.task_id)


def _top(
    labels: Sequence[str], device: Device, collection: str, count: int, now_ms: int
) -> list[str]:
    """The labels with the largest scores above 0; of equal ones the first."""
    scores = device.scores(collection, now_ms=now_ms)
    scored = [label for label in labels if scores.get(label, 0) > 0]
    return sorted(scored, key=lambda label: -scores[label])[:count]


def encode(task: Task, said: object) -> Array:
    """The elements that are shared. Ineligible `value`: it names the bounds, not the value."""
    try:
        return task.kind.encode(_in_numbers(task.kind, said))
    except FormatError as error:
        raise Ineligible("value", f"what is here does not fit the task: {error.message}") from None


def _in_numbers(kind: Kind, said: Any) -> object:
    """Labels become the numbers of their bins; all else is left to the kind to refuse."""
    match kind:
        case Histogram(labels=labels):
            return _number(said, labels)
        case Multihot(labels=labels):
            many = isinstance(said, list | tuple | set | frozenset)
            return [_number(one, labels) for one in said] if many else said
        case Experiment(labels=labels):
            if not isinstance(said, dict) or set(said) != {"variant", "value"}:
                raise FormatError("value", "the value must have a variant and a value")
            return _number(said["variant"], labels), said["value"]
        case _:
            return said


def _number(said: object, labels: Sequence[str]) -> object:
    if not isinstance(said, str):
        return said
    if said not in labels:
        raise FormatError("value", "it is none of the task's labels")
    return labels.index(said)
