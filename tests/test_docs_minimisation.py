"""docs/minimisation.md lists the rules as the code has them, and tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

from client.governed.gate import RULES, refused
from crypto.policy.retention import FIELDS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "minimisation.md").read_text()


def rows(under: str) -> list[list[str]]:
    """The cells of the first table behind these words."""
    table = PAGE[PAGE.index(under) :].split("|---", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")]
            for line in table.splitlines()[1:]]  # fmt: skip


def test_the_rules_of_the_page_are_those_of_the_gate_in_order_and_in_its_words() -> None:
    """Rule and sentence."""
    listed = [(rule.strip("| `"), sentence) for rule, sentence, _ in rows("## What is recorded")]
    assert listed == [(rule, str(refused(rule)).removesuffix(f" (rule {rule})")) for rule in RULES]


def test_every_test_that_the_page_names_is_there() -> None:
    """In some file of the tests."""
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 12
    source = "\n".join(file.read_text() for file in (ROOT / "tests").glob("test_*.py"))
    there = set(re.findall(r"^(?:async )?def (test_\w+)", source, re.MULTILINE))
    assert named <= there, named - there


def test_the_page_says_where_each_bound_of_the_bundle_is_applied() -> None:
    """A field that is added to `ServiceRetention` must be written down."""
    table = " ".join(cell for row in rows("## At the service and the parties") for cell in row)
    assert set(re.findall(r"\w+_days\w*", table)) == set(FIELDS)
