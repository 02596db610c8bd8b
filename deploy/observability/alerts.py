"""Every alert and recording rule, with what makes it fire and what does not.

The table is written out by `build.py`: as rules for Prometheus, as unit tests for promtool,
and as a table for docs/operations.md.
"""

from __future__ import annotations

from dataclasses import dataclass

RUNBOOKS = "docs/runbooks/"
_FAILED = 'status=~"INTERNAL|UNAVAILABLE|DEADLINE_EXCEEDED"'
# Waits for up to 25 seconds for somebody else's message, on purpose.
_WAITING = 'method!="rookery.v1.Pairing/FetchMessage"'
_CALLER = "UNAUTHENTICATED|CLOCK_SKEW|TOKEN_REFUSED"
_P99 = "histogram_quantile(0.99, sum by (job, le) (rate({}[5m])))"

RECORDED = {
    "rookery:calls:rate5m": "sum by (job, method, status) (rate(rookery_call_seconds_count[5m]))",
    "rookery:calls_failed:ratio5m": (
        f"sum by (job) (rate(rookery_call_seconds_count{{{_FAILED}}}[5m]))"
        " / sum by (job) (rate(rookery_call_seconds_count[5m]))"
    ),
    "rookery:calls_shed:ratio5m": (
        'sum by (job) (rate(rookery_refusals_total{reason="OVERLOADED"}[5m]))'
        " / sum by (job) (rate(rookery_call_seconds_count[5m]))"
    ),
    "rookery:callers_refused:ratio5m": (
        f'sum by (job) (rate(rookery_refusals_total{{reason=~"{_CALLER}"}}[5m]))'
        " / sum by (job) (rate(rookery_call_seconds_count[5m]))"
    ),
    "rookery:call_seconds:p99_5m": _P99.format(f"rookery_call_seconds_bucket{{{_WAITING}}}"),
    "rookery:commit_seconds:p99_5m": _P99.format("rookery_store_commit_seconds_bucket"),
    "rookery:delivery_lag_seconds:p99_5m": _P99.format("rookery_delivery_lag_seconds_bucket"),
    "rookery:loop_lag_seconds:p99_5m": _P99.format("rookery_loop_lag_seconds_bucket"),
    "rookery:reports_bad:ratio6h": (
        'sum by (job) (increase(rookery_party_reports_total{verdict!="valid"}[6h]))'
        " / sum by (job) (increase(rookery_party_reports_total[6h]))"
    ),
}

Series = dict[str, str]
"""Name and labels to values, in promtool's notation, a value a minute."""


@dataclass(frozen=True, slots=True)
class Alert:
    """`bad` makes it fire by `fires_at`, with `labels`; `good` does not, as long as it lasts."""

    name: str
    expr: str
    held: str
    severity: str
    summary: str
    runbook: str
    bad: Series
    good: Series
    labels: dict[str, str]
    fires_at: str = "30m"

    @property
    def runbook_url(self) -> str:
        """Where it says what to do."""
        return f"{RUNBOOKS}{self.runbook}.md"


_PUSH = ',method="rookery.v1.Sync/Push"'
_FETCH = ',method="rookery.v1.Pairing/FetchMessage"'
_SERVER = {"job": "rookery-server"}
_ONE = {"job": "rookery-server", "instance": "a"}
_PARTY = {"job": "rookery-party", "instance": "p1"}


def _calls(status: str, a_minute: int) -> Series:
    labels = f'job="rookery-server",instance="a",method="rookery.v1.Sync/Push",status="{status}"'
    return {f"rookery_call_seconds_count{{{labels}}}": f"0+{a_minute}x60"}


def _refusals(reason: str, a_minute: int) -> Series:
    labels = f'job="rookery-server",instance="a",reason="{reason}"'
    return {f"rookery_refusals_total{{{labels}}}": f"0+{a_minute}x60"}


