"""The demo's last act: what the policy and a person's word stop, and how soon, on real devices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from client.analyst.errors import KeyRefused
from client.analyst.publisher import Publisher
from client.demo import leaving, measures, overseen, stage
from client.demo.leaving import Left
from client.demo.measures import Answer, Catalogue
from client.demo.people import ABOUT, RATINGS, REGION, Household
from client.demo.policy import Governor
from client.demo.rounds import Organiser
from client.demo.stage import Program, Service
from client.demo.watching import Watching, refusal
from client.errors import UserError
from client.remoteerrors import RemoteError
from client.sync import SyncedDevice
from client.transport import Transport
from client.vault import MemoryVault
from mpc.task import Task

SWITCH: Final = "stop-region"
"""The kill switch of the shipped policy that is thrown."""
NO_SIGNAL: Final = ("about", "age", 40)
STARS_TOO_MANY: Final = 6


@dataclass(frozen=True, slots=True)
class Switched:
    """A kill switch, on and off again."""

    clients: int
    obeyed_s: list[float]
    """Of each client, from the call that published it until it refused to record."""
    again_s: list[float]
    """From the call that published the earlier values until it recorded again."""
    task_refused: str
    """By which rule the service refuses a task that reads what was stopped."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """An older policy, shown by a copy of the service."""

    held: int
    shown: int
    held_after: int
    alarm: bool
    still_refused: bool
    """What the newer one had stopped is stopped all the same."""

    @property
    def refused(self) -> bool:
        """Whether it was not taken, and told of."""
        return self.alarm and self.still_refused and self.held_after == self.held > self.shown


@dataclass(frozen=True, slots=True)
class Governance:
    """All that was seen."""

    sequence: int
    rules: dict[str, str]
    """What was recorded that may not be: by which rule it was refused."""
    switched: Switched
    replayed: Replayed
    left: Left
    overdue: int
    audit_entries: int

    @property
    def holds(self) -> bool:
        """Whether all of it is as it must be."""
        switched, left, round_ = self.switched, self.left, self.left.round.data()
        return (
            self.rules == {"a signal that is not declared": "undeclared", "six stars": "range"}
            and len(switched.obeyed_s) == len(switched.again_s) == switched.clients
            and switched.task_refused == "task-killed"
            and self.replayed.refused
            and None not in (left.withdrawal.other_s, left.withdrawal.relay_s)
            and left.withdrawal.rule == "consent"
            and round_["valid"] == left.round.contributed <= left.people - 2
            and left.forgotten.service_rows > 0
            and not left.forgotten.service_rows_after + left.forgotten.party_rows_after
            and not self.overdue
            and self.audit_entries > 0
        )

    def data(self) -> dict[str, Any]:
        """For `--json`."""
        switched, left = self.switched, self.left
        return {
            "holds": self.holds,
            "policy_sequence": self.sequence,
            "refused_by_rule": self.rules,
            "clients": switched.clients,
            "clients_that_obeyed_the_kill_switch": len(switched.obeyed_s),
            "kill_switch_seconds_median": _median(switched.obeyed_s),
            "kill_switch_seconds_last": _last(switched.obeyed_s),
            "clients_that_went_on_after_it": len(switched.again_s),
            "switched_back_seconds_last": _last(switched.again_s),
            "task_over_killed_signal_refused_by": switched.task_refused,
            "older_policy_refused": self.replayed.refused,
            "withdrawal_other_device_seconds": _rounded(left.withdrawal.other_s),
            "withdrawal_service_seconds": _rounded(left.withdrawal.relay_s),
            "withdrawal_deleted": left.withdrawal.deleted,
            "withdrawn_device_refuses_by": left.withdrawal.rule,
            "next_round": left.round.data(),
            "forgotten_rows_before": left.forgotten.service_rows + left.forgotten.party_rows,
            "forgotten_rows_after": (
                left.forgotten.service_rows_after + left.forgotten.party_rows_after
            ),
            "forgotten_seconds": _rounded(left.forgotten.seconds),
            "retention_overdue": self.overdue,
            "audit_entries_verified": self.audit_entries,
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _median(seconds: Sequence[float]) -> float | None:
    return _rounded(seconds[len(seconds) // 2]) if seconds else None


def _last(seconds: Sequence[float]) -> float | None:
    return _rounded(seconds[-1]) if seconds else None


@dataclass(slots=True)
class Scene:
    """What the act plays on."""

    folder: Path
    service: Service
    governor: Governor
    organiser: Organiser
    catalogue: Catalogue
    files: list[Path]
    """What a copy of the service wrote is added."""

    @property
    def programs(self) -> list[Program]:
        """All that can be asked for metrics."""
        return [self.service, *self.organiser.members]


async def play(
    scene: Scene, households: Sequence[Household], leaver: Household, task: Task
) -> Governance:
    """Everything of the act. `leaver` has two devices at least and takes everything back; `task`
    is asked once more. RoundsError, StageError."""
    forgotten, *rest = sorted(
        (one for one in households if one is not leaver), key=lambda one: len(one.devices)
    )
    regions = {id(device): one.person.region for one in households for device in one.devices}
    devices = [device for one in households for device in one.devices]
    with ExitStack() as running:
        # What the copy knows of is the policy before the switch.
        copying = asyncio.create_task(asyncio.to_thread(_copy, scene))
        async with Watching(devices) as watching:
            older = running.enter_context(await copying)
            scene.files.extend(older.files)
            rules = _refused_rules(forgotten.first, forgotten)
            killed_s = await _switch(scene, watching, regions, on=True)
            task_refused = await _task_refused(scene, len(households))
            replayed = await _replay(scene, older, rest[0])
            again_s = await _switch(scene, watching, regions, on=False)
            left = await leaving.leave(
                leaver, forgotten, rest, watching, scene.organiser, scene.service, task,
                Answer(scene.catalogue),
            )  # fmt: skip
    counts = await asyncio.gather(
        *(asyncio.to_thread(overseen.overdue, one) for one in scene.programs)
    )
    return Governance(
        sequence=scene.governor.newest.sequence,
        rules=rules,
        switched=Switched(len(devices), killed_s, again_s, task_refused),
        replayed=replayed,
        left=left,
        overdue=sum(counts),
        audit_entries=await overseen.audited(scene.organiser.endpoint, scene.governor.operator),
    )


def _refused_rules(device: SyncedDevice, household: Household) -> dict[str, str]:
    item = next(iter(household.person.ratings))
    return {
        "a signal that is not declared": refusal(device, *NO_SIGNAL),
        "six stars": refusal(device, RATINGS, item, STARS_TOO_MANY),
    }


# --- the kill switch ---


async def _switch(
    scene: Scene, watching: Watching, regions: dict[int, str], *, on: bool
) -> list[float]:
    """Throws it; a client obeys once an attempt to record the region is refused, or is not."""
    sequence = scene.governor.newest.sequence + 1
    asked: set[int] = set()

    def obeys(device: SyncedDevice) -> bool:
        if device.holding.sequence < sequence or id(device) in asked:
            return False
        # Once: what is recorded is news by itself.
        asked.add(id(device))
        return refusal(device, ABOUT, REGION, regions[id(device)]) == ("killed" if on else "")

    return await watching.obeyed(obeys, scene.governor.switch(SWITCH, on=on))


async def _task_refused(scene: Scene, people: int) -> str:
    """Whether the service still takes a task that reads the region."""
    organiser = scene.organiser
    made = measures.tasks(
        scene.catalogue, people=people, window_ms=1_000, now_ms=time.time_ns() // 1_000_000
    )[0]  # fmt: skip
    publisher = Publisher(Transport(organiser.endpoint), organiser.key)
    try:
        await publisher.publish(replace(made, task_id=made.task_id + "/v2"))
    except RemoteError as error:
        return error.metadata.get("rule", error.reason)
    except (KeyRefused, UserError) as error:
        return str(error)
    return ""


# --- an older policy ---


def _copy(scene: Scene) -> Service:
    """The service as it is now, as another process with the same keys. Blocks; StageError."""
    copy, database = scene.folder / "service.copy", scene.folder / "older.db"
    stage.keep(scene.folder, scene.service.database, "backup", str(copy))
    stage.keep(scene.folder, database, "restore", str(copy))
    copy.unlink()
    return Service(
        scene.folder, scene.organiser.key.public, scene.governor.key.public, name="older"
    )


async def _replay(scene: Scene, older: Service, household: Household) -> Replayed:
    """A device, as it is stored, starts with the older service. It is a copy of one: what it does
    there is nobody's."""
    original = household.first
    endpoint = replace(scene.organiser.endpoint, targets=(older.address.target,))
    transport = Transport(endpoint)
    device = SyncedDevice.load(MemoryVault(original.vault.load()), transport)
    held = device.holding.sequence
    await device.sync_once()
    replayed = Replayed(
        held=held,
        shown=transport.wire.policy_sequence,
        held_after=device.holding.sequence,
        alarm=any(one.rule == "policy-rollback" for one in device.core.notices),
        still_refused=refusal(device, ABOUT, REGION, household.person.region) == "killed",
    )
    await device.close()
    return replayed
