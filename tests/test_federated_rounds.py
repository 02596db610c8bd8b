"""Federated learning as it is deployed: a relay, three parties, twenty devices, two rounds.

All of them are real processes but the devices, which are real clients in this one.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from client.analyst import collect
from client.analyst.panel import PinnedParty
from client.analyst.publisher import PartyLine, Publisher
from client.device import Device
from client.intelligence import federated, federated_metrics as metrics
from client.intelligence.federated import Part, Terms
from client.intelligence.federated_device import Learner, follow
from client.intelligence.federated_publisher import ModelPublisher
from client.intelligence.model import Model
from client.intelligence.quantise import Int8Model
from client.measure.consent import ConsentSettings
from client.measure.participant import Outcome, Participant
from client.measure.policy import Panel, Policy
from client.rounds import Rounds
from client.sync import SyncedDevice
from client.transport import Signer, Transport
from client.vault import MemoryVault
from mpc import result as results
from mpc.keys import PublisherKey
from mpc.kinds.results import Sums
from mpc.manifest import Manifest
from mpc.result import RoundResult
from mpc.task import Caps, Task
from tests.model_samples import ITEMS, SPEC as PLAIN, people
from tests.party_process import REAL, Parties
from tests.served import AUDIENCE
from tests.service_process import ServiceProcess

KEY = PublisherKey(b"\x07" * 32)
PURPOSE = "personalisation"
PEOPLE, WINDOW_MS = 20, 6_000
SPEC = replace(PLAIN, judges_permille=400, rate_milli=6000)
RHO = 900_000_000
"""Of twenty people noise that protects them would hide everything: here it is the machinery that
is tried, with noise that shows whether it is added and leaves something to learn."""


@dataclass
class Member:
    """One person's device, what it learns, and what is true of it."""

    learner: Learner
    participant: Participant

    @property
    def device(self) -> Device:
        return self.participant.synced.core

    @property
    def judges(self) -> bool:
        return metrics.is_judge(SPEC, self.device.account_id)


@dataclass
class Course:
    """The publisher's side."""

    process: ServiceProcess
    parties: Parties

    def transport(self, target: str = "") -> Transport:
        endpoint = self.process.endpoint
        return Transport(replace(endpoint, targets=(target,)) if target else endpoint)

    @property
    def policy(self) -> Policy:
        keys = tuple(one.ik for one in self.parties.all)
        return Policy().with_publisher(KEY.public).with_panel(Panel(keys, 1))

    async def open(
        self, part: Part, k_min: int, model: Model | None = None
    ) -> tuple[Model, Task, Manifest]:
        """By a publisher that has nothing but its key: about the newest model, or this one."""
        publisher = ModelPublisher(
            SPEC,
            Publisher(self.transport(), KEY),
            [
                collect.AskedParty(
                    PinnedParty(one.ik, one.address), PartyLine(self.transport(one.address), KEY)
                )
                for one in self.parties.all
            ],
            Rounds(self.transport(), Signer(KEY)),
            self.policy,
        )
        terms = Terms(
            purpose=PURPOSE, micro_rho=RHO, window_ms=WINDOW_MS, k_min=k_min, reports_max=1000,
            caps=Caps(RHO, 86_400_000, RHO), expires_ms=1 << 52,
        )  # fmt: skip
        now_ms = time.time_ns() // 1_000_000
        opened = await publisher.open(part, terms, now_ms=now_ms, model=model)
        return opened.model, opened.task, opened.manifest

    async def result(self, task: Task, manifest: Manifest) -> RoundResult:
        """Once the parties have signed it."""
        answer = await self.parties.finished(manifest)
        sigs = {row.party: row.sig for row in answer.sigs}
        assert answer.result, answer.abandonments
        return results.open_(answer.result, sigs, manifest, task)

    async def member(self, number: int) -> Member:
        """An account whose id is the same in every run, so that its part is too."""
        transport, rng = self.transport(), random.Random(f"learner {number}")
        core = Device.create(
            recovery_secret=None, now_ms=transport.clock.wall_ms(), rand=rng.randbytes
        )
        synced = SyncedDevice(core, MemoryVault(), transport)
        [state] = people(1, f"member {number}", SPEC)

        def rate(core: Device, now_ms: int) -> None:
            for place, rating in zip(state.places.tolist(), state.ratings.tolist(), strict=True):
                core.put(SPEC.collection, ITEMS[place], rating, now_ms=now_ms)

        synced.edit(rate)
        await synced.sync_once()
        participant = Participant(synced)
        most = {"round_micro_rho": RHO, "period_micro_rho": 9 * RHO, "all_time_micro_rho": 9 * RHO}
        participant.core.set_policy(self.policy.with_limits(**most))
        synced.edit(lambda core, now: ConsentSettings(core).allow(PURPOSE, now_ms=now))
        learner = Learner(SPEC, synced.vault.load(), rand=rng.randbytes)
        learner.register(participant.measures)
        participant.save()
        return Member(learner, participant)


