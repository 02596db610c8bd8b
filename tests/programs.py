"""Programs that are not Python's, which tests start: from PATH, or fetched. A helper."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FETCHED = ROOT / ".cache/debian"
# What `.ci/debian.py` calls the bundle that holds it; else it is the program's own name.
BUNDLES = {
    "redis-server": "redis",
    "redis-cli": "redis",
    "redis-benchmark": "redis",
    "promtool": "prometheus",
    "chromedriver": "chromium",
}


@functools.cache
def program(name: str) -> Path:
    """Where the program is; it is fetched the first time, on a machine that lacks it."""
    fetched = FETCHED / "bin" / name
    if (on_path := shutil.which(name)) is not None:
        return Path(on_path)
    if not fetched.exists():
        done = subprocess.run(
            [sys.executable, str(ROOT / ".ci/debian.py"), str(FETCHED), BUNDLES.get(name, name)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert fetched.exists(), f"{name} is not in what was fetched: {done.stdout}"
    return fetched


@functools.cache
def version(name: str) -> str:
    """Which one it is, and what it calls itself."""
    said = subprocess.run(
        [program(name), "--version"], capture_output=True, text=True, check=True
    ).stdout
    return f"{program(name)}: {said.splitlines()[0]}"
