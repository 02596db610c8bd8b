"""Grafana's dashboards, as data: rows of panels, each a title, a unit and its queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

_WIDTH, _HEIGHT = 8, 7
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_HERE = 'job=~"$job",instance=~"$instance"'


@dataclass(frozen=True, slots=True)
class Panel:
    """`queries`: PromQL to legend. `@` in it stands for the chosen jobs and instances."""

    title: str
    unit: str
    queries: dict[str, str]
    about: str = ""


def quantiles(name: str, *by: str) -> dict[str, str]:
    """Median and 99th percentile of a histogram."""
    summed = f"sum by ({', '.join((*by, 'le'))}) (rate({name}_bucket{{@}}[$__rate_interval]))"
    legend = " ".join(f"{{{{{label}}}}}" for label in by)
    return {
        f"histogram_quantile({q}, {summed})": f"{legend} p{q * 100:g}".strip() for q in (0.5, 0.99)
    }


def rate(name: str, *by: str, more: str = "") -> dict[str, str]:
    """A counter's rate, by labels."""
    groups = ", ".join(by)
    legend = " ".join(f"{{{{{label}}}}}" for label in by) or name
    return {f"sum by ({groups}) (rate({name}{{@{more}}}[$__rate_interval]))": legend}


def gauge(name: str, *by: str, more: str = "") -> dict[str, str]:
    """A gauge's sum, by labels."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by) or name
    return {f"sum by ({', '.join(by)}) ({name}{{@{more}}})": legend}


_GATES = (
    ',reason=~"ACCESS_DENIED|ROLE_MISSING|CONSENT_MISSING|CONSENT_INVALID|TASK_UNDECLARED'
    '|POLICY_INVALID"'
)
_PROCESS = (
    Panel("CPU", "percentunit", rate("process_cpu_seconds_total", "instance")),
    Panel("Memory", "bytes", gauge("process_resident_memory_bytes", "instance")),
    Panel(
        "Open files",
        "none",
        gauge("process_open_fds", "instance") | gauge("process_max_fds", "instance"),
    ),
    Panel("How late the event loop is", "s", quantiles("rookery_loop_lag_seconds", "instance")),
    Panel("Defects", "none", rate("rookery_defects_total", "instance")),
    Panel(
        "Versions, drains, lost spans",
        "none",
        gauge("rookery_build_info", "version", "python")
        | gauge("rookery_draining", "instance")
        | rate("rookery_spans_lost_total", "job"),
    ),
)
_CALLS = (
    Panel("Calls", "reqps", rate("rookery_call_seconds_count", "method")),
    Panel(
        "Calls that did not end well",
        "reqps",
        rate("rookery_call_seconds_count", "method", "status", more=',status!="OK"'),
    ),
    Panel("Duration", "s", quantiles("rookery_call_seconds", "method")),
    Panel("Refusals by reason", "reqps", rate("rookery_refusals_total", "reason")),
    Panel(
        "In flight, and the most that a lane takes",
        "none",
        gauge("rookery_calls_in_flight", "lane") | gauge("rookery_calls_in_flight_max", "lane"),
    ),
    Panel(
        "How long calls wait; share that is shed for it",
        "none",
        {
            "max by (instance) (rookery_queue_delay_seconds{@})": "{{instance}} seconds",
            "max by (instance, lane) (rookery_shed_share{@})": "{{instance}} {{lane}} share",
        },
    ),
    Panel(
        "Streams that ended",
        "reqps",
        rate("rookery_stream_seconds_count", "method", "status")
        | {
            "sum by (method) (rate(rookery_stream_seconds_sum{@}[1h])) / sum by (method)"
            " (rate(rookery_stream_seconds_count{@}[1h]))": "{{method}} mean seconds"
        },
    ),
)

SERVICE = {
    "Calls": _CALLS,
    "Sync": (
        Panel("Pushes", "reqps", rate("rookery_pushes_total")),
        Panel(
            "Ops",
            "ops",
            rate("rookery_ops_total") | rate("rookery_ops_repeated_total"),
            "Repeated: pushed again by who missed the answer.",
        ),
        Panel(
            "Open streams, waiting pairings",
            "none",
            gauge("rookery_streams_open") | gauge("rookery_pairing_waits"),
        ),
        Panel("From commit to delivery", "s", quantiles("rookery_delivery_lag_seconds")),
        Panel("Rounds at the relay", "none", gauge("rookery_rounds", "state")),
        Panel("Sleeping phones", "none", rate("rookery_wake_pokes_total", "outcome")),
        Panel(
            "Accounts before they are marked, and gateways that are down",
            "none",
            gauge("rookery_wake_waiting", "instance")
            | gauge("rookery_wake_gateway_down", "instance")
            | rate("rookery_wake_dropped_total", "instance"),
        ),
        Panel(
            "Since the newest sweep",
            "s",
            {"time() - max by (instance) (rookery_sweep_done_timestamp_seconds{@})": "{{instance}}"}
            | rate("rookery_sweeps_total", "outcome"),
        ),
        Panel(
            "Kept for too long: 0",
            "none",
            gauge("rookery_retention_overdue", "kind") | gauge("rookery_rows_past_deletion"),
            "Past its retention for two sweeps, or of an account that was deleted.",
        ),
    ),
    "Governance": (
        Panel(
            "Policy in force, by replica",
            "none",
            gauge("rookery_policy_sequence", "instance"),
            "Replicas differ for about a second after a new one.",
        ),
        Panel(
            "Age of the policy, and of the service's keys",
            "s",
            {"time() - max(rookery_policy_issued_timestamp_seconds{@} > 0)": "policy"}
            | {"time() - max by (key) (rookery_key_timestamp_seconds{@} > 0)": "{{key}}"},
        ),
        Panel(
            "Consent",
            "none",
            rate("rookery_consents_total", "said"),
            "Of all purposes: which one does not show.",
        ),
        Panel(
            "Denied by a gate",
            "none",
            rate("rookery_refusals_total", "reason", more=_GATES),
        ),
        Panel("Entries of the audit log", "none", rate("rookery_audit_entries_total")),
        Panel(
            "Headers that name a workload",
            "none",
            rate("rookery_workload_claims_total", "outcome"),
        ),
    ),
    "Waking": (
        Panel("Pokes by outcome", "none", rate("rookery_wake_pokes_total", "outcome")),
        Panel(
            "Waiting, dropped",
            "none",
            gauge("rookery_wake_waiting", "instance") | rate("rookery_wake_dropped_total"),
        ),
        Panel("The gateway is down", "none", gauge("rookery_wake_gateway_down", "instance")),
        Panel(
            "At the gateway: verdicts",
            "none",
            {
                "sum by (verdict) (rate(rookery_gateway_verdicts_total[$__rate_interval]))": (
                    "{{verdict}}"
                )
            },
        ),
    ),
    "Store": (
        Panel("Commit", "s", quantiles("rookery_store_commit_seconds")),
        Panel("Requests in a commit", "none", quantiles("rookery_store_commit_requests")),
        Panel("Ops in a commit", "none", quantiles("rookery_store_commit_ops")),
        Panel("Writes that wait", "none", gauge("rookery_store_writes_waiting", "instance")),
        Panel("Errors", "none", rate("rookery_store_errors_total", "fault")),
        Panel(
            "Retries and new generations",
            "none",
            rate("rookery_store_retries_total", "cause")
            | rate("rookery_store_generation_renewals_total", "cause"),
        ),
    ),
    "Process": _PROCESS,
}
PARTIES = {
    "Rounds": (
        Panel("Rounds by state", "none", gauge("rookery_party_rounds", "instance", "state")),
        Panel(
            "Rounds that ended", "none",
            {
                "sum by (outcome) (increase(rookery_party_rounds_ended_total{@}[1d]))": (
                    "{{outcome}} a day"
                )
            },
        ),
        Panel(
            "Boxes", "none", rate("rookery_party_boxes_total", "instance", "outcome")
        ),
        Panel("Reports by verdict", "none", rate("rookery_party_reports_total", "verdict")),
        Panel(
            "Least budget left", "percentunit",
            {"min by (instance) (rookery_party_budget_left_ratio{@})": "{{instance}}"},
            "Of the task that has least left.",
        ),
        Panel(
            "Kept for too long: 0", "none", gauge("rookery_retention_overdue", "instance", "kind")
        ),
        Panel("Tasks by budget", "none", gauge("rookery_party_tasks", "instance", "budget")),
    ),
    "Jobs and links": (
        Panel("Jobs", "none", rate("rookery_party_jobs_total", "job", "ending")),
        Panel("Duration of jobs", "s", quantiles("rookery_party_job_seconds", "job")),
        Panel("Jobs that run", "none", gauge("rookery_party_jobs_running", "instance")),
        Panel(
            "Links, and as many as there should be", "none",
            gauge("rookery_party_links_up", "instance") | gauge("rookery_party_peers", "instance"),
        ),
        Panel(
            "Links lost and refused", "none",
            rate("rookery_party_links_lost_total", "rule")
            | rate("rookery_party_links_refused_total", "rule"),
        ),
        Panel(
            "The relay fails; parties lie", "none",
            rate("rookery_party_relay_failures_total", "reason")
            | rate("rookery_party_lies_total", "opening"),
        ),
    ),
    "Calls": _CALLS,
    "Process": _PROCESS,
}  # fmt: skip


def board(uid: str, title: str, job: str, rows: Mapping[str, tuple[Panel, ...]]) -> dict[str, Any]:
    """One dashboard, as Grafana imports it."""
    ids = count(1)
    panels: list[dict[str, Any]] = []
    top = 0
    for name, row in rows.items():
        place = {"h": 1, "w": 24, "x": 0, "y": top}
        panels.append({"id": next(ids), "type": "row", "title": name, "gridPos": place})
        top += 1
        for at, panel in enumerate(row):
            across, down = at % 3, at // 3
            place = {
                "h": _HEIGHT, "w": _WIDTH, "x": across * _WIDTH, "y": top + down * _HEIGHT,
            }  # fmt: skip
            panels.append(_panel(next(ids), panel, place))
        top += -(-len(row) // 3) * _HEIGHT
    return {
        "uid": uid,
        "title": title,
        "tags": ["rookery"],
        "timezone": "utc",
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": _variables(job)},
        "panels": panels,
    }


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": _SOURCE,
                "expr": query.replace("@", _HERE),
                "legendFormat": legend,
            }
            for at, (query, legend) in enumerate(panel.queries.items())
        ],
    }


def _variables(job: str) -> list[dict[str, Any]]:
    return [
        {"name": "source", "type": "datasource", "query": "prometheus", "label": "Source"},
        _choice("job", f'label_values(up{{job=~"{job}"}}, job)'),
        _choice("instance", 'label_values(up{job=~"$job"}, instance)'),
    ]


def _choice(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
    }


BOARDS = {
    "service": board("rookery-service", "Rookery: the service", "rookery-server", SERVICE),
    "parties": board("rookery-parties", "Rookery: parties", "rookery-party", PARTIES),
}
