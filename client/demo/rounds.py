"""The demo's joint aggregates: publisher, parties, everybody's devices, and some who cheat.

The demo knows the truth, because these are its people: it is set beside what the parties signed.
Nobody in the system it shows could do that.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from client import remoteerrors as reasons
from client.analyst import collect, present
from client.analyst.evidence import Evidence, Pins
from client.analyst.panel import PinnedParty
from client.analyst.publisher import PartyLine, Publisher
from client.demo import cheats, measures
from client.demo.measures import Answer, Catalogue
from client.demo.panel import Member
from client.demo.people import Household, Town
from client.endpoint import Endpoint
from client.measure.participant import Outcome, Participant, Report
from client.measure.policy import Panel, Policy
from client.measure.values import Measures
from client.remoteerrors import RemoteError
from client.rounds import Rounds
from client.sync import SyncedDevice
from client.transport import Signer, Transport
from mpc import oracle, privacy
from mpc.keys import PublisherKey
from mpc.manifest import Manifest
from mpc.result import RoundResult, Sums
from mpc.task import Task

POLL_S: Final = 0.25
LATE_S: Final = 120.0
"""How long after its close a result is waited for."""
AT_ONCE: Final = 8


class RoundsError(Exception):
    """A round came to nothing; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One round: what its parties signed, and what is true."""

    task: Task
    manifest: Manifest
    result: RoundResult
    signers: tuple[int, ...]
    truth: RoundResult
    """The same with exact sums."""
    contributed: int
    cheated: int
    seconds_close_to_result: float

    @property
    def sigma(self) -> float:
        """Of the noise in an opened sum."""
        law = self.task.noise
        assert law is not None
        return math.sqrt(law.opened_variance(present=len(self.result.noise_of), t=self.task.t))

    @property
    def errors(self) -> tuple[float, ...]:
        """How far each opened sum is from the truth, in sigmas."""
        assert isinstance(self.result.outcome, Sums)
        assert isinstance(self.truth.outcome, Sums)
        pairs = zip(self.result.outcome.sums, self.truth.outcome.sums, strict=True)
        return tuple((got - true) / self.sigma for got, true in pairs)

    def data(self) -> dict[str, Any]:
        """For `--json`."""
        rho = self.task.cost_micro_rho
        valid = self.result.counted.valid
        reports = self.contributed + self.cheated
        return {
            "task": self.task.task_id,
            "reports": reports,
            "valid": valid,
            "rejected": reports - valid,
            "rejected_by_reason": present.rejected(self.result.counted),
            "cheaters": self.cheated,
            "sums": len(self.errors),
            "max_error_in_sigmas": round(max(map(abs, self.errors)), 3),
            "sigma": round(self.sigma, 3),
            "rho": rho / privacy.MICRO,
            "epsilon_at_delta_1e-6": privacy.epsilon_of(rho, present.DELTA) / privacy.MICRO,
            "seconds_close_to_result": round(self.seconds_close_to_result, 2),
            "signed_by": list(self.signers),
        }


@dataclass(slots=True)
class Organiser:
    """The publisher and analyst of the demo, and the parties that it pins."""

    endpoint: Endpoint
    key: PublisherKey
    members: Sequence[Member]

    def _transport(self, target: str) -> Transport:
        return Transport(replace(self.endpoint, targets=(target,)))

    async def open(self, tasks: Sequence[Task]) -> list[Manifest]:
        """Publishes the tasks and opens a round of each, from now on."""
        publisher = Publisher(Transport(self.endpoint), self.key)
        asked = [
            collect.AskedParty(
                PinnedParty(one.ik, one.target), PartyLine(self._transport(one.target), self.key)
            )
            for one in self.members
        ]
        manifests = []
        for task in tasks:
            await publisher.publish(task)
            now_ms = time.time_ns() // 1_000_000
            planned = collect.plan(
                task,
                secrets.token_bytes(16),
                [one.pinned for one in asked],
                open_ms=now_ms,
                now_ms=now_ms,
            )
            manifests.append(
                await collect.collect(publisher, asked, publisher.signed(task), task, planned)
            )
        return manifests

    async def result(self, manifest: Manifest) -> tuple[RoundResult, tuple[int, ...], float]:
        """The verified result, who signed it, and seconds from close until it was there."""
        rounds = Rounds(Transport(self.endpoint), Signer(self.key))
        pins = Pins(frozenset({self.key.public}), tuple(one.ik for one in self.members))
        while True:
            since_s = time.time() - manifest.close_ms / 1000
            try:
                told = await rounds.result(manifest.round_id)
            except RemoteError as error:
                if error.reason != reasons.RESULT_ABSENT:
                    raise
            else:
                if told.result:
                    evidence = Evidence.of(await rounds.round(manifest.round_id), told)
                    _, result = evidence.open(pins)
                    return result, tuple(sorted(told.sigs)), since_s
                raise RoundsError("the parties gave a round up")
            if since_s > LATE_S:
                raise RoundsError("no result of a round came in time")
            await asyncio.sleep(POLL_S)

    def policy(self, people: int) -> Policy:
        """What the demo's devices are told to trust, and to spend."""
        rho = measures.rho_micro(people)
        panel = Panel(tuple(one.ik for one in self.members), measures.CORRUPT)
        pinned = Policy().with_publisher(self.key.public).with_panel(panel)
        # Three rounds at once are more than a device gives in a month by default.
        return pinned.with_limits(round_micro_rho=rho, period_micro_rho=4 * rho)


