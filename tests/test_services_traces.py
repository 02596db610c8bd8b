"""Traces of the service: what is kept, who may ask for it, and what a span says."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from client.endpoint import Endpoint
from client.remote import Remote
from client.remoteerrors import RemoteError
from client.steps import Push as PushStep
from client.tracing import Tracing
from client.transport import Signer, Transport
from services.config import Config, load
from services.otlp import ROUND_NS, Otlp, open_tracer
from services.settings import ConfigError
from services.spans import SPANS_MAX, Part, Tracer, asked, current
from tests.certificates import certificate
from tests.collector import Collector, collecting
from tests.metered import value
from tests.served import AUDIENCE, PULL, PUSH, SECRETS, Service, refusal, serving
from tests.service_process import ROOT, environment

TRACE, SPAN = "1" * 32, "2" * 16
KEPT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def collector() -> Any:
    """Takes spans."""
    with collecting() as started:
        yield started


@asynccontextmanager
async def traced(
    path: Path, collector: Collector, *, share: float = 1.0, callers_per_s: float = 1_000.0
) -> AsyncIterator[Service]:
    """A server whose spans go to the collector; all are there after the block."""
    settings: dict[str, Any] = {
        "traces_endpoint": collector.endpoint,
        "traces_share": share,
        "traces_callers_per_s": callers_per_s,
    }
    async with serving(path, **settings) as service:
        yield service


async def test_a_call_and_its_commit_are_one_trace_and_lines_name_it(
    tmp_path: Path, collector: Collector
) -> None:
    """Push, with the store's part below it; the line of the call has both ids."""
    async with traced(tmp_path, collector) as service:
        world = await service.account("traced")
        await service.push(world, world.op())
        await service.pull(world)
    [push] = collector.named(PUSH.removeprefix("/"))
    assert (push.service, push.parent, push.is_error) == ("rookery-server", "", False)
    assert push.attributes == {
        "rpc.system": "grpc", "rpc.service": "rookery.v1.Sync", "rpc.method": "Push",
        "rpc.response.status_code": "OK",
    }  # fmt: skip
    [commit] = [span for span in collector.trace(push) if span is not push]
    assert (commit.name, commit.parent) == (Part.COMMIT.value, push.span_id)
    [pull] = collector.named(PULL.removeprefix("/"))
    assert Part.READ.value in {span.name for span in collector.trace(pull)}
    lines = [json.loads(line) for line in service.log.getvalue().splitlines()]
    [line] = [line for line in lines if line.get("method") == PUSH]
    assert (line["trace_id"], line["span_id"]) == (push.trace_id, push.span_id)


async def test_a_client_and_the_service_are_in_one_trace(
    tmp_path: Path, collector: Collector
) -> None:
    """A client that traces: its call is the parent of the service's."""
    async with traced(tmp_path, collector, share=0.0) as service:
        world = await service.account("client")
        tracing = Tracing(collector.endpoint)
        transport = Transport(endpoint(service), tracing=tracing)
        remote = Remote(transport, Signer(world.authors[0].identity, world.account_id))
        with tracing.whole("device:sync"):
            await remote.push(PushStep((world.op().raw,)))
            with pytest.raises(RemoteError):
                await remote.push(PushStep((world.fork().op(epoch=1, lamport=1 << 40).raw,)))
        await transport.close()
        await asyncio.to_thread(tracing.close)
    [whole] = collector.named("device:sync")
    sides = [span for span in collector.trace(whole) if span.name == PUSH.removeprefix("/")]
    theirs = [span for span in sides if span.service == "rookery-client"]
    ours = [span for span in sides if span.service == "rookery-server"]
    assert {span.parent for span in theirs} == {whole.span_id}
    assert sorted(span.parent for span in ours) == sorted(span.span_id for span in theirs)
    assert sorted(span.attributes["rpc.response.status_code"] for span in ours) == sorted(
        span.attributes["rpc.response.status_code"] for span in theirs
    )


