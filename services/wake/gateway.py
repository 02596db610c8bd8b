"""`rookery-server gateway`: the reference push gateway. It opens handles and wakes what is in
them; it knows services by their keys, and of accounts, devices and ops nothing.

No token is logged, counted by, or kept: what is remembered for rates is a keyed hash, whose key
dies with the process.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence

from crypto import labels
from crypto.errors import CryptoError
from crypto.primitives import prf
from crypto.wake import HANDLE_BYTES, GatewayKey, Platform, PushToken
from rookery.v1 import gateway_pb2
from services import wire
from services.call import Clock, KeyCall, KeyRole, KeyUnary, Route
from services.errors import ClockSkew, Malformed, RateLimited
from services.front import KeyFront, PinnedKeys
from services.limits import Buckets
from services.listed import Listed
from services.scrape import Scrape
from services.store.errors import QuotaExceeded
from services.sync.desk import parse
from services.telemetry import Telemetry, configure
from services.wake.gateway_config import GatewayConfig, callers
from services.wake.gateway_metrics import GatewayMetrics
from services.wake.providers import Provider, providers
from services.wake.verdict import GATEWAY_METHOD, HANDLES_MAX, Verdict

SERVED = "rookery.v1.Gateway"
_REQUEST_BYTES_MAX = HANDLES_MAX * (HANDLE_BYTES + 8) + 1024


class Desk:
    """Turns handles into pokes."""

    def __init__(
        self,
        key: GatewayKey,
        audiences: Mapping[bytes, str],
        platforms: Mapping[Platform, Provider],
        tokens: Buckets,
        *,
        pushes_max: int,
        timeout_s: float,
        clock: Clock,
        metrics: GatewayMetrics,
    ) -> None:
        self._metrics = metrics
        self._key = key
        self._audiences = audiences
        self._platforms = platforms
        self._tokens = tokens
        self._rate_key = os.urandom(32)
        self._room = asyncio.Semaphore(pushes_max)
        self._timeout_s = timeout_s
        self._clock = clock
        self._started_ms = clock.wall_ms()

    def routes(self) -> list[Route]:
        """What to serve."""
        return [KeyUnary(GATEWAY_METHOD, self.wake, KeyRole.SERVICE)]

    async def wake(self, raw: bytes, call: KeyCall) -> bytes:
        """Gateway.Wake."""
        if call.ts_ms < self._started_ms:
            # The process before may have seen this very call: its nonces are forgotten.
            raise ClockSkew(call.now_ms)
        handles = parse(gateway_pb2.WakeRequest.FromString, raw).handles
        check_handles(handles)
        audience = self._audiences[call.key.ik_pk]
        verdicts = await asyncio.gather(
            *(self._poke(handle, audience, call.now_ms) for handle in handles)
        )
        self._metrics.judged(verdicts)
        info = wire.data(1, wire.server_info(self._clock.wall_ms(), 0, 0))
        # Packed: each of them is one byte.
        return info + wire.data(2, bytes(verdicts))

    async def _poke(self, handle: bytes, audience: str, now_ms: int) -> Verdict:
        try:
            opened = self._key.open(handle, audience=audience, now_ms=now_ms)
        except CryptoError:
            return Verdict.GONE
        provider = self._platforms.get(opened.platform)
        if provider is None or not self._may_poke(opened):
            return Verdict.RETRY
        try:
            async with self._room, asyncio.timeout(self._timeout_s):
                return await provider.push(opened.token)
        except (OSError, TimeoutError):
            return Verdict.RETRY

    def _may_poke(self, opened: PushToken) -> bool:
        key = prf(self._rate_key, labels.WAKE_RATE, bytes((opened.platform,)) + opened.token, 16)
        try:
            self._tokens.take(key, self._clock.monotonic_s())
        except RateLimited:
            return False
        return True


async def _nothing() -> None:
    """All that a gateway shows is counted as it happens."""


def check_handles(handles: Sequence[bytes]) -> None:
    """Malformed for none or a wrong length, QuotaExceeded for too many."""
    if len(handles) > HANDLES_MAX:
        raise QuotaExceeded("handles_per_call", HANDLES_MAX)
    if not handles or any(len(handle) != HANDLE_BYTES for handle in handles):
        raise Malformed("handles")


class Gateway:
    """One process of the gateway."""

    def __init__(
        self,
        config: GatewayConfig,
        key: GatewayKey,
        *,
        telemetry: Telemetry | None = None,
        metrics: GatewayMetrics | None = None,
    ) -> None:
        """`metrics`: the object that `telemetry` counts in."""
        clock = Clock.system()
        metrics = metrics or GatewayMetrics()
        self.key = key
        self.telemetry = telemetry or Telemetry(
            configure(config.log_level, config.log_format), metrics=metrics
        )
        self.scrape = Scrape(config.metrics_listen, metrics, _nothing)
        self.address = ""
        self._platforms = providers(config)
        pinned = callers(config)
        desk = Desk(
            key,
            pinned,
            self._platforms,
            Buckets(
                "token_pokes",
                per_s=config.token_pokes_per_s,
                burst=config.token_pokes_burst,
                keys_max=config.tokens_max,
            ),
            pushes_max=config.pushes_max,
            timeout_s=config.push_timeout_s,
            clock=clock,
            metrics=metrics,
        )
        self._front = KeyFront(
            config,
            SERVED,
            desk.routes(),
            PinnedKeys(map(Listed, pinned), KeyRole.SERVICE, clock),
            options=[
                ("grpc.max_receive_message_length", _REQUEST_BYTES_MAX),
                ("grpc.so_reuseport", 0),
            ],
            telemetry=self.telemetry,
            clock=clock,
            calls_per_s=config.service_calls_per_s,
        )

    async def start(self) -> None:
        """Listens; `address` says where."""
        await self.scrape.start()
        self.address = await self._front.start()

    async def stop(self) -> None:
        """Idempotent."""
        await self._front.stop()
        await self.scrape.stop()
        for provider in self._platforms.values():
            provider.close()
