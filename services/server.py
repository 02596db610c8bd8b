"""Puts the parts together and runs them until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from rookery.v1 import (
    accounts_pb2,
    operations_pb2,
    pairing_pb2,
    parties_pb2,
    policy_pb2,
    rounds_pb2,
    sync_pb2,
    wake_pb2,
)
from services.access.guard import Guard
from services.access.hop import TrustedHop
from services.audit.ledger import Ledger
from services.audit.local import started
from services.auth import Authenticator
from services.call import Clock, Lane, Route, SignedStream, SignedUnary
from services.config import Config
from services.cursor import Cursors
from services.edge import Edge
from services.enrolment import Enrolment
from services.errors import GenerationChanged
from services.hub import Hub
from services.interceptor import SignatureInterceptor
from services.keeping.current import Keys, Secrets, Trusted, lists_of
from services.limits import Buckets, Gate
from services.listen import bind
from services.metrics import Metrics
from services.operations.health import Counted, key_ages
from services.operations.routes import operations_routes
from services.otlp import open_tracer
from services.policy.current import CurrentPolicy
from services.policy.retention import OVERDUE_MS, retention_of
from services.policy.routes import policy_routes
from services.pressure import Pressure, Probe, own_address
from services.rounds.keyring import Keyring
from services.rounds.relay import relay_routes
from services.scrape import Scrape
from services.spans import NO_TRACES, Tracer
from services.store.base import Store
from services.store.errors import StoreError
from services.store.opening import open_store
from services.store.retention import Retention
from services.sync.accounts import Accounts
from services.sync.desk import Desk
from services.sync.pairing import Pairing
from services.sync.pull import Pull
from services.sync.push import Push
from services.sync.receipts import Receipts
from services.sync.subscribe import Subscribe
from services.telemetry import Telemetry, configure
from services.traced import traced_store
from services.wake.waking import Waking

__all__ = ["SERVED", "Secrets", "Server", "grpc_options", "open_server"]

_SYNC = "/rookery.v1.Sync/"
_SWEEP_S = 3_600.0
_STREAMS_LEAVE_S = 5.0
ALIVE = "rookery.alive"
"""What the health service says of the process itself: a probe of liveness asks for it, so that
a process that drains is not taken for a broken one."""
SERVED = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (accounts_pb2, "Accounts"),
        (pairing_pb2, "Pairing"),
        (sync_pb2, "Sync"),
        (rounds_pb2, "Rounds"),
        (parties_pb2, "Parties"),
        (wake_pb2, "Wake"),
        (policy_pb2, "Policy"),
        (operations_pb2, "Operations"),
    )
)


class Server:
    """One process of the service: `start`, then `run` or `stop`."""

    def __init__(
        self,
        config: Config,
        store: Store,
        secrets: Secrets,
        *,
        telemetry: Telemetry | None = None,
        metrics: Metrics | None = None,
        tracer: Tracer = NO_TRACES,
        clock: Clock | None = None,
    ) -> None:
        """`metrics`: the object that `telemetry` counts in and the store tells of itself."""
        clock = clock or Clock.system()
        jitter = random.SystemRandom().random
        self.metrics = metrics = metrics or Metrics()
        self.tracer = tracer
        self.config = config
        self.keys = Keys(secrets, Trusted.of(config))
        self.store = store
        self.clock = clock
        self.telemetry = telemetry or Telemetry(
            configure(config.log_level, config.log_format), metrics=metrics
        )
        self.address = ""
        self.hub, self.policy_hub = (
            Hub(
                heartbeat_s=config.heartbeat_s,
                stall_s=config.stall_s,
                per_account_max=config.streams_per_account_max,
                monotonic_s=clock.monotonic_s,
                jitter=jitter,
            )
            for _ in range(2)
        )
        gates = {
            Lane.PUSH: Gate(config.pushes_max, jitter),
            Lane.PULL: Gate(config.pulls_max, jitter),
            Lane.STREAM: Gate(config.streams_max, jitter),
            Lane.WATCH: Gate(config.streams_max, jitter),
            Lane.OTHER: Gate(0, jitter),
        }
        self.waking = Waking(
            config, store, self.hub, telemetry=self.telemetry, metrics=metrics.wake, clock=clock
        )
        self.cursors = Cursors(store.secret, lambda: store.generation)
        self.pressure = Pressure(config.queue_target_ms / 1000, monotonic_s=clock.monotonic_s)
        self._probe: Probe | None = None
        self.policy = CurrentPolicy(store.governance, self.keys, self.telemetry)
        desk = Desk(
            traced_store(store, tracer),
            self.cursors,
            clock,
            lambda: max(
                gates[Lane.PUSH].backoff_ms, gates[Lane.PULL].backoff_ms, self.pressure.backoff_ms
            ),
            lambda: self.policy.sequence,
        )
        self.push_gate = gates[Lane.PUSH]
        mailboxes = Buckets(
            "pairing_mailboxes",
            per_s=config.ip_mailboxes_per_s,
            burst=config.ip_mailboxes_burst,
            keys_max=config.rate_keys_max,
        )
        waits = Gate(config.pairing_waits_max, jitter)
        self.pairing = Pairing(desk, waits, mailboxes, self.hub.farewell)
        self.guard = Guard(lambda: self.policy.governed)
        self.policy.on_taken(lambda bundle: self.guard.take(bundle.access, bundle.sequence))
        self.policy.on_taken(metrics.policy_taken)
        # What a policy shortens is gone soon after it was published.
        self._sweep_now = asyncio.Event()
        self.policy.on_taken(lambda _: self._sweep_now.set())
        self._limits = config.limits()
        self.verifiers = ThreadPoolExecutor(config.verify_threads, "verify")
        self.edge = Edge(
            self._routes(desk),
            _authenticator(config, store, self.keys, clock, self.guard),
            audience=config.audience,
            gates=gates,
            guests=Gate(config.guests_max, jitter),
            unsigned=Buckets(
                "unsigned_calls",
                per_s=config.ip_unsigned_per_s,
                burst=config.ip_unsigned_burst,
                keys_max=config.rate_keys_max,
            ),
            telemetry=self.telemetry,
            clock=clock,
            farewell=self.hub.farewell,
            pressure=self.pressure,
            guard=self.guard,
            ledger=Ledger(
                store.governance,
                Buckets(
                    "audited_calls",
                    per_s=config.audit_calls_per_s,
                    burst=config.audit_calls_burst,
                    keys_max=config.rate_keys_max,
                ),
                written=metrics.audited.inc,
            ),
        )
        metrics.watch_streams(lambda: len(self.hub), lambda: waits.inside)
        self.scrape = Scrape(config.metrics_listen, metrics, self._refresh)
        self._health = HealthServicer()
        self._sweeper: asyncio.Task[None] | None = None
        self._grpc: grpc.aio.Server | None = None
        store.on_commit(self.hub.poke)
        store.on_renewed(lambda: self.hub.end_all(GenerationChanged()))

    def keys_taken(self) -> None:
        """Other keys and lists are in force. Other policy publishers: what one of them has signed
        may be in the store already; the first ones: nothing is allowed that no bundle allows."""
        self.guard.look_again()
        self.policy.poke()

    def _routes(self, desk: Desk) -> list[Route]:
        config = self.config
        keys = self.keys
        enrolment = Enrolment(config.enrolment, config.pow_bits, config.audience, keys)
        op_rate = Buckets(
            "account_ops",
            per_s=config.account_ops_per_s,
            burst=config.account_ops_burst,
            keys_max=config.rate_keys_max,
        )
        routes: list[Route] = [
            *Accounts(desk, enrolment, keys).routes(),
            *self.pairing.routes(),
            SignedUnary(
                _SYNC + "Push",
                Push(desk, op_rate, self.verifiers, self.metrics, on_ops=self.waking.committed),
                Lane.PUSH,
                judges_nonce=True,
            ),
            SignedUnary(_SYNC + "Pull", Pull(desk), Lane.PULL),
            SignedUnary(_SYNC + "GetReceipt", Receipts(desk, keys), Lane.PULL),
            SignedStream(
                _SYNC + "Subscribe",
                Subscribe(
                    desk,
                    self.hub,
                    backlog_ops_max=config.backlog_ops_max,
                    on_delivered=self.metrics.delivery_lag.observe,
                ),
            ),
            *relay_routes(desk, self.hub, self.policy, config),
            *policy_routes(desk, self.policy_hub, self.policy, self.metrics.consented),
            *self.waking.routes(desk, lambda: self.policy.bundle),
        ]
        metrics = self.metrics
        counted = Counted(self.clock.wall_ms(), metrics.refusals, metrics.consents, self._overdue)
        return [*routes, *operations_routes(desk, self.guard, config, counted, routes)]

    async def start(self) -> None:
        """Listens; `address` says where."""
        config = self.config
        server = grpc.aio.server(
            interceptors=[
                SignatureInterceptor(
                    self.edge,
                    ip_header=config.client_ip_header,
                    ip_hops=config.client_ip_hops,
                    tracer=self.tracer,
                    hop=TrustedHop.parse(config.trusted_hop),
                    claimed=self.metrics.claimed,
                )
            ],
            options=list(grpc_options(config).items()),
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        for name in (*SERVED, ALIVE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        if config.reflection:
            reflection.enable_server_reflection(
                (*SERVED, "grpc.health.v1.Health", reflection.SERVICE_NAME), server
            )
        self.address = bind(server, config)
        own = own_address()
        port = server.add_insecure_port(own)
        self._probe = Probe(self.pressure, own.replace(":0", f":{port}"))
        await self.policy.start()
        await self.scrape.start()
        await server.start()
        self._grpc = server
        self.hub.start()
        self.policy_hub.start()
        self.waking.start()
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    async def stop(self) -> None:
        """Drains: health says so, streams are told, calls in flight finish. Idempotent.

        Closes the store last.
        """
        server, self._grpc = self._grpc, None
        if server is None:
            return
        for name in ("", *SERVED):
            await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        # Those who ask for the health need a while to hear it; until then calls still come.
        await asyncio.sleep(self.config.drain_delay_s)
        self.edge.draining = True
        self.pairing.drain()
        if self._probe is not None:
            await self._probe.close()
        # Before server.stop, which would wait out its whole grace for open streams.
        hubs = self.hub, self.policy_hub
        await asyncio.gather(*(hub.drain(_STREAMS_LEAVE_S) for hub in hubs))
        await server.stop(self.config.drain_s)
        for hub in hubs:
            await hub.stop()
        await self.policy.stop()
        await self.waking.stop()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        self.verifiers.shutdown(wait=False, cancel_futures=True)
        # Last of all that is asked: the drain is worth seeing.
        await self.scrape.stop()
        await self.store.close()
        await asyncio.to_thread(self.tracer.close)

    @property
    def _retention(self) -> Retention:
        return retention_of(self._limits, self.policy.bundle)

    async def _sweep(self) -> None:
        while True:
            self._sweep_now.clear()
            try:
                await self.store.sweep(now_ms=self.clock.wall_ms(), retention=self._retention)
                self.metrics.swept(is_done=True)
            except StoreError as error:
                self.metrics.swept(is_done=False)
                self.telemetry.event("sweep_failed", error=type(error).__name__)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._sweep_now.wait(), _SWEEP_S)

    async def _refresh(self) -> None:
        """Before a scrape. A store that can't be asked is seen in its own metrics."""
        now_ms = self.clock.wall_ms()
        self.metrics.keys_since(key_ages(self.config))
        with contextlib.suppress(StoreError):
            self.metrics.tally_rounds(await self.store.rounds.tally(now_ms=now_ms))
            self.metrics.tally_overdue(await self._overdue())

    async def _overdue(self) -> Mapping[str, int]:
        """See `Store.overdue`; what the next sweep still has time for is not in it."""
        now_ms = self.clock.wall_ms() - OVERDUE_MS
        return await self.store.overdue(now_ms=now_ms, retention=self._retention)


