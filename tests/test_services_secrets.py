"""No secret of a server that somebody tried out gets into the repository."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_no_key_file_or_database_is_committed() -> None:
    """Nothing that `rookery-server serve --dev` makes is tracked, by name or by content."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    files = [ROOT / name for name in listed.split("\0") if name]
    made = [file for file in files if re.search(r"\.(key|pepper|db|lock)$", file.name)]
    assert [file for file in made if "--hash=sha256:" not in file.read_text("utf-8")] == []
    small = [file for file in files if file.is_file() and file.stat().st_size == 65]
    assert [file for file in small if re.fullmatch(rb"[0-9a-f]{64}\n", file.read_bytes())] == []
