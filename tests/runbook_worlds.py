"""Run books as scripts: the blocks of a page, run in its order by a shell; and a governed
deployment to run them against. A helper.

Programs are found as people find them, in the PATH; words in capitals are what the page leaves
to whoever reads it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cli_process import Done
from tests.party_process import Parties
from tests.service_process import ROOT, ServiceProcess, environment

AUDIENCE = "rookery.localhost"
TASK = "about/region"
RUNBOOKS = Path(__file__).parents[1] / "docs" / "runbooks"
SECONDS_MAX = 60.0
_MODULES = {
    "rookery": "client.cli.main",
    "rookery-server": "services.cli",
    ".venv/bin/python": "",
}
_BLOCK = re.compile(r"^( *)```(?:sh)?\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[str]:
    """What stands in the page's fences, without its indentation."""
    text = (RUNBOOKS / page).read_text("utf-8")
    return [textwrap.dedent(body) for _, body in _BLOCK.findall(text)]


@dataclass
class Shell:
    """A folder, the programs in its PATH, and what the page's words in capitals stand for."""

    folder: Path
    variables: Mapping[str, str]
    words: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        programs = self.folder / "bin"
        programs.mkdir(exist_ok=True)
        for name, module in _MODULES.items():
            path = (self.folder if "/" in name else programs) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            run = f'exec "{sys.executable}" {f"-m {module}" if module else ""} "$@"'
            path.write_text(f"#!/bin/sh\n{run}\n")
            path.chmod(0o755)

    def run(self, script: str, *, typed: str = "", code: int = 0) -> Done:
        """Each line must do what it says; the last one ends with `code`."""
        words = "|".join(map(re.escape, self.words)) or r"(?!)"
        script = re.sub(rf"(?<![\w-])({words})(?![\w-])", lambda one: self.words[one[0]], script)
        path = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder, env=environment(**{**self.variables, "PATH": path}), input=typed,
            capture_output=True, text=True, timeout=SECONDS_MAX, check=False,
        )  # fmt: skip
        done = Done(ended.returncode, ended.stdout, ended.stderr)
        assert "Traceback" not in ended.stderr, done
        assert ended.returncode == code, (script, done)
        return done

    def json(self, command: str) -> Any:
        """The one line that a command prints for programs."""
        return self.run(f"{command} --json").json


@dataclass
class Book:
    """A page that is being followed."""

    page: str
    shell: Shell
    at: int = 0

    def next(self, expected: str, *, typed: str = "", code: int = 0) -> Done:
        """Runs the next block, which is the one that begins so."""
        block = blocks(self.page)[self.at]
        assert block.startswith(expected), f"{self.page}: {block!r} comes next, not {expected!r}"
        self.at += 1
        return self.shell.run(block, typed=typed, code=code)

    def finished(self) -> None:
        """Nothing of the page was left out."""
        assert blocks(self.page)[self.at :] == []


@dataclass
class Deployment:
    """A policy in force, three parties, two people who answered, and what came out."""

    shell: Shell
    parties: Parties
    number: int = 1
    """Of the policy in force."""

    def book(self, page: str) -> Book:
        """A page that publishes the next policy, if it does."""
        old, new = f"{self.number}.policy", f"{self.number + 1}.policy"
        self.shell.words |= {"1.policy": old, "2.policy": new}
        return Book(page, self.shell)


def _policy(shell: Shell) -> None:
    """The shipped policy, with an operator and a task of few people."""
    folder = shell.folder / "policy"
    shutil.copytree(ROOT / "deploy" / "policy", folder)
    (folder / "baseline.policy").unlink()
    shell.run("rookery operator keygen --out operator.key")
    operator = shell.run("rookery task key operator.key").out.strip()
    access = folder / "access.yaml"
    access.write_text(access.read_text().replace("keys: []", f'keys: ["{operator}"]'))
    with (folder / "tasks.yaml").open("a") as tasks:
        tasks.write(
            f"\n{TASK}:\n  signals: [region]\n  purpose: statistics\n  kind: histogram\n"
            "  k_min_at_least: 2\n  micro_rho_at_most: 200_000\n  result_days: 30\n"
            "  text: Where people live.\n"
        )


