"""A collector of spans that keeps the bytes that it is sent, and reads none of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import grpc.aio

_METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@dataclass(slots=True)
class Spans:
    """What came by OTLP."""

    endpoint: str
    batches: list[bytes] = field(default_factory=list)


class _Export(grpc.GenericRpcHandler):
    def __init__(self, take: Callable[[bytes, Any], Awaitable[bytes]]) -> None:
        self._handler: Any = grpc.unary_unary_rpc_method_handler(take)

    def service(self, handler_call_details: Any) -> Any:
        """The one method; any other is not there."""
        return self._handler if handler_call_details.method == _METHOD else None


@asynccontextmanager
async def collecting() -> AsyncIterator[Spans]:
    """A collector on loopback, for the time of the block."""
    server = grpc.aio.server()
    spans = Spans(f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")

    async def take(batch: bytes, context: Any) -> bytes:
        del context
        spans.batches.append(batch)
        return b""

    server.add_generic_rpc_handlers((_Export(take),))
    await server.start()
    try:
        yield spans
    finally:
        await server.stop(None)