async def test_a_refusal_is_no_error_of_ours_and_says_its_reason(
    tmp_path: Path, collector: Collector
) -> None:
    """UNAUTHENTICATED is the caller's affair; DRAINING is ours."""
    async with traced(tmp_path, collector) as service:
        await refusal(service.raw(PUSH, b""))
        service.server.edge.draining = True
        await refusal(service.raw(PUSH, b""))
    found = {
        span.attributes["rookery.reason"]: span.is_error
        for span in collector.named(PUSH.removeprefix("/"))
    }
    assert found == {"UNAUTHENTICATED": False, "DRAINING": True}


async def test_callers_can_ask_for_so_many_traces_a_second_and_no_more(
    tmp_path: Path, collector: Collector
) -> None:
    """A sampled flag on every call: a burst of ten at one a second, and then a trickle."""
    async with traced(tmp_path, collector, share=0.0, callers_per_s=0.001) as service:
        for _ in range(20):
            await refusal(service.raw(PUSH, b"", extra=[("traceparent", KEPT)]))
    assert len(collector.named(PUSH.removeprefix("/"))) == 1
    [span] = collector.named(PUSH.removeprefix("/"))
    assert (span.trace_id, span.parent) == (TRACE, SPAN)


async def test_callers_decide_nothing_where_they_may_not_ask(
    tmp_path: Path, collector: Collector
) -> None:
    """0 a second: a flag that is set, or not set, changes nothing."""
    async with traced(tmp_path, collector, share=0.5, callers_per_s=0.0) as service:
        for at in range(20):
            await refusal(service.raw(PUSH, b"", extra=[("traceparent", KEPT[:-1] + str(at % 2))]))
    spans = collector.named(PUSH.removeprefix("/"))
    assert len(spans) == 10
    assert not [span for span in spans if span.trace_id == TRACE or span.parent]


@pytest.mark.parametrize(
    "text",
    [
        KEPT[:-2] + "00", "01" + KEPT[2:], "ff" + KEPT[2:], KEPT + "-", KEPT.replace("1", "g"),
        f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", "", "x" * 100_000, KEPT.encode(),
        None,
    ],
    ids=lambda text: str(text)[:12],
)  # fmt: skip
def test_what_is_no_parent_that_asks_is_none(text: str | bytes | None) -> None:
    """Another version, no flag, zeros, rubbish."""
    assert asked(text) is None


def test_the_parent_that_asks_is_read() -> None:
    """Both ids, and other flags don't matter."""
    parent = asked(KEPT)
    assert parent is not None
    assert (f"{parent.trace_id:x}", f"{parent.span_id:x}") == (TRACE, SPAN)
    assert parent.header == KEPT
    assert asked(KEPT[:-2] + "ff") == parent


async def test_a_stream_is_one_span_and_its_parts_are_bounded(
    tmp_path: Path, collector: Collector
) -> None:
    """However often it reads, a stream has so many spans below it."""
    async with traced(tmp_path, collector) as service:
        world = await service.account("stream")
        stream = service.subscribe(world)
        await stream.caught_up()
        for _ in range(SPANS_MAX + 8):
            await service.push(world, world.op())
            await stream.next()
        stream.call.cancel()
        await service.server.hub._empty.wait()
    [span] = collector.named("rookery.v1.Sync/Subscribe")
    assert span.attributes["rpc.response.status_code"] == "CANCELLED"
    assert not span.is_error
    assert len(collector.trace(span)) == 1 + SPANS_MAX


async def test_times_are_rounded(tmp_path: Path, collector: Collector) -> None:
    """To a tenth of a millisecond: the last digits would tell the size of a message."""
    async with traced(tmp_path, collector) as service:
        await service.account("times")
    assert collector.spans
    assert not [span for span in collector.spans if any(at % ROUND_NS for at in span.ns)]


