"""Folders of policies for tests, copied from the shipped one and edited, and `rookery policy`."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from client.cli.main import main
from client.policykit import folder
from client.policykit.bundlefile import BundleFile
from crypto.policy import FIRST
from tests.cli_process import PROGRAM
from tests.service_process import environment

ROOT: Final = Path(__file__).resolve().parent.parent
SHIPPED: Final = ROOT / "deploy" / "policy"
BASELINE: Final = SHIPPED / "baseline.policy"


class _Plain(yaml.SafeDumper):
    """Writes out what is there twice, as people do."""

    def ignore_aliases(self, data: object) -> bool:
        """All of them."""
        return True


@dataclass(frozen=True, slots=True)
class Run:
    """How `rookery policy` ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its one line of output."""
        (line,) = self.out.splitlines()
        return json.loads(line)


def rookery(*arguments: str | Path) -> Run:
    """`rookery policy`, in this process: most of what a short one costs is starting it."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["policy", *map(str, arguments)])
    return Run(code, out.getvalue(), err.getvalue())


def rookery_process(*arguments: str | Path) -> Run:
    """`rookery policy`, as a process of its own."""
    done = subprocess.run(
        [*PROGRAM, "policy", *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Run(done.returncode, done.stdout, done.stderr)


@cache
def _shipped() -> bytes:
    draft = folder.read(SHIPPED)
    bundle = draft.bundle(sequence=1, previous=FIRST, issued_ms=1)
    return BundleFile.signed(bundle, None).encode()


@dataclass(frozen=True, slots=True)
class Folder:
    """A policy's folder that a test may edit."""

    path: Path

    @classmethod
    def copied(cls, path: Path) -> Folder:
        """The shipped one's YAML, elsewhere."""
        path.mkdir()
        for file in SHIPPED.glob("*.yaml"):
            shutil.copy(file, path)
        made = cls(path)
        made.in_force.write_bytes(_shipped())
        return made

    @property
    def in_force(self) -> Path:
        """The shipped policy as it is, compiled: what edits of this folder are judged against."""
        return self.path.with_suffix(".in-force")

    def text(self, name: str) -> str:
        """What a file says."""
        return (self.path / f"{name}.yaml").read_text()

    def write(self, name: str, text: str) -> None:
        """A file's text instead."""
        (self.path / f"{name}.yaml").write_text(text)

    def replace(self, name: str, old: str, new: str) -> None:
        """One place of a file's text; it must be there once."""
        text = self.text(name)
        assert text.count(old) == 1, (text.count(old), old)
        self.write(name, text.replace(old, new))

    def said(self, name: str) -> Any:
        """A file's content."""
        # What YAML 1.1 would take for a truth.
        return yaml.safe_load(self.text(name).replace("  on: ", "  'on': "))

    def say(self, name: str, content: object) -> None:
        """Other content."""
        self.write(name, yaml.dump(content, Dumper=_Plain, sort_keys=False))

    def edit(self, name: str, *path: str, **changes: object) -> None:
        """Fields of an entry; None takes one out."""
        content = self.said(name)
        entry = content
        for step in path:
            entry = entry[step]
        for field, value in changes.items():
            if value is None:
                del entry[field]
            else:
                entry[field] = value
        self.say(name, content)

    def answer(self, *changes: str) -> None:
        """Writes a mitigation for each of these ids."""
        written = self.said("assessment") or {}
        written |= {
            change: {
                "mitigation": "What is done about it.",
                "approved_by": "data protection officer",
                "date": "2026-11-30",
            }
            for change in changes
        }
        self.say("assessment", written)

    def files(self) -> Iterator[Path]:
        """All of them."""
        return self.path.glob("*.yaml")
