"""What a service and three parties say of real work: enough to run them, and nothing of whom."""

from __future__ import annotations

import base64
import io
import json

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from crypto.marks import HASHES, START_BYTES, Mark
from services.metrics import REASONS
from services.otlp import Otlp
from services.spans import Part, Tracer
from services.telemetry import Telemetry, configure
from tests.collector import collecting
from tests.telemetry_worlds import Said, leaks, watched


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Said:
    """One round of everything, and what was said meanwhile."""
    return watched(tmp_path_factory.mktemp("watched"))


def samples(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Of a page of metrics."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_no_metric_has_anything_of_anybody(said: Said) -> None:
    """No id, tag, nonce, key, address, name or value, however it is written."""
    for name, page in said.pages.items():
        assert leaks(page, said.hidden) == set(), name


def test_no_line_has_anything_of_anybody(said: Said) -> None:
    """At debug level, with a line for each call."""
    for name, lines in said.lines.items():
        assert lines.count(b"\n") > 5
        assert leaks(lines, said.hidden) == set(), name


def test_no_span_has_anything_of_anybody(said: Said) -> None:
    """As the collector got them, byte by byte."""
    assert leaks(b"".join(said.collector.raw), said.hidden) == set()


def test_a_leak_that_is_planted_is_found(said: Said) -> None:
    """In a metric, a line and a span, in each spelling, whole, its beginning or a hash of it."""
    for planted in {one.sort: one for one in said.hidden}.values():
        for text in texts(planted):
            assert leaks(_metric(text), [planted]), planted
            assert leaks(_line(text), [planted]), planted
    planted = next(one for one in said.hidden if one.sort == "account id")
    for text in texts(planted):
        assert leaks(_span(text), [planted]), planted
    assert not leaks(_metric("x") + _line("x") + _span("x"), said.hidden)


def texts(mark: Mark) -> list[str]:
    """It, its beginning, and a hash, as a program might put them into a text."""
    raws = (bytes(mark.raw), mark.raw[:START_BYTES])
    hashes = (made(mark.raw) for made in HASHES.values())
    spelt = [text for raw in raws for text in (repr(raw)[2:-1], raw.decode("latin-1"))]
    return spelt + [text for raw in (*raws, *hashes) for text in _encoded(raw)]


def _encoded(raw: bytes) -> tuple[str, ...]:
    return (
        raw.hex(),
        raw.hex().upper(),
        base64.b64encode(raw).decode().rstrip("="),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
    )


def _metric(text: str) -> bytes:
    registry = CollectorRegistry()
    Counter("planted", "A leak.", ["account"], registry=registry).labels(text)
    return generate_latest(registry)


def _line(text: str) -> bytes:
    log = io.StringIO()
    Telemetry(configure("debug", "json", log)).event("planted", account=text)
    return log.getvalue().encode()


def _span(text: str) -> bytes:
    with collecting() as collector:
        recorder = Otlp(collector.endpoint, "", service="x", on_lost=lambda _: None)
        tracer = Tracer(recorder, share=1.0)
        with tracer.root(Part.INTAKE) as active:
            assert active is not None
            active.note("rookery.account", text)
        tracer.close()
    return b"".join(collector.raw)


def test_client_service_and_party_are_in_one_trace(said: Said) -> None:
    """A publisher's round: its calls to three parties and the service, each with its two sides."""
    [whole] = said.collector.named("task:collect")
    trace = said.collector.trace(whole)
    assert {span.service for span in trace} == {
        "rookery-client", "rookery-server", "rookery-party",
    }  # fmt: skip
    by_id = {span.span_id: span for span in trace}
    for name, count in (
        ("rookery.v1.Parties/PrepareRound", 3),
        ("rookery.v1.Parties/SignManifest", 3),
        ("rookery.v1.Rounds/CollectRound", 1),
    ):
        sides = [span for span in trace if span.name == name]
        served = [span for span in sides if span.service != "rookery-client"]
        assert len(sides) == 2 * count
        assert len(served) == count
        assert all(by_id[span.parent].service == "rookery-client" for span in served)
    parts = {span.name for span in trace if span.service == "rookery-server"}
    assert {Part.ROUND.value, Part.READ.value} <= parts


def test_a_party_that_takes_boxes_is_in_one_trace_with_the_service(said: Said) -> None:
    """Intake, its stream of boxes at the service, and the reads of the store below."""
    streams = said.collector.named("rookery.v1.Parties/StreamBoxes")
    intakes = {span.span_id for span in said.collector.named(Part.INTAKE.value)}
    assert streams
    assert {span.parent for span in streams} <= intakes
    below = {span.name for span in said.collector.trace(streams[0])}
    assert {Part.INTAKE.value, Part.READ.value} <= below
    for part in (Part.VERIFY, Part.OPEN):
        jobs = [one for one in said.collector.named(part.value) if not one.is_error]
        assert len(jobs) >= 3
        assert {one.attributes["rookery.ending"] for one in jobs} == {"done"}


def test_the_words_of_spans_are_the_programs_own(said: Said) -> None:
    """Names and values of attributes come from closed sets."""
    names = {part.value for part in Part} | {"task:collect", "device:sync"}
    for span in said.collector.spans:
        assert span.name in names or span.name.startswith("rookery.v1."), span
        for key, text in span.attributes.items():
            if key == "rookery.reason":
                assert text in REASONS
            assert key in {
                "rpc.system", "rpc.service", "rpc.method", "rpc.response.status_code",
                "rookery.reason", "rookery.ending",
            }  # fmt: skip


def test_lines_of_traced_calls_name_a_trace_of_the_collector(said: Said) -> None:
    """So that one leads to the other."""
    traces = {span.trace_id for span in said.collector.spans}
    calls = [
        line
        for line in map(json.loads, said.lines["service"].splitlines())
        if line["event"] == "call"
    ]
    assert calls
    assert {line["trace_id"] for line in calls} <= traces


def test_the_service_counted_what_passed(said: Said) -> None:
    """Pushes, ops, the refusals, deliveries, and the round with its state."""
    page = samples(said.pages["service"])
    assert page["rookery_pushes_total", ()] == 2
    assert page["rookery_ops_total", ()] == 4
    assert page["rookery_refusals_total", (("reason", "LAMPORT_AHEAD"),)] == 1
    assert page["rookery_refusals_total", (("reason", "UNAUTHENTICATED"),)] >= 1
    assert page["rookery_delivery_lag_seconds_count", ()] == 1
    assert page["rookery_rounds", (("state", "done"),)] == 1
    assert page["rookery_defects_total", ()] == 0


def test_parties_counted_the_round(said: Said) -> None:
    """Each took three boxes, judged three reports, signed one round and spent of one budget."""
    for number in (1, 2, 3):
        page = samples(said.pages[f"party{number}"])
        assert page["rookery_party_boxes_total", (("outcome", "taken"),)] == 3
        assert page["rookery_party_reports_total", (("verdict", "valid"),)] == 3
        assert page["rookery_party_rounds", (("state", "signed"),)] == 1
        assert page["rookery_party_rounds_ended_total", (("outcome", "signed"),)] == 1
        assert page["rookery_party_jobs_total", (("ending", "done"), ("job", "open"))] >= 1
        assert page["rookery_party_job_seconds_count", (("job", "verify"),)] >= 1
        assert page["rookery_party_peers", ()] == 2
        assert page["rookery_party_tasks", (("budget", "room"),)] == 1
        assert 0 < page["rookery_party_budget_left_ratio", ()] < 1
        assert page["rookery_defects_total", ()] == 0
