"""Write what stands in this folder and in docs/operations.md's tables anew: `python -m
deploy.observability.build [--check]`.

Rules, their unit tests and dashboards are made of `alerts.py` and `boards.py`; the tables of
metrics and alerts of the registries that the processes have.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry

from deploy.observability import alerts, boards
from services.metrics import CallMetrics, Metrics
from services.party.metrics import PartyMetrics
from services.wake.gateway_metrics import GatewayMetrics

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
HEAD = "# Made by build.py of what alerts.py says. Don't edit.\n"
PAGE = ROOT / "docs" / "operations.md"
TABLE = re.compile(r"(<!-- (metrics|alerts): (\w+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)


def rules() -> dict[str, Any]:
    """Prometheus's rules."""
    recorded = [{"record": name, "expr": expr} for name, expr in alerts.RECORDED.items()]
    alerting = [
        {
            "alert": one.name,
            "expr": one.expr,
            "for": one.held,
            "labels": {"severity": one.severity},
            "annotations": {"summary": one.summary, "runbook_url": one.runbook_url},
        }
        for one in alerts.ALERTS
    ]
    return {
        "groups": [
            {"name": "rookery-recorded", "rules": recorded},
            {"name": "rookery-alerts", "rules": alerting},
        ]
    }


def rule_tests() -> dict[str, Any]:
    """promtool's unit tests: each alert fires where it should, and nowhere else."""
    tests = []
    for one in alerts.ALERTS:
        fired = {
            "exp_labels": {"severity": one.severity, **one.labels},
            "exp_annotations": {
                "summary": _filled(one.summary, one.labels, one.bad),
                "runbook_url": one.runbook_url,
            },
        }
        tests += [
            _rule_test(one, "fires", one.bad, [fired]),
            _rule_test(one, "does not fire", one.good, []),
        ]
    return {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}


def _rule_test(
    one: alerts.Alert, what: str, series: alerts.Series, expected: list[Any]
) -> dict[str, Any]:
    return {
        "interval": "1m",
        "name": f"{one.name} {what}",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": one.fires_at, "alertname": one.name, "exp_alerts": expected}
        ],
    }


def _filled(summary: str, labels: dict[str, str], series: alerts.Series) -> str:
    """What Prometheus makes of the template; a value is the first one's of a constant series."""
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], summary)
    [first, *_] = series.values()
    return text.replace("{{ $value }}", first.partition("x")[0])


# --- docs/operations.md ---


def metric_table(name: str) -> Iterator[str]:
    """All families of a process that the others have not."""
    yield "| metric | type | labels | |"
    yield "|---|---|---|---|"
    common = {family.name for family in CallMetrics().registry.collect()}
    for family in sorted(PROCESSES[name]().registry.collect(), key=lambda one: one.name):
        own = name == "CallMetrics" or family.name not in common
        if own and family.name.startswith("rookery_"):
            shown = family.name + ("_total" if family.type == "counter" else "")
            labels = ", ".join(f"`{label}`" for label in label_names(family.name)) or ""
            yield f"| `{shown}` | {family.type} | {labels} | {family.documentation} |"


def alert_table(_: str) -> Iterator[str]:
    """All alerts with their run books."""
    yield "| alert | | for | severity | run book |"
    yield "|---|---|---|---|---|"
    for one in alerts.ALERTS:
        text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"(\1)", one.summary)
        text = text.replace("{{ $value }}", "(so many)")
        book = f"[{one.runbook}](runbooks/{one.runbook}.md)"
        yield f"| `{one.name}` | {text} | {one.held} | {one.severity} | {book} |"


def label_names(name: str) -> tuple[str, ...]:
    """Of a family, in their order."""
    return LABELS[name]


def _labels_of(registries: Iterable[CollectorRegistry]) -> dict[str, tuple[str, ...]]:
    """Also of families that have no child yet."""
    found: dict[str, tuple[str, ...]] = {}
    for registry in registries:
        for collector in registry._collector_to_names:
            name, labels = getattr(collector, "_name", ""), getattr(collector, "_labelnames", ())
            if name:
                found[name] = tuple(labels)
    return found


PROCESSES: dict[str, type[CallMetrics]] = {
    made.__name__: made for made in (CallMetrics, Metrics, PartyMetrics, GatewayMetrics)
}
LABELS = _labels_of(made().registry for made in PROCESSES.values())
_TABLES = {"metrics": metric_table, "alerts": alert_table}


def page(text: str) -> str:
    """The page with its tables as they should be."""

    def fill(found: re.Match[str]) -> str:
        return found[1] + "".join(f"{line}\n" for line in _TABLES[found[2]](found[3])) + found[4]

    return TABLE.sub(fill, text)


# --- files ---


def files() -> Iterator[tuple[Path, str]]:
    """Every file that is made, with what is to stand in it."""
    yield FOLDER / "rules.yml", HEAD + _yaml(rules())
    yield FOLDER / "rules_test.yml", HEAD + _yaml(rule_tests())
    for name, board in boards.BOARDS.items():
        yield FOLDER / "grafana" / f"{name}.json", json.dumps(board, indent=1) + "\n"
    yield PAGE, page(PAGE.read_text("utf-8"))


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, width=100, allow_unicode=True))


def main() -> None:
    """Writes, or with `--check` only judges."""
    for path, wanted in files():
        if path.exists() and path.read_text("utf-8") == wanted:
            continue
        if "--check" in sys.argv[1:]:
            sys.exit(f"{path.relative_to(ROOT)} is old: `make observability`")
        path.write_text(wanted, "utf-8")


if __name__ == "__main__":
    main()
