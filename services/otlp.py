"""Spans by OpenTelemetry, sent to a collector by OTLP over gRPC.

The packages are the extra `otel`: they are imported when a recorder is made, and not before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from services.settings import ConfigError
from services.spans import NO_TRACES, Kind, Parent, Tracer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as OtelSpan

SEND_S: Final = 2.0
"""How long a collector may take; a batch that it does not take by then is lost."""
ROUND_NS: Final = 100_000
"""Times are rounded to it: their last digits tell the size of a message."""


class Settings(Protocol):
    """What of a configuration matters here."""

    @property
    def traces_endpoint(self) -> str: ...
    @property
    def traces_ca_file(self) -> str: ...
    @property
    def traces_share(self) -> float: ...
    @property
    def traces_callers_per_s(self) -> float: ...


def check(config: Settings) -> None:
    """ConfigError if traces can't be sent so."""
    endpoint, ca_file = config.traces_endpoint, config.traces_ca_file
    if endpoint and (
        urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).hostname
    ):
        raise ConfigError(
            "traces_endpoint: must be https://HOST:PORT, or http://HOST:PORT for no TLS"
        )
    if ca_file and not endpoint.startswith("https:"):
        raise ConfigError("traces_ca_file: is for a traces_endpoint that begins with https:")
    if ca_file and not Path(ca_file).is_file():
        raise ConfigError(f"traces_ca_file: {ca_file} is not there")


def open_tracer(
    config: Settings, service: str, *, on_lost: Callable[[int], None] = lambda _: None
) -> Tracer:
    """The tracer that a configuration asks for. `service`: the program's name; `on_lost`: told
    how many spans the collector did not take, from another thread. ConfigError."""
    if not config.traces_endpoint:
        return NO_TRACES
    try:
        recorder = Otlp(
            config.traces_endpoint, config.traces_ca_file, service=service, on_lost=on_lost
        )
    except ImportError:
        raise ConfigError(
            "traces_endpoint: OpenTelemetry is not installed: install rookery with the extra `otel`"
        ) from None
    return Tracer(recorder, share=config.traces_share, callers_per_s=config.traces_callers_per_s)


class Otlp:
    """A `services.spans.Recorder`. ImportError without the extra."""

    def __init__(
        self, endpoint: str, ca_file: str, *, service: str, on_lost: Callable[[int], None]
    ) -> None:
        import grpc
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        _hush()
        trusted = Path(ca_file).read_bytes() if ca_file else None
        plain = urlsplit(endpoint).scheme == "http"
        exporter = OTLPSpanExporter(
            endpoint=endpoint,
            insecure=plain,
            credentials=None if plain else grpc.ssl_channel_credentials(trusted),
            timeout=SEND_S,
        )
        # Not `Resource.create`, which adds what the machine and the environment say of us.
        resource = Resource({"service.name": service, "service.version": _version()})
        provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(_counted(exporter, on_lost)))
        self._api = trace
        self._provider = provider
        self._tracer = provider.get_tracer("rookery")
        self._kinds = {kind: getattr(trace.SpanKind, kind.name) for kind in Kind}

    def start(self, name: str, kind: Kind, parent: Parent | None) -> OtlpSpan:
        """See `Recorder`."""
        trace = self._api
        context = None
        if parent is not None:
            flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
            ids = trace.SpanContext(*parent, is_remote=True, trace_flags=flags)
            context = trace.set_span_in_context(trace.NonRecordingSpan(ids))
        span = self._tracer.start_span(
            name, context, self._kinds[kind], start_time=_now_ns(), record_exception=False
        )
        return OtlpSpan(span, trace.StatusCode.ERROR)

    def close(self) -> None:
        """See `Recorder`."""
        self._provider.shutdown()


class OtlpSpan:
    """A `services.spans.Span`."""

    __slots__ = ("_error", "_span", "ids", "note")

    def __init__(self, span: OtelSpan, error: Any) -> None:
        context = span.get_span_context()
        self.ids = Parent(context.trace_id, context.span_id)
        self.note: Callable[[str, str], None] = span.set_attribute
        self._span = span
        self._error = error

    def end(self, *, failed: bool) -> None:
        """See `Span`."""
        if failed:
            self._span.set_status(self._error)
        self._span.end(_now_ns())


def _now_ns() -> int:
    return time.time_ns() // ROUND_NS * ROUND_NS


def _counted(exporter: SpanExporter, on_lost: Callable[[int], None]) -> SpanExporter:
    """The exporter, with what it loses told."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Counted(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            outcome = exporter.export(spans)
            if outcome is not SpanExportResult.SUCCESS:
                on_lost(len(spans))
            return outcome

        def shutdown(self) -> None:
            exporter.shutdown()

    return Counted()


def _hush() -> None:
    """A collector that is away is counted; the library would tell standard error, in prose."""
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False


def _version() -> str:
    try:
        return metadata.version("rookery")
    except metadata.PackageNotFoundError:
        return "checkout"
