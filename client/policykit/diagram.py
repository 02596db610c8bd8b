"""The data-flow diagram of a bundle, in Mermaid: what is recorded, where it goes, who sees what.

Drawn from the bundle alone, so that it can't say anything else than what is enforced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from client.policykit import words
from crypto.policy import Bundle
from crypto.policy.signals import Reach, Signal
from crypto.policy.tasks import TaskRule

_READ: Final = "/rookery.v1.Rounds/GetResult"
_SUBGRAPHS: Final = (
    (Reach.DEVICE, "stays on the device that recorded it"),
    (Reach.SYNC, "shared by the account's devices"),
    (Reach.AGGREGATE, "shared by the account's devices, and asked for by tasks"),
)


def draw(bundle: Bundle) -> str:
    """The diagram, with a line end after each line."""
    return "".join(f"{line}\n" for line in _lines(bundle))


def _lines(bundle: Bundle) -> Iterator[str]:
    nodes = {signal.name: f"s{at}" for at, signal in enumerate(bundle.signals)}
    yield "flowchart LR"
    yield '  person(["person"])'
    for reach, title in _SUBGRAPHS:
        among = [signal for signal in bundle.signals if signal.reach is reach]
        if among:
            yield f'  subgraph {reach}["{title}"]'
            yield from (f"    {nodes[one.name]}{_signal(one)}" for one in among)
            yield "  end"
            yield f"  person -->|{_text(_purposes(among))}| {reach}"
            if reach is not Reach.DEVICE:
                yield f'  {reach} <-->|"sealed, for the account\'s devices"| service'
    yield f"  service[({_text('service: what it can not read')})]"
    yield from _cohorts(bundle, nodes)
    yield from _tasks(bundle, nodes)


def _cohorts(bundle: Bundle, nodes: dict[str, str]) -> Iterator[str]:
    for at, rule in enumerate(bundle.cohorts):
        label = f"cohort {rule.name}, version {rule.version}: {words.some(rule.labels)}"
        yield f"  c{at}{{{{{_text(label)}}}}}"
        for name in sorted(rule.signals):
            yield f"  {nodes[name]} --> c{at}"


def _tasks(bundle: Bundle, nodes: dict[str, str]) -> Iterator[str]:
    if not bundle.tasks:
        return
    cohorts = {rule.name: f"c{at}" for at, rule in enumerate(bundle.cohorts)}
    yield '  subgraph parties["parties: shares, and sums with noise"]'
    yield from (f"    t{at}[{_text(_task(one))}]" for at, one in enumerate(bundle.tasks))
    yield "  end"
    for at, task in enumerate(bundle.tasks):
        for name in task.signals:
            yield f"  {nodes[name]} -.->|{_text('shares, for ' + task.purpose)}| t{at}"
        if task.cohort is not None:
            yield f"  {cohorts[task.cohort]} -.->|{_text('as bins')}| t{at}"
    readers = sorted({one.role for one in bundle.access.grants if _reads(bundle, one.role)})
    yield f"  parties -->|{_text('results')}| readers([{_text(', '.join(readers) or 'nobody')}])"


def _reads(bundle: Bundle, role: str) -> bool:
    return bundle.access.allows(role, _READ)


def _purposes(signals: Sequence[Signal]) -> str:
    named = dict.fromkeys(purpose for signal in signals for purpose in signal.purposes)
    return f"if on: {', '.join(named)}"


def _signal(one: Signal) -> str:
    coarser = f", {words.generalised(one.generalise)}" if one.generalise else ""
    keys = words.some([f"{one.collection}/{key}" for key in one.keys], 2)
    return f"[{_text(one.name, keys, words.values(one.values) + coarser, _days(one))}]"


def _days(one: Signal) -> str:
    return f"{one.retention_days} days"


def _task(one: TaskRule) -> str:
    return (
        f"{one.source}: {one.kind}, {one.k_min_at_least}+ people,"
        f" rho up to {words.number(one.micro_rho_at_most)}, kept {one.result_days} days"
    )


def _text(*lines: str) -> str:
    """A label: Mermaid takes `"` and `#` as entities, and a break as HTML has it."""
    escaped = (line.replace("#", "#35;").replace('"', "#quot;") for line in lines)
    return '"' + "<br>".join(one.replace("<", "#lt;").replace(">", "#gt;") for one in escaped) + '"'