TOML = f"""
id = "{TASK}"
title = "Where people live"
purpose = "statistics"
window_ms = "10s"
grace_ms = "0s"
reports_max = 1_000
k_min = 2
expires_ms = 2100-01-01T00:00:00Z
kind = {{ name = "histogram", bins = 2, labels = ["old-town", "west-valley"] }}
noise = {{ mechanism = "gaussian", sigma_milli = 8_000 }}
caps = {{ device_micro_rho = 100_000, period_ms = "1d", task_micro_rho = 1_000_000 }}
parties = {{ m = 3, t = 1 }}
tail = {{ name = "none" }}
"""


@contextmanager
def deployment(folder: Path) -> Iterator[Deployment]:
    """For the time of the block."""
    shell = Shell(folder, {})
    for role in ("publisher", "analyst", "policy"):
        program = "policy" if role == "policy" else "task"
        shell.run(f"rookery {program} keygen --out {role}.key")
    public = {
        role: shell.run(f"rookery task key {role}.key").out.strip()
        for role in ("publisher", "analyst", "policy")
    }
    _policy(shell)
    shell.run("rookery policy build policy --key policy.key -o 1.policy")
    (folder / "rookery.toml").write_text(
        f'database = "service.db"\naudience = "{AUDIENCE}"\n'
        f'publishers = ["{public["publisher"]}"]\nanalysts = ["{public["analyst"]}"]\n'
        f'policy_keys = ["{public["policy"]}"]\n'
    )
    with ServiceProcess(folder, "--config", "rookery.toml") as service:
        shell.variables = service.variables
        shell.run("rookery policy publish 1.policy --key policy.key")
        parties = Parties(
            folder, service.listen,
            ROOKERY_PARTY_AUDIENCE=AUDIENCE,
            ROOKERY_PARTY_PUBLISHERS=public["publisher"],
            ROOKERY_PARTY_POLICY_KEYS=public["policy"],
            ROOKERY_PARTY_POLICY_POLL_S="0.2",
        )  # fmt: skip
        try:
            parties.start()
            yield _round(Deployment(shell, parties), public)
        finally:
            parties.end()


def _round(there: Deployment, public: dict[str, str]) -> Deployment:
    shell, folder = there.shell, there.shell.folder
    tables = [
        f'\n[[party]]\naddress = "{one.address}"\nkey = "{one.ik.hex()}"\n'
        for one in there.parties.all
    ]
    stranger = f'\n[[party]]\naddress = "127.0.0.1:1"\nkey = "{"7a" * 32}"\n'
    publishers = f'publishers = ["{public["publisher"]}"]\n'
    (folder / "panel.toml").write_text(publishers + "".join(tables))
    (folder / "new-panel.toml").write_text(publishers + "".join([*tables[:2], stranger]))
    (folder / "task.toml").write_text(TOML)
    states = ("phone", "laptop")
    for state, region in zip(states, ("old-town", "west-valley"), strict=True):
        at = f"--state {state}.rookery"
        shell.run(
            f"rookery device init --no-recovery {at}\n"
            f"rookery device trust --policy {public['policy']} {at}\n"
            f"rookery device trust --panel panel.toml {at}\n"
            f"rookery device consent grant statistics {at}\n"
            f"rookery device set about/region {region} {at}\n"
        )
    shell.run("rookery task publish task.toml --key publisher.key")
    opened = shell.json(f"rookery task collect {TASK} --key publisher.key --panel panel.toml")
    for state in states:
        shell.run(f"rookery device contribute --state {state}.rookery")
    shell.words |= {
        "ROUND": opened["round_id"], "TASK": TASK, "PURPOSE": "statistics",
        "PARTY": there.parties.all[2].ik.hex(),
    }  # fmt: skip
    shell.run("rookery task result ROUND --wait --key analyst.key --panel panel.toml")
    return there
