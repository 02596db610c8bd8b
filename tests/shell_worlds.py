"""Synced devices of one account against a real service. Shared by tests."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from client.backoff import Backoff
from client.device import Device
from client.endpoint import Endpoint
from client.pairflow import Admission, Invitation, find_invite, read_code
from client.snapshot import take
from client.sync import SyncedDevice
from client.transport import SystemClock, Transport
from client.values import Value
from client.vault import MemoryVault, Vault
from client.watch import Watch
from tests.served import AUDIENCE, SECRETS, Service

QUICK = Backoff(first_ms=20, longest_ms=200, tries_max=6)
DAY_MS = 86_400_000


class Clock(SystemClock):
    """The machine's, moved."""

    def __init__(self, offset_ms: int = 0) -> None:
        self.offset_ms = offset_ms

    def wall_ms(self) -> int:
        return super().wall_ms() + self.offset_ms


def endpoint_of(service: Service, *more: str) -> Endpoint:
    """How a client names a service of `tests.served`."""
    targets = (service.server.address, *more)
    return Endpoint(targets, AUDIENCE, SECRETS.server_key.public)


class Fleet:
    """Makes devices for one endpoint, and closes them all in the end."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.open: list[SyncedDevice] = []

    def transport(self, clock: Clock | None = None) -> Transport:
        return Transport(self.endpoint, clock=clock or Clock(), backoff=QUICK)

    def adopt(self, core: Device, vault: Vault, transport: Transport) -> SyncedDevice:
        synced = SyncedDevice(core, vault, transport)
        self.open.append(synced)
        return synced

    async def first(
        self,
        vault: Vault | None = None,
        *,
        paper: bytes | None = None,
        clock: Clock | None = None,
    ) -> SyncedDevice:
        """A new account."""
        transport = self.transport(clock)
        core = Device.create(
            recovery_secret=paper, now_ms=transport.clock.wall_ms(), rand=secrets.token_bytes
        )
        synced = self.adopt(core, vault or MemoryVault(), transport)
        await synced.sync_once()
        return synced

    async def another(
        self,
        inviter: SyncedDevice,
        vault: Vault | None = None,
        *,
        by_qr: bool = True,
        spoil: Callable[[str], str] = str,
        clock: Clock | None = None,
    ) -> SyncedDevice:
        """A device that `inviter` adds, by all of the pairing."""
        invitation = Invitation(inviter)
        await invitation.show()
        code = invitation.invite.text() if by_qr else invitation.typed.text
        transport = self.transport(clock)
        admission = Admission(transport, await find_invite(transport, read_code(code)))
        made: list[SyncedDevice] = []

        async def join() -> str:
            return await admission.ask(
                lambda core: made.append(self.adopt(core, vault or MemoryVault(), transport))
            )

        joining = asyncio.create_task(join())
        try:
            await invitation.wait_for_reader()
            await invitation.enter(spoil(await joining))
        finally:
            joining.cancel()
        await admission.wait()
        await made[0].sync_once()
        return made[0]

    def again(self, synced: SyncedDevice, vault: Vault | None = None) -> SyncedDevice:
        """The same device in a process that starts anew."""
        vault = vault or synced.vault
        made = SyncedDevice.load(vault, self.transport())
        self.open.append(made)
        return made


@asynccontextmanager
async def fleet(endpoint: Endpoint) -> AsyncIterator[Fleet]:
    """Devices for the time of the block."""
    devices = Fleet(endpoint)
    try:
        yield devices
    finally:
        for synced in devices.open:
            await synced.close()


def put(synced: SyncedDevice, key: str, value: Value, collection: str = "ui") -> None:
    """Sets a setting, without syncing."""
    synced.edit(lambda core, now_ms: core.put(collection, key, value, now_ms=now_ms))


def like(synced: SyncedDevice, key: str, amount: float = 1.0) -> None:
    """Adds to a score, without syncing."""
    synced.edit(lambda core, now_ms: core.add_score("cuisine", key, amount, now_ms=now_ms))


def shown(synced: SyncedDevice) -> dict[str, Value]:
    """The whole profile."""
    return {row.name: row.value for row in take(synced.core, now_ms=synced.now_ms()).values()}


def rules(synced: SyncedDevice) -> list[str]:
    """Rules of all alarms."""
    return [row.rule for row in synced.core.notices if row.kind.value == "alarm"]


class Watching:
    """A watch in the background, and a way to wait for what it brings."""

    def __init__(self, synced: SyncedDevice) -> None:
        self.synced = synced
        self.live = 0
        self.lost = 0
        self._changed = asyncio.Event()
        watch = Watch(synced, on_change=self._changed.set, on_live=self._on_live)
        self.task = asyncio.create_task(watch.run())
        self.task.add_done_callback(lambda _: self._changed.set())

    def _on_live(self, live: bool) -> None:
        self.live += live
        self.lost += not live
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns once it holds; what the watch ends with, if it ends before."""
        while not holds():
            if self.task.done():
                await self.task
                raise AssertionError("the watch ended")
            self._changed.clear()
            await self._changed.wait()

    async def until_live(self) -> None:
        """Returns once it has caught up."""
        await self.until(lambda: self.live > self.lost)

    async def until_lost(self) -> None:
        """Returns once the connection is gone."""
        await self.until(lambda: self.live == self.lost)

    async def until_shown(self, name: str, value: Value) -> None:
        """Returns once the device shows this value."""
        await self.until(lambda: shown(self.synced).get(name) == value)

    async def until_count(self, count: int) -> None:
        """Returns once the device shows so many things."""
        await self.until(lambda: len(shown(self.synced)) == count)

    async def stop(self) -> None:
        """Ends it."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def together(*calls: Coroutine[Any, Any, Any]) -> None:
    """Runs them at the same time; the first error of any."""
    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(call)
