"""Refuse committed files that name a package registry: `hosts.py [FILE...]`.

Where packages come from is a setting of the machine that installs; the hashes in
requirements.lock decide what is accepted. An address in a file would override the one or
weaken the other.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMES = "pypi|pythonhosted|npmjs|npmmirror|yarnpkg|debian|ubuntu|alpinelinux|crates|rubygems"
HOST = re.compile(
    rf"https?://[^\s/]*(?:{NAMES})|\b(?:{NAMES})\.(?:org|com|net|io)\b", re.IGNORECASE
)


def committed() -> list[Path]:
    """Every file that git tracks or would track."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    return [ROOT / name for name in listing.decode().split("\0") if name]


def findings(paths: list[Path]) -> list[str]:
    """`path:line: text` for every line that names a registry host."""
    found = []
    for path in filter(Path.is_file, paths):
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if HOST.search(line):
                found.append(f"{path}:{number}: {line.strip()[:120]}")
    return found


def main() -> int:
    """Prints what was found; 1 if anything was."""
    found = findings([Path(name) for name in sys.argv[1:]] or committed())
    print("\n".join([*found, f"hosts: {len(found)} found"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