def _authenticator(
    config: Config, store: Store, keys: Keys, clock: Clock, guard: Guard
) -> Authenticator:
    keyring = Keyring(store.rounds, keys, clock, guard)
    return Authenticator(
        store,
        keyring.find,
        failures=Buckets(
            "failed_calls",
            per_s=config.ip_failures_per_s,
            burst=config.ip_failures_burst,
            keys_max=config.rate_keys_max,
        ),
        account_calls=Buckets(
            "account_calls",
            per_s=config.account_calls_per_s,
            burst=config.account_calls_burst,
            keys_max=config.rate_keys_max,
        ),
    )


def grpc_options(config: Config) -> Mapping[str, int]:
    """What the gRPC core is told."""
    return {
        "grpc.max_receive_message_length": config.receive_bytes_max,
        "grpc.max_send_message_length": 4 << 20,
        "grpc.max_metadata_size": config.metadata_bytes_max,
        "grpc.absolute_max_metadata_size": config.metadata_bytes_max,
        # Only `identity`: sizes of compressed ciphertext leak.
        "grpc.compression_enabled_algorithms_bitset": 1,
        # The server's key; the one with `sent` in its name is for clients and ignored here.
        "grpc.http2.min_ping_interval_without_data_ms": config.min_ping_interval_ms,
        "grpc.keepalive_permit_without_calls": 1,
        # A phone that vanished without a word has no stream any more, and is to be woken: by
        # default the core asks every two hours.
        "grpc.keepalive_time_ms": 60_000,
        # This is what ends a connection that does not answer; the core of today does nothing
        # when the time-out with `keepalive` in its name is over.
        "grpc.http2.ping_timeout_ms": 20_000,
        # Else a stream that is never read buffers 4 MiB.
        "grpc.http2.bdp_probe": 0,
        "grpc.server.max_pending_requests": config.max_pending_requests,
        "grpc.server.max_pending_requests_hard_limit": 2 * config.max_pending_requests,
        "grpc.max_connection_age_ms": 1000 * config.max_connection_age_s,
        "grpc.max_connection_age_grace_ms": 1000 * config.max_connection_age_grace_s,
        # Two processes on one port would each get what the kernel thinks fit.
        "grpc.so_reuseport": 0,
    }


async def open_server(config: Config, secrets: Secrets) -> Server:
    """A started server on its own store."""
    metrics = Metrics()
    telemetry = Telemetry(
        configure(config.log_level, config.log_format),
        access_share=config.access_log_share,
        metrics=metrics,
    )
    store = await open_store(config, telemetry=telemetry, observer=metrics.store)
    try:
        tracer = open_tracer(config, "rookery-server", on_lost=metrics.spans_lost.inc)
        server = Server(config, store, secrets, telemetry=telemetry, metrics=metrics, tracer=tracer)
        await started(store.governance, lists_of(config))
        await server.start()
    except BaseException:
        await store.close()
        raise
    return server
