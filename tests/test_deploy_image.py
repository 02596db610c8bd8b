"""The image: what its file promises, and that it installs what requirements.lock says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "deploy/image/Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Name and the rest of each instruction."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def test_the_linter_has_nothing_to_say() -> None:
    """hadolint, without an exception."""
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "hadolint ignore" not in DOCKERFILE.read_text()


def test_it_installs_what_is_locked() -> None:
    """Out of date: `make image-locks`. Nothing but pinned wheels is installed."""
    check = [sys.executable, str(ROOT / ".ci/image_locks.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    installs = [rest for name, rest in instructions() if name == "RUN" and "install" in rest]
    assert len(installs) == 3
    for rest in installs:
        assert "--require-hashes" in rest or "--no-index" in rest


def test_its_base_is_given_and_it_runs_as_nobody_without_a_shell() -> None:
    """No default that could drift; a number for a user; every command is a list."""
    rows = instructions()
    assert [rest for name, rest in rows if name == "FROM"] == ["${BASE} AS build", "${BASE}"]
    assert ("ARG", "BASE") in rows
    last = dict(rows)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"])
    for name, rest in rows:
        if name in ("RUN", "CMD", "ENTRYPOINT"):
            assert rest.startswith("["), rest
        if name == "HEALTHCHECK":
            assert re.search(r'CMD \["rookery-server", "health"\]$', rest)


def test_a_base_without_a_digest_ends_the_build() -> None:
    """At its first step, in words."""
    rows = instructions()
    at = rows.index(("FROM", "${BASE} AS build"))
    assert rows[at + 1] == ("ARG", "BASE")
    name, rest = rows[at + 2]
    assert name == "RUN"
    program, *arguments = json.loads(rest)
    assert program == "python3"
    codes = {}
    for base in ("python:3.13-slim", "python@sha256:0a", f"python:3.13-slim@sha256:{'0a' * 32}"):
        done = subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "BASE": base},
            capture_output=True,
            text=True,
            check=False,
        )
        codes[base] = done.returncode
        assert ("BASE: name the image with its digest" in done.stderr) == bool(done.returncode)
    assert [*codes.values()] == [1, 1, 0]


def test_what_is_copied_is_there_and_let_through() -> None:
    """.dockerignore leaves everything out but what the file copies."""
    let_through = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied = [
        source
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source in let_through or f"{Path(source).parent}/*{Path(source).suffix}" in (
            let_through
        )
