"""Households that edit and sync while their service is killed and started again.

A short slice runs with all tests, the long run by `make soak`.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from client.demo.people import Household, Town
from client.demo.ratings import Person
from client.device import Device
from client.remoteerrors import RemoteError
from client.sync import SyncedDevice
from tests import test_client_convergence as convergence
from tests.service_process import ServiceProcess

SYNCS_BETWEEN_KILLS = 12


@dataclass(slots=True)
class Storm:
    """Kills the service after every so many syncs; no clock decides when."""

    service: ServiceProcess
    kills_left: int
    syncs: int = 0
    due: asyncio.Event = field(default_factory=asyncio.Event)

    async def rage(self) -> None:
        """Until no kill is left."""
        while self.kills_left:
            await self.due.wait()
            self.due.clear()
            self.service.kill()
            self.service.start()
            self.kills_left -= 1

    async def sync(self, device: SyncedDevice) -> None:
        """A sync that may meet a dead service; what could not be sent waits."""
        try:
            await device.sync_once()
        except RemoteError as error:
            if not error.transient:
                raise
        self.syncs += 1
        if self.syncs % SYNCS_BETWEEN_KILLS == 0:
            self.due.set()


@dataclass(slots=True)
class Life:
    """One device, what it said last, and how often it added to the score."""

    device: SyncedDevice
    name: str
    rng: random.Random
    said: int = 0

    async def live(self, storm: Storm) -> None:
        """Edits, and syncs now and then, while the storm goes on."""
        while storm.kills_left:
            self.said += 1
            self.device.edit(self._say)
            if self.rng.random() < 0.6:
                await storm.sync(self.device)
            else:
                await asyncio.sleep(0)

    def _say(self, core: Device, now_ms: int) -> None:
        core.put("said", self.name, self.said, now_ms=now_ms)
        core.add_score("taste", "edits", 1, now_ms=now_ms)


async def soak(folder: Path, *, households: int, kills: int) -> None:
    """Everything that was said is there on every device, every increment counted once."""
    with ServiceProcess(folder) as service:
        town = Town(service.endpoint, seed=7)
        homes = [await town.settle(Person(number, "r", {})) for number in range(households)]
        lives = {
            number: [
                Life(device, f"device-{at}", random.Random(f"{number} {at}"))
                for at, device in enumerate(home.devices)
            ]
            for number, home in enumerate(homes)
        }
        storm = Storm(service, kills)
        async with asyncio.TaskGroup() as group:
            group.create_task(storm.rage())
            for household in lives.values():
                for life in household:
                    group.create_task(life.live(storm))
        for number, home in enumerate(homes):
            await agree(home, lives[number])
            await home.close()


async def agree(home: Household, lives: list[Life]) -> None:
    """After a few syncs without a storm, all devices show the same, and nothing is missing."""
    for _ in range(3):
        for device in home.devices:
            await device.sync_once()
    said = {life.name: life.said for life in lives}
    for device in home.devices:
        assert device.core.list("said") == said
        total = device.core.score("taste", "edits", now_ms=device.now_ms())
        assert total == sum(said.values())
        assert device.core.status.edits_waiting == 0
        assert [notice for notice in device.core.notices if notice.kind.value == "alarm"] == []


async def test_a_storm_of_kills_loses_nothing(tmp_path: Path) -> None:
    """Two households, three kills: every edit arrives, every increment counts once."""
    await soak(tmp_path, households=2, kills=3)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_long_storm_of_kills_loses_nothing(tmp_path: Path) -> None:
    """Eight households, a hundred kills."""
    await soak(tmp_path, households=8, kills=100)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(count=convergence.COUNTS, actions=convergence.ACTIONS)
def test_thousands_of_interleavings_converge(
    count: int, actions: list[tuple[int, str, int]]
) -> None:
    """As in `test_client_convergence`, with fresh random examples each time."""
    convergence.live(count, actions)
