"""A real gRPC server that answers as a test wrote down, for what no honest service does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

Reply = Callable[["Seen", Any], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Seen:
    """One call as it came."""

    method: str
    payload: bytes
    auth: bytes
    metadata: dict[str, Any]


@dataclass(slots=True)
class Script:
    """Replies are taken from the front; the last one stays."""

    replies: list[Reply] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    target: str = ""

    async def __call__(self, method: str, payload: bytes, context: Any) -> bytes:
        metadata = dict(context.invocation_metadata())
        seen = Seen(method, payload, metadata.get("rookery-auth-bin", b""), metadata)
        self.seen.append(seen)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return await reply(seen, context)


def held() -> tuple[asyncio.Event, Reply]:
    """A reply that never comes, and the event of the call that waits for it."""
    reached = asyncio.Event()

    async def hold(seen: Seen, context: Any) -> bytes:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    return reached, hold


def answer(message: Any) -> Reply:
    """Answers with this message."""

    async def reply(seen: Seen, context: Any) -> bytes:
        data: bytes = message.SerializeToString() if hasattr(message, "DESCRIPTOR") else message
        return data

    return reply


def refuse(
    code: grpc.StatusCode, reason: str = "", retry_ms: int | None = None, **metadata: str
) -> Reply:
    """Ends with this status, and with ErrorInfo if there is a reason."""

    async def reply(seen: Seen, context: Any) -> bytes:
        trailing: tuple[tuple[str, bytes], ...] = ()
        if reason:
            details = [_packed(error_details_pb2.ErrorInfo(
                reason=reason, domain="rookery", metadata=metadata
            ))]  # fmt: skip
            if retry_ms is not None:
                retry = error_details_pb2.RetryInfo()
                retry.retry_delay.FromMilliseconds(retry_ms)
                details.append(_packed(retry))
            status = status_pb2.Status(code=code.value[0], message=reason, details=details)
            trailing = (("grpc-status-details-bin", status.SerializeToString()),)
        await context.abort(code, reason, trailing)
        raise AssertionError

    return reply


async def never(seen: Seen, context: Any) -> bytes:
    """Does not answer."""
    await asyncio.Event().wait()
    raise AssertionError


def _packed(message: Any) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, script: Script) -> None:
        self._script = script

    def service(self, details: Any) -> Any:
        async def unary(payload: bytes, context: Any) -> bytes:
            return await self._script(details.method, payload, context)

        async def stream(payload: bytes, context: Any) -> AsyncIterator[bytes]:
            yield await self._script(details.method, payload, context)
            await asyncio.Event().wait()

        if details.method.endswith("/Subscribe"):
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)


@asynccontextmanager
async def scripted(*replies: Reply) -> AsyncIterator[Script]:
    """A server for the time of the block."""
    script = Script(list(replies))
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Handler(script),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    script.target = f"127.0.0.1:{port}"
    try:
        yield script
    finally:
        await server.stop(None)
