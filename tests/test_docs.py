"""What the documentation shows is run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from client.analyst import draft, panel as panels
from crypto import enrol
from crypto.ids import LinkHash
from services.config import Config
from services.party.config import PartyConfig
from services.wake.gateway_config import GatewayConfig

DOCS = Path(__file__).parent.parent / "docs"


def test_the_backend_of_the_enrolment_page_makes_tokens_that_verify() -> None:
    """The example in docs/enrolment.md issues a token that opens under its public key."""
    [code] = re.findall(r"```python\n(.*?)```", (DOCS / "enrolment.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - our own page
    genesis = LinkHash(b"\x07" * 32)
    token = names["token_for"]("alice@example.org", genesis)
    opened = enrol.open_token(
        token, names["KEY"].public, audience="sync.example.org", genesis=genesis, now_ms=0
    )
    assert opened.subject == enrol.subject(names["SALT"], "alice@example.org")


def test_the_task_and_the_panel_of_the_page_on_tasks_are_sound(tmp_path: Path) -> None:
    """What docs/tasks.md shows can be published, and the panel is one but for its keys."""
    task, panel = re.findall(r"```toml\n(.*?)```", (DOCS / "tasks.md").read_text(), re.DOTALL)
    (tmp_path / "task.toml").write_text(task)
    assert draft.read(tmp_path / "task.toml").field.bits == 31
    (tmp_path / "panel.toml").write_text(panel.replace("64 hex digits", "ab" * 32))
    assert len(panels.read(tmp_path / "panel.toml").parties) == 1


def test_the_tables_of_settings_are_current() -> None:
    """docs/ shows every setting of service and party as it is; `make settings` writes them."""
    pages: tuple[tuple[str, type], ...] = (
        ("operations.md", Config), ("parties.md", PartyConfig), ("wake.md", GatewayConfig),
    )  # fmt: skip
    for page, config in pages:
        name = f"{config.__module__}.{config.__name__}"
        assert f"<!-- settings: {name} -->" in (DOCS / page).read_text()
    writer = DOCS.parent / ".ci" / "settings_tables.py"
    subprocess.run([sys.executable, writer, "--check"], check=True)


def test_every_link_between_pages_leads_somewhere() -> None:
    """Relative links of README and docs name files that exist."""
    pages = [DOCS.parent / "README.md", *DOCS.rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_lesson_names_a_test_that_exists() -> None:
    """docs/lessons.md names no test that was renamed or removed."""
    named = set(re.findall(r"`(test_\w+)`", (DOCS / "lessons.md").read_text())) - {"test_docs"}
    tests = "\n".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    missing = {name for name in named if not re.search(rf"def {name}\(", tests)}
    assert named
    assert not missing
