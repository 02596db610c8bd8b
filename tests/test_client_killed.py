"""Commands that make or change identities, killed at every write and every call in turn."""

from __future__ import annotations

import json
import subprocess
import sys

from crypto import recovery
from tests.cli_process import Home
from tests.service_process import ROOT


def killed(
    home: Home, point: int, verb: str, *more: str, typed: str = "", service: bool = False
) -> subprocess.CompletedProcess[str]:
    """Runs a command that dies at a point; it may end by itself before it gets there."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.crashing", str(point), *home.arguments(verb, *more)[3:]],
        input=typed,
        env=home.variables(service=service),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in run.stderr, run.stderr
    assert run.returncode in (0, -9), run.stderr
    return run


def alarms(home: Home) -> list[str]:
    """Rules of all alarms."""
    notices = home.run("status", "--json").json["notices"]
    return [row["rule"] for row in notices if row["kind"] == "alarm"]


def papers(home: Home) -> list[str]:
    """Ids of the account's recovery keys."""
    rows = home.run("devices", "--json").json["devices"]
    return [row["device"] for row in rows if row["role"] == "recovery"]


def shown(out: str) -> list[str]:
    """Ids of the recovery keys that a command has shown."""
    rows = [json.loads(line) for line in out.splitlines()]
    return [
        recovery.identity(recovery.from_paper(row["recovery_key"])).device_id.hex()
        for row in rows
        if "recovery_key" in row
    ]


def test_a_recovery_key_is_shown_before_it_is_sent(first: Home) -> None:
    """Wherever `recovery-key` dies: no key is in the account that nobody has seen, and one that
    was shown is the one that comes to be there."""
    seen: list[str] = []
    point, late = 1, 0
    while True:
        run = killed(first, point, "recovery-key", "--json")
        seen += shown(run.stdout)
        first.run("sync")
        assert set(papers(first)) <= set(seen)
        late += run.returncode == -9 and seen[-1:] == papers(first)[-1:]
        if run.returncode == 0:
            break
        point += 2  # each key that comes through takes one of 16 places
    assert papers(first)[-1] == seen[-1]
    assert point > 8
    assert late
    assert not alarms(first)