def _buckets(name: str, bounds: tuple[str, str], below: int, more: str = "") -> Series:
    """A hundred a minute within the second bound, so many of them within the first."""
    labels = f'job="rookery-server",instance="a"{more}'
    return {
        f'{name}_bucket{{{labels},le="{bounds[0]}"}}': f"0+{below}x60",
        f'{name}_bucket{{{labels},le="{bounds[1]}"}}': "0+100x60",
        f'{name}_bucket{{{labels},le="+Inf"}}': "0+100x60",
    }


def _server(name: str, values: str, more: str = "") -> Series:
    return {f'{name}{{job="rookery-server",instance="a"{more}}}': values}


def _party(name: str, values: str, more: str = "") -> Series:
    return {f'{name}{{job="rookery-party",instance="p1"{more}}}': values}


ALERTS = (
    Alert(
        "RookeryDown",
        'up{job=~"rookery-.*"} == 0',
        "2m",
        "page",
        "{{ $labels.instance }} of {{ $labels.job }} does not answer",
        "down",
        bad=_server("up", "1x5 0x60"),
        good=_server("up", "1x5 0 1x60"),
        labels=_ONE,
    ),
    Alert(
        "RookeryCallsFail",
        "rookery:calls_failed:ratio5m > 0.02",
        "5m",
        "page",
        "More than 2 % of calls of {{ $labels.job }} fail for a fault of ours",
        "calls-fail",
        bad=_calls("OK", 90) | _calls("UNAVAILABLE", 10),
        good=_calls("OK", 99) | _calls("UNAVAILABLE", 1) | _calls("UNAUTHENTICATED", 50),
        labels=_SERVER,
    ),
    Alert(
        "RookeryCallsSlow",
        "rookery:call_seconds:p99_5m > 0.5",
        "10m",
        "ticket",
        "One in a hundred calls of {{ $labels.job }} takes more than half a second",
        "calls-slow",
        bad=_buckets("rookery_call_seconds", ("0.5", "1.0"), 90, ',method="rookery.v1.Sync/Push"'),
        good=_buckets("rookery_call_seconds", ("0.5", "1.0"), 100, ',method="rookery.v1.Sync/Push"')
        | _buckets(
            "rookery_call_seconds", ("0.5", "1.0"), 0, ',method="rookery.v1.Pairing/FetchMessage"'
        ),
        labels=_SERVER,
    ),
    Alert(
        "RookeryShedsCalls",
        "rookery:calls_shed:ratio5m > 0.01",
        "5m",
        "page",
        "{{ $labels.job }} refuses more than 1 % of its calls for want of room",
        "sheds-calls",
        bad=_calls("OK", 95) | _calls("RESOURCE_EXHAUSTED", 5) | _refusals("OVERLOADED", 5),
        good=_calls("OK", 95) | _calls("RESOURCE_EXHAUSTED", 5) | _refusals("RATE_LIMITED", 5),
        labels=_SERVER,
    ),
    Alert(
        "RookeryCallersRefused",
        "rookery:callers_refused:ratio5m > 0.2",
        "15m",
        "ticket",
        "One in five callers of {{ $labels.job }} is not who it says, or its clock is wrong",
        "callers-refused",
        bad=_calls("OK", 50) | _calls("UNAUTHENTICATED", 50) | _refusals("CLOCK_SKEW", 50),
        good=_calls("OK", 90) | _calls("UNAUTHENTICATED", 10) | _refusals("UNAUTHENTICATED", 10),
        labels=_SERVER,
    ),
    Alert(
        "RookeryAccessDenied",
        'sum by (job) (rate(rookery_refusals_total{reason="ACCESS_DENIED"}[5m]))'
        " / sum by (job) (rate(rookery_call_seconds_count[5m])) > 0.02",
        "10m",
        "page",
        "The policy's matrix denies more than 2 % of the calls of {{ $labels.job }}",
        "access-denied",
        bad=_calls("OK", 90) | _calls("PERMISSION_DENIED", 10) | _refusals("ACCESS_DENIED", 10),
        good=_calls("OK", 90) | _calls("PERMISSION_DENIED", 10) | _refusals("ROLE_MISSING", 10),
        labels=_SERVER,
    ),
    Alert(
        "RookeryWorkloadForged",
        'increase(rookery_workload_claims_total{outcome!="taken"}[15m]) > 0',
        "0m",
        "ticket",
        "{{ $labels.instance }} of {{ $labels.job }} is sent certificates' names past its proxy",
        "access-denied",
        bad=_server("rookery_workload_claims_total", "0x10 1x50", ',outcome="stranger"'),
        good=_server("rookery_workload_claims_total", "0+9x60", ',outcome="taken"'),
        labels=_ONE | {"outcome": "stranger"},
        fires_at="15m",
    ),
    Alert(
        "RookeryDefect",
        "increase(rookery_defects_total[15m]) > 0",
        "0m",
        "ticket",
        "{{ $labels.instance }} of {{ $labels.job }} met an exception that nothing foresees",
        "defect",
        bad=_server("rookery_defects_total", "0x10 1x50"),
        good=_server("rookery_defects_total", "3x60"),
        labels=_ONE,
        fires_at="15m",
    ),
    Alert(
        "RookeryLoopLate",
        "rookery:loop_lag_seconds:p99_5m > 0.25",
        "10m",
        "page",
        "The event loop of {{ $labels.job }} is late: it has more to do than one core does",
        "loop-late",
        bad=_buckets("rookery_loop_lag_seconds", ("0.25", "0.5"), 90),
        good=_buckets("rookery_loop_lag_seconds", ("0.25", "0.5"), 100),
        labels=_SERVER,
    ),
    Alert(
        "RookeryFilesNearLimit",
        "process_open_fds / process_max_fds > 0.8",
        "5m",
        "page",
        "{{ $labels.instance }} of {{ $labels.job }} has nearly as many files open as it may",
        "files-near-limit",
        bad=_server("process_open_fds", "900x60") | _server("process_max_fds", "1024x60"),
        good=_server("process_open_fds", "800x60") | _server("process_max_fds", "1024x60"),
        labels=_ONE,
    ),
    Alert(
        "RookeryDeliverySlow",
        "rookery:delivery_lag_seconds:p99_5m > 1",
        "10m",
        "ticket",
        "One in a hundred changes takes more than a second to other devices' open streams",
        "delivery-slow",
        bad=_buckets("rookery_delivery_lag_seconds", ("1.0", "5.0"), 90),
        good=_buckets("rookery_delivery_lag_seconds", ("1.0", "5.0"), 100),
        labels=_SERVER,
    ),
    Alert(
        "RookeryStoreFails",
        "sum by (job, fault) (rate(rookery_store_errors_total[5m])) > 0",
        "2m",
        "page",
        "The store of {{ $labels.job }} could not do what it was asked: {{ $labels.fault }}",
        "store-fails",
        bad=_server("rookery_store_errors_total", "0+1x60", ',fault="full"'),
        good=_server("rookery_store_errors_total", "5x60", ',fault="full"'),
        labels=_SERVER | {"fault": "full"},
    ),
    Alert(
        "RookeryCommitsSlow",
        "rookery:commit_seconds:p99_5m > 0.25",
        "10m",
        "ticket",
        "One in a hundred commits of {{ $labels.job }} takes more than a quarter of a second",
        "commits-slow",
        bad=_buckets("rookery_store_commit_seconds", ("0.25", "1.0"), 90),
        good=_buckets("rookery_store_commit_seconds", ("0.25", "1.0"), 100),
        labels=_SERVER,
    ),
    Alert(
        "RookeryGenerationRenewed",
        'increase(rookery_store_generation_renewals_total{cause!="told"}[1h]) > 0',
        "0m",
        "page",
        "The store is not the one that clients knew ({{ $labels.cause }}): they compare and heal",
        "generation-renewed",
        bad=_server("rookery_store_generation_renewals_total", "0x10 1x50", ',cause="failover"'),
        good=_server("rookery_store_generation_renewals_total", "0x10 1x50", ',cause="told"'),
        labels=_ONE | {"cause": "failover"},
    ),
    Alert(
        "RookerySweepMissed",
        "time() - rookery_sweep_done_timestamp_seconds > 3 * 3600",
        "15m",
        "ticket",
        "{{ $labels.instance }} of {{ $labels.job }} has not swept for three hours",
        "sweep-missed",
        bad=_server("rookery_sweep_done_timestamp_seconds", "0x300"),
        good=_server("rookery_sweep_done_timestamp_seconds", "0+60x300"),
        labels=_ONE,
        fires_at="4h",
    ),
    Alert(
        "RookeryRetentionOverdue",
        "rookery_retention_overdue > 0",
        "90m",
        "ticket",
        "{{ $labels.instance }} of {{ $labels.job }} keeps {{ $labels.kind }} for too long",
        "retention-overdue",
        bad=_server("rookery_retention_overdue", "3x300", ',kind="results"'),
        # What a new policy has shortened is gone after the next sweep.
        good=_server("rookery_retention_overdue", "0x10 3x60 0x230", ',kind="results"'),
        labels=_ONE | {"kind": "results"},
        fires_at="4h",
    ),
    Alert(
        "RookeryDeletionUnfinished",
        "rookery_rows_past_deletion > 0",
        "90m",
        "ticket",
        "{{ $labels.instance }} of {{ $labels.job }} holds something of a deleted account",
        "retention-overdue",
        bad=_server("rookery_rows_past_deletion", "1x300"),
        # A deletion that a crash cut short is finished by the next sweep.
        good=_server("rookery_rows_past_deletion", "0x10 1x60 0x230"),
        labels=_ONE,
        fires_at="4h",
    ),
    Alert(
        "RookeryReloadRefused",
        "rookery_reload_refused == 1",
        "2m",
        "ticket",
        "{{ $labels.instance }} of {{ $labels.job }} does not take up its keys or settings",
        "reload-refused",
        bad=_server("rookery_reload_refused", "0x5 1x55"),
        good=_server("rookery_reload_refused", "0x5 1 0x54"),
        labels=_ONE,
    ),
    Alert(
        "RookeryRoundsStuck",
        'min_over_time(rookery_rounds{state="closed"}[12h]) > 0',
        "1h",
        "ticket",
        "For half a day there was always a round that had closed and had no result",
        "rounds-stuck",
        bad=_server("rookery_rounds", "2x900", ',state="closed"'),
        good=_server("rookery_rounds", "2x300 0 2x600", ',state="closed"'),
        labels=_ONE | {"state": "closed"},
        fires_at="14h",
    ),
    Alert(
        "RookeryRoundExpired",
        'delta(rookery_rounds{state="expired"}[1h]) > 0',
        "0m",
        "ticket",
        "The boxes of a round went before a result came",
        "rounds-stuck",
        bad=_server("rookery_rounds", "3x10 4x50", ',state="expired"'),
        good=_server("rookery_rounds", "3x60", ',state="expired"'),
        labels=_ONE | {"state": "expired"},
    ),
    Alert(
        "RookeryWakeDrops",
        "increase(rookery_wake_dropped_total[15m]) > 0",
        "0m",
        "ticket",
        "More accounts write at once than {{ $labels.instance }} marks to be woken",
        "wake-drops",
        bad=_server("rookery_wake_dropped_total", "0x20 5x40"),
        good=_server("rookery_wake_dropped_total", "5x60"),
        labels=_ONE,
    ),
    Alert(
        "RookerySpansLost",
        "sum by (job) (rate(rookery_spans_lost_total[10m])) > 0",
        "30m",
        "ticket",
        "The collector does not take the traces of {{ $labels.job }}",
        "spans-lost",
        bad=_server("rookery_spans_lost_total", "0+5x120"),
        good=_server("rookery_spans_lost_total", "5x120"),
        labels=_SERVER,
        fires_at="1h",
    ),
    Alert(
        "RookeryWakeGatewayDown",
        "min by (job) (rookery_wake_gateway_down) > 0",
        "15m",
        "ticket",
        "No sleeping phone is woken: the push gateway answers no replica of {{ $labels.job }}",
        "wake-gateway",
        bad=_server("rookery_wake_gateway_down", "1x120"),
        good=_server("rookery_wake_gateway_down", "0x120"),
        labels=_SERVER,
    ),
    Alert(
        "RookeryPartyAlone",
        "rookery_party_links_up < rookery_party_peers",
        "10m",
        "ticket",
        "{{ $labels.instance }} reaches {{ $value }} other parties and should reach more",
        "party-alone",
        bad=_party("rookery_party_links_up", "1x60") | _party("rookery_party_peers", "2x60"),
        good=_party("rookery_party_links_up", "2x60") | _party("rookery_party_peers", "2x60"),
        labels=_PARTY,
    ),
    Alert(
        "RookeryPartyLied",
        "increase(rookery_party_lies_total[1h]) > 0",
        "0m",
        "page",
        "A party's shares were wrong in an opening ({{ $labels.opening }})",
        "party-lied",
        bad=_party("rookery_party_lies_total", "0x10 1x50", ',opening="sum"'),
        good=_party("rookery_party_lies_total", "1x60", ',opening="sum"'),
        labels=_PARTY | {"opening": "sum"},
    ),
    Alert(
        "RookeryPartyAbandoned",
        'increase(rookery_party_rounds_ended_total{outcome!~"signed|too_few_valid"}[1h]) > 0',
        "0m",
        "ticket",
        "{{ $labels.instance }} gave up a round: {{ $labels.outcome }}",
        "party-abandoned",
        bad=_party("rookery_party_rounds_ended_total", "0x10 1x50", ',outcome="opening_refused"'),
        good=_party("rookery_party_rounds_ended_total", "0x10 1x50", ',outcome="too_few_valid"')
        | _party("rookery_party_rounds_ended_total", "0+1x60", ',outcome="signed"'),
        labels=_PARTY | {"outcome": "opening_refused"},
    ),
    Alert(
        "RookeryPartyBudgetLow",
        "rookery_party_budget_left_ratio < 0.1",
        "15m",
        "ticket",
        "A task has less than a tenth of its privacy budget left at {{ $labels.instance }}",
        "party-budget",
        bad=_party("rookery_party_budget_left_ratio", "0.05x60"),
        good=_party("rookery_party_budget_left_ratio", "0.5x60"),
        labels=_PARTY,
    ),
    Alert(
        "RookeryPartyRelayFails",
        "sum by (job, instance, reason) (rate(rookery_party_relay_failures_total"
        '{reason=~"UNREACHABLE|UNAUTHENTICATED|ROLE_MISSING"}[10m])) > 0',
        "15m",
        "ticket",
        "{{ $labels.instance }} gets nothing from the relay: {{ $labels.reason }}",
        "party-relay",
        bad=_party("rookery_party_relay_failures_total", "0+1x60", ',reason="UNREACHABLE"'),
        good=_party("rookery_party_relay_failures_total", "0+1x60", ',reason="ROUND_NOT_CLOSED"'),
        labels=_PARTY | {"reason": "UNREACHABLE"},
        fires_at="40m",
    ),
    Alert(
        "RookeryPartyReportsBad",
        "rookery:reports_bad:ratio6h > 0.1",
        "0m",
        "ticket",
        "More than a tenth of the reports of the last hours were not valid",
        "party-reports",
        bad=_party("rookery_party_reports_total", "0x10 80x50", ',verdict="valid"')
        | _party("rookery_party_reports_total", "0x10 20x50", ',verdict="invalid"'),
        good=_party("rookery_party_reports_total", "0x10 99x50", ',verdict="valid"')
        | _party("rookery_party_reports_total", "0x10 1x50", ',verdict="invalid"'),
        labels={"job": "rookery-party"},
    ),
)
