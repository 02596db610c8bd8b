"""The demo's connected clients: a device of everybody, watching, and when each of them obeys."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Final, Self

from client.gate import SignalRefused
from client.sync import SyncedDevice
from client.values import Value
from client.watch import Watch

PATIENCE_S: Final = 60.0
CONNECTING_S: Final = 300.0
"""A thousand devices of one process sync one after the other."""
CONNECTED_S: Final = 0.5
"""The stream of policies has no sign of its own that it is open."""

Test = Callable[[SyncedDevice], bool]
"""Whether a device obeys by now; asked whenever it heard something."""


class Watching:
    """Devices that stay in sync as an app does, until the block is left."""

    def __init__(self, devices: Iterable[SyncedDevice]) -> None:
        self.devices = tuple(devices)
        self._live: set[int] = set()
        self._tests: dict[int, Test] = {}
        self._obeyed_s: dict[int, float] = {}
        self._news = asyncio.Event()
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        for number, device in enumerate(self.devices):
            watch = Watch(
                device,
                on_change=lambda number=number: self._heard(number),  # type: ignore[misc]
                on_live=lambda live, number=number: self._lives(number, live),  # type: ignore[misc]
            )
            self._tasks[number] = asyncio.create_task(watch.run())
        await self._until(lambda: len(self._live) == len(self.devices), CONNECTING_S)
        await asyncio.sleep(CONNECTED_S)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def leave(self, device: SyncedDevice) -> None:
        """One of them disconnects."""
        task = self._tasks[self.devices.index(device)]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def obeyed(
        self, test: Test, act: Awaitable[object], among: Iterable[SyncedDevice] | None = None
    ) -> list[float]:
        """Seconds from when `act` begins until each of the devices obeys, the fastest first. Those
        that don't in a minute are missing."""
        asked = self.devices if among is None else tuple(among)
        self._obeyed_s.clear()
        self._tests = {self.devices.index(device): test for device in asked}
        start_s = time.monotonic()
        await act
        for number in list(self._tests):
            self._heard(number)
        await self._until(lambda: not self._tests)
        self._tests.clear()
        return sorted(at_s - start_s for at_s in self._obeyed_s.values())

    def _lives(self, number: int, live: bool) -> None:
        (self._live.add if live else self._live.discard)(number)
        self._news.set()

    def _heard(self, number: int) -> None:
        test = self._tests.get(number)
        if test is not None and test(self.devices[number]):
            self._obeyed_s[number] = time.monotonic()
            del self._tests[number]
            self._news.set()

    async def _until(self, reached: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not reached():
                    self._news.clear()
                    await self._news.wait()


def refusal(device: SyncedDevice, collection: str, key: str, value: Value) -> str:
    """The name of the rule by which a device does not record this; empty: it has recorded it."""
    try:
        device.edit(lambda core, now_ms: core.put(collection, key, value, now_ms=now_ms))
    except SignalRefused as error:
        return error.rule
    return ""
