"""Write what the image installs out of requirements.lock: `image_locks.py [--check]`.

A lock of what runs, parties and traces included, and one of what builds the wheel.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy/image"


def wanted() -> dict[str, list[str]]:
    """Arguments of runtime_lock.py by file."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = pyproject["project"]["optional-dependencies"]
    return {
        "runtime.lock": [*extras["party"], *extras["otel"]],
        "build.lock": ["--only", *pyproject["build-system"]["requires"]],
    }


def lock(arguments: list[str]) -> str:
    """The rows."""
    return subprocess.run(
        [sys.executable, ROOT / ".ci/runtime_lock.py", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def main() -> int:
    """1 with --check if a file is out of date."""
    stale = []
    for name, arguments in wanted().items():
        text = lock(arguments)
        path = FOLDER / name
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
    print(f"image_locks: {', '.join(stale) or 'nothing'} out of date")
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
