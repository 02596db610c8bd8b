"""`rookery-server party`: puts one party together and runs it until it is told to stop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from crypto import labels
from crypto.errors import CryptoError
from crypto.keys import Identity
from crypto.primitives import prf
from services import keys
from services.call import Clock
from services.errors import RequestError
from services.limits import Buckets, Gate, peer_ip, rate_key
from services.listen import bind
from services.party import messages
from services.party.config import PartyConfig, peers, publishers
from services.party.desk import Desk
from services.party.driver import Driver, Host
from services.party.duplex import DialledDuplex, link_handler
from services.party.handshake import Side
from services.party.jobs import JOB_CHANNEL_BIT, Jobs
from services.party.links import Duplex, Frame, LinkLost, Links
from services.party.relay import Relay
from services.party.states import IllegalTransition, State
from services.party.store import PartyStore, Rewritten
from services.telemetry import Telemetry, configure

DIAL_S_MAX = 10.0
STRANGER_PER_S, STRANGER_BURST, STRANGER_KEYS_MAX = 5.0, 60, 10_000


def identity_of(path: Path) -> Identity:
    """The party's identity key from its file; KeyFileError. It has no box key but a round's."""
    seed = keys.read(path)
    return Identity(seed, prf(seed, labels.PARTY_LINK_KEY, b"no box is sealed to this key"))


class Daemon:
    """One party: its store, its links, a driver for each round."""

    def __init__(
        self,
        config: PartyConfig,
        identity: Identity,
        store: PartyStore,
        *,
        telemetry: Telemetry | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.config = config
        self.identity = identity
        self.store = store
        self.telemetry = telemetry or Telemetry(configure(config.log_level, config.log_format))
        self.address = ""
        self._clock = clock or Clock.system()
        self._peers = peers(config)
        self._drivers: dict[bytes, Driver] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._channels: list[grpc.aio.Channel] = []
        self._server: grpc.aio.Server | None = None
        limits = config.link_limits()
        self._grpc_options = [
            ("grpc.max_receive_message_length", limits.payload_bytes_max + (64 << 10)),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
        self.links = Links(
            identity,
            limits=limits,
            monotonic_s=self._clock.monotonic_s,
            random_bytes=os.urandom,
            is_known=self._peers.__contains__,
            on_frame=self._on_frame,
            on_change=self._on_change,
        )
        self.jobs = Jobs(self._send_shares, at_once=config.jobs_max)
        self._strangers = Gate(config.strangers_max, lambda: 0.5)
        self._knocks = Buckets(
            "links", per_s=STRANGER_PER_S, burst=STRANGER_BURST, keys_max=STRANGER_KEYS_MAX
        )

    # Frames

    def _on_frame(self, ik: bytes, frame: Frame) -> None:
        driver = self._drivers.get(frame.round_id)
        party = None if driver is None else driver.party_of(ik)
        if driver is None or party is None:
            return  # of a round that is not known yet, or no more: it will be said again
        if frame.channel & JOB_CHANNEL_BIT:
            if not self.jobs.deliver(
                frame.round_id, frame.channel, party, frame.counter, frame.payload
            ):
                self.links.drop(ik, "flood")
            return
        try:
            driver.hear(ik, frame.payload)
        except (CryptoError, Rewritten, IllegalTransition):
            self.links.drop(ik, "frame")

    def _on_change(self, ik: bytes, lost: LinkLost | None) -> None:
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
        ik = driver.manifest.parties[party - 1].ik_pk
        return self.links.send(ik, Frame(round_id, channel, pc, payload))

    # Life

    async def start(self) -> None:
        """Listens, dials its peers, and takes up every round where it was left."""
        config = self.config
        self._relay = Relay(
            self._channel(config.relay), self.identity, config.audience, self._clock.wall_ms
        )
        desk = Desk(
            self.store,
            self.identity,
            config,
            publishers(config),
            self._peers,
            wall_ms=self._clock.wall_ms,
            random_bytes=os.urandom,
            on_round=self._drive,
        )
        server = grpc.aio.server(options=self._grpc_options)
        server.add_generic_rpc_handlers((link_handler(self._serve_link), desk.handler()))
        self.address = bind(server, config)
        await server.start()
        self._server = server
        for ik, address in self._peers.items():
            if self.links.dials(ik):
                self._spawn(self._dial(ik, address))
        for there in (*self.store.unended(), *self.store.to_hand_in()):
            if there.manifest is not None:
                self._drive(there.window.round_id)

    async def stop(self) -> None:
        """Ends everything; what is stored is where the next start goes on. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        self.links.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.stop(1)
        for channel in self._channels:
            await channel.close()
        self.store.close()

    def _channel(self, address: str) -> grpc.aio.Channel:
        channel = (
            grpc.aio.secure_channel(
                address, grpc.ssl_channel_credentials(), options=self._grpc_options
            )
            if self.config.relay_tls
            else grpc.aio.insecure_channel(address, options=self._grpc_options)
        )
        self._channels.append(channel)
        return channel

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve_link(self, duplex: Duplex, peer: str) -> None:
        try:
            self._knocks.take(rate_key(peer_ip(peer)), self._clock.monotonic_s())
            self._strangers.__enter__()
        except RequestError:
            return
        proved = _once(lambda: self._strangers.__exit__(None, None, None))
        try:
            await self.links.attach(duplex, Side.ACCEPTOR, on_proved=proved)
        finally:
            proved()

    async def _dial(self, ik: bytes, address: str) -> None:
        channel, wait_s = self._channel(address), self.config.peer_beat_s
        while True:
            started_s = self._clock.monotonic_s()
            await self.links.attach(DialledDuplex(channel), Side.DIALER, wanted=ik)
            lived_s = self._clock.monotonic_s() - started_s
            wait_s = (
                self.config.peer_beat_s if lived_s > DIAL_S_MAX else min(2 * wait_s, DIAL_S_MAX)
            )
            await asyncio.sleep(wait_s)

    def _drive(self, round_id: bytes) -> None:
        if round_id in self._drivers:
            return
        host = Host(
            config=self.config,
            store=self.store,
            identity=self.identity,
            relay=self._relay,
            jobs=self.jobs,
            telemetry=self.telemetry,
            clock=self._clock,
            say=self._say,
            up=lambda: self.links.up,
            drop=self.links.drop,
        )
        self._drivers[round_id] = driver = Driver(host, round_id)
        self._spawn(self._run(driver))

    async def _run(self, driver: Driver) -> None:
        """A defect in one round must not end the others; it is tried again from what is stored."""
        wait_s = self.config.tick_s
        while True:
            try:
                state = await driver.run()
                self.telemetry.event("round_ended", state=State(state).name)
                return
            except Exception as error:  # noqa: BLE001 - see above
                self.telemetry.defect("round", error)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, 60.0)


def _once(action: Callable[[], None]) -> Callable[[], None]:
    left = [action]

    def run() -> None:
        if left:
            left.pop()()

    return run


async def open_daemon(config: PartyConfig) -> Daemon:
    """A started party on its own store."""
    identity = identity_of(Path(config.identity_key_file))
    store = PartyStore.open(Path(config.database))
    try:
        daemon = Daemon(config, identity, store)
        await daemon.start()
    except BaseException:
        store.close()
        raise
    return daemon
