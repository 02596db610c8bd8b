"""Run books as scripts: the blocks of a page, run in its order by a shell. A helper.

Programs are found as people find them, in the PATH; words in capitals are what the page leaves
to whoever reads it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cli_process import Done
from tests.service_process import environment

RUNBOOKS = Path(__file__).parents[1] / "docs" / "runbooks"
SECONDS_MAX = 60.0
_MODULES = {"rookery": "client.cli.main", "rookery-server": "services.cli", "python3": ""}
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
            path = programs / name
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