async def test_a_task_that_outlives_its_call_is_in_no_span(collector: Collector) -> None:
    """What a call leaves behind writes its lines, and makes its calls, in its own name."""
    tracer = Tracer(Otlp(collector.endpoint, "", service="x", on_lost=lambda _: None), share=1.0)
    over = asyncio.Event()

    async def left_behind() -> Any:
        before = current()
        await over.wait()
        with tracer.call("/a/b") as active:
            return before, current(), active

    with tracer.served("/rookery.v1.Sync/Push", None):
        task = asyncio.create_task(left_behind())
        await asyncio.sleep(0)
    over.set()
    before, after, active = await task
    assert before is not None
    assert (after, active) == (None, None)
    await asyncio.to_thread(tracer.close)


async def test_a_collector_that_is_away_costs_spans_and_no_calls(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Calls go through, what was lost is counted, and the library prints nothing."""
    async with serving(tmp_path, traces_endpoint="http://127.0.0.1:1", traces_share=1.0) as service:
        await service.account("away")
    assert value(service.server.metrics, "rookery_spans_lost_total") >= 3
    assert "opentelemetry" not in capfd.readouterr().err


async def test_spans_go_over_tls_if_the_address_says_so(tmp_path: Path) -> None:
    """https: the collector's certificate is checked against the CA file."""
    cert, key = certificate(tmp_path, "collector")
    pair = (key.read_bytes(), cert.read_bytes())
    with collecting(grpc.ssl_server_credentials([pair])) as collector:
        lost: list[int] = []
        for ca_file in (str(cert), ""):
            recorder = Otlp(collector.endpoint, ca_file, service="x", on_lost=lost.append)
            tracer = Tracer(recorder, share=1.0)
            with tracer.root(Part.INTAKE):
                pass
            await asyncio.to_thread(tracer.close)
    assert len(collector.spans) == 1
    assert lost == [1]


@pytest.mark.parametrize(
    ("endpoint", "ca_file", "said"),
    [
        ("collector:4317", "", "traces_endpoint: must be https://"),
        ("http://", "", "traces_endpoint: must be https://"),
        ("http://a:1", "/ca.pem", "traces_ca_file: is for a traces_endpoint that begins with"),
        ("https://a:1", "/nowhere/ca.pem", "traces_ca_file: /nowhere/ca.pem is not there"),
    ],
)
def test_settings_that_can_not_work_are_refused(endpoint: str, ca_file: str, said: str) -> None:
    """At the start, with the setting's name."""
    with pytest.raises(ConfigError, match=said):
        load(None, {}, {"traces_endpoint": endpoint, "traces_ca_file": ca_file})


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        # redis-py looks for the API and the SDK by itself, where they are installed.
        ("services.server, services.commands, services.party.daemon", "opentelemetry.exporter"),
        (
            "client.cli.main, client.cli.session, client.transport, client.tracing",
            "opentelemetry",
        ),
    ],
)
def test_without_the_setting_opentelemetry_is_not_imported(modules: str, absent: str) -> None:
    """Neither by the service, nor by a party, nor by a client."""
    program = (
        f"import sys, {modules}; sys.exit(any(name.startswith({absent!r}) for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment(), check=False)
    assert done.returncode == 0


def test_a_service_without_the_setting_keeps_no_trace() -> None:
    """Its tracer is off, and has nothing to close."""
    tracer = open_tracer(Config(), "x")
    assert not tracer.is_on
    tracer.close()


def endpoint(service: Service) -> Endpoint:
    """Where a client finds it."""
    return Endpoint((service.server.address,), AUDIENCE, SECRETS.server_key.public)


def test_a_share_is_every_nth() -> None:
    """A quarter of the calls that nobody asks for."""
    with collecting() as collector:
        tracer = Tracer(
            Otlp(collector.endpoint, "", service="x", on_lost=lambda _: None), share=0.25
        )
        for _ in range(100):
            with tracer.served("/rookery.v1.Sync/Push", None):
                pass
        tracer.close()
        assert len(collector.spans) == 25
