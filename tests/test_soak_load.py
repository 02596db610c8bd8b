"""Thousands of subscribers, their storm, and twice what a process can serve; by `make soak`.

A slice of each is in `test_services_pressure`."""

from __future__ import annotations

import pytest

from bench import overload, subscribers
from bench.report import Part, Report


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "part", [subscribers.idle, subscribers.storm, overload.overload], ids=lambda part: part.__name__
)
async def test_every_goal_is_reached(part: Part) -> None:
    """Each figure beside its floor of the same run."""
    report = Report(quick=False)
    running = part(report)
    assert running is not None
    await running
    goals = report.figures["goals"]
    assert {name: goal for name, goal in goals.items() if not goal["reached"]} == {}
