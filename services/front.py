"""The gRPC front of a process that has no accounts: it serves callers whose keys are pinned."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from crypto.ids import AccountId, DeviceId
from crypto.keys import device_id
from services.auth import Authenticator
from services.call import Clock, KeyRole, KnownKey, Lane, Route
from services.edge import Edge
from services.errors import Draining
from services.interceptor import SignatureInterceptor
from services.limits import Buckets, Gate
from services.listed import Listed
from services.listen import Address, bind
from services.spans import NO_TRACES, Tracer
from services.store.base import Tip
from services.store.nonces import NonceWindow
from services.telemetry import Telemetry

CALLS_PER_S, CALLS_BURST = 20.0, 400
FAILURES_PER_S, FAILURES_BURST = 5.0, 200
GUESTS_MAX = 64
KEYS_MAX = 10_000
NONCES_MAX = 100_000
RETRY_MS = 2_000


class PinnedKeys:
    """Keys of one role, and what nonces they used: `services.auth.Callers` and `FindKey`."""

    def __init__(self, keys: Iterable[Listed], role: KeyRole, clock: Clock) -> None:
        self._roles = frozenset({role})
        self._clock = clock
        self._nonces = NonceWindow(NONCES_MAX, NONCES_MAX)
        self.pin(keys)

    def pin(self, keys: Iterable[Listed]) -> None:
        """These from now on; calls under way go on."""
        self._keys = {device_id(row.key): row for row in keys}

    async def find(self, key_id: DeviceId) -> KnownKey | None:
        """The key with this id, if it has not ended."""
        row = self._keys.get(key_id)
        if row is None or not row.is_valid(self._clock.wall_ms()):
            return None
        return KnownKey(row.key, self._roles)

    async def tip(self, account_id: AccountId, *, fresh: bool = False) -> Tip | None:
        """No account is known."""
        del account_id
        return None

    async def remember_nonce(
        self, caller: AccountId | DeviceId, nonce: bytes, *, now_ms: int
    ) -> bool:
        """See `services.auth.Callers`."""
        return self._nonces.remember(caller, nonce, now_ms=now_ms)


class Named(Address, Protocol):
    """What of a configuration matters here."""

    @property
    def audience(self) -> str: ...


class KeyFront:
    """Serves the routes of one gRPC service to pinned keys, and the health to all. `others`:
    handlers of methods that prove who calls in their own way."""

    def __init__(
        self,
        config: Named,
        served: str,
        routes: Iterable[Route],
        callers: PinnedKeys,
        *,
        options: Iterable[tuple[str, int]],
        telemetry: Telemetry,
        clock: Clock,
        tracer: Tracer = NO_TRACES,
        calls_per_s: float = CALLS_PER_S,
        others: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        jitter = random.SystemRandom().random

        def buckets(name: str, per_s: float, burst: int) -> Buckets:
            return Buckets(name, per_s=per_s, burst=burst, keys_max=KEYS_MAX)

        self._config = config
        self._served = served
        self._edge = Edge(
            routes,
            Authenticator(
                callers,
                callers.find,
                failures=buckets("failed_calls", FAILURES_PER_S, FAILURES_BURST),
                account_calls=buckets("calls", calls_per_s, CALLS_BURST),
            ),
            audience=config.audience,
            gates={lane: Gate(0, jitter) for lane in Lane},
            guests=Gate(GUESTS_MAX, jitter),
            unsigned=buckets("unsigned_calls", CALLS_PER_S, CALLS_BURST),
            telemetry=telemetry,
            clock=clock,
            farewell=lambda: Draining(RETRY_MS),
        )
        self._health = HealthServicer()
        interceptor = SignatureInterceptor(self._edge, others=others, tracer=tracer)
        self._server = grpc.aio.server(interceptors=[interceptor], options=list(options))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self) -> str:
        """Listens; where."""
        await self._health.set(self._served, health_pb2.HealthCheckResponse.SERVING)
        address = bind(self._server, self._config)
        await self._server.start()
        return address

    async def stop(self) -> None:
        """Idempotent."""
        self._edge.draining = True
        await self._health.enter_graceful_shutdown()
        await self._server.stop(1)
