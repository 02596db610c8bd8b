"""The demo's last act: when it counts as shown, and what is printed of it, whatever was seen."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from client.demo import showgovernance
from client.demo.governance import Governance, Replayed, Switched
from client.demo.leaving import Forgotten, Left, Withdrawal
from tests.test_demo_rounds import measured, tasks

PEOPLE = 6


def seen() -> Governance:
    """An act in which all went as it must: of six people four are in the round."""
    round_ = replace(measured(tasks()[1], [30, 31, 32, 33], [1, 2]), cheated=0)
    return Governance(
        sequence=3,
        rules={"a signal that is not declared": "undeclared", "six stars": "range"},
        switched=Switched(7, [0.125] * 6 + [1.5], [0.25] * 7, "task-killed"),
        replayed=Replayed(held=2, shown=1, held_after=2, alarm=True, still_refused=True),
        left=Left(
            Withdrawal(0.0625, 0.375, {"rating": 3}, "consent"),
            Forgotten(30, 6, 0, 0, 0.75),
            round_,
            PEOPLE,
        ),
        overdue=0,
        audit_entries=12,
    )


def withdrawing(other_s: float | None, relay_s: float | None, rule: str) -> Governance:
    """The same with another withdrawal."""
    made = seen()
    done = Withdrawal(other_s, relay_s, {"rating": 3}, rule)
    return replace(made, left=replace(made.left, withdrawal=done))


def forgetting(forgotten: Forgotten) -> Governance:
    """The same with another deletion."""
    made = seen()
    return replace(made, left=replace(made.left, forgotten=forgotten))


DEFECTS: dict[str, Callable[[], Governance]] = {
    "a value that is recorded": lambda: replace(
        seen(), rules={"a signal that is not declared": "undeclared", "six stars": ""}
    ),
    "a client that goes on": lambda: replace(
        seen(), switched=Switched(7, [0.125] * 6, [0.25] * 7, "task-killed")
    ),
    "a client that never records again": lambda: replace(
        seen(), switched=Switched(7, [0.125] * 7, [], "task-killed")
    ),
    "a task that is taken": lambda: replace(seen(), switched=Switched(7, [1] * 7, [1] * 7, "")),
    "an older policy that is taken": lambda: replace(
        seen(), replayed=Replayed(2, 1, 1, True, True)
    ),
    "no alarm": lambda: replace(seen(), replayed=Replayed(2, 1, 2, False, True)),
    "no older policy": lambda: replace(seen(), replayed=Replayed(2, 2, 2, True, True)),
    "another device that goes on": lambda: withdrawing(None, 0.1, "consent"),
    "a service that takes it": lambda: withdrawing(0.1, None, "consent"),
    "a device that answers": lambda: withdrawing(0.1, 0.1, ""),
    "somebody who is in the round": lambda: replace(seen(), left=replace(seen().left, people=5)),
    "a row that stays": lambda: forgetting(Forgotten(30, 6, 0, 1, 20.0)),
    "no rows at all": lambda: forgetting(Forgotten(0, 0, 0, 0, 0.1)),
    "something kept too long": lambda: replace(seen(), overdue=1),
    "an empty audit log": lambda: replace(seen(), audit_entries=0),
}


def test_it_holds_if_all_of_it_does() -> None:
    """And its figures are what was measured."""
    data = seen().data()
    assert data["holds"] is True
    assert data["kill_switch_seconds_median"] == 0.125
    assert data["kill_switch_seconds_last"] == 1.5
    assert (data["withdrawal_other_device_seconds"], data["forgotten_seconds"]) == (0.062, 0.75)
    assert (data["forgotten_rows_before"], data["forgotten_rows_after"]) == (36, 0)


@pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS)
def test_it_does_not_hold_if_any_of_it_does_not(defect: Callable[[], Governance]) -> None:
    """Each claim by itself makes the demo fail."""
    assert defect().data()["holds"] is False


def page(one: Governance) -> str:
    """As it is printed, in one line."""
    out = io.StringIO()
    showgovernance.table(Console(file=out, width=80), one)
    return " ".join(out.getvalue().split())


def test_seconds_are_printed_and_what_never_came_is_called_so() -> None:
    """Nobody has to guess from a missing figure."""
    whole = page(seen())
    for part in (
        "7 of 7 connected devices",
        "1.50",
        "deleted by withdrawing",
        "3 rating",
        "4 reports",
    ):
        assert part in whole
    assert "never" not in whole
    assert "six stars (refused, rule 'range')" in whole
    assert "six stars (RECORDED)" in page(DEFECTS["a value that is recorded"]())
    assert "refused, with an alarm" in whole
    assert "never" in page(DEFECTS["another device that goes on"]())
    assert "TAKEN" in page(DEFECTS["an older policy that is taken"]())
    assert "6 of 7" in page(DEFECTS["a client that goes on"]())
