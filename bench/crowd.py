"""Many subscribers, each of an account of its own, that come back when their stream breaks."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from bench import load
from bench.accounts import SUBSCRIBE, Account
from bench.streams import open_stream
from client.backoff import Backoff
from crypto.request import METADATA_KEY, CallKind
from rookery.v1 import sync_pb2

_DETAILS = "grpc-status-details-bin"
_BACKOFF = Backoff()


def retry_ms(error: grpc.aio.AioRpcError) -> int | None:
    """What a refusal's RetryInfo asks for; None if it has none."""
    retry = error_details_pb2.RetryInfo()
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(retry):
                    return int(retry.retry_delay.ToMilliseconds())
    return None


def outcome(error: grpc.aio.AioRpcError) -> str:
    """The status, and whether it said when to come again."""
    hint = "" if retry_ms(error) is None else " with RetryInfo"
    return error.code().name + hint


@dataclass(slots=True)
class Crowd:
    """Subscribers that stay. `address` may change while they are away."""

    accounts: Sequence[Account]
    address: str
    connections: int
    """How many they share; as many as accounts: each has its own, as phones have."""
    jitter: bool = True
    outcomes: Counter[str] = field(default_factory=Counter)
    """What attempts and streams ended with, from the last `forget` on."""
    back_s: dict[int, float] = field(default_factory=dict)
    """When each was live again (perf_counter)."""
    _rng: random.Random = field(default_factory=lambda: random.Random(7))
    _channels: dict[int, grpc.aio.Channel] = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _all_live: asyncio.Event = field(default_factory=asyncio.Event)
    _opening: asyncio.Semaphore = field(default_factory=asyncio.Semaphore)
    _gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Open: who was cut off may try."""

    async def open(self, *, at_once: int = 64) -> None:
        """Opens all streams, so many at once, and waits until they are live."""
        self._gate.set()
        self._opening = asyncio.Semaphore(at_once)
        for number in range(len(self.accounts)):
            await self._opening.acquire()
            self._tasks.append(asyncio.create_task(self._live(number)))
        await self._all_live.wait()

    def forget(self, *, held: bool) -> None:
        """Counts anew. `held`: nobody tries before `release`."""
        self.outcomes.clear()
        self.back_s.clear()
        self._all_live.clear()
        if held:
            self._gate.clear()

    def release(self) -> None:
        """Those who were held all try at this moment."""
        self._gate.set()

    async def all_back(self, *, within_s: float) -> None:
        """Waits until everybody is live again; TimeoutError."""
        async with asyncio.timeout(within_s):
            await self._all_live.wait()

    async def close(self) -> None:
        """All streams and connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(one.close() for one in self._channels.values()))

    async def _live(self, number: int) -> None:
        tries = 0
        while True:
            await self._gate.wait()
            hint_ms = 0
            try:
                await self._follow(number)
                self.outcomes["ended"] += 1
            except grpc.aio.AioRpcError as error:
                hint_ms = retry_ms(error) or 0
                self.outcomes[outcome(error)] += 1
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    await self._reconnect(number)
            except (grpc.aio.UsageError, asyncio.CancelledError):
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self.outcomes["channel closed"] += 1
            tries = 1 if number in self.back_s else tries + 1
            delay_ms = (
                _BACKOFF.delay_ms(tries, self._rng.random, hint_ms) if self.jitter else hint_ms
            )
            await asyncio.sleep(delay_ms / 1000)

    async def _follow(self, number: int) -> None:
        account = self.accounts[number]
        auth = ((METADATA_KEY, account.sign(SUBSCRIBE, b"", CallKind.STREAM)),)
        frames = open_stream(self._channel(number), SUBSCRIBE, b"", auth)
        async for raw in frames:
            event = sync_pb2.SubscribeResponse.FromString(raw).event
            if event == sync_pb2.SubscribeResponse.EVENT_CAUGHT_UP:
                if number not in self.back_s:
                    self._opening.release()
                self.back_s[number] = time.perf_counter()
                if len(self.back_s) == len(self.accounts):
                    self._all_live.set()

    def _channel(self, number: int) -> grpc.aio.Channel:
        slot = number % self.connections
        if slot not in self._channels:
            self._channels[slot] = load.channel(self.address)
        return self._channels[slot]

    async def _reconnect(self, number: int) -> None:
        # A channel in its own back-off would not notice a service that is back.
        if self.connections == len(self.accounts):
            gone = self._channels.pop(number, None)
            if gone is not None:
                with contextlib.suppress(asyncio.CancelledError):
                    await gone.close()
