"""A governed service, as its callers see it. Shared by tests."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from crypto import request
from crypto.policy import Bundle
from crypto.request import NO_ACCOUNT, CallKind
from mpc.keys import PublisherKey
from rookery.v1 import policy_pb2
from services.store.governance import PolicyRow
from tests.governed_worlds import GET, KEY, OTHER_KEY, PUBLISH, WATCH, to_publish
from tests.relay_worlds import PUBLISHER
from tests.served import AUDIENCE, Refusal, Service, nonce
from tests.worlds import World

PATIENCE_S = 30.0
KEYS: dict[str, Any] = {
    "policy_keys": (KEY.public.hex(), OTHER_KEY.public.hex()),
    "publishers": (PUBLISHER.public.hex(),),
}


@dataclass(slots=True)
class Watcher:
    """An open WatchPolicy."""

    call: Any

    async def next(self) -> policy_pb2.WatchPolicyResponse:
        """The next frame; Refusal."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                raw = await self.call.read()
        except grpc.aio.AioRpcError as error:
            raise Refusal.of(error) from None
        assert raw is not grpc.aio.EOF, "the stream ended without an error"
        frame = policy_pb2.WatchPolicyResponse.FromString(raw)
        assert frame.SerializeToString() == raw
        return frame

    async def end(self) -> Refusal:
        """How it ends, whatever comes before."""
        try:
            while True:
                await self.next()
        except Refusal as refused:
            return refused


@dataclass(slots=True)
class Governed:
    """A governed service, as its callers see it."""

    service: Service

    async def call(self, by: Any, method: str, message: Message) -> bytes:
        """One call by a key without an account; Refusal."""
        payload = message.SerializeToString()
        auth = request.sign(
            by, kind=CallKind.UNARY, method=method, audience=AUDIENCE, account_id=NO_ACCOUNT,
            ts_ms=self.service.now_ms, nonce=nonce(), payload=payload,
        )  # fmt: skip
        return await self.service.raw(method, payload, [auth])

    async def publish(
        self, made: Bundle, by: PublisherKey = KEY
    ) -> policy_pb2.PublishPolicyResponse:
        """Publishes; Refusal."""
        answer = await self.call(by, PUBLISH, to_publish(made, by))
        return policy_pb2.PublishPolicyResponse.FromString(answer)

    async def get(self, after: int = 0) -> policy_pb2.GetPolicyResponse:
        """Asks as anybody, unsigned."""
        payload = policy_pb2.GetPolicyRequest(after=after).SerializeToString()
        answer = await self.service.raw(GET, payload)
        found = policy_pb2.GetPolicyResponse.FromString(answer)
        assert found.SerializeToString() == answer
        return found

    def watch(self, world: World, after: int = 0, *, by: int = 0) -> Watcher:
        """Opens a stream."""
        payload = policy_pb2.WatchPolicyRequest(after=after).SerializeToString()
        auth = self.service.auth(
            world.authors[by].identity, world, WATCH, payload, kind=CallKind.STREAM
        )
        stub: Any = self.service.channel.unary_stream(WATCH)
        return Watcher(stub(payload, metadata=((request.METADATA_KEY, auth),), timeout=60))

    @property
    def events(self) -> list[str]:
        """Names of all log lines."""
        return [json.loads(line)["event"] for line in self.service.log.getvalue().splitlines()]


def row_of(made: Bundle, by: PublisherKey = KEY) -> PolicyRow:
    """What the store holds of a bundle."""
    return PolicyRow(
        made.sequence, made.previous, made.hash, made.encoded, made.sign(by), by.public, 1
    )
