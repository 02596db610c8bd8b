"""The relay as a party calls it: its boxes, the signed round, and where a result goes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from crypto import request
from crypto.keys import Identity
from crypto.request import METADATA_KEY, NO_ACCOUNT, NONCE_BYTES, CallKind
from rookery.v1 import parties_pb2, rounds_pb2

_ROUNDS = "/rookery.v1.Rounds/"
_PARTIES = "/rookery.v1.Parties/"
CALL_S = 30.0


class RelayDown(Exception):
    """The relay can't be reached, or does not answer as it should. Try again later."""


class RelayRefused(Exception):
    """The relay refused, and will again. `code` is gRPC's."""

    def __init__(self, code: str) -> None:
        super().__init__(f"the relay refused: {code}")
        self.code = code


_LATER = (
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNAUTHENTICATED,
)  # fmt: skip


class Relay:
    """Signed calls by this party's identity key."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        identity: Identity,
        audience: str,
        wall_ms: Callable[[], int],
    ) -> None:
        self._channel = channel
        self._identity = identity
        self._audience = audience
        self._wall_ms = wall_ms

    def _metadata(self, kind: CallKind, method: str, payload: bytes) -> tuple[tuple[str, bytes]]:
        signed = request.sign(
            self._identity,
            kind=kind,
            method=method,
            audience=self._audience,
            account_id=NO_ACCOUNT,
            ts_ms=self._wall_ms(),
            nonce=os.urandom(NONCE_BYTES),
            payload=payload,
        )
        return ((METADATA_KEY, signed),)

    async def _call(self, method: str, payload: bytes) -> bytes:
        metadata = self._metadata(CallKind.UNARY, method, payload)
        try:
            call: Any = self._channel.unary_unary(method)
            answer: bytes = await call(payload, metadata=metadata, timeout=CALL_S)
        except grpc.aio.AioRpcError as error:
            raise _why(error) from None
        return answer

    async def round(self, round_id: bytes) -> rounds_pb2.GetRoundResponse:
        """The round with the signatures of all its parties."""
        asked = rounds_pb2.GetRoundRequest(round_id=round_id).SerializeToString()
        return rounds_pb2.GetRoundResponse.FromString(await self._call(_ROUNDS + "GetRound", asked))

    async def boxes(
        self, round_id: bytes, cursor: bytes
    ) -> AsyncIterator[parties_pb2.StreamBoxesResponse]:
        """All frames that there are from a cursor on."""
        method = _PARTIES + "StreamBoxes"
        asked = parties_pb2.StreamBoxesRequest(round_id=round_id, cursor=cursor).SerializeToString()
        stream: Any = self._channel.unary_stream(method)
        call = stream(asked, metadata=self._metadata(CallKind.STREAM, method, asked))
        try:
            async for raw in call:
                yield parties_pb2.StreamBoxesResponse.FromString(raw)
        except grpc.aio.AioRpcError as error:
            raise _why(error) from None
        finally:
            call.cancel()

    async def publish(self, message: parties_pb2.PublishResultRequest) -> None:
        """Hands in a result with its signatures, or an abandonment."""
        await self._call(_PARTIES + "PublishResult", message.SerializeToString())


def _why(error: grpc.aio.AioRpcError) -> RelayDown | RelayRefused:
    if error.code() in _LATER:
        return RelayDown(error.code().name)
    return RelayRefused(error.code().name)
