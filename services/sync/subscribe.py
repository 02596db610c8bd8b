"""Subscribe (proto/rookery/v1/sync.proto): catch up from the store, then live.

A stream is registered before it first reads, so that no commit falls between; after that it
only reads when it is woken. Frames end where pushes end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from crypto.ids import AccountId
from rookery.v1 import sync_pb2
from services import wire
from services.call import SignedCall, Write
from services.errors import GenerationChanged, Unauthenticated
from services.hub import BEAT, DRAIN, POKE, Hub, Stream
from services.sync.desk import Desk, is_active, parse

FRAME_OPS_MAX = 512
FRAME_BYTES_MAX = 1 << 18

_OPS = sync_pb2.SubscribeResponse.EVENT_OPS
_HEARTBEAT = sync_pb2.SubscribeResponse.EVENT_HEARTBEAT
_CHAIN = sync_pb2.SubscribeResponse.EVENT_CHAIN
_RESYNC = sync_pb2.SubscribeResponse.EVENT_RESYNC
_CAUGHT_UP = sync_pb2.SubscribeResponse.EVENT_CAUGHT_UP


class Subscribe:
    """The handler of Sync.Subscribe."""

    def __init__(
        self,
        desk: Desk,
        hub: Hub,
        *,
        backlog_ops_max: int,
        on_delivered: Callable[[float], None],
    ) -> None:
        """`on_delivered`: told, once all was sent that a stream was woken for, how many seconds
        ago the oldest of it was committed."""
        self._desk = desk
        self._on_delivered = on_delivered
        self._hub = hub
        self._backlog_ops_max = backlog_ops_max
        self._checks: set[asyncio.Task[None]] = set()
        hub.on_stalled = self._check_stalled

    async def __call__(self, raw: bytes, call: SignedCall, write: Write) -> None:
        """One stream, until its client leaves or it may not go on."""
        generation = self._desk.cursors.generation
        position = self._desk.position(
            call, parse(sync_pb2.SubscribeRequest.FromString, raw).cursor
        )
        if position:
            await self._desk.store.passed(call.account, call.device, position)
        stream = self._hub.open(call.account, call.device)
        watched = False
        try:
            await self._desk.store.watch(call.account)
            watched = True
            stream.position, stream.generation = position, generation
            if generation != self._desk.cursors.generation:
                raise GenerationChanged
            stream.chain_seq = call.tip.chain.seq
            # Streams live long; chains and requests need not live with them.
            del raw, call, position
            await self._run(stream, write)
        except asyncio.CancelledError:
            if stream.verdict is None:
                raise
            if stream.task is not None:
                stream.task.uncancel()
            raise stream.verdict from None
        finally:
            self._hub.close(stream)
            if watched:
                self._desk.store.unwatch(stream.account)

    async def _run(self, stream: Stream, write: Write) -> None:
        if not await self._deliver(stream, write):
            return
        await self._send(stream, write, _CAUGHT_UP)
        while True:
            why = await stream.woken()
            if why & DRAIN:
                raise self._hub.farewell()
            if why & POKE:
                committed_s, stream.poked_s = stream.poked_s, 0.0
                before = stream.position
                if not await self._deliver(stream, write):
                    return
                # Else it had gone out already, with what was committed before it.
                if stream.position > before:
                    self._on_delivered(self._desk.clock.monotonic_s() - committed_s)
            elif why & BEAT:
                await self._send(stream, write, _HEARTBEAT)

    async def _deliver(self, stream: Stream, write: Write) -> bool:
        """Sends what is stored beyond the stream's position; False if it was told RESYNC."""
        sent = 0
        while True:
            page = await self._desk.store.read_ops(
                stream.account,
                stream.position,
                ops_max=FRAME_OPS_MAX,
                bytes_max=FRAME_BYTES_MAX,
            )
            tip = await self._desk.member(stream.account, stream.device)
            if tip.chain.seq != stream.chain_seq:
                stream.chain_seq = tip.chain.seq
                await self._send(stream, write, _CHAIN)
            if page.more and sent + page.count > self._backlog_ops_max:
                await self._send(stream, write, _RESYNC)
                return False
            if page.count:
                stream.position = page.position
                sent += page.count
                await self._send(stream, write, _OPS, page.runs)
            if not page.more:
                return True

    async def _send(
        self, stream: Stream, write: Write, event: int, runs: Sequence[bytes] = ()
    ) -> None:
        frame = wire.subscribe_response(
            event,
            self._desk.info(stream.chain_seq),
            runs,
            self._desk.cursors.seal(stream.account, stream.position, stream.generation),
        )
        stream.writing_since_s = self._desk.clock.monotonic_s()
        try:
            await write(frame)
        finally:
            stream.writing_since_s = 0.0

    def _check_stalled(self, account: AccountId) -> None:
        """A stream in the middle of a message can't look for itself whether it may go on."""
        task = asyncio.get_running_loop().create_task(self._expel(account))
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)

    async def _expel(self, account: AccountId) -> None:
        tip = await self._desk.store.tip(account, fresh=True)
        for stream in self._hub.of(account):
            if stream.writing_since_s and (
                tip is None or not is_active(tip.chain.find(stream.device))
            ):
                stream.end(Unauthenticated())
