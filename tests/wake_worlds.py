"""Phones behind a platform, a push gateway and services that wake them. Shared by tests."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client.sync import SyncedDevice
from client.wake import Registration, Waking
from crypto.wake import GatewayKey, Platform, PushToken
from mpc.keys import ServiceKey
from services import keys
from services.telemetry import Telemetry, configure
from services.wake import gateway_config
from services.wake.gateway import Gateway
from services.wake.gateway_metrics import GatewayMetrics
from tests.served import AUDIENCE, Service
from tests.service_process import environment

SECONDS_MAX = 30.0
KEY = GatewayKey(b"\x21" * 32)
SERVICE_SEED = b"\x22" * 32
SERVICE_KEY = ServiceKey(SERVICE_SEED)
GATEWAY_AUDIENCE = "gateway.test"


def token_of(name: str) -> PushToken:
    """A push token that nothing else looks like."""
    return PushToken(Platform.LOOPBACK, f"push-token-of-{name}".encode())


@dataclass
class Phones:
    """The platform behind a gateway's loopback: a socket that is told of tokens."""

    address: str = ""
    pokes: list[str] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    answer: bytes = b"ok\n"
    _server: asyncio.Server | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = bytes.fromhex((await reader.readline()).decode()).decode()
        name = name.removeprefix("push-token-of-")
        self.pokes.append(name)
        writer.write(b"gone\n" if name in self.gone else self.answer)
        await writer.drain()
        writer.close()
        self._news.set()

    async def poked(self, name: str, times: int = 1) -> None:
        """Returns once this phone was poked so often."""
        async with asyncio.timeout(SECONDS_MAX):
            while self.pokes.count(name) < times:
                self._news.clear()
                await self._news.wait()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Returns once it holds, of something that tells nobody."""
    async with asyncio.timeout(SECONDS_MAX):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def until_logged(log: io.StringIO, word: str) -> None:
    """Returns once a word stands in a log."""

    async def holds() -> bool:
        return word in log.getvalue()

    await until(holds)


async def calm(service: Service, platform: Phones) -> None:
    """Returns once everybody was poked for all that came up to now, and forgets these pokes."""
    waker = service.server.waking.waker
    assert waker is not None

    async def holds() -> bool:
        if waker.waiting:
            return False
        _, due_ms = await service.server.store.wake.claim(now_ms=0, lease_ms=1, claims_max=1)
        return due_ms is None

    await until(holds)
    platform.pokes.clear()


@asynccontextmanager
async def silence() -> AsyncIterator[str]:
    """The address of somebody who takes connections and says nothing."""
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.close()


@asynccontextmanager
async def phones() -> AsyncIterator[Phones]:
    """A platform for the time of the block."""
    made = Phones()
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@dataclass
class RunningGateway:
    """A gateway, and what it logged."""

    gateway: Gateway
    log: io.StringIO

    @property
    def address(self) -> str:
        return self.gateway.address


@asynccontextmanager
async def gateway(platform: Phones, **settings: Any) -> AsyncIterator[RunningGateway]:
    """One that lets the service of `tests.served` use its handles, for the time of the block."""
    told: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "audience": GATEWAY_AUDIENCE,
        "services": (f"{SERVICE_KEY.public.hex()}@{AUDIENCE}",),
        "loopback": platform.address,
        "token_pokes_per_s": 0.0,
        **settings,
    }
    log = io.StringIO()
    metrics = GatewayMetrics()
    telemetry = Telemetry(configure("debug", "json", log), access_share=1.0, metrics=metrics)
    config = gateway_config.load(None, {}, told)
    running = Gateway(config, KEY, telemetry=telemetry, metrics=metrics)
    await running.start()
    try:
        yield RunningGateway(running, log)
    finally:
        await running.stop()
        assert "push-token" not in log.getvalue()


def waking(folder: Path, address: str, **settings: Any) -> dict[str, Any]:
    """Settings of a service that wakes by the gateway at `address`, at once."""
    path = folder / "service.wake"
    if not path.exists():
        keys.create(path, SERVICE_SEED)
    return {
        "wake_gateway": address,
        "wake_audience": GATEWAY_AUDIENCE,
        "wake_key_file": str(path),
        "wake_debounce_s": 60.0,
        "wake_spread_s": 0.05,
        **settings,
    }


async def register(synced: SyncedDevice, name: str) -> Registration:
    """Has a device woken under this name, and syncs it."""
    made = await Waking(synced).register(KEY.public, token_of(name))
    await synced.sync_once()
    return made


class GatewayProcess:
    """`rookery-server gateway`. The port stays the same over restarts."""

    def __init__(self, folder: Path, platform: Phones, audience: str) -> None:
        self.folder = folder
        self.address = "127.0.0.1:0"
        keys.create(folder / "gateway.key", b"\x21" * 32)
        self._settings = {
            "ROOKERY_GATEWAY_AUDIENCE": GATEWAY_AUDIENCE,
            "ROOKERY_GATEWAY_SERVICES": f"{SERVICE_KEY.public.hex()}@{audience}",
            "ROOKERY_GATEWAY_LOOPBACK": platform.address,
            "ROOKERY_GATEWAY_TOKEN_POKES_PER_S": "0",
        }

    def start(self) -> None:
        """Starts it and waits until it listens."""
        with (self.folder / "gateway.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.cli", "gateway", "--listen", self.address],
                cwd=self.folder,
                env=environment(**self._settings),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError((self.folder / "gateway.log").read_text())
        ready = json.loads(line)
        assert ready["gateway_key"] == KEY.public.hex()
        self.address = ready["listening"]

    def kill(self) -> None:
        """SIGKILL."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Tap:
    """A line between two processes on which all bytes are kept."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self.address = ""
        self.sent = bytearray()
        self.frozen = False
        """Nothing comes through any more, and nobody is told."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Tap:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, forth = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        for source, target, kept in ((reader, forth, True), (back, writer, False)):
            task = asyncio.create_task(self._copy(source, target, kept))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _copy(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, kept: bool
    ) -> None:
        try:
            while data := await source.read(1 << 16):
                if self.frozen:
                    await asyncio.Event().wait()
                if kept:
                    self.sent += data
                target.write(data)
                await target.drain()
        except OSError:
            pass
        finally:
            target.close()
