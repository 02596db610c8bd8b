"""What the demo shows of a round: the truth beside the result, whatever noise does to either."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from rich.console import Console

from client.demo import measures, showrounds
from client.demo.rounds import Measured
from mpc import oracle, result as results
from mpc.result import Counted, RoundResult, Sums
from mpc.task import Task
from tests.mpc_samples import manifest

CATALOGUE = measures.Catalogue(("north", "south"), ("cuba", "ethiopia", "thailand"))
REPORTS = 4


def measured(of: Task, values: list[Any], noise: list[int]) -> Measured:
    """A round of these values whose sums carry this noise."""
    exact = oracle.aggregate(of.kind, values)
    counted = Counted(exact.reports + 1, 0, 1, ({}, {}, {}))
    noised = [one + off for one, off in zip(exact.sums, noise, strict=True)]
    made: RoundResult = results.make(of, noised, counted, noise_of=(1, 2, 3), checked=True)
    truth = replace(made, counted=replace(counted, invalid=1), outcome=Sums(exact.sums))
    return Measured(of, manifest(of), made, (1, 2, 3), truth, REPORTS, 1, 1.5)


def page(one: Measured) -> str:
    """As it is printed."""
    out = io.StringIO()
    showrounds.one(Console(file=out, width=80), one, CATALOGUE.labels)
    return out.getvalue()


def tasks() -> tuple[Task, ...]:
    """The demo's three."""
    return measures.tasks(CATALOGUE, people=REPORTS, window_ms=1_000, now_ms=0)


def test_bins_are_named_and_errors_are_told_in_sigmas() -> None:
    """The task has no labels; the page has, and the error of each row beside its sigma."""
    favourite = tasks()[0]
    shown = page(measured(favourite, [0, 0, 1, 5], [2, 0, 0, 0, 0, -1]))
    [row] = [line for line in shown.splitlines() if line.startswith(" north, cuba")]
    sigma = 8**0.5 * 1.5**0.5
    assert row.split()[-5:] == ["2", "4", "+2", f"{sigma:.3g}", f"{2 / sigma:+.2f}"]
    assert "5 reports, 4 of them valid; 1 cheated, and 1 were caught" in " ".join(shown.split())


def test_a_group_of_nobody_that_noise_fills_is_shown_without_a_truth() -> None:
    """And one of somebody that noise empties is shown without an estimate."""
    experiment = tasks()[2]
    everybody_in_one = [(0, 3), (0, 4), (0, 2), (0, 5)]
    filled = page(measured(experiment, everybody_in_one, [0, 0, 0, 40, 4, 9]))
    assert [line.split()[-1] for line in filled.splitlines() if "home first   mean" in line]
    emptied = page(measured(experiment, everybody_in_one, [-400, 0, 0, 0, 0, 0]))
    assert "none" in emptied


def test_an_experiment_that_noise_hides_is_no_failure_of_the_demo() -> None:
    """No verdict is explained: why there is none, and what it takes."""
    shown = " ".join(page(measured(tasks()[2], [(0, 3), (1, 3)], [0] * 6)).split())
    assert "gives no verdict, as it should: variant 0 has too few reports" in shown
    assert "takes more people" in shown


def test_what_may_be_spent_and_how_few_may_answer_follow_from_how_many_there_are() -> None:
    """Few people get less noise, or it would hide all; the bound on reports goes with them."""
    assert measures.rho_micro(measures.FEW) < measures.rho_micro(measures.FEW - 1)
    for people, k_min in ((2, 2), (30, 15), (5_000, 100)):
        for one in measures.tasks(CATALOGUE, people=people, window_ms=1_000, now_ms=0):
            assert one.k_min == k_min
            assert one.cost_micro_rho <= measures.rho_micro(people)


def test_a_catalogue_of_very_many_names_puts_the_last_ones_together() -> None:
    """Labels stay different and short, and every bin exists."""
    regions = (*tuple(f"region-{at:03d}-{'x' * 40}" for at in range(31)), "other")
    catalogue = measures.Catalogue(regions, ("cuba", "other"))
    assert len(set(catalogue.labels)) == 64
    assert max(map(len, catalogue.labels)) <= 64
    assert catalogue.bin_of("nowhere", "nothing") == 63
