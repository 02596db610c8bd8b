"""`GET /metrics` over plain HTTP/1.1, on an address of its own, and nothing else.

Connections are served by the loop, within small bounds; the page itself is put together in a
thread, so that a scrape holds nobody up. It has no TLS and asks for no name: bind it to
loopback, or to a network that only Prometheus reaches (docs/telemetry.md).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from services.listen import ListenError, why_not
from services.metrics import CallMetrics

PATH: Final = "/metrics"
HEADER_BYTES_MAX: Final = 8 << 10
CONNECTIONS_MAX: Final = 16
REQUEST_S: Final = 5.0
LAG_EVERY_S: Final = 0.25

Refresh = Callable[[], Awaitable[None]]
"""Brings gauges up to date that have to be looked up."""


class Scrape:
    """Serves a process's metrics, from `start` to `stop`; both do nothing without an address.

    While it runs it also measures how late the loop is.
    """

    def __init__(self, listen: str, metrics: CallMetrics, refresh: Refresh) -> None:
        self.address = ""
        self._listen = listen
        self._metrics = metrics
        self._refresh = refresh
        self._server: asyncio.Server | None = None
        self._lag: asyncio.Task[None] | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._one = asyncio.Lock()

    async def start(self) -> None:
        """Listens; `address` says where. ListenError."""
        if not self._listen:
            return
        host, _, port = self._listen.rpartition(":")
        try:
            server = await asyncio.start_server(
                self._accept, host.strip("[]"), int(port), limit=HEADER_BYTES_MAX
            )
        except (OSError, ValueError, OverflowError):
            raise ListenError(self._listen, why_not(self._listen), "metrics_listen") from None
        self._server = server
        self.address = f"{host}:{server.sockets[0].getsockname()[1]}"
        self._lag = asyncio.get_running_loop().create_task(self._measure_lag())

    async def stop(self) -> None:
        """Ends what is open, too. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        ending = [*self._open, *([self._lag] if self._lag else ())]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await server.wait_closed()

    async def _measure_lag(self) -> None:
        observe = self._metrics.loop_lag.observe
        while True:
            due_s = time.monotonic() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            observe(max(0.0, time.monotonic() - due_s))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._open.add(task)
        try:
            async with asyncio.timeout(REQUEST_S):
                writer.write(await self._answer(reader))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # Its affair: nothing was promised.
        finally:
            self._open.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        line = head.partition(b"\r\n")[0].split(b" ")
        if len(line) != 3 or not line[2].startswith(b"HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST)
        method, target, _ = line
        if target.partition(b"?")[0] != PATH.encode():
            return _response(HTTPStatus.NOT_FOUND)
        if method != b"GET":
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, more="Allow: GET\r\n")
        # One at a time: the page costs milliseconds, and whoever asks in a loop waits in line.
        async with self._one:
            await self._refresh()
            page = await asyncio.to_thread(_page, self._metrics.registry)
        return _response(HTTPStatus.OK, page)


def _page(registry: CollectorRegistry) -> bytes:
    return generate_latest(registry)


def _response(status: HTTPStatus, body: bytes | None = None, *, more: str = "") -> bytes:
    body = f"{status.phrase}\n".encode() if body is None else body
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n{more}"
        f"Content-Type: {CONTENT_TYPE_PLAIN_0_0_4}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body
