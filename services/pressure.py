"""How long a new call waits before this process takes it up, and how many are refused for it.

Under more load than a process can bear, calls queue inside gRPC, where nothing of ours sees
them, until their callers have given up. So the process calls itself now and then through a
listener of its own and thereby stands in that queue: while that takes longer than wanted, a
share of new calls is refused before anything of them is read. The share follows the delay and
its trend (as in PIE, RFC 8033), so that the process stays just busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

INTERVAL_S: Final = 0.1
"""Between two looks at the queue."""
CALLS_MIN: Final = 16
"""Fewer calls since the last look than this need no other."""
FORGET_S: Final = 5.0
"""A process that was as quiet for so long has no queue."""
SHARE_MAX: Final = 0.98
_BY_DELAY, _BY_TREND = 0.05, 0.4
_RETRY_MS, _RETRY_STEP_MS = 1_000, 100
_PROBE_S: Final = 30.0


class Pressure:
    """The share of new calls to refuse. Time is handed in. `target_s` 0: refuses none."""

    def __init__(
        self,
        target_s: float,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.share = 0.0
        self.delay_s = 0.0
        """How long the last call of our own waited, or has been waiting by now."""
        self.probe: Callable[[], None] | None = None
        """Sends a call to ourselves; `probed` when it is back. None: not yet, or no more."""
        self._target_s = target_s
        self._monotonic_s = monotonic_s
        self._jitter = jitter
        self._calls = 0
        self._looked_s = monotonic_s()
        self._sent_s: float | None = None

    def refuses(self) -> bool:
        """Whether the call that has just come is one to refuse."""
        if not self._target_s:
            return False
        self._calls += 1
        now_s = self._monotonic_s()
        if now_s - self._looked_s >= INTERVAL_S:
            self._look(now_s)
        return self.share > 0 and self._jitter() < self.share

    def probed(self) -> None:
        """The call to ourselves came back, or failed, which takes it as long."""
        now_s = self._monotonic_s()
        if self._sent_s is not None:
            self._judge(now_s - self._sent_s, now_s)
        self._sent_s = None

    def retry_ms(self) -> int:
        """When a refused caller may come again: later the more are refused, and spread."""
        longest = _RETRY_MS * (1 + 4 * self.share)
        spread = int(longest * (0.5 + self._jitter()))
        return spread - spread % _RETRY_STEP_MS

    @property
    def backoff_ms(self) -> int:
        """The hint in every answer, as `Gate.backoff_ms`."""
        return int(1000 * self.share)

    def _look(self, now_s: float) -> None:
        if self._sent_s is not None:
            # Not back yet: it waits at least as long as it has waited.
            if now_s - self._sent_s > self.delay_s:
                self._judge(now_s - self._sent_s, now_s)
            return
        if now_s - self._looked_s > FORGET_S:
            self._judge(0.0, now_s)
            self.share = 0.0
        if self._calls < CALLS_MIN and not self.share:
            return
        self._calls = 0
        if self.probe is not None:
            self._sent_s = now_s
            self.probe()

    def _judge(self, delay_s: float, now_s: float) -> None:
        off = min(2.0, delay_s / self._target_s - 1)
        trend = max(-2.0, min(2.0, (delay_s - self.delay_s) / self._target_s))
        self.share += _BY_DELAY * off + _BY_TREND * trend
        if delay_s < self._target_s / 2:
            self.share -= 0.02
        self.share = max(0.0, min(SHARE_MAX, self.share))
        self.delay_s = delay_s
        self._looked_s = now_s


def own_address() -> str:
    """Where nobody but this machine can call: an address without a file where there is one."""
    if sys.platform == "linux":
        return f"unix-abstract:rookery-{secrets.token_hex(16)}"
    return "127.0.0.1:0"


class Probe:
    """Calls of this process to itself."""

    def __init__(self, pressure: Pressure, address: str) -> None:
        self._pressure = pressure
        self._channel = grpc.aio.insecure_channel(
            address,
            options=[("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)],
        )
        self._check: Callable[..., Awaitable[object]] = health_pb2_grpc.HealthStub(
            self._channel
        ).Check
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
        # Cut off, even we: no better than having waited.
        with contextlib.suppress(grpc.aio.AioRpcError):
            await self._check(health_pb2.HealthCheckRequest(), timeout=_PROBE_S)
        self._pressure.probed()
