"""Hearing what is published on Redis's channels: one connection to each server that has any.

A message carries nothing: whoever is called reads the store. While a connection is lost
nothing is heard, so everybody whose channel was on it is called once it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterable

from redis import exceptions
from redis.asyncio.connection import Connection

from services.store.errors import StoreUnavailable
from services.store.redis_address import Host
from services.store.redis_connection import Connections, MaybeDone, NotDone
from services.store.redis_topology import Topology

Heard = Callable[[], None]
BEAT_S = 10.0
SILENCE_S = 25.0
"""Without even an answer to a beat for so long, the connection is taken for lost."""
CONFIRMED_S = 5.0
_AGAIN_S = 0.1
_AT_ONCE = 500
_LOST = (exceptions.RedisError, OSError)


class Pokes:
    """All subscriptions of this process."""

    def __init__(self, topology: Topology, connections: Connections, *, sharded: bool) -> None:
        self._topology = topology
        self._connections = connections
        self._sharded = sharded
        self._heard: dict[bytes, Heard] = {}
        self._ears: dict[Host, _Ear] = {}
        self._moves: set[asyncio.Task[None]] = set()

    async def subscribe(self, channel: bytes, heard: Heard) -> None:
        """`heard` is called on the loop after each message from now on. StoreUnavailable if
        no server confirms that."""
        self._heard[channel] = heard
        try:
            async with asyncio.timeout(CONFIRMED_S):
                while not await self._place(channel):  # noqa: ASYNC110 - Redis tells nobody
                    await asyncio.sleep(_AGAIN_S)
        except TimeoutError:
            self._heard.pop(channel, None)
            raise StoreUnavailable("Redis confirms no subscription") from None
        except BaseException:
            self._heard.pop(channel, None)
            raise

    async def unsubscribe(self, channel: bytes) -> None:
        """Nothing more is heard of it."""
        if self._heard.pop(channel, None) is not None:
            for ear in list(self._ears.values()):
                await ear.remove(channel)

    async def close(self) -> None:
        """Hears nothing any more."""
        self._heard.clear()
        for task in self._moves:
            task.cancel()
        await asyncio.gather(*self._moves, return_exceptions=True)
        ears, self._ears = list(self._ears.values()), {}
        for ear in ears:
            await ear.close()

    async def _place(self, channel: bytes) -> bool:
        """Subscribes where the channel is now; False if that is not known yet."""
        try:
            # Unsharded, any server of a cluster hears of all: the one that has the empty key.
            server = await self._topology.owner(channel if self._sharded else b"")
            ear = self._ears.get(server.host)
            if ear is None:
                ear = self._ears[server.host] = _Ear(self, server.host, self._sharded)
            await ear.add(channel, self._connections)
        except (NotDone, MaybeDone) as error:
            if getattr(error, "moved", True):
                await self._refresh()
            return False
        return True

    async def _refresh(self) -> None:
        try:
            await self._topology.refresh()
        except (NotDone, StoreUnavailable):
            await asyncio.sleep(_AGAIN_S)

    # --- called by ears ---

    def came(self, channel: bytes) -> None:
        """A message."""
        heard = self._heard.get(channel)
        if heard is not None:
            heard()

    def lost(self, host: Host, ear: _Ear) -> None:
        """Its connection is gone."""
        if self._ears.get(host) is ear:
            del self._ears[host]
            self.move(ear.channels)

    def move(self, channels: Iterable[bytes]) -> None:
        """Takes channels to where they are now, and then calls who listens: something may
        have been said meanwhile."""
        task = asyncio.get_running_loop().create_task(self._move(list(channels)))
        self._moves.add(task)
        task.add_done_callback(self._moves.discard)

    async def _move(self, channels: list[bytes]) -> None:
        await self._refresh()
        while channels := [channel for channel in channels if channel in self._heard]:
            some = channels[:_AT_ONCE]
            placed = await asyncio.gather(*map(self._place, some), return_exceptions=True)
            done = {channel for channel, there in zip(some, placed, strict=True) if there is True}
            for channel in done:
                self.came(channel)
            channels = [channel for channel in channels if channel not in done]
            if len(done) < len(some):
                await asyncio.sleep(_AGAIN_S)


class _Ear:
    """One connection that only listens."""

    def __init__(self, pokes: Pokes, host: Host, sharded: bool) -> None:
        self._pokes = pokes
        self._host = host
        prefix = b"S" if sharded else b""
        self._subscribe, self._unsubscribe = prefix + b"SUBSCRIBE", prefix + b"UNSUBSCRIBE"
        self.channels: set[bytes] = set()
        self._asked: deque[asyncio.Future[None]] = deque()
        self._opening = asyncio.Lock()
        self._connection: Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._heard_at = 0.0

    async def add(self, channel: bytes, connections: Connections) -> None:
        """Subscribes and returns when that is confirmed. NotDone."""
        async with self._opening:
            if self._connection is None:
                try:
                    self._connection = await connections.connect(self._host)
                except BaseException:
                    self._pokes.lost(self._host, self)
                    raise
                loop = asyncio.get_running_loop()
                self._heard_at = loop.time()
                self._tasks = [loop.create_task(self._listen()), loop.create_task(self._beat())]
        confirmed = asyncio.get_running_loop().create_future()
        self._asked.append(confirmed)
        if not await self._send(self._subscribe, channel) and not confirmed.done():
            # Lost, and whoever listened has told those who asked before.
            with contextlib.suppress(ValueError):
                self._asked.remove(confirmed)
            raise NotDone("the connection to Redis was lost", moved=True)
        await confirmed
        self.channels.add(channel)

    async def remove(self, channel: bytes) -> None:
        """Unsubscribes, if the channel is here."""
        if channel in self.channels:
            self.channels.discard(channel)
            await self._send(self._unsubscribe, channel)

    async def _send(self, *command: bytes) -> bool:
        """False if the connection is lost; whoever listens finds out."""
        connection = self._connection
        if connection is None or not connection.is_connected:
            return False
        try:
            await connection.send_packed_command(
                connection.pack_command(*command), check_health=False
            )
        except _LOST:
            return False
        return True

    async def close(self) -> None:
        """Ends the connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(BEAT_S)
            if loop.time() - self._heard_at > SILENCE_S and self._connection is not None:
                await self._connection.disconnect(nowait=True)
                self._tasks[0].cancel()
                return
            await self._send(b"PING")

    async def _listen(self) -> None:
        assert self._connection is not None
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    message = await self._connection.read_response(timeout=math.inf)
                except exceptions.ResponseError:
                    self._refused()
                    continue
                self._heard_at = loop.time()
                self._take(message)
        except _LOST:
            pass
        finally:
            await self._connection.disconnect(nowait=True)
            while self._asked:
                self._refused()
            self._tasks[1].cancel()
            self._pokes.lost(self._host, self)

    def _take(self, message: list[bytes]) -> None:
        kind, channel = message[0], message[1]
        if kind in (b"message", b"smessage"):
            self._pokes.came(channel)
        elif kind in (b"subscribe", b"ssubscribe"):
            confirmed = self._asked.popleft()
            if not confirmed.done():
                confirmed.set_result(None)
        elif kind == b"sunsubscribe" and channel in self.channels:
            # Not by us: the slot has moved to another server.
            self.channels.discard(channel)
            self._pokes.move([channel])

    def _refused(self) -> None:
        if self._asked:
            confirmed = self._asked.popleft()
            if not confirmed.done():
                confirmed.set_exception(NotDone("it takes no subscription here", moved=True))
