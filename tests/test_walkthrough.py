"""The whole way of a joint aggregate, and of a governed service, by the commands that people type.

Real processes throughout: a service, three parties, a publisher, the devices of six people.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli_process import PROGRAM, Done, Home, join
from tests.party_process import PartyProcess
from tests.served import AUDIENCE
from tests.service_process import ServiceProcess, environment

LIKES = ("thai", "thai", "thai", "italian", "italian", "georgian")
TASK = """
id = "food/favourite"        # devices answer it with what their profile holds by this name
title = "Favourite cuisine"
purpose = "statistics"       # what a person allows, or does not
kind = { name = "histogram", bins = 3, labels = ["thai", "italian", "georgian"] }
noise = { mechanism = "gaussian", sigma_milli = 5_000 }
caps = { device_micro_rho = 100_000, period_ms = "1w", task_micro_rho = 1_000_000 }
parties = { m = 3, t = 1 }   # one of the three may be corrupt
tail = { name = "none" }
window_ms = "20s"
grace_ms = 0
k_min = 5                    # with fewer valid reports nothing is opened
reports_max = 1_000
expires_ms = 2040-01-01T00:00:00Z
"""


@pytest.mark.timeout(180)
def test_from_what_six_people_like_to_one_histogram_with_noise(tmp_path: Path) -> None:
    """Nobody but a device ever sees what its person likes; everybody can check the result."""
    (tmp_path / "task.toml").write_text(TASK)
    publisher = task(tmp_path, {}, "keygen", "--out", "publisher.key").json["public_key"]

    # A service that relays this publisher's rounds, and three parties that compute them.
    relay = {"ROOKERY_PUBLISHERS": publisher, "ROOKERY_AUDIENCE": AUDIENCE}
    with (
        ServiceProcess(tmp_path, **relay) as service,
        parties(tmp_path, service, publisher) as all_,
    ):
        pins = [part for one in all_ for part in ("--party", f"{one.address}={one.ik.hex()}")]

        # Six people say what they like; one of them has two devices.
        homes = [Home(tmp_path, f"person{number}", service) for number in range(len(LIKES))]
        for home, likes in zip(homes, LIKES, strict=True):
            settle(home, likes, publisher, pins)
        second = Home(tmp_path, "second", service)
        assert join(homes[0], second) == (0, 0)
        second.run("trust", "--publisher", publisher, *pins)

        # The publisher puts the task up and opens a round that all parties sign.
        published = task(tmp_path, service.variables, "publish", "task.toml", *KEY).json
        assert published["epsilon_at_delta_1e-6"] < 2
        opened = task(tmp_path, service.variables, "collect", "food/favourite", *KEY, *pins).json

        # Devices answer by themselves: once an account, from whichever device.
        with ThreadPoolExecutor(2) as pool:
            reports = [rows["reports"] for rows in pool.map(contribute, homes)]
        assert [row["outcome"] for (row,) in reports] == ["contributed"] * len(LIKES)
        assert contribute(second)["reports"][0]["outcome"] == "already"

        # The window closes, the parties compute, and what they signed is verified.
        result = task(
            tmp_path, service.variables, "result", opened["round_id"], "--wait", *KEY
        ).json
        assert (result["reports"], result["valid"]) == (6, 6)
        assert (result["opening_checked"], result["validity_checked"]) == (True, False)
        assert result["parties"] == [one.ik.hex() for one in all_]
        for row, label, truth in zip(
            result["estimates"], ("thai", "italian", "georgian"), (3, 2, 1), strict=True
        ):
            assert row["label"] == label
            assert abs(row["value"] - truth) < 8 * row["sigma"]

        # It comes back to the devices, also to those that did not send anything.
        homes[1].run("contribute")
        assert homes[1].run("results", "--json").json["results"][0]["valid"] == 6


@pytest.mark.timeout(180)
def test_a_governed_service_from_nothing_by_the_commands_of_its_page(tmp_path: Path) -> None:
    """What the policy declares and its person agreed to is recorded, and nothing else; who it
    lists as operator sees that, and no call was missed by the audit log."""
    before, after = _commands()
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    here = tmp_path / "here"
    here.mkdir()
    said = environment(PATH=f"{_programs(tmp_path)}:{os.environ['PATH']}")
    *before, serve = before
    names: dict[str, str] = {}
    for command in before:
        told = _typed(command, names, here, said)
        if "keygen" in command:
            name = "POLICY_KEY" if "policy.key" in command else "OPERATOR_KEY"
            names[name] = re.findall(r"\b[0-9a-f]{64}\b", told.stdout)[0]
    setting, key = serve.split()[0].split("=")
    assert "rookery-server serve --dev" in serve
    with ServiceProcess(here, ROOKERY_AUDIENCE=AUDIENCE, **{setting: names[key]}) as service:
        said |= service.variables
        done = {command: _typed(command, names, here, said) for command in after}
    refused = {
        command: run.stderr for command, run in done.items() if run.returncode
    }  # fmt: skip
    assert [set(re.findall(r"rule ([a-z-]+)", told)) for told in refused.values()] == [
        {"range"}, {"undeclared"},
    ]  # fmt: skip
    health, audit = (run.stdout for run in list(done.values())[-2:])
    assert "policy" in health
    assert "/rookery.v1.Policy/PublishPolicy" in audit


ROOT = Path(__file__).resolve().parent.parent


def _commands() -> list[list[str]]:
    """Of the two blocks of the page."""
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text.split("## A governed service, from nothing")[1].split("\n## ")[0]
    blocks = re.findall(r"^```console\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [re.findall(r"^\$ (.*?)(?:\s+#.*)?$", block, re.MULTILINE) for block in blocks]


def _programs(folder: Path) -> Path:
    """A folder with both programs, of this checkout."""
    programs = folder / "bin"
    programs.mkdir()
    for name, module in (("rookery", "client.cli.main"), ("rookery-server", "services.cli")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        program.chmod(0o755)
    return programs


def _typed(
    command: str, names: dict[str, str], folder: Path, variables: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """A command as a shell runs it, with the names of keys put in."""
    for name, value in names.items():
        command = command.replace(name, value)
    run = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=variables, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in run.stderr, run.stderr
    assert run.returncode == 0 or "rule" in run.stderr, run.stderr
    return run


KEY = ("--key", "publisher.key")


def task(folder: Path, variables: dict[str, str], *arguments: str) -> Done:
    """`rookery task ... --json`."""
    run = subprocess.run(
        [*PROGRAM, "task", *arguments, "--json"],
        cwd=folder, env=environment(**variables), capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr or run.stdout
    return Done(run.returncode, run.stdout, run.stderr)


@contextmanager
def parties(folder: Path, service: ServiceProcess, publisher: str) -> Iterator[list[PartyProcess]]:
    """Three `rookery-server party` processes, a file each."""
    made = [
        PartyProcess(folder / f"party{number}", bytes((number,)) * 32,
                     ROOKERY_PARTY_PUBLISHERS=publisher)
        for number in (1, 2, 3)
    ]  # fmt: skip
    try:
        for one in sorted(made, key=lambda party: party.ik, reverse=True):
            one.start(made, service.variables["ROOKERY_SERVER"])
        yield made
    finally:
        for one in made:
            one.kill()


def settle(home: Home, likes: str, publisher: str, pins: list[str]) -> None:
    """A person with one device: what they like, whom they trust, what they allow."""
    home.run("init", "--no-recovery", service=True)
    home.run("set", "food/favourite", likes)
    home.run("trust", "--publisher", publisher, *pins)
    home.run("allow", "statistics")


def contribute(home: Home) -> Any:
    """Answers what is open."""
    return home.run("contribute", "--json").json
