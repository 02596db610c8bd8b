"""`rookery-server party`: puts one party together and runs it until it is told to stop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from crypto.errors import CryptoError
from mpc import task as tasks
from mpc.keys import PartyKey
from services import keys
from services.call import Clock
from services.errors import RequestError
from services.limits import Buckets, Gate, peer_ip, rate_key
from services.otlp import open_tracer
from services.party import messages
from services.party.assignment import Assignment
from services.party.config import PartyConfig, peers, policy_keys, publishers
from services.party.desk import Desk
from services.party.driver import Driver
from services.party.duplex import DialledDuplex
from services.party.ending import reply
from services.party.front import Front
from services.party.governing import Governing
from services.party.handshake import Side
from services.party.host import Host
from services.party.items import Rewritten
from services.party.jobs import JOB_CHANNEL_BIT, Jobs
from services.party.links import Duplex, Frame, LinkLost, Links
from services.party.metrics import PartyMetrics
from services.party.relay import Relay
from services.party.retention import Keeping
from services.party.states import IllegalTransition
from services.party.store import PartyStore
from services.party.turns import Turns
from services.scrape import Scrape
from services.store.errors import RoundUnknown
from services.telemetry import Telemetry, configure

DIAL_S_MAX: Final = 10.0
SWEEP_S: Final = 3_600.0
_OVERDUE_MS: Final = 2 * 3_600_000
"""What has been over for two sweeps should be gone."""
AGAIN_S_MAX: Final = 60.0
STRANGER_PER_S, STRANGER_BURST, STRANGER_KEYS_MAX = 5.0, 60, 10_000
_OVERHEAD_BYTES: Final = 64 << 10


class Daemon:
    """One party: its store, its links, a driver for each round."""

    def __init__(
        self,
        config: PartyConfig,
        key: PartyKey,
        store: PartyStore,
        *,
        telemetry: Telemetry | None = None,
        metrics: PartyMetrics | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`metrics`: the object that `telemetry` counts in."""
        self.metrics = metrics or PartyMetrics()
        self.tracer = open_tracer(config, "rookery-party", on_lost=self.metrics.spans_lost.inc)
        self.config = config
        self.key = key
        self.store = store
        self.telemetry = telemetry or Telemetry(
            configure(config.log_level, config.log_format), metrics=self.metrics
        )
        self.address = ""
        self._clock = clock or Clock.system()
        self.governing = Governing(store, policy_keys(config), self.telemetry)
        self.keeping = Keeping(config, lambda: self.governing.bundle)
        self._peers = peers(config)
        self._drivers: dict[bytes, Driver] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._dialling: dict[bytes, asyncio.Task[None]] = {}
        self._channels: list[grpc.aio.Channel] = []
        limits = config.link_limits()
        self._options: list[tuple[str, int]] = [
            ("grpc.max_receive_message_length", limits.payload_bytes_max + _OVERHEAD_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
        self.links = Links(
            key,
            limits=limits,
            monotonic_s=self._clock.monotonic_s,
            random_bytes=os.urandom,
            is_known=self._peers.__contains__,
            on_frame=self._on_frame,
            on_change=self._on_change,
            on_defect=lambda error: self.telemetry.defect("link", error),
        )
        self.jobs = Jobs(self._send_shares)
        self._turns = Turns(
            config.jobs_max,
            expires_s=config.job_stall_s,
            monotonic_s=self._clock.monotonic_s,
        )
        desk = Desk(
            store,
            key,
            config,
            self._peers,
            random_bytes=os.urandom,
            on_round=self._drive,
            shares_ms=lambda: self.keeping.shares_ms,
            check_task=lambda task, k_min: self.governing.check(task, k_min, self._relay),
        )
        self._front = Front(
            config,
            desk.routes(),
            publishers(config),
            self._serve_link,
            options=self._options,
            telemetry=self.telemetry,
            clock=self._clock,
            tracer=self.tracer,
        )
        self.metrics.watch(
            peers=lambda: len(self._peers),
            links_up=lambda: len(self.links.up),
            jobs_running=lambda: len(self.jobs.pids),
            policy_sequence=lambda: self.governing.sequence,
        )
        self.scrape = Scrape(config.metrics_listen, self.metrics, self._refresh)
        self._strangers = Gate(config.strangers_max, lambda: 0.5)
        self._knocks = Buckets(
            "links", per_s=STRANGER_PER_S, burst=STRANGER_BURST, keys_max=STRANGER_KEYS_MAX
        )

    # Frames

    def _on_frame(self, ik: bytes, frame: Frame) -> None:
        driver = self._drivers.get(frame.round_id)
        party = None if driver is None else driver.number_of(ik)
        if driver is None or party is None:
            self._answer_late(ik, frame)
        elif frame.channel & JOB_CHANNEL_BIT:
            if not self.jobs.deliver(
                frame.round_id, frame.channel, party, frame.counter, frame.payload
            ):
                self.links.drop(ik, "flood")
        else:
            try:
                driver.hear(ik, frame.payload)
            except (CryptoError, Rewritten, IllegalTransition):
                self.links.drop(ik, "frame")

    def _answer_late(self, ik: bytes, frame: Frame) -> None:
        """To a peer that is still at a round that has ended here. What is said of a round that
        is not known yet will be said again."""
        if frame.channel != messages.CHANNEL:
            return
        try:
            answer = reply(self.store, frame.round_id, messages.decode(frame.payload))
        except RoundUnknown:
            return
        except CryptoError:
            self.links.drop(ik, "frame")
            return
        if answer is not None:
            self._say(ik, frame.round_id, messages.encode(answer))

    def _on_change(self, ik: bytes, lost: LinkLost | None) -> None:
        if lost is not None:
            self.metrics.link_lost(lost.rule)
        self.telemetry.event("link", peer=ik[:4].hex(), state="up" if lost is None else lost.rule)
        for driver in self._drivers.values():
            if lost is not None:
                driver.lost(ik)
            driver.poke()

    def _say(self, ik: bytes, round_id: bytes, message: bytes) -> bool:
        return self.links.send(ik, Frame(round_id, messages.CHANNEL, 0, message))

    def _send_shares(
        self, party: int, round_id: bytes, channel: int, pc: int, payload: bytes
    ) -> bool:
        driver = self._drivers.get(round_id)
        if driver is None:
            return False
        return self.links.send(driver.key_of(party), Frame(round_id, channel, pc, payload))

    # Life

    async def start(self) -> None:
        """Takes up every round where it was left, listens, and dials its peers."""
        config = self.config
        self._relay = Relay(
            self._channel(
                config.relay,
                config.relay_tls,
                config.relay_ca_file,
                (config.relay_key_file, config.relay_cert_file),
            ),
            self.key,
            config.audience,
            self._clock.wall_ms,
            self.tracer,
        )
        self._sweep()
        for round_id in self.store.to_do():
            self._drive(round_id)
        await self.scrape.start()
        self.address = await self._front.start()
        for ik, address in self._peers.items():
            self._dial_if_due(ik, address)
        self._spawn(self._sweep_often())
        self._spawn(self._poll_policy())

    async def stop(self) -> None:
        """Ends everything; what is stored is where the next start goes on."""
        self.links.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._front.stop()
        for channel in self._channels:
            await channel.close()
        await self.scrape.stop()
        self.store.close()
        await asyncio.to_thread(self.tracer.close)

    def take(self, config: PartyConfig) -> None:
        """Peers and publishers, of tasks and of the policy, are these from now on. A peer that
        is not listed any more is let go, and rounds with it can't end here; one that is new is
        dialled."""
        pinned, listed, governing = peers(config), publishers(config), policy_keys(config)
        self._front.take_publishers(listed)
        self.governing.pin(governing)
        for ik in [ik for ik, address in self._peers.items() if pinned.get(ik) != address]:
            del self._peers[ik]
            dialling = self._dialling.pop(ik, None)
            if dialling is not None:
                dialling.cancel()
            self.links.drop(ik, "closed")
        for ik, address in pinned.items():
            if ik not in self._peers:
                self._peers[ik] = address
                self._dial_if_due(ik, address)

    def _dial_if_due(self, ik: bytes, address: str) -> None:
        if self.links.dials(ik):
            self._dialling[ik] = self._spawn(self._dial(ik, address))

    def _channel(
        self, address: str, tls: bool, ca_file: str, shown: tuple[str, str] = ("", "")
    ) -> grpc.aio.Channel:
        """`shown`: files of a private key and the certificate to show."""
        if tls:
            trusted, key, chain = (
                Path(name).read_bytes() if name else None for name in (ca_file, *shown)
            )
            credentials = grpc.ssl_channel_credentials(trusted, key, chain)
            channel = grpc.aio.secure_channel(address, credentials, options=self._options)
        else:
            channel = grpc.aio.insecure_channel(address, options=self._options)
        self._channels.append(channel)
        return channel

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """What should have gone on for ever, or come to its end, is not lost in silence."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.telemetry.defect("task", error)

    def _sweep(self) -> None:
        now_ms = self._clock.wall_ms()
        self.store.sweep(now_ms=now_ms, history_ms=self.keeping.history_ms)

    async def _refresh(self) -> None:
        """Before a scrape."""
        self.metrics.tally_rounds(self.store.tally())
        overdue = self.store.overdue(
            now_ms=self._clock.wall_ms() - _OVERDUE_MS, history_ms=self.keeping.history_ms
        )
        self.metrics.tally_overdue(overdue)
        self.metrics.tally_budgets(self._budgets())

    def _budgets(self) -> Iterator[tuple[int, int, int]]:
        now_ms = self._clock.wall_ms()
        for published, spent in self.store.spendings():
            task = tasks.decode(published)
            if task.expires_ms > now_ms:
                cap = self.config.cap_of(task)
                yield max(0, cap - spent), cap, task.cost_micro_rho

    async def _sweep_often(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self._sweep()

    async def _poll_policy(self) -> None:
        while True:
            await self.governing.refresh(self._relay)
            await asyncio.sleep(self.config.policy_poll_s)

    # Peers

    async def _serve_link(self, duplex: Duplex, peer: str) -> None:
        try:
            self._knocks.take(rate_key(peer_ip(peer)), self._clock.monotonic_s())
            self._strangers.__enter__()
        except RequestError:
            return
        proved = _once(lambda: self._strangers.__exit__(None, None, None))
        try:
            self._tell_refusal(await self.links.attach(duplex, Side.ACCEPTOR, on_proved=proved))
        finally:
            proved()

    def _tell_refusal(self, lost: LinkLost) -> None:
        if lost.rule in ("hello", "stranger", "proof"):
            self.metrics.link_refused(lost.rule)
            self.telemetry.event("link_refused", rule=lost.rule)

    async def _dial(self, ik: bytes, address: str) -> None:
        config = self.config
        channel = self._channel(address, config.peer_tls, config.peer_ca_file)
        wait_s = config.peer_beat_s
        try:
            while True:
                started_s = self._clock.monotonic_s()
                self._tell_refusal(
                    await self.links.attach(DialledDuplex(channel), Side.DIALER, wanted=ik)
                )
                lived_s = self._clock.monotonic_s() - started_s
                wait_s = config.peer_beat_s if lived_s > DIAL_S_MAX else min(2 * wait_s, DIAL_S_MAX)
                await asyncio.sleep(wait_s)
        finally:
            self._channels.remove(channel)
            await channel.close()

    # Rounds

    def _drive(self, round_id: bytes) -> None:
        if round_id in self._drivers:
            return
        host = Host(
            config=self.config,
            store=self.store,
            key=self.key,
            relay=self._relay,
            jobs=self.jobs,
            turns=self._turns,
            telemetry=self.telemetry.bound(round=round_id[:4].hex()),
            metrics=self.metrics,
            tracer=self.tracer,
            clock=self._clock,
            say=self._say,
            stops=self.governing.stops,
            up=lambda: self.links.up,
        )
        assignment = Assignment.of(
            self.store.round(round_id), self.key, patience_ms=self.config.patience_ms
        )
        self._drivers[round_id] = driver = Driver(host, assignment)
        self._spawn(self._run(driver))

    async def _run(self, driver: Driver) -> None:
        """A defect in one round must not end the others; it is tried again from what is stored."""
        wait_s = self.config.tick_s
        while True:
            try:
                state = await driver.run()
                self.telemetry.event("round_ended", state=state.name)
                break
            except Exception as error:  # noqa: BLE001 - see above
                self.telemetry.defect("round", error)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, AGAIN_S_MAX)
        del self._drivers[driver.round_id]


def _once(action: Callable[[], None]) -> Callable[[], None]:
    left = [action]

    def run() -> None:
        if left:
            left.pop()()

    return run


async def open_daemon(config: PartyConfig, **more: Any) -> Daemon:
    """A started party on its own store."""
    key = PartyKey(keys.read(Path(config.identity_key_file)))
    store = PartyStore.open(Path(config.database))
    try:
        daemon = Daemon(config, key, store, **more)
        await daemon.start()
    except BaseException:
        store.close()
        raise
    return daemon
