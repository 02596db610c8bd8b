"""The floor: a bare `grpc.aio` server of raw bytes, with the same channel options and loop.

Echo answers with the request; Canned with bytes that were put before, by number; Idle
opens a stream and says nothing.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import uvloop

ECHO = "/bench.Floor/Echo"
CANNED = "/bench.Floor/Canned"
PUT = "/bench.Floor/Put"
IDLE = "/bench.Floor/Idle"
OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
    ("grpc.max_concurrent_streams", 100_000),
]


class Floor(grpc.GenericRpcHandler):
    """Four methods on raw bytes."""

    def __init__(self) -> None:
        self._canned: list[bytes] = []
        self._handlers: dict[str, Any] = {
            ECHO: grpc.unary_unary_rpc_method_handler(self.echo),
            CANNED: grpc.unary_unary_rpc_method_handler(self.canned),
            PUT: grpc.unary_unary_rpc_method_handler(self.put),
            IDLE: grpc.unary_stream_rpc_method_handler(self.idle),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a method."""
        return self._handlers.get(handler_call_details.method)

    async def echo(self, request: bytes, context: object) -> bytes:
        """The same bytes."""
        return request

    async def put(self, request: bytes, context: object) -> bytes:
        """Keeps bytes for `canned`."""
        self._canned.append(request)
        return b""

    async def canned(self, request: bytes, context: object) -> bytes:
        """The bytes with this number."""
        return self._canned[int.from_bytes(request, "big")]

    async def idle(self, request: bytes, context: object) -> AsyncIterator[bytes]:
        """One message, then nothing for ever."""
        yield request
        await asyncio.get_running_loop().create_future()


async def serve() -> None:
    """Serves on a free port, says which, ends on SIGTERM."""
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((Floor(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"listening": f"127.0.0.1:{port}"}), flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(serve())
