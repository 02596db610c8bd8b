"""Traces of a client's calls, for who asks for them: W3C trace context, sent by OTLP.

Off by default, and then OpenTelemetry is not even imported. A trace tells whoever runs the
collector and the service which calls belong together; a span has the method's name and how
the call ended, and nothing of what is in it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from client.errors import UserError
from client.remoteerrors import RemoteError

if TYPE_CHECKING:
    # At run time it would bring gRPC along, which `rookery` imports when it needs it.
    from client.transport import Headers

ENDPOINT: Final = "ROOKERY_CLIENT_TRACES_ENDPOINT"
CA: Final = "ROOKERY_CLIENT_TRACES_CA"
SEND_S: Final = 2.0
ROUND_NS: Final = 100_000
"""Times are rounded to it: their last digits tell the size of a message."""


class Tracing:
    """Spans of one program, until `close`: a `client.transport.CallTracing`. UserError where
    they can't be sent."""

    def __init__(self, endpoint: str, ca_file: str = "") -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{ENDPOINT} must be https://HOST:PORT, or http://HOST:PORT")
        try:
            import grpc
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise UserError(
                f"{ENDPOINT}: OpenTelemetry is not installed: install rookery with the extra `otel`"
            ) from None
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
        logging.getLogger("opentelemetry").propagate = False
        plain = parts.scheme == "http"
        trusted = Path(ca_file).read_bytes() if ca_file else None
        exporter = OTLPSpanExporter(
            endpoint=endpoint,
            insecure=plain,
            credentials=None if plain else grpc.ssl_channel_credentials(trusted),
            timeout=SEND_S,
        )
        self._provider = TracerProvider(
            resource=Resource({"service.name": "rookery-client"}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("rookery")
        self._api = trace

    def close(self) -> None:
        """Sends what waits, for a bounded time."""
        self._provider.shutdown()

    @contextmanager
    def whole(self, name: str) -> Iterator[None]:
        """Around all that a program does; `name` is the program's own word for it."""
        span = self._tracer.start_span(name, start_time=_now_ns())
        try:
            # Exceptions are not recorded, for they can hold names and values.
            with self._api.use_span(span, record_exception=False, set_status_on_exception=False):
                yield
        finally:
            span.end(_now_ns())

    @contextmanager
    def call(self, method: str) -> Iterator[Headers]:
        """See `client.transport.CallTracing`."""
        span = self._tracer.start_span(
            method.removeprefix("/"), kind=self._api.SpanKind.CLIENT, start_time=_now_ns()
        )
        span.set_attribute("rpc.system", "grpc")
        context = span.get_span_context()
        status = "OK"
        try:
            yield (("traceparent", f"00-{context.trace_id:032x}-{context.span_id:016x}-01"),)
        except RemoteError as error:
            status = error.status
            span.set_status(self._api.StatusCode.ERROR)
            raise
        except BaseException:
            status = "CANCELLED"
            raise
        finally:
            span.set_attribute("rpc.response.status_code", status)
            span.end(_now_ns())


@contextmanager
def of_command(name: str, environ: Mapping[str, str]) -> Iterator[Tracing | None]:
    """Around a command of this name (the program's own word): one trace, if the environment
    asks for it."""
    endpoint = environ.get(ENDPOINT, "")
    if not endpoint:
        yield None
        return
    tracing = Tracing(endpoint, environ.get(CA, ""))
    try:
        with tracing.whole(name):
            yield tracing
    finally:
        tracing.close()


def _now_ns() -> int:
    return time.time_ns() // ROUND_NS * ROUND_NS
