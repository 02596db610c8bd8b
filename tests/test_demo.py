"""`rookery demo` as people run it: a process, on made-up people and on a file."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from services.config import Config

pytestmark = pytest.mark.timeout(300)
PEOPLE, FEW = 40, 8
DISHES = ("thailand", "cuba", "ethiopia")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "client.cli.main", "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@dataclass(frozen=True)
class Shown:
    """What one run said: to programs, and to people."""

    report: Any
    text: str


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """The demo on a file of forty people."""
    rows = [
        f"p{number},new england,{dish},{(number + at) % 5 + 1}"
        for number in range(PEOPLE)
        for at, dish in enumerate(DISHES)
    ]
    file = tmp_path_factory.mktemp("demo") / "ratings.csv"
    file.write_text("\n".join(["person,region,item,rating", *rows]) + "\n")
    ended = run("--ratings", str(file), "--json")
    assert ended.returncode == 0, ended.stderr
    return Shown(json.loads(ended.stdout.splitlines()[-1]), ended.stderr)


def test_the_demo_shows_what_it_claims_on_ratings_from_a_file(shown: Shown) -> None:
    """Devices converge, the late one too, the revoked one is refused, nothing leaks."""
    report = shown.report
    assert (report["people"], report["ratings"], report["synthetic"]) == (PEOPLE, 3 * PEOPLE, False)
    assert report["ops_pushed"] > report["ratings"]
    assert report["all_devices_converged"] is True
    assert report["late_device_converged"] is True
    assert report["revoked_device_refused"] is True
    assert report["rotated_and_converged"] is True
    assert report["plaintext_hits_in_store_and_logs"] == 0
    assert {"service.db", "service.log"} <= set(report["files_searched"])
    assert {"party1.db", "party2.db", "party3.db", "party3.log"} <= set(report["files_searched"])
    assert report["seconds"] > 0


def test_the_demo_pairs_more_devices_than_an_address_may_in_a_deployment(shown: Shown) -> None:
    """One machine plays many people: the limits per address of a deployment are not its own."""
    assert shown.report["devices"] - PEOPLE > Config().ip_mailboxes_burst


def test_the_demo_sets_joint_aggregates_beside_the_truth_and_catches_who_cheats(
    shown: Shown,
) -> None:
    """Three rounds of real parties: honest reports count, crafted ones don't, errors are noise."""
    aggregate = shown.report["aggregate"]
    favourite, rating, experiment = aggregate["rounds"]
    assert aggregate | {"rounds": []} == favourite | {"rounds": []}
    for round_ in (favourite, rating, experiment):
        # On a machine that is very busy somebody can be late for the window.
        assert PEOPLE // 2 < round_["valid"] == round_["reports"] - 4 <= PEOPLE
        assert round_["rejected"] == round_["cheaters"] == 4
        assert round_["rejected_by_reason"]["invalid"] == 3
        assert round_["rejected_by_reason"]["inconsistent"] == 1
        assert 0 < round_["max_error_in_sigmas"] < 7
        assert 0 < round_["rho"] <= 0.2
        assert 2 < round_["epsilon_at_delta_1e-6"] < 3.2
        assert round_["seconds_close_to_result"] > 0
    assert [round_["sums"] for round_ in aggregate["rounds"]] == [len(DISHES), 2, 6]
    for title in ("Favourite cuisine by region", "Mean rating", "Stars for one dish"):
        assert title in shown.text
    assert "4 cheated, and 4 were caught" in shown.text


def test_the_demo_shows_that_the_policy_stops_what_it_stops(shown: Shown) -> None:
    """Every connected device obeys a switch, an older policy is not taken, and what is not
    declared is not recorded."""
    seen = shown.report["governance"]
    assert seen["holds"] is True
    assert seen["clients"] > PEOPLE
    assert seen["clients_that_obeyed_the_kill_switch"] == seen["clients"]
    assert seen["clients_that_went_on_after_it"] == seen["clients"]
    assert 0 < seen["kill_switch_seconds_median"] <= seen["kill_switch_seconds_last"]
    assert seen["task_over_killed_signal_refused_by"] == "task-killed"
    assert seen["older_policy_refused"] is True
    assert set(seen["refused_by_rule"].values()) == {"undeclared", "range"}
    assert seen["policy_sequence"] == 3
    assert "refused, with an alarm" in " ".join(shown.text.split())


def test_the_demo_shows_that_what_is_taken_back_is_gone(shown: Shown) -> None:
    """One withdraws, one is forgotten, the next round has neither; nothing is kept too long."""
    seen = shown.report["governance"]
    assert seen["withdrawal_deleted"] == {"dishes-rated": 1, "region": 1, "rating": len(DISHES)}
    assert seen["withdrawal_other_device_seconds"] > 0
    assert seen["withdrawal_service_seconds"] > 0
    assert seen["withdrawn_device_refuses_by"] == "consent"
    assert PEOPLE // 2 < seen["next_round"]["valid"] <= PEOPLE - 2
    assert seen["next_round"]["rejected"] == 0
    assert seen["forgotten_rows_before"] > 0
    assert seen["forgotten_rows_after"] == 0
    assert seen["retention_overdue"] == 0
    assert seen["audit_entries_verified"] > 10


def test_without_a_file_the_demo_says_that_its_people_are_made_up() -> None:
    """A synthetic population is called synthetic, and both sides of a profile are shown."""
    ended = run("--people", str(FEW))
    assert ended.returncode == 0, ended.stderr
    assert "synthetic" in ended.stdout
    assert "ciphertext" in ended.stdout


@pytest.mark.parametrize("arguments", [("--ratings", "/nonexistent.csv"), ("--people", "7")])
def test_what_the_demo_cannot_use_is_refused_in_a_sentence(arguments: tuple[str, ...]) -> None:
    """No traceback; the sentence says what is wrong."""
    ended = run(*arguments)
    assert ended.returncode == 1
    assert ended.stderr.startswith("rookery: ")
    assert "Traceback" not in ended.stderr
