"""`Parties.Link` as a `Duplex`, on both sides of a gRPC stream of raw bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from services.party.links import Duplex, LinkLost

LINK_METHOD = "/rookery.v1.Parties/Link"


class DialledDuplex:
    """The dialer's side."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call: Any = channel.stream_stream(LINK_METHOD)()

    async def send(self, message: bytes) -> None:
        """LinkLost if the stream is over."""
        try:
            await self._call.write(message)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            raise LinkLost("gone") from None

    async def receive(self) -> bytes | None:
        """None if the stream is over, whatever ended it."""
        try:
            message = await self._call.read()
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            return None
        return None if message is grpc.aio.EOF else bytes(message)

    def abort(self) -> None:
        """Cancels the call."""
        self._call.cancel()


class ServedDuplex:
    """The acceptor's side, inside the handler of the call."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._over = asyncio.Event()

    async def send(self, message: bytes) -> None:
        """LinkLost if the stream is over."""
        if self._over.is_set():
            raise LinkLost("gone")
        try:
            await self._context.write(message)
        except (grpc.aio.UsageError, grpc.RpcError, grpc.aio.BaseError, OSError):
            raise LinkLost("gone") from None

    async def receive(self) -> bytes | None:
        """None if the stream is over."""
        if self._over.is_set():
            return None
        try:
            message = await self._context.read()
        except (grpc.aio.UsageError, grpc.RpcError, grpc.aio.BaseError, OSError):
            return None
        return None if message is grpc.aio.EOF else bytes(message)

    def abort(self) -> None:
        """The handler returns, which ends the call."""
        self._over.set()


def link_handler(serve: Callable[[Duplex, str], Awaitable[None]]) -> Any:
    """The handler of Link; `serve` gets the stream and the peer's address."""

    async def handle(_: Any, context: Any) -> None:
        await serve(ServedDuplex(context), context.peer())

    # No (de)serialiser: the messages are bytes on both sides.
    return grpc.stream_stream_rpc_method_handler(handle)
