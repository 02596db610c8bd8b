"""WatchPolicy (proto/rookery/v1/policy.proto): the newest bundle, then each newer one.

Streams are registered before they first look, so that no bundle falls between. They have a hub
of their own: who watches the policy need not be awake for ops.
"""

from __future__ import annotations

import asyncio
from typing import Final

from crypto.policy import Bundle
from rookery.v1 import policy_pb2
from services import wire
from services.call import SignedCall, Write
from services.hub import BEAT, DRAIN, POKE, Hub, Stream
from services.policy.current import CurrentPolicy
from services.sync.desk import Desk, parse

WOKEN_AT_ONCE: Final = 256
WAKE_PAUSE_S: Final = 0.01
"""A bundle goes to all watchers within a second, but not in one turn of the event loop."""


class WatchPolicy:
    """The handler of Policy.WatchPolicy."""

    def __init__(self, desk: Desk, hub: Hub, current: CurrentPolicy) -> None:
        self._desk = desk
        self._hub = hub
        self._current = current
        self._waking: asyncio.Task[None] | None = None
        current.on_taken(self._taken)

    async def __call__(self, raw: bytes, call: SignedCall, write: Write) -> None:
        """One stream, until its client leaves or it may not go on."""
        after = parse(policy_pb2.WatchPolicyRequest.FromString, raw).after
        stream = self._hub.open(call.account, call.device)
        try:
            stream.position, stream.chain_seq = after, call.tip.chain.seq
            # Streams live long; chains and requests need not live with them.
            del raw, call, after
            await self._run(stream, write)
        except asyncio.CancelledError:
            if stream.verdict is None:
                raise
            if stream.task is not None:
                stream.task.uncancel()
            raise stream.verdict from None
        finally:
            self._hub.close(stream)

    async def _run(self, stream: Stream, write: Write) -> None:
        if self._current.governed and stream.position > self._current.sequence:
            # As in GetPolicy.
            await self._current.refresh()
        await self._send(stream, write)
        while True:
            why = await stream.woken()
            if why & DRAIN:
                raise self._hub.farewell()
            if why & POKE and stream.position >= self._current.sequence and not why & BEAT:
                continue
            tip = await self._desk.member(stream.account, stream.device)
            stream.chain_seq = tip.chain.seq
            await self._send(stream, write)

    async def _send(self, stream: Stream, write: Write) -> None:
        """What is newer than the stream has had, or that there is nothing."""
        frame = wire.data(1, self._desk.info(stream.chain_seq))
        frame += self._current.newer(stream.position)
        stream.position = max(stream.position, self._current.sequence)
        stream.writing_since_s = self._desk.clock.monotonic_s()
        try:
            await write(frame)
        finally:
            stream.writing_since_s = 0.0

    def _taken(self, bundle: Bundle) -> None:
        del bundle
        if self._waking is None or self._waking.done():
            self._waking = asyncio.get_running_loop().create_task(self._wake_all())

    async def _wake_all(self) -> None:
        told = 0
        while told < self._current.sequence:
            told = self._current.sequence
            for number, stream in enumerate(self._hub, start=1):
                stream.wake(POKE)
                if not number % WOKEN_AT_ONCE:
                    await asyncio.sleep(WAKE_PAUSE_S)
