"""Households that edit and sync while what they talk to is struck again and again. A helper."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from client.demo.people import Household, Town
from client.demo.ratings import Person
from client.device import Device
from client.endpoint import Endpoint
from client.remoteerrors import RemoteError
from client.sync import SyncedDevice
from client.transport import Transport

SYNCS_BETWEEN_STRIKES = 12
LOST = {"CHAIN_GAP", "GENERATION_CHANGED", "DEVICE_FORKED"}
"""What a service answers to somebody who holds more than it does. Clients heal then, and in the
end nothing is missing: so it is these words that tell whether anything was lost on the way."""
EVERY_CALL = {"ROOKERY_ACCESS_LOG_SHARE": "1"}


@dataclass(slots=True)
class Spread(Town):
    """A town whose devices begin with different replicas, each in its turn."""

    made: int = 0

    def transport(self) -> Transport:
        """A way to the deployment by all its replicas, another one first each time."""
        targets = self.endpoint.targets
        first = self.made % len(targets)
        self.made += 1
        return Transport(replace(self.endpoint, targets=targets[first:] + targets[:first]))


@dataclass(slots=True)
class Storm:
    """Strikes after every so many syncs; no clock decides when."""

    strike: Callable[[], object]
    strikes_left: int
    syncs: int = 0
    due: asyncio.Event = field(default_factory=asyncio.Event)

    async def rage(self) -> None:
        """Until no strike is left."""
        while self.strikes_left:
            await self.due.wait()
            self.due.clear()
            # Off the loop: a server that drains waits for clients that live on it.
            await asyncio.to_thread(self.strike)
            self.strikes_left -= 1

    async def sync(self, device: SyncedDevice) -> None:
        """A sync that may meet a dead service; what could not be sent waits."""
        try:
            await device.sync_once()
        except RemoteError as error:
            if not error.transient:
                raise
        self.syncs += 1
        if self.syncs % SYNCS_BETWEEN_STRIKES == 0:
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
        while storm.strikes_left:
            self.said += 1
            self.device.edit(self._say)
            if self.rng.random() < 0.6:
                await storm.sync(self.device)
            else:
                await asyncio.sleep(0)

    def _say(self, core: Device, now_ms: int) -> None:
        core.put("said", self.name, self.said, now_ms=now_ms)
        core.add_score("taste", "edits", 1, now_ms=now_ms)


async def live_through(
    endpoint: Endpoint,
    strike: Callable[[], object],
    *,
    households: int,
    strikes: int,
    on_settled: Callable[[], object] = lambda: None,
) -> None:
    """Everything that was said is there on every device in the end, every increment counted
    once. `on_settled`: called when all have settled, before the storm."""
    town = Spread(endpoint, seed=7)
    homes = [await town.settle(Person(number, "r", {})) for number in range(households)]
    lives = [
        [
            Life(device, f"device-{at}", random.Random(f"{number} {at}"))
            for at, device in enumerate(home.devices)
        ]
        for number, home in enumerate(homes)
    ]
    on_settled()
    storm = Storm(strike, strikes)
    async with asyncio.TaskGroup() as group:
        group.create_task(storm.rage())
        for household in lives:
            for life in household:
                group.create_task(life.live(storm))
    for home, household in zip(homes, lives, strict=True):
        await agree(home, household)
        await home.close()


async def agree(home: Household, lives: Sequence[Life]) -> None:
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


def losses(folder: Path) -> set[str]:
    """Which of them replicas said to anybody, by their log."""
    # Two processes write to it: where a line ends is not to be relied on.
    said = set(re.findall(r'"reason": "(\w+)"', (folder / "service.log").read_text("utf-8")))
    assert "OK" in said
    return said & LOST
