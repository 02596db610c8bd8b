"""The thin grpc.aio layer: one interceptor through which every method goes.

It hands raw bytes to the edge, so that the signature is checked over the bytes that came and
nothing is parsed before. What is neither a method of ours nor exempt is not served: a
servicer that somebody adds to the server by mistake stays out of reach.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from crypto.request import METADATA_KEY
from services.access.hop import Count, TrustedHop
from services.access.xfcc import HEADER
from services.call import Route, StreamRoute, UnaryRoute, Write
from services.edge import Caller, Edge, Refused
from services.errors import Failure, Malformed, failure
from services.limits import forwarded_ip, peer_ip
from services.spans import NO_TRACES, TRACEPARENT, Tracer
from services.traced import TracedEdge

EXEMPT = "/grpc.health.v1.Health/Check"
"""Served as it is: it says nothing of any account, and a probe must see a full service, too."""
REFLECTION = (
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
)
"""For people who develop: behind the matrix, in which no policy can name it."""
GUESTS = ("/grpc.health.v1.Health/", *REFLECTION)
"""Say nothing of any account, but stay open: within the bounds of unsigned calls."""


class SignatureInterceptor(grpc.aio.ServerInterceptor):
    """Routes every call to the edge. `ip_header`: a header that names the caller, if trusted.
    `others`: handlers of methods that prove who calls in their own way."""

    def __init__(
        self,
        edge: Edge,
        *,
        ip_header: str = "",
        ip_hops: int = 1,
        others: Mapping[str, Any] = MappingProxyType({}),
        tracer: Tracer = NO_TRACES,
        hop: TrustedHop | None = None,
        claimed: Count = lambda claim: None,
    ) -> None:
        """`claimed`: told what became of each header that names a workload."""
        self._edge = edge
        self._hop = hop or TrustedHop()
        self._claimed = claimed
        self._calls = TracedEdge(edge, tracer) if tracer.is_on else edge
        self._ip_header = ip_header.lower()
        self._ip_hops = ip_hops
        routes = {method: self._handler(route) for method, route in edge.routes.items()}
        self._handlers: dict[str, Any] = {**others, **routes}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of a method; None, which gRPC answers UNIMPLEMENTED, if it has none."""
        method = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is not None:
            refusal = self._edge.overloaded(method)
            return handler if refusal is None else _refusing(refusal)
        if method == EXEMPT:
            return _lenient(await continuation(handler_call_details))
        if method.startswith(GUESTS):
            return self._bounded(method, _lenient(await continuation(handler_call_details)))
        self._edge.unknown()
        return None

    def _bounded(self, method: str, handler: Any) -> Any:
        """The handler, as long as there is room for guests."""
        if handler is None:
            return None
        asks = "stream" if handler.request_streaming else "unary"
        answers = "stream" if handler.response_streaming else "unary"
        kind = f"{asks}_{answers}"
        behaviour = getattr(handler, kind)
        is_ruled = method.startswith(REFLECTION)

        async def bounded(request: Any, context: Any) -> Any:
            try:
                with self._edge.guest(method, self._caller(context), is_ruled=is_ruled):
                    running = behaviour(request, context)
                    if not hasattr(running, "__aiter__"):
                        return await running
                    async for message in running:
                        await context.write(message)
                    return None
            except Refused as refused:
                raise await _abort(context, refused) from None

        return handler._replace(**{kind: bounded})

    def _handler(self, route: Route) -> Any:
        # No (de)serialiser: the message is bytes on both sides.
        if isinstance(route, StreamRoute):
            return grpc.unary_stream_rpc_method_handler(self._stream(route))
        return grpc.unary_unary_rpc_method_handler(self._unary(route))

    def _unary(self, route: UnaryRoute) -> Callable[[bytes, Any], Awaitable[bytes]]:
        edge = self._calls

        async def behaviour(raw: bytes, context: Any) -> bytes:
            try:
                return await edge.unary(route, raw, self._caller(context))
            except Refused as refused:
                raise await _abort(context, refused) from None

        return behaviour

    def _stream(self, route: StreamRoute) -> Callable[[bytes, Any], Awaitable[None]]:
        edge = self._calls

        async def behaviour(raw: bytes, context: Any) -> None:
            write: Write = context.write
            try:
                await edge.stream(route, raw, self._caller(context), write)
            except Refused as refused:
                raise await _abort(context, refused) from None

        return behaviour

    def _caller(self, context: Any) -> Caller:
        auth: list[str | bytes] = []
        forwarded: list[str | bytes] = []
        certificates: list[str | bytes] = []
        traceparent = None
        for key, value in context.invocation_metadata():
            if key == METADATA_KEY:
                auth.append(value)
            elif key == self._ip_header:
                forwarded.append(value)
            elif key == TRACEPARENT:
                traceparent = value
            elif key == HEADER:
                certificates.append(value)
        peer = context.peer()
        ip = forwarded_ip(forwarded, self._ip_hops) if forwarded else None
        return Caller(
            ip or peer_ip(peer),
            auth,
            context.time_remaining(),
            traceparent,
            self._hop.workload(peer, certificates, self._claimed) if certificates else "",
        )


def _refusing(answer: Failure) -> Any:
    """A handler that does not even read the message."""

    async def behaviour(messages: Any, context: Any) -> None:
        await context.abort(answer.code, answer.message, answer.trailing)

    return grpc.stream_unary_rpc_method_handler(behaviour)


def _lenient(handler: Any) -> Any:
    """gRPC answers a message that does not parse with UNKNOWN; we say MALFORMED.

    In a stream of requests (reflection) such a message counts as an empty one, which its
    servicer knows how to refuse.
    """
    if handler is None:
        return None
    parse = handler.request_deserializer

    def deserialise(raw: bytes) -> Any:
        try:
            return parse(raw)
        except DecodeError:
            return parse(b"") if handler.request_streaming else None

    kind = "unary_stream" if handler.response_streaming else "unary_unary"
    behaviour = getattr(handler, kind)
    if handler.request_streaming or behaviour is None:
        return handler._replace(request_deserializer=deserialise)

    async def checked(message: Any, context: Any) -> Any:
        if message is None:
            raise await _abort(context, Refused(failure(Malformed("message"))))
        return await behaviour(message, context)

    return handler._replace(request_deserializer=deserialise, **{kind: checked})


async def _abort(context: Any, refused: Refused) -> Refused:
    """Never returns: `abort` raises."""
    answer = refused.answer
    await context.abort(answer.code, answer.message, answer.trailing)
    return refused
