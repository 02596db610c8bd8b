"""Write what docs/policy.md shows of the shipped policy anew: `policy_page.py [--check]`.

The summary that `rookery policy check` prints, and the data-flow diagram.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/policy.md"
FOLDER = "deploy/policy"
SUMMARY = re.compile(rf"(?<=\$ rookery policy check {FOLDER}\n).*?(?=```)", re.DOTALL)
DIAGRAM = re.compile(r"(?<=```mermaid\n).*?(?=```)", re.DOTALL)


def shown() -> tuple[str, str]:
    """Summary and diagram."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "flow.mmd"
        command = [sys.executable, "-m", "client.cli.main", "policy", "check", FOLDER]
        summary = subprocess.run(
            [*command, "--diagram", drawn],
            cwd=ROOT,
            # The checkout that holds the page, whichever environment runs this.
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'proto'}"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        return summary, drawn.read_text()


def main() -> int:
    """1 with --check if the page is out of date."""
    before = PAGE.read_text()
    summary, diagram = shown()
    after = SUMMARY.sub(lambda _: summary, before, count=1)
    after = DIAGRAM.sub(lambda _: diagram, after, count=1)
    if after == before:
        print("policy_page: current")
        return 0
    if "--check" in sys.argv[1:]:
        print("policy_page: docs/policy.md is out of date; run `make policy-page`")
        return 1
    PAGE.write_text(after)
    print("policy_page: docs/policy.md written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