@contextmanager
def course(folder: Path) -> Iterator[Course]:
    """For the time of the block."""
    relay = folder / "relay"
    relay.mkdir()
    with ServiceProcess(
        relay, ROOKERY_AUDIENCE=AUDIENCE, ROOKERY_PUBLISHERS=KEY.public.hex()
    ) as process:
        [address] = process.endpoint.targets
        parties = Parties(folder, address, module=REAL, ROOKERY_PARTY_TASK_MICRO_RHO_MAX=str(RHO))
        try:
            parties.start()
            yield Course(process, parties)
        finally:
            parties.end()


async def answer(members: Sequence[Member], *tasks: Task) -> list[int]:
    """Everybody answers what of these they can; how many contributed to each."""
    counts = [0] * len(tasks)
    gate = asyncio.Semaphore(6)

    async def one(member: Member) -> None:
        async with gate:
            for at, task in enumerate(tasks):
                [report] = await member.participant.contribute_once(only=task.task_id)
                assert report.outcome in (Outcome.CONTRIBUTED, Outcome.NOTHING), report
                counts[at] += report.outcome is Outcome.CONTRIBUTED

    async with asyncio.TaskGroup() as group:
        for member in members:
            group.create_task(one(member))
    return counts


def judged(model: Model, members: Sequence[Member]) -> list[int]:
    """What the judges' sums would be without noise: the test knows all profiles."""
    total = np.zeros(2 * federated.BINS, np.int64)
    for member in members:
        if member.judges:
            state = member.learner.state(member.device)
            hidden = metrics.asked(SPEC, member.device.account_id, state)
            total += metrics.judged(Int8Model.of(model), state, hidden)
    return [int(one) for one in total]


def sigma(task: Task) -> float:
    """Of the noise in an opened sum of all three parties."""
    assert task.noise is not None
    return math.sqrt(task.noise.opened_variance(present=3, t=1))


async def run(course: Course) -> None:
    members = [await course.member(number) for number in range(PEOPLE)]
    judges = sum(member.judges for member in members)
    assert 4 <= judges <= 11
    # One window: trainers improve the model, judges say how good it was.
    genesis, train, manifest = await course.open(Part.TRAIN, 8)
    same, judge_before, judging = await course.open(Part.JUDGE, 3)
    assert genesis.hash == same.hash == Model.genesis(SPEC).hash
    assert await answer(members, train, judge_before) == [PEOPLE - judges, judges]
    await course.result(train, manifest)
    before = await course.result(judge_before, judging)

    # The publisher makes the next model of the result, and asks for the next round.
    after_one, train_again, manifest = await course.open(Part.TRAIN, 8)
    assert (after_one.step, train_again.task_id) == (1, "fl/taste/v2")
    some, late = members[:-2], members[-1]
    for member in members[:-1]:
        caught = await follow(member.learner, member.participant)
        assert (caught.step, caught.behind, caught.refused) == (1, False, ())
        assert member.learner.model.hash == after_one.hash
    # A device that has not followed does not train what it does not have.
    [refused] = await late.participant.contribute_once(only=train_again.task_id)
    assert refused.rule == "model-unknown"
    [taught] = await answer(some, train_again)
    second = await course.result(train_again, manifest)
    assert taught == second.counted.valid >= 8
    after_two = federated.follow(after_one, train_again, second)

    # Devices of those who missed it get there too, whether they knew the model before or not.
    newcomer = await course.member(PEOPLE)
    for member in (*members, newcomer):
        caught = await follow(member.learner, member.participant)
        assert (caught.step, caught.behind) == (2, False)
        assert member.learner.model.hash == after_two.hash

    # The judges' joint word on it is the truth but for the noise, and it is a better model.
    newest, judge_after, manifest = await course.open(Part.JUDGE, 3)
    assert newest.hash == after_two.hash
    assert await answer(members, judge_after) == [judges]
    after = await course.result(judge_after, manifest)
    for task, model, told in ((judge_before, genesis, before), (judge_after, after_two, after)):
        sums = told.statistics(task)
        assert isinstance(sums, Sums)
        off = np.array(sums.sums) - judged(model, members)
        assert np.abs(off).max() < 7 * sigma(task)
        assert off.any()
        assert metrics.quality(sums.sums, sigma(task)).pairs > 0
    truths = [metrics.quality(judged(model, members), 0.0) for model in (genesis, after_two)]
    assert truths[1].log_loss < truths[0].log_loss - 0.05
    assert truths[1].auc > 0.8

    # What a device predicts with has 8 bits, and survives a restart.
    rows = newcomer.participant.synced.vault.load()
    predictor = Learner(SPEC, rows, rand=random.randbytes).predictor
    state = newcomer.learner.state(newcomer.device)
    off = np.abs(predictor.score(ITEMS, state) - after_two.score(ITEMS, state))
    assert (off <= predictor.error_bound(state)).all()
    assert off.any()
    for member in (*members, newcomer):
        await member.participant.synced.close()


def test_twenty_devices_train_a_model_in_two_rounds_and_judge_it(tmp_path: Path) -> None:
    """Each computes the same next model out of what three parties signed, and nobody sends one."""
    with course(tmp_path) as made:
        asyncio.run(run(made))
        for party in made.parties.all:
            assert "defect" not in party.log, party.log
