"""The relay as a party calls it: its boxes, the signed round, and where a result goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from crypto.request import Caller, CallKind
from rookery.v1 import parties_pb2, policy_pb2, rounds_pb2
from services.outgoing import signed_metadata, told
from services.spans import NO_TRACES, TRACEPARENT, Active, Tracer, current

T = TypeVar("T")

_ROUNDS = "/rookery.v1.Rounds/"
_PARTIES = "/rookery.v1.Parties/"
CALL_S = 30.0
FRAME_S = 60.0
"""Longest wait for the next frame of a stream."""


class RelayDown(Exception):
    """The relay can't be reached, or does not answer as it should. Try again later."""


class RelayUnknown(RelayDown):
    """The relay does not know this party's key: it has no round that names it, or not yet."""


class RelayRefused(Exception):
    """The relay refused. `reason` as in its API, or gRPC's code."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the relay refused: {reason}")
        self.reason = reason


class RelayLost(RelayRefused):
    """The relay no longer knows its own cursor: read from the start."""


_LATER = (
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNAUTHENTICATED,
)  # fmt: skip
_LOST = ("CURSOR_INVALID", "GENERATION_CHANGED")


class Relay:
    """Signed calls by this party's identity key."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        key: Caller,
        audience: str,
        wall_ms: Callable[[], int],
        tracer: Tracer = NO_TRACES,
    ) -> None:
        self._tracer = tracer
        self._channel = channel
        self._key = key
        self._audience = audience
        self._wall_ms = wall_ms

    def _metadata(
        self, kind: CallKind, method: str, payload: bytes, active: Active | None
    ) -> tuple[tuple[str, str | bytes], ...]:
        signed = signed_metadata(
            self._key,
            kind=kind,
            method=method,
            audience=self._audience,
            payload=payload,
            now_ms=self._wall_ms(),
        )
        traced = () if active is None else ((TRACEPARENT, active.ids.header),)
        return (*signed, *traced)

    async def _call(self, method: str, payload: bytes) -> bytes:
        with self._tracer.call(method) as active:
            metadata = self._metadata(CallKind.UNARY, method, payload, active)
            try:
                call: Any = self._channel.unary_unary(method)
                answer: bytes = await call(payload, metadata=metadata, timeout=CALL_S)
            except grpc.aio.AioRpcError as error:
                raise _why(error) from None
        return answer

    async def round(self, round_id: bytes) -> rounds_pb2.GetRoundResponse:
        """The round with the signatures of all its parties."""
        asked = rounds_pb2.GetRoundRequest(round_id=round_id).SerializeToString()
        answer = await self._call(_ROUNDS + "GetRound", asked)
        return _parsed(rounds_pb2.GetRoundResponse.FromString, answer)

    async def boxes(
        self, round_id: bytes, cursor: bytes
    ) -> AsyncIterator[parties_pb2.StreamBoxesResponse]:
        """All frames that there are from a cursor on; RelayLost if the cursor is void."""
        method = _PARTIES + "StreamBoxes"
        asked = parties_pb2.StreamBoxesRequest(round_id=round_id, cursor=cursor).SerializeToString()
        stream: Any = self._channel.unary_stream(method)
        # Its span is the caller's, for a generator has no context of its own.
        metadata = self._metadata(CallKind.STREAM, method, asked, current())
        call = stream(asked, metadata=metadata)
        try:
            while (raw := await _next(call)) is not None:
                yield _parsed(parties_pb2.StreamBoxesResponse.FromString, raw)
        except grpc.aio.AioRpcError as error:
            raise _why(error) from None
        finally:
            call.cancel()

    async def result(self, round_id: bytes) -> rounds_pb2.GetResultResponse | None:
        """What parties have handed in; None for nothing yet."""
        asked = rounds_pb2.GetResultRequest(round_id=round_id).SerializeToString()
        try:
            answer = await self._call(_ROUNDS + "GetResult", asked)
        except RelayRefused as error:
            if error.reason == "RESULT_ABSENT":
                return None
            raise
        return _parsed(rounds_pb2.GetResultResponse.FromString, answer)

    async def policy(self, after: int) -> policy_pb2.GetPolicyResponse:
        """The newest policy bundle, if it is newer than `after`."""
        asked = policy_pb2.GetPolicyRequest(after=after).SerializeToString()
        answer = await self._call("/rookery.v1.Policy/GetPolicy", asked)
        return _parsed(policy_pb2.GetPolicyResponse.FromString, answer)

    async def publish(self, message: parties_pb2.PublishResultRequest) -> None:
        """Hands in a result with its signatures, or an abandonment."""
        await self._call(_PARTIES + "PublishResult", message.SerializeToString())


async def _next(call: Any) -> bytes | None:
    """The next message of a stream; None at its end. A relay that says nothing is down."""
    try:
        async with asyncio.timeout(FRAME_S):
            raw = await call.read()
    except TimeoutError:
        raise RelayDown("stalled") from None
    return None if raw is grpc.aio.EOF else bytes(raw)


def _parsed(parse: Callable[[bytes], T], raw: bytes) -> T:
    try:
        return parse(raw)
    except DecodeError:
        raise RelayDown("answers what does not parse") from None


def _why(error: grpc.aio.AioRpcError) -> RelayDown | RelayRefused:
    # Not by the code alone: a clock that is off has it too, and will not pass.
    if told(error)[0] == "UNAUTHENTICATED":
        return RelayUnknown(error.code().name)
    if error.code() in _LATER:
        return RelayDown(error.code().name)
    reason = told(error)[0] or error.code().name
    return RelayLost(reason) if reason in _LOST else RelayRefused(reason)
