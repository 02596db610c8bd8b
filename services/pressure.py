"""How long calls wait in this process, and how many of the new ones are refused for it.

Under more load than a process can bear, calls queue until their callers have given up: at the
store's writer, which shows in how long even the quickest of them take, and inside gRPC, where
nothing of ours sees them. So the process also calls itself now and then, through a listener of
its own, and thereby stands in that queue. While calls wait longer than wanted, a share of the
new ones is refused before anything of them is read. The share follows the delay and its trend
(as in PIE, RFC 8033), so that the process stays just busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.call import Lane

INTERVAL_S: Final = 0.1
"""Between two looks at the queue."""
LOOKS_LATE: Final = 5
"""A stall is no overload: nobody is refused before calls have been late for so many looks."""
CALLS_MIN: Final = 16
"""Fewer calls since the last look than this need no other."""
FORGET_S: Final = 5.0
"""A process that was as quiet for so long has no queue."""
SHARE_MAX: Final = 0.98
_BY_DELAY, _BY_TREND = 0.03, 0.15
_FADE: Final = 0.8
_RETRY_MS, _RETRY_STEP_MS = 1_000, 100
_PROBE_S: Final = 30.0


class Valve:
    """What a lane refuses. `share` of its calls, from 0 up."""

    __slots__ = ("delay_s", "late", "served_s", "share", "shortest_s")

    def __init__(self) -> None:
        self.share = 0.0
        self.late = 0
        """Looks in a row at which calls waited too long."""
        self.delay_s = 0.0
        self.shortest_s: float | None = None
        """Of the calls that ended since the last look: in a standing queue all are long."""
        self.served_s = 0.0
        """The same as of the last look; it fades while no call ends, or a lane of which none does
        (streams) would refuse for ever."""

    def judge(self, target_s: float, queued_s: float) -> None:
        """Follows how long calls wait, before they are taken up and after."""
        self.served_s = _FADE * self.served_s if self.shortest_s is None else self.shortest_s
        self.shortest_s = None
        delay_s = max(self.served_s, queued_s)
        off = min(2.0, delay_s / target_s - 1)
        trend = max(-2.0, min(2.0, (delay_s - self.delay_s) / target_s))
        self.delay_s = delay_s
        self.late = self.late + 1 if delay_s > target_s else 0
        if not self.share and self.late < LOOKS_LATE:
            return
        change = _BY_DELAY * off + _BY_TREND * trend
        self.share = max(0.0, min(SHARE_MAX, self.share + change))


class Pressure:
    """The share of new calls to refuse, by lane. `target_s` 0: refuses none."""

    def __init__(
        self,
        target_s: float,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.valves = {lane: Valve() for lane in Lane}
        self.queued_s = 0.0
        """How long the last call of our own waited, or has been waiting by now."""
        self.probe: Callable[[], None] | None = None
        """Sends a call to ourselves; `probed` when it is back. None: not yet, or no more."""
        self._target_s = target_s
        self._monotonic_s = monotonic_s
        self._jitter = jitter
        self._calls = 0
        self._looked_s = monotonic_s()
        self._sent_s: float | None = None

    def refuses(self, lane: Lane) -> bool:
        """Whether the call that has just come is one to refuse."""
        if not self._target_s:
            return False
        self._calls += 1
        now_s = self._monotonic_s()
        if now_s - self._looked_s >= INTERVAL_S:
            self._look(now_s)
        share = self.valves[lane].share
        return share > 0 and self._jitter() < share

    def served(self, lane: Lane, seconds: float) -> None:
        """A call that was not refused took so long; 0 if it was not behind others: a store that
        is slow with few calls is not sped up by refusing them."""
        valve = self.valves[lane]
        if valve.shortest_s is None or seconds < valve.shortest_s:
            valve.shortest_s = seconds

    def probed(self) -> None:
        """The call to ourselves came back, or failed, which takes it as long."""
        if self._sent_s is not None:
            self.queued_s = self._monotonic_s() - self._sent_s
        self._sent_s = None

    def retry_ms(self, lane: Lane) -> int:
        """When a refused caller may come again: later the more are refused, and spread."""
        longest = _RETRY_MS * (1 + 4 * self.valves[lane].share)
        spread = int(longest * (0.5 + self._jitter()))
        return spread - spread % _RETRY_STEP_MS

    @property
    def backoff_ms(self) -> int:
        """The hint in every answer, as `Gate.backoff_ms`."""
        return int(1000 * max(valve.share for valve in self.valves.values()))

    def _look(self, now_s: float) -> None:
        if now_s - self._looked_s > FORGET_S:
            self.valves = {lane: Valve() for lane in Lane}
            self.queued_s = 0.0
        self._looked_s = now_s
        if self._sent_s is not None:
            # Not back yet: it waits at least as long as it has waited.
            self.queued_s = max(self.queued_s, now_s - self._sent_s)
        for valve in self.valves.values():
            valve.judge(self._target_s, self.queued_s)
        # A queue that was there is looked at again however few calls come: it may be gone.
        asks = self._calls >= CALLS_MIN or self.queued_s > self._target_s
        if self._sent_s is None and self.probe is not None and asks:
            self._calls = 0
            self._sent_s = now_s
            self.probe()


def own_address() -> str:
    """Where nobody but this machine can call: an address without a file where there is one."""
    name = f"unix-abstract:rookery-{secrets.token_hex(16)}"
    return name if platform.system() == "Linux" else "127.0.0.1:0"


class Probe:
    """Calls of this process to itself."""

    def __init__(self, pressure: Pressure, address: str) -> None:
        self._pressure = pressure
        self._channel = grpc.aio.insecure_channel(
            address,
            options=[("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)],
        )
        stub: Any = health_pb2_grpc.HealthStub(self._channel)
        self._check: Callable[..., Awaitable[object]] = stub.Check
        self._running: asyncio.Task[None] | None = None
        pressure.probe = self.send

    def send(self) -> None:
        """Sends one; tells the pressure when it is back."""
        self._running = asyncio.get_running_loop().create_task(self._send())

    async def close(self) -> None:
        """No more of them."""
        self._pressure.probe = None
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._channel.close()

    async def _send(self) -> None:
        try:
            # Cut off, even we: no better than having waited.
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self._check(health_pb2.HealthCheckRequest(), timeout=_PROBE_S)
        finally:
            # However it ended: one that counts as waiting for ever would refuse all.
            self._pressure.probed()
