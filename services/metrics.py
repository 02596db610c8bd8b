"""What a process counts and times, for Prometheus. Each process has a registry of its own.

A label's value comes from a closed set of the program's own words: methods that are served,
status codes, reasons of `services.errors.TABLE`, states and causes that are enums. Nothing of
a caller, an account, a device, a task or an address is ever one. `docs/operations.md` lists all.

Label children are made once; what is left for a call is one look into a dictionary and one
observation (`python -m bench.telemetry` says what that costs).
"""

from __future__ import annotations

import platform
from collections import Counter as TallyOf
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import Final

import prometheus_client
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
)

from crypto.policy import Bundle
from services.access.hop import Claim
from services.call import Lane
from services.errors import DEFECT, TABLE
from services.limits import Gate
from services.pressure import Pressure
from services.store.observer import Fault, Renewal, Retry
from services.store.retention import DELETED, KINDS
from services.store.rounds import Phase
from services.wake.metrics import WakeMetrics

# When a series was first seen tells nothing that `up` does not, at twice the series.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

OTHER: Final = "other"
"""The label of what is none of ours."""
OK: Final = "OK"
KEY_KINDS: Final = ("identity", "pepper", "wake")
CANCELLED: Final = "CANCELLED"
STATUS_OF: Final[Mapping[str, str]] = {
    OK: OK,
    CANCELLED: CANCELLED,
    **{row.reason: row.code.name for row in (*TABLE.values(), DEFECT)},
}
"""Reason to gRPC status: a reason has one."""
REASONS: Final = frozenset(STATUS_OF) - {OK, CANCELLED}

CALL_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
STREAM_SECONDS: Final = (1.0, 10.0, 60.0, 300.0, 1_800.0, 7_200.0, 21_600.0)
COMMIT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
LAG_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
GROUP_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048)


