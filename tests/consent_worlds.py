"""Two devices of one account under a policy, and a governed relay. Shared by tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.measure.participant import Participant, Report
from client.sync import SyncedDevice
from client.values import Value
from crypto.field import FIELD31
from crypto.policy import Bundle
from crypto.policy.purposes import Purpose
from crypto.policy.signals import Reach
from crypto.policy.tasks import TaskRule
from crypto.policy.values import Choices, Delta, Members
from mpc.kinds import Histogram
from mpc.manifest import Manifest
from mpc.task import Task
from tests.governed_service import KEYS, Governed
from tests.governed_worlds import KEY, OPEN, shown
from tests.measure_worlds import POLICY
from tests.policy_samples import MICRO, bundle as sample, signal
from tests.relay_worlds import Relay, manifest, relaying, task
from tests.shell_worlds import Fleet, endpoint_of, fleet

COUNTING, ADVICE = "counting", "advice"
PURPOSES = (
    Purpose(COUNTING, "Counts favourites, of many together.", "The menu gets better.", False),
    Purpose(ADVICE, "Shows what suits you first.", "Less to look through.", False),
)
CUISINES = ("thai", "greek", "lao")
TASK = TaskRule(
    "food/cuisine", ("cuisine",), COUNTING, "histogram", 2, 100_000, 30, None, "What people like."
)


def policy(before: Bundle | None = None, **changes: Any) -> Bundle:
    """A favourite for counting alone, one for both purposes, ratings and a set for counting, and
    a note for counting that stays on its device."""
    counting: dict[str, Any] = {"purposes": (COUNTING,), "reach": Reach.AGGREGATE}
    made: dict[str, Any] = {
        "sequence": 1 if before is None else before.sequence + 1,
        "previous": sample().previous if before is None else before.hash,
        "purposes": PURPOSES,
        "signals": (
            signal("cuisine", Choices(CUISINES), collection="food", **counting),
            signal(
                "spice", Choices(("mild", "hot")), collection="food", purposes=(COUNTING, ADVICE)
            ),
            signal("rating", Delta(-9 * MICRO, 9 * MICRO, 99 * MICRO), collection="rating",
                   keys=("*",), **counting),
            signal("liked", Members(9), collection="liked", keys=("*",), **counting),
            signal("note", Choices(("yes", "no")), collection="notes", purposes=(COUNTING,),
                   reach=Reach.DEVICE),
        ),
        "tasks": (TASK,),
        "access": OPEN,
        "flags": (), "cohorts": (), "experiments": (),
    }  # fmt: skip
    return sample(**{**made, **changes})


@dataclass
class House:
    """A governed relay, and two devices of one account."""

    relay: Relay
    devices: Fleet
    held: Bundle
    a: SyncedDevice
    b: SyncedDevice

    async def publish(self, made: Bundle) -> None:
        """The next bundle: the devices hear of it when they sync."""
        await Governed(self.relay.service).publish(made)
        self.held = made

    async def both(self) -> None:
        """Everybody has everything."""
        for synced in (self.a, self.b, self.a):
            await synced.sync_once()

    async def round(self, name: str = "food/cuisine") -> Manifest:
        """A round of a declared task that is open now."""
        made = favourites(name)
        await self.relay.publish(made)
        round_ = manifest(made, self.relay.now_ms - 1_000, name)
        await self.relay.collect(round_)
        return round_

    async def contribute(self, synced: SyncedDevice) -> list[Report]:
        """What became of every task."""
        return await taking_part(synced).contribute_once()


def favourites(name: str = "food/cuisine") -> Task:
    """A task of the policy; a later round is one of its next version."""
    return task(name, purpose=COUNTING, kind=Histogram(FIELD31, len(CUISINES), CUISINES))


def taking_part(synced: SyncedDevice) -> Participant:
    """A device that trusts publisher and parties."""
    made = Participant(synced)
    made.core.set_policy(POLICY)
    made.save()
    return made


@asynccontextmanager
async def house(path: Path, **settings: Any) -> AsyncIterator[House]:
    """For the time of the block."""
    async with relaying(path, **(KEYS | settings)) as relay:
        held = policy()
        await Governed(relay.service).publish(held)
        async with fleet(endpoint_of(relay.service)) as devices:
            a = await devices.first()
            b = await devices.another(a)
            for synced in (a, b):
                synced.pin_policy(KEY.public)
                synced.on_policy(shown(held))
            made = House(relay, devices, held, a, b)
            await made.both()
            yield made


def record(synced: SyncedDevice, name: str, value: Value) -> None:
    """A setting `COLLECTION/KEY`, as an app records it."""
    collection, _, key = name.partition("/")
    synced.edit(lambda core, now_ms: core.put(collection, key, value, now_ms=now_ms))


def rate(synced: SyncedDevice, key: str, amount: float = 1.0) -> None:
    """Adds to a rating."""
    synced.edit(lambda core, now_ms: core.add_score("rating", key, amount, now_ms=now_ms))
