"""requirements.lock pins everything by digest and leaves the choice of registry to the machine."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOSTS = ROOT / ".ci" / "hosts.py"


def rows() -> list[str]:
    """The lock's requirements, continuation lines joined, comments left out."""
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    return [
        line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]


def run_hosts(*files: Path) -> subprocess.CompletedProcess[str]:
    """The check of .ci/run that no committed file names a registry."""
    return subprocess.run(
        [sys.executable, HOSTS, *files], capture_output=True, text=True, check=False
    )


def test_every_row_is_an_exact_version_with_hashes() -> None:
    """Each row of the lock names one version and at least one SHA-256, and is nothing else."""
    row = re.compile(r"^[a-z0-9-]+==\S+( ; .+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*$")
    assert len(rows()) > 30
    assert [line for line in rows() if not row.match(line)] == []


def test_lock_names_no_host_and_no_path() -> None:
    """The lock holds no address, no index option and no path of the machine that made it."""
    text = (ROOT / "requirements.lock").read_text()
    assert re.findall(r"://|--(?:extra-)?index|--find-links|^\s*-e|file:|/home/|/tmp/", text) == []


def test_no_committed_file_names_a_registry() -> None:
    """No committed file names the host of a package registry."""
    result = run_hosts()
    assert result.returncode == 0, result.stdout


# Taken apart, or this file would be found itself.
@pytest.mark.parametrize(
    ("template", "host"),
    [
        ("--index-url https://{}/simple", ("pypi", "org")),
        ('"resolved": "https://registry.{}/x/-/x-1.tgz"', ("npmjs", "org")),
        ("deb http://deb.{}/debian stable main", ("debian", "org")),
        ("RUN curl https://files.{}/x.whl", ("pythonhosted", "org")),
    ],
)
def test_registry_check_finds_what_it_is_for(
    template: str, host: tuple[str, str], tmp_path: Path
) -> None:
    """A file with a registry's host fails the check, which says where it stands."""
    planted = tmp_path / "planted"
    planted.write_text("first line\n" + template.format(".".join(host)) + "\n")
    result = run_hosts(planted)
    assert result.returncode == 1
    assert f"{planted}:2:" in result.stdout