@dataclass(slots=True)
class Turnout:
    """Whose reports the service has, by task."""

    values: dict[str, list[Any]]
    cheated: dict[str, int]

    @classmethod
    def of(cls, tasks: Sequence[Task]) -> Turnout:
        """Nobody's yet."""
        return cls({task.task_id: [] for task in tasks}, {task.task_id: 0 for task in tasks})


async def run(
    catalogue: Catalogue,
    households: Sequence[Household],
    town: Town,
    organiser: Organiser,
    *,
    window_ms: int,
    on_step: Any,
) -> list[Measured]:
    """Three rounds from their publication to what was measured. RoundsError."""
    tasks = measures.tasks(
        catalogue,
        people=len(households),
        window_ms=window_ms,
        now_ms=time.time_ns() // 1_000_000,
    )
    manifests = await organiser.open(tasks)
    answer = Answer(catalogue)
    turnout = Turnout.of(tasks)
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(household: Household) -> None:
        async with gate:
            await contribute(household, organiser.policy(len(households)), answer, turnout)
            on_step()

    async with asyncio.TaskGroup() as group:
        for name in cheats.NAMES:
            group.create_task(_cheat(name, town, tasks, manifests, turnout))
        for household in households:
            group.create_task(one(household))
    return [
        await measured(organiser, task, manifest, turnout)
        for task, manifest in zip(tasks, manifests, strict=True)
    ]


async def contribute(
    household: Household, policy: Policy, answer: Answer, turnout: Turnout
) -> list[Report]:
    """One of the person's devices answers; what the service took is the truth's."""
    device = household.first
    by_task = dict.fromkeys(turnout.values, answer.measure)
    participant = Participant(device, measures=Measures(by_task))
    participant.core.set_policy(policy)
    participant.save()
    reports = await participant.contribute_once()
    for report in reports:
        if report.outcome is Outcome.CONTRIBUTED:
            value = answer.of_person(report.task_id, household.person, device.core.account_id)
            turnout.values[report.task_id].append(value)
    return reports


async def _cheat(
    name: str,
    town: Town,
    tasks: Sequence[Task],
    manifests: Sequence[Manifest],
    turnout: Turnout,
) -> None:
    """An account that sends a crafted report to each round."""
    device: SyncedDevice = await town.enrol()
    assert device.remote.signer is not None
    rounds = Rounds(device.transport, device.remote.signer)
    for task, manifest in zip(tasks, manifests, strict=True):
        honest = task.kind.encode(_ANY[task.task_id])
        made = cheats.report(name, task, manifest, honest)
        proof = device.ledger.proof(task.purpose)
        await rounds.contribute(manifest.round_id, made.header, made.boxes, proof)
        turnout.cheated[task.task_id] += 1
    await device.close()


_ANY: Final[Mapping[str, Any]] = {
    measures.CUISINES: 0,
    measures.RATING: 10 * measures.STARS[0] + 7,
    measures.EXPERIMENT: (1, measures.STARS[1]),
}
"""What a cheating device begins with."""


async def measured(
    organiser: Organiser, task: Task, manifest: Manifest, turnout: Turnout
) -> Measured:
    """A round of which so much is known, once its result is there. RoundsError."""
    result, signers, seconds = await organiser.result(manifest)
    values = turnout.values[task.task_id]
    exact = oracle.aggregate(task.kind, values)
    counted = replace(result.counted, reports=exact.reports, inconsistent=0, invalid=exact.refused)
    return Measured(
        task=task,
        manifest=manifest,
        result=result,
        signers=signers,
        truth=replace(result, counted=counted, outcome=Sums(exact.sums)),
        contributed=len(values),
        cheated=turnout.cheated[task.task_id],
        seconds_close_to_result=seconds,
    )


def report(measured: Sequence[Measured]) -> dict[str, Any]:
    """`aggregate` of `--json`: the first round's figures, and every round's below."""
    rounds = [one.data() for one in measured]
    return rounds[0] | {"rounds": rounds}
