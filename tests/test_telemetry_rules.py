"""Alerts and dashboards name what there is, fire when they should, and lead to a run book."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.observability import alerts
from deploy.observability.build import LABELS, PROCESSES
from services.config import Config
from services.metrics import STATUS_OF, CallMetrics
from tests.programs import program
from tests.relay_worlds import BOXES
from tests.served import UNARY

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy" / "observability"
RUNBOOKS = ROOT / "docs" / "runbooks"
METHODS = (*UNARY, BOXES)
# A page may name them beside what it lists.
SETTINGS = {row.name for row in fields(Config)}
# Of Prometheus itself, and what rules are given by it.
_BUILT_IN = {"up": {"job", "instance"}}
_TARGET = {"job", "instance", "le"}
_SELECTOR = re.compile(r"([a-z_:][a-z0-9_:]*)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
_NAME = re.compile(r"\b((?:rookery|process|python)[_:][a-z0-9_:]+|up)\b")


def known() -> dict[str, dict[str, set[str]]]:
    """Every sample there can be: its labels, and their values as far as they are made at once."""
    found: dict[str, dict[str, set[str]]] = {}
    for metrics in (made() for made in PROCESSES.values()):
        metrics.serve(METHODS)
        for method in METHODS:
            for reason in STATUS_OF:
                metrics.called(method, reason, 0.0)
        for name, labels in _samples(metrics):
            for label, value in labels.items():
                found.setdefault(name, {}).setdefault(label, set()).add(value)
            found.setdefault(name, {})
    for name, names in LABELS.items():
        for sample in (name, f"{name}_total", f"{name}_bucket", f"{name}_sum", f"{name}_count"):
            for label in names:
                found.setdefault(sample, {}).setdefault(label, set())
    return found


def _samples(metrics: CallMetrics) -> Iterator[tuple[str, dict[str, str]]]:
    for family in metrics.registry.collect():
        for sample in family.samples:
            yield sample.name, dict(sample.labels)


def problems(query: str, names: dict[str, dict[str, set[str]]]) -> list[str]:
    """What a query asks for that there is not."""
    found = []
    bare = re.sub(r'"[^"]*"', '""', query)
    there = names.keys() | _BUILT_IN.keys() | alerts.RECORDED.keys()
    asked = set(_NAME.findall(re.sub(r"\{[^}]*\}", "", bare)))
    found += [f"no metric {name}" for name in sorted(asked - there)]
    for name, matchers in _SELECTOR.findall(query):
        labels = names.get(name, {label: set() for label in _BUILT_IN.get(name, ())})
        for label, _, value in _MATCHER.findall(matchers):
            if label in _TARGET or "$" in value:
                continue
            if label not in labels:
                found.append(f"{name} has no label {label}")
            values = labels.get(label) or set(value.split("|"))
            found += [f"{name}: {label} is never {one}" for one in set(value.split("|")) - values]
    everything = {label for one in names.values() for label in one} | _TARGET
    for grouped in re.findall(r"\bby \(([^)]*)\)", query):
        wanted = {label.strip() for label in grouped.split(",") if label.strip()}
        found += [f"no label {label}" for label in wanted - everything]
    return found


def dashboards() -> Iterator[tuple[str, dict[str, Any]]]:
    """All panels with queries."""
    for file in sorted((FOLDER / "grafana").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            if panel["type"] != "row":
                yield f"{file.stem}: {panel['title']}", panel


def rules() -> list[dict[str, Any]]:
    """Every rule as Prometheus reads it."""
    groups = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_what_is_committed_is_what_is_made() -> None:
    """Rules, their tests, dashboards and the tables of docs/operations.md are current."""
    subprocess.run(
        [sys.executable, "-m", "deploy.observability.build", "--check"], cwd=ROOT, check=True
    )


def test_promtool_is_content() -> None:
    """With the configuration, the rules, and the unit test of every alert."""
    promtool = str(program("promtool"))
    for check in (
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "rules.yml"),
        ("test", "rules", "rules_test.yml"),
    ):
        done = subprocess.run(
            [promtool, *check], cwd=FOLDER, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_asks_for_what_there_is() -> None:
    """Metrics, labels and values of labels."""
    names = known()
    for rule in rules():
        assert problems(rule["expr"], names) == [], rule


def test_every_panel_asks_for_what_there_is() -> None:
    """The same of the dashboards; and no panel is without a query."""
    names = known()
    for where, panel in dashboards():
        assert panel["targets"], where
        for target in panel["targets"]:
            assert problems(target["expr"], names) == [], where


def test_queries_of_dashboards_are_queries(tmp_path: Path) -> None:
    """promtool parses each, with Grafana's variables filled in."""
    queries = [
        target["expr"]
        .replace("$__rate_interval", "5m")
        .replace("$job", ".+")
        .replace("$instance", ".+")
        for _, panel in dashboards()
        for target in panel["targets"]
    ]
    group = {
        "name": "all",
        "rules": [{"record": f"q:{n}", "expr": q} for n, q in enumerate(queries)],
    }
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [group]}))
    done = subprocess.run(
        [program("promtool"), "check", "rules", str(tmp_path / "queries.yml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("rate(rookery_pushs_total[5m])", "no metric rookery_pushs_total"),
        ('rookery_rounds{phase="open"}', "rookery_rounds has no label phase"),
        ('rookery_rounds{state="opened"}', "rookery_rounds: state is never opened"),
        ('rookery_refusals_total{reason=~"OVERLOADED|FULL"}', "reason is never FULL"),
        ("sum by (account) (rookery_rounds)", "no label account"),
    ],
)
def test_what_there_is_not_is_found(query: str, said: str) -> None:
    """The control of the tests above."""
    assert any(said in problem for problem in problems(query, known()))


def test_every_alert_has_a_run_book_and_every_run_book_its_alert() -> None:
    """Which names it, and says what it means, where to look and what to do."""
    books: dict[str, set[str]] = {}
    for rule in rules():
        if "alert" in rule:
            url = rule["annotations"]["runbook_url"]
            assert rule["annotations"]["summary"]
            assert rule["labels"]["severity"] in ("page", "ticket")
            books.setdefault(url, set()).add(rule["alert"])
    for url, fired in books.items():
        text = (ROOT / url).read_text()
        for part in ("## What it means", "## Look", "## Do"):
            assert part in text, url
        [line] = [line for line in text.splitlines() if line.startswith("Alert")]
        assert set(re.findall(r"`(\w+)`", line)) == fired, url
        assert "(../operations.md#looking)" in text.partition("## What it means")[0], url
    marked = [book for book in RUNBOOKS.glob("*.md") if "\nAlert" in book.read_text()]
    assert {f"docs/runbooks/{book.name}" for book in marked} == set(books)


@pytest.mark.parametrize(
    "names",
    [
        ("fault",), ("cause",), ("outcome",), ("verdict",), ("job", "ending"),
        ("opening", "budget"), ("rule",),
    ],
)  # fmt: skip
def test_the_page_lists_what_labels_can_be(names: tuple[str, ...]) -> None:
    """Every value that a process can give them, and no other."""
    first = ", ".join(f"`{name}`" for name in names)
    page = (ROOT / "docs" / "operations.md").read_text()
    [row] = [line for line in page.splitlines() if line.startswith(f"| {first} |")]
    listed = set(re.findall(r"`(\w+)`", row.removeprefix(f"| {first} |"))) - SETTINGS
    labels = [found for metric in known().values() for found in metric.items()]
    assert listed == {one for name, values in labels if name in names for one in values}


def test_every_alert_has_unit_tests_of_both_kinds() -> None:
    """One in which it fires, with all that it says, and one in which it doesn't."""
    tests = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
    seen: dict[str, set[bool]] = {}
    for test in tests:
        for case in test["alert_rule_test"]:
            seen.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    names = {rule["alert"] for rule in rules() if "alert" in rule}
    assert seen == {name: {True, False} for name in names}


def test_metrics_that_run_books_ask_for_exist() -> None:
    """Every word of a `grep` in a run book is part of a metric's name, or of a label's value."""
    names = known()
    everything = " ".join(
        [*names, *(value for labels in names.values() for one in labels.values() for value in one)]
    )
    asked = re.compile(r"/metrics \| grep (?:'([^']*)'|(\S+))")
    for book in RUNBOOKS.glob("*.md"):
        for found in asked.finditer(book.read_text()):
            for word in (found[1] or found[2]).split("\\|"):
                assert word.strip("`.") in everything, (book.name, word)


def test_the_page_has_every_metric_and_every_alert() -> None:
    """docs/operations.md leaves none out."""
    page = (ROOT / "docs" / "operations.md").read_text()
    shown = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    for metrics in (made() for made in PROCESSES.values()):
        for family in metrics.registry.collect():
            if family.name.startswith("rookery_"):
                name = family.name + ("_total" if family.type == "counter" else "")
                assert name in shown, name
    assert {one.name for one in alerts.ALERTS} <= shown
