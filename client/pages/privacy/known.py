"""What the device holds of its person: each value with where it came from and where it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from client import snapshot
from client.device import Device
from client.intelligence import exposures
from client.origins import Origin
from client.pages.privacy import words
from client.snapshot import Item, Kind
from crypto.policy.document import Bundle
from crypto.policy.generalise import DAY_MS
from crypto.policy.signals import Signal


@dataclass(frozen=True, slots=True)
class Held:
    """One value. Its repr hides which."""

    collection: str
    key: str
    kind: str
    """`setting`, `score` or `experiment`: how it is removed."""
    value: str
    source: str
    """Which device it comes from."""
    recorded: str
    kept_until: str
    moved: str
    """What it does to the ranking, in words; empty: nothing."""

    def __repr__(self) -> str:
        return "Held(content hidden)"


@dataclass(frozen=True, slots=True)
class Group:
    """The values of one declared signal, or what the policy does not declare."""

    name: str
    text: str
    reach: str
    purposes: tuple[str, ...]
    held: tuple[Held, ...] = field(repr=False)


UNDECLARED = "not in the policy"
TRIALS = "experiments"
TRIAL = "experiment"
"""How a record of an experiment is removed."""


def groups(
    device: Device, bundle: Bundle | None, moved: Mapping[tuple[str, str], str], *, now_ms: int
) -> list[Group]:
    """All that is held, by signal in the policy's order; declared signals of which nothing is
    held are named too. `moved`: by collection and key."""
    items = list(snapshot.take(device, now_ms=now_ms, undeclared=True).values())
    found: list[Group] = []
    signals = () if bundle is None else bundle.signals
    for signal in signals:
        mine = [one for one in items if _is_of(signal, one)]
        rows = tuple(_held(device, one, signal, moved) for one in mine)
        reach = words.REACH[str(signal.reach)]
        found.append(Group(signal.name, signal.text, reach, signal.purposes, rows))
    found += _trials(device, bundle)
    rest = [one for one in items if not any(_is_of(signal, one) for signal in signals)]
    if rest:
        text = (
            "No policy is held by this device, so everything that apps stored is here."
            if bundle is None
            else "Stored before the policy, or declared by it no more. It is used for nothing,"
            " and removed after a while."
        )
        rows = tuple(_held(device, one, None, moved) for one in rest)
        found.append(Group(UNDECLARED, text, words.REACH["sync"], (), rows))
    return found


def _trials(device: Device, bundle: Bundle | None) -> list[Group]:
    """What devices keep of experiments; nothing if there is none."""
    rows = []
    for key, one in exposures.records(device):
        rule = None if bundle is None else bundle.experiment(exposures.experiment_of(key))
        until = None if rule is None else one.shown_ms + rule.days * DAY_MS
        number = exposures.device_of(key)
        mine = any(row.this_device and row.index == number for row in device.devices)
        rows.append(
            Held(
                collection=exposures.COLLECTION,
                key=key,
                kind=TRIAL,
                value=f"{one.variant} was shown; {one.outcome:,} came of it",
                source="this device" if mine else f"device #{number}",
                recorded=words.day(one.shown_ms),
                kept_until=words.day(until),
                moved="",
            )
        )
    rules = {exposures.experiment_of(row.key) for row in rows}
    tasks = (
        []
        if bundle is None
        else [bundle.task_for(rule.task) for rule in bundle.experiments if rule.name in rules]
    )
    purposes = tuple(sorted({task.purpose for task in tasks if task is not None}))
    text = "Which variant of an experiment you were shown, and what came of it. It leaves your"
    text += " devices in joint aggregates only."
    group = Group(TRIALS, text, words.REACH["aggregate"], purposes, tuple(rows))
    return [group] if rows else []


def _is_of(signal: Signal, item: Item) -> bool:
    return signal.covers(item.collection, item.key) and (
        (signal.kind == "score") == (item.kind is Kind.SCORE)
    )


def _held(
    device: Device, item: Item, signal: Signal | None, moved: Mapping[tuple[str, str], str]
) -> Held:
    origins = _origins(device, item)
    at_ms = max((one.at_ms for one in origins), default=None)
    until = None if at_ms is None or signal is None else at_ms + signal.retention_days * DAY_MS
    return Held(
        collection=item.collection,
        key=item.key,
        kind=item.kind.value,
        value=words.value(item.value),
        source=_source(device, origins),
        recorded=words.day(at_ms),
        kept_until=words.day(until),
        moved=moved.get((item.collection, item.key), ""),
    )


def _origins(device: Device, item: Item) -> list[Origin]:
    if item.kind is Kind.SCORE:
        return [origin for _, origin in device.origins.parts(item.collection, item.key)]
    found = device.origins.setting(item.collection, item.key)
    return [] if found is None else [found]


def _source(device: Device, origins: list[Origin]) -> str:
    indexes = sorted({index for one in origins for index in one.devices})
    waiting = any(one.waiting for one in origins)
    return (words.written_by(device, indexes) or "unknown") + (", not sent yet" if waiting else "")
