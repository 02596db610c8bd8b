"""Staying in sync: a stream for what others do, pushes for what we do, until it is stopped.

Two tasks share one device. The reader takes frames of the stream; the sender does what the
core finds due. Both only touch the core between two awaits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from client import remoteerrors as reasons
from client.governed.watch import PolicyWatch
from client.remote import Event
from client.remoteerrors import RemoteError
from client.sync import SyncedDevice
from rookery.v1 import sync_pb2

DUE_SECONDS = 900.0
"""How often a quiet device compares itself with a receipt, and looks whether a cover has become
due. A rotation never comes by itself: `Status.rotation_due` tells who decides."""
Frame = sync_pb2.SubscribeResponse


def _nothing(_: object = None) -> None:
    """The default of both callbacks."""


class Watch:
    """Keeps one device in sync. `on_change` is called after every sync and after each frame
    that brought something; `on_live` with True once caught up, with False when there is no
    connection, each only when it changes."""

    def __init__(
        self,
        synced: SyncedDevice,
        *,
        on_change: Callable[[], None] = _nothing,
        on_live: Callable[[bool], None] = _nothing,
    ) -> None:
        self._synced = synced
        self._on_change = on_change
        self._on_live = on_live
        self._told: bool | None = None
        self._caught_up = False
        self._tries = 0
        self._policy = PolicyWatch(synced, on_change)

    async def run(self) -> None:
        """Until it is cancelled. AccountGone, or a RemoteError that waiting doesn't help."""
        policy = asyncio.create_task(self._policy.run())
        ops = asyncio.create_task(self._run())
        try:
            # A device that is not governed has no policy to watch for: that ends at once.
            await asyncio.wait({ops, policy}, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in (ops, policy):
                task.cancel()
            await asyncio.wait({ops, policy})
        for task in (policy, ops):
            if not task.cancelled():
                task.result()

    async def _run(self) -> None:
        while True:
            try:
                await self._synced.sync_once()
                self._on_change()
                await self._live()
            except RemoteError as error:
                await self._after(error)

    async def _after(self, error: RemoteError) -> None:
        if error.reason == reasons.UNAUTHENTICATED:
            self._synced.lose_account()
        if not self._synced.restart_cursor(error) and not error.transient:
            raise error
        self._tries += 1
        self._tell(live=False)
        await self._synced.transport.pause(self._tries, error)

    def _tell(self, *, live: bool) -> None:
        if self._told != live:
            self._told = live
            self._on_live(live)

    async def _live(self) -> None:
        """One stream, from catching up to its end; returns when a pull is the way on."""
        self._caught_up = False
        reader = asyncio.create_task(self._read())
        sender = asyncio.create_task(self._send())
        both = {reader, sender}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.wait(both)
            if self._caught_up:
                self._tell(live=False)
        for task in both:
            if not task.cancelled():
                task.result()

    async def _read(self) -> None:
        synced = self._synced
        synced.sign_as_device()
        stream = synced.remote.subscribe(synced.core.cursor)
        async with contextlib.aclosing(stream) as frames:
            async for frame in frames:
                if frame.event == Event.EVENT_RESYNC:
                    return
                async with synced.frames:
                    self._take(frame)
        raise RemoteError(reasons.UNREACHABLE, status="OK")

    def _take(self, frame: Frame) -> None:
        """What a frame says goes into the core and onto the disk; the sender does the rest."""
        synced, now_ms = self._synced, self._synced.now_ms()
        if frame.event == Event.EVENT_CAUGHT_UP:
            self._caught_up, self._tries = True, 0
        if frame.event in (Event.EVENT_OPS, Event.EVENT_CAUGHT_UP):
            cursor = frame.cursor or synced.core.cursor
            synced.core.on_page(tuple(frame.ops), cursor, more=not self._caught_up, now_ms=now_ms)
        synced.core.on_chain_seq(frame.info.chain_seq)
        synced.save()
        if frame.ops:
            synced.obey()
        synced.woken.set()
        if frame.event == Event.EVENT_CAUGHT_UP:
            self._tell(live=True)
        if frame.event != Event.EVENT_HEARTBEAT:
            self._on_change()

    async def _send(self) -> None:
        """Does what is due whenever something may be; returns when a pull is wanted."""
        synced = self._synced
        identity = synced.core.identity.device_id
        while synced.core.identity.device_id == identity:
            synced.woken.clear()
            if await synced.send_due() and self._caught_up:
                return
            if not self._policy.live:
                # Frames say which number is the newest: so it comes with a heartbeat.
                await synced.fetch_policy()
            self._on_change()
            try:
                async with asyncio.timeout(DUE_SECONDS):
                    await synced.woken.wait()
            except TimeoutError:
                synced.core.check_in()