class CallMetrics:
    """What every process has that serves calls: rate, errors and duration, by method."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        Gauge(
            "rookery_build_info", "1; what runs here.", ["version", "python"], registry=registry
        ).labels(_version(), platform.python_version()).set(1)
        self._call_seconds = Histogram(
            "rookery_call_seconds",
            "Unary calls: from taking one up to its answer. `_count` counts them.",
            ["method", "status"],
            buckets=CALL_SECONDS,
            registry=registry,
        )
        self._stream_seconds = Histogram(
            "rookery_stream_seconds",
            "Streams that ended: how long they were open.",
            ["method", "status"],
            buckets=STREAM_SECONDS,
            registry=registry,
        )
        refusals = Counter(
            "rookery_refusals",
            "Calls that were refused or failed, by the reason on the wire.",
            ["reason"],
            registry=registry,
        )
        self._refusals = {reason: refusals.labels(reason) for reason in sorted(REASONS)}
        self.refusals: TallyOf[str] = TallyOf()
        """The same, to be asked."""
        self._in_flight = Gauge(
            "rookery_calls_in_flight", "Calls inside a lane now.", ["lane"], registry=registry
        )
        self._in_flight_max = Gauge(
            "rookery_calls_in_flight_max",
            "How many a lane takes before it sheds; 0: no bound.",
            ["lane"],
            registry=registry,
        )
        self._queued = Gauge(
            "rookery_queue_delay_seconds",
            "How long the newest call of the process to itself waited to be taken up.",
            registry=registry,
        )
        self._shed = Gauge(
            "rookery_shed_share",
            "Which share of new calls is refused because calls wait too long.",
            ["lane"],
            registry=registry,
        )
        self.defects = Counter(
            "rookery_defects", "Exceptions that nothing foresees.", registry=registry
        )
        self._draining = Gauge(
            "rookery_draining", "1 while the process refuses what is new.", registry=registry
        )
        self.loop_lag = Histogram(
            "rookery_loop_lag_seconds",
            "How late the event loop gets to what is due; all that it serves waits as long.",
            buckets=LAG_SECONDS,
            registry=registry,
        )
        self.spans_lost = Counter(
            "rookery_spans_lost", "Spans of traces that the collector did not take.",
            registry=registry,
        )  # fmt: skip
        reloads = Counter(
            "rookery_reloads",
            "Times that keys and lists were taken up anew, or were broken and were not.",
            ["outcome"],
            registry=registry,
        )
        self._reloads = {outcome: reloads.labels(outcome) for outcome in ("done", "refused")}
        self._reload_refused = Gauge(
            "rookery_reload_refused",
            "1 while the files of keys and settings are broken; those before are in force.",
            registry=registry,
        )
        self._methods: dict[str, str] = {}
        self._calls: dict[tuple[str, str, bool], Callable[[float], None]] = {}

    def serve(self, methods: Iterable[str]) -> None:
        """These methods (`/package.Service/Method`) are served; all others are `other`."""
        self._methods |= {method: method.removeprefix("/") for method in methods}

    def called(self, method: str, reason: str, seconds: float, *, is_stream: bool = False) -> None:
        """One call, or one stream, ended."""
        observe = self._calls.get((method, reason, is_stream))
        if observe is None:
            observe = self._first(method, reason, is_stream)
        observe(seconds)
        if reason != OK:
            self.refused(reason)

    def _first(self, method: str, reason: str, is_stream: bool) -> Callable[[float], None]:
        family = self._stream_seconds if is_stream else self._call_seconds
        label = self._methods.get(method, OTHER)
        observe = family.labels(label, STATUS_OF.get(reason, OTHER)).observe
        # What is kept is bounded, as the labels are: names that callers make up are not kept.
        if label is not OTHER:
            self._calls[method, reason, is_stream] = observe
        return observe

    def reloaded(self, *, is_done: bool) -> None:
        """The files of keys and lists were looked at anew."""
        self._reloads["done" if is_done else "refused"].inc()
        self._reload_refused.set(not is_done)

    def refused(self, reason: str) -> None:
        """A call outside of the methods that are served was refused."""
        if reason in self._refusals:
            self._refusals[reason].inc()
            self.refusals[reason] += 1

    def unknown(self) -> None:
        """Somebody called what is not served."""
        self._call_seconds.labels(OTHER, "UNIMPLEMENTED").observe(0.0)

    def watch_lanes(self, gates: Mapping[Lane, Gate]) -> None:
        """What is in flight is asked of the gates, at each scrape."""
        for lane, gate in gates.items():
            self._in_flight.labels(lane.value).set_function(_inside(gate))
            self._in_flight_max.labels(lane.value).set(gate.maximum)

    def watch_pressure(self, pressure: Pressure) -> None:
        """How long calls wait is asked at each scrape."""
        self._queued.set_function(lambda: pressure.queued_s)
        for lane in Lane:
            self._shed.labels(lane.value).set_function(_share(pressure, lane))

    def watch_draining(self, is_draining: Callable[[], bool]) -> None:
        """Whether it drains is asked at each scrape."""
        self._draining.set_function(lambda: float(is_draining()))


class StoreMetrics:
    """A `services.store.observer.StoreObserver` that counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "rookery_store_commit_seconds",
            "One durable commit: from its start to its acknowledgement.",
            buckets=COMMIT_SECONDS,
            registry=registry,
        )
        self._requests = Histogram(
            "rookery_store_commit_requests",
            "Requests that shared a commit.",
            buckets=GROUP_SIZES,
            registry=registry,
        )
        self._ops = Histogram(
            "rookery_store_commit_ops",
            "Ops that a commit with ops brought.",
            buckets=GROUP_SIZES,
            registry=registry,
        )
        self._waiting = Gauge(
            "rookery_store_writes_waiting", "Writes that wait or are under way.", registry=registry
        )
        errors = Counter(
            "rookery_store_errors",
            "Requests that the store could not serve.",
            ["fault"],
            registry=registry,
        )
        self._errors = {fault: errors.labels(fault.value) for fault in Fault}
        retries = Counter(
            "rookery_store_retries",
            "Steps that were done again, unseen by callers.",
            ["cause"],
            registry=registry,
        )
        self._retries = {cause: retries.labels(cause.value) for cause in Retry}
        renewals = Counter(
            "rookery_store_generation_renewals",
            "Times that every cursor became void.",
            ["cause"],
            registry=registry,
        )
        self._renewals = {cause: renewals.labels(cause.value) for cause in Renewal}

    def committed(self, *, requests: int, ops: int, seconds: float) -> None:
        """See `StoreObserver`."""
        self._seconds.observe(seconds)
        self._requests.observe(requests)
        if ops:
            self._ops.observe(ops)

    def failed(self, fault: Fault) -> None:
        """See `StoreObserver`."""
        self._errors[fault].inc()

    def retried(self, cause: Retry) -> None:
        """See `StoreObserver`."""
        self._retries[cause].inc()

    def renewed(self, cause: Renewal) -> None:
        """See `StoreObserver`."""
        self._renewals[cause].inc()

    def watch_queue(self, length: Callable[[], int]) -> None:
        """See `StoreObserver`."""
        self._waiting.set_function(lambda: float(length()))


