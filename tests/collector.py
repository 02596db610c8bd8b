"""A collector of spans: the gRPC service of OTLP on loopback, which keeps what it is sent.

A helper.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True, slots=True)
class Collected:
    """One span."""

    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent: str
    attributes: dict[str, str]
    is_error: bool
    ns: tuple[int, int]


@dataclass(slots=True)
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Everything that came, as spans and as bytes."""

    endpoint: str = ""
    spans: list[Collected] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)

    def Export(self, request: Any, context: Any) -> Any:
        """Takes a batch."""
        del context
        with self._news:
            self.raw.append(request.SerializeToString())
            self.spans += _spans(request)
            self._news.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Collected]:
        """Those of this name."""
        return [span for span in self.spans if span.name == name]

    def trace(self, of: Collected) -> list[Collected]:
        """All spans of one trace."""
        return [span for span in self.spans if span.trace_id == of.trace_id]


def _spans(request: Any) -> Iterator[Collected]:
    for block in request.resource_spans:
        [service] = [
            row.value.string_value for row in block.resource.attributes if row.key == "service.name"
        ]
        for scope in block.scope_spans:
            for span in scope.spans:
                yield Collected(
                    service=service,
                    name=span.name,
                    kind=span.kind,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    attributes={row.key: row.value.string_value for row in span.attributes},
                    is_error=span.status.code == 2,
                    ns=(span.start_time_unix_nano, span.end_time_unix_nano),
                )


@contextmanager
def collecting(
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[Collector]:
    """A collector for the time of the block; with a certificate, over TLS."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(collector, server)
    if credentials is None:
        collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
        collector.endpoint = f"https://127.0.0.1:{port}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()
