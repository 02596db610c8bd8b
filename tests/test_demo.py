"""`rookery demo` as people run it: a process, on made-up people and on a file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from services.config import Config

pytestmark = pytest.mark.timeout(300)
RATINGS = """person,region,item,rating
a,new england,thailand,5
a,new england,cuba,2
a,new england,ethiopia,4
b,pacific,thailand,1
b,pacific,portugal,3
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "client.cli.main", "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_the_demo_shows_what_it_claims_on_ratings_from_a_file(tmp_path: Path) -> None:
    """Devices converge, the late one too, the revoked one is refused, nothing leaks."""
    file = tmp_path / "ratings.csv"
    file.write_text(RATINGS)
    ended = run("--ratings", str(file), "--json")
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout.splitlines()[-1])
    assert (report["people"], report["ratings"], report["synthetic"]) == (2, 5, False)
    assert report["devices"] >= 5
    assert report["ops_pushed"] > report["ratings"]
    assert report["all_devices_converged"] is True
    assert report["late_device_converged"] is True
    assert report["revoked_device_refused"] is True
    assert report["rotated_and_converged"] is True
    assert report["plaintext_hits_in_store_and_logs"] == 0
    assert {"service.db", "service.log"} <= set(report["files_searched"])
    assert {"party1.db", "party2.db", "party3.db", "party3.log"} <= set(report["files_searched"])
    assert report["seconds"] > 0


def test_the_demo_sets_joint_aggregates_beside_the_truth_and_catches_who_cheats() -> None:
    """Three rounds of real parties: honest reports count, crafted ones don't, errors are noise."""
    ended = run("--people", "40", "--json")
    assert ended.returncode == 0, ended.stderr
    aggregate = json.loads(ended.stdout.splitlines()[-1])["aggregate"]
    favourite, rating, experiment = aggregate["rounds"]
    assert aggregate | {"rounds": []} == favourite | {"rounds": []}
    for round_ in (favourite, rating, experiment):
        assert (round_["reports"], round_["valid"]) == (44, 40)
        assert round_["rejected"] == round_["cheaters"] == 4
        assert round_["rejected_by_reason"]["invalid"] == 3
        assert round_["rejected_by_reason"]["inconsistent"] == 1
        assert 0 < round_["max_error_in_sigmas"] < 7
        assert 0 < round_["rho"] <= 0.2
        assert 2 < round_["epsilon_at_delta_1e-6"] < 3.2
        assert round_["seconds_close_to_result"] > 0
    assert [round_["sums"] for round_ in aggregate["rounds"]] == [75, 2, 6]
    for title in ("Favourite cuisine by region", "Mean rating", "Stars for one dish"):
        assert title in ended.stderr
    assert "4 cheated, and 4 were caught" in ended.stderr


def test_without_a_file_the_demo_says_that_its_people_are_made_up() -> None:
    """A synthetic population is called synthetic, and both sides of a profile are shown."""
    ended = run("--people", "2")
    assert ended.returncode == 0, ended.stderr
    assert "synthetic" in ended.stdout
    assert "ciphertext" in ended.stdout


def test_the_demo_pairs_more_devices_than_an_address_may_in_a_deployment(tmp_path: Path) -> None:
    """One machine plays many people: the limits per address of a deployment are not its own."""
    people = [f"p{number},pacific,{item},{number % 5 + 1}" for number in range(50) for item in "ab"]
    file = tmp_path / "ratings.csv"
    file.write_text("\n".join(["person,region,item,rating", *people]) + "\n")
    ended = run("--ratings", str(file), "--json")
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout.splitlines()[-1])
    assert report["devices"] - report["people"] > Config().ip_mailboxes_burst
    assert report["all_devices_converged"] is True


@pytest.mark.parametrize("arguments", [("--ratings", "/nonexistent.csv"), ("--people", "0")])
def test_what_the_demo_cannot_use_is_refused_in_a_sentence(arguments: tuple[str, ...]) -> None:
    """No traceback; the sentence says what is wrong."""
    ended = run(*arguments)
    assert ended.returncode == 1
    assert ended.stderr.startswith("rookery: ")
    assert "Traceback" not in ended.stderr