class Metrics(CallMetrics):
    """All of the service."""

    def __init__(self) -> None:
        super().__init__()
        registry = self.registry
        self.store = StoreMetrics(registry)
        self.wake = WakeMetrics(registry)
        self._pushes = Counter("rookery_pushes", "Pushes that were committed.", registry=registry)
        self._ops = Counter("rookery_ops", "Ops that were new.", registry=registry)
        self._ops_repeated = Counter(
            "rookery_ops_repeated",
            "Ops that were held already: pushed again by who missed the answer.",
            registry=registry,
        )
        self.delivery_lag = Histogram(
            "rookery_delivery_lag_seconds",
            "From a commit to the frame that an open stream's connection took.",
            buckets=LAG_SECONDS,
            registry=registry,
        )
        self._streams = Gauge("rookery_streams_open", "Open Subscribe streams.", registry=registry)
        self._pairing_waits = Gauge(
            "rookery_pairing_waits", "Calls that wait for a pairing message.", registry=registry
        )
        rounds = Gauge(
            "rookery_rounds", "Rounds that the relay holds, by state.", ["state"], registry=registry
        )
        self._rounds = {phase: rounds.labels(phase.value) for phase in Phase}
        claims = Counter(
            "rookery_workload_claims",
            "Headers that name the calling workload, by what became of them.",
            ["outcome"],
            registry=registry,
        )
        self._claims = {claim: claims.labels(claim.value) for claim in Claim}
        self.audited = Counter(
            "rookery_audit_entries", "Entries that this process wrote into the audit log.",
            registry=registry,
        )  # fmt: skip
        consents = Counter(
            "rookery_consents", "Entries of consent that were taken, by what they say.", ["said"],
            registry=registry,
        )  # fmt: skip
        self._consents = {True: consents.labels("granted"), False: consents.labels("withdrawn")}
        self.consents: TallyOf[bool] = TallyOf()
        """The same, to be asked: granted or not."""
        self.policy_sequence = Gauge(
            "rookery_policy_sequence", "Number of the policy in force; 0: none.",
            registry=registry,
        )  # fmt: skip
        self.policy_issued = Gauge(
            "rookery_policy_issued_timestamp_seconds", "When the policy in force was issued.",
            registry=registry,
        )  # fmt: skip
        overdue = Gauge(
            "rookery_retention_overdue",
            "What two sweeps should have removed and is here, by kind: 0, or something is wrong.",
            ["kind"],
            registry=registry,
        )
        self._overdue = {kind: overdue.labels(kind) for kind in KINDS if kind != DELETED}
        self._past_deletion = Gauge(
            "rookery_rows_past_deletion",
            "Rows of accounts that were deleted, and deletions that were begun and not finished.",
            registry=registry,
        )
        key_files = Gauge(
            "rookery_key_timestamp_seconds", "When a key of the service was last put in place.",
            ["key"], registry=registry,
        )  # fmt: skip
        self._key_files = {kind: key_files.labels(kind) for kind in KEY_KINDS}
        sweeps = Counter(
            "rookery_sweeps", "Hourly sweeps of the store.", ["outcome"], registry=registry
        )
        self._sweeps = {is_done: sweeps.labels(_OUTCOME[is_done]) for is_done in _OUTCOME}
        self._swept = Gauge(
            "rookery_sweep_done_timestamp_seconds", "When the newest sweep ended well.",
            registry=registry,
        )  # fmt: skip

    def pushed(self, *, ops: int, new: int) -> None:
        """One push was committed."""
        self._pushes.inc()
        self._ops.inc(new)
        if new != ops:
            self._ops_repeated.inc(ops - new)

    def claimed(self, claim: Claim) -> None:
        """A header named the workload that called."""
        self._claims[claim].inc()

    def policy_taken(self, bundle: Bundle) -> None:
        """Another policy is in force."""
        self.policy_sequence.set(bundle.sequence)
        self.policy_issued.set(bundle.issued_ms / 1000)

    def consented(self, granted: bool, /) -> None:
        """An entry of consent was taken."""
        self._consents[granted].inc()
        self.consents[granted] += 1

    def keys_since(self, since_ms: Mapping[str, int]) -> None:
        """When each key's file was last written."""
        for kind, ms in since_ms.items():
            self._key_files[kind].set(ms / 1000)

    def swept(self, *, is_done: bool) -> None:
        """One sweep ended."""
        self._sweeps[is_done].inc()
        if is_done:
            self._swept.set_to_current_time()

    def watch_streams(self, streams: Callable[[], int], pairing_waits: Callable[[], int]) -> None:
        """Both are asked at each scrape."""
        self._streams.set_function(lambda: float(streams()))
        self._pairing_waits.set_function(lambda: float(pairing_waits()))

    def tally_overdue(self, counts: Mapping[str, int]) -> None:
        """What `Store.overdue` found."""
        for kind, gauge in self._overdue.items():
            gauge.set(counts[kind])
        self._past_deletion.set(counts[DELETED])

    def tally_rounds(self, counts: Mapping[Phase, int]) -> None:
        """So many rounds are in each state; 0 in those that are not named."""
        for phase, gauge in self._rounds.items():
            gauge.set(counts.get(phase, 0))


_OUTCOME: Final = {True: "done", False: "failed"}


def _inside(gate: Gate) -> Callable[[], float]:
    return lambda: float(gate.inside)


def _share(pressure: Pressure, lane: Lane) -> Callable[[], float]:
    # Its valves are made anew after a quiet while.
    return lambda: pressure.valves[lane].share


def _version() -> str:
    try:
        return metadata.version("rookery")
    except metadata.PackageNotFoundError:
        return "checkout"
