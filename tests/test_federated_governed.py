"""A shared model under the shipped policy: trained with consent alone, and out of what it names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from client.device import Device
from client.intelligence import federated, federated_metrics as metrics
from client.intelligence.federated import Part, Terms
from client.intelligence.federated_device import Learner
from client.intelligence.model import Model
from client.intelligence.model_spec import ModelSpec
from client.measure.participant import Outcome, Participant, Report
from client.sync import SyncedDevice
from crypto.errors import FormatError
from mpc.task import Caps, Task
from tests.governed_service import KEYS, Governed
from tests.governed_worlds import KEY, OPEN, shown
from tests.measure_worlds import POLICY
from tests.model_samples import rand
from tests.relay_worlds import Relay, manifest, relaying
from tests.shell_worlds import endpoint_of, fleet
from tests.test_intelligence_ondevice import shipped

HELD = replace(shipped(), access=OPEN)
CUISINES = ("georgian", "italian", "korean", "lebanese", "mexican", "peruvian", "thai", "turkish")
SPEC = ModelSpec("taste", "What you may like", "rating", CUISINES, rank=2, judges_permille=0)
TERMS = Terms(
    purpose="learning", micro_rho=100_000, window_ms=60_000, k_min=50, reports_max=10_000,
    caps=Caps(200_000, 86_400_000, 1_000_000), expires_ms=1 << 52,
)  # fmt: skip


@dataclass
class Home:
    """One device under the shipped policy, and its service."""

    relay: Relay
    synced: SyncedDevice

    async def ask(self, made: Task) -> None:
        """Opens a round."""
        await self.relay.publish(made)
        await self.relay.collect(manifest(made, self.relay.now_ms - 1_000, made.task_id))

    async def contribute(self, task: Task, spec: ModelSpec = SPEC) -> Report:
        """What became of a task."""
        one = Participant(self.synced)
        Learner(spec, {}, rand=rand("governed")).register(one.measures)
        one.core.set_policy(POLICY.with_limits(round_micro_rho=200_000))
        one.save()
        return (await one.contribute_once(only=task.task_id))[-1]


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    """Nothing is agreed to but a ranking, for which six cuisines are rated."""
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(relaying(tmp_path, **KEYS))
        await Governed(relay.service).publish(HELD)
        devices = await stack.enter_async_context(fleet(endpoint_of(relay.service)))
        synced = await devices.first()
        synced.pin_policy(KEY.public)
        synced.on_policy(shown(HELD))
        await synced.sync_once()
        await synced.consenting.grant("ranking")

        def rate(core: Device, now_ms: int) -> None:
            for at, item in enumerate(CUISINES[:6]):
                core.put("rating", item, 1 + at % 5, now_ms=now_ms)

        synced.edit(rate)
        yield Home(relay, synced)


async def test_an_update_is_given_with_consent_for_learning_and_no_other(home: Home) -> None:
    """Without it the round is refused; with it the service takes the contribution with its proof;
    after withdrawing the next round is refused again."""
    first = federated.task(Model.genesis(SPEC), Part.TRAIN, 1, TERMS)
    await home.ask(first)
    refused = await home.contribute(first)
    assert (refused.outcome, refused.rule) == (Outcome.REFUSED, "consent")
    await home.synced.consenting.grant("learning")
    assert (await home.contribute(first)).outcome is Outcome.CONTRIBUTED
    await home.synced.consenting.withdraw("learning")
    second = federated.task(Model.genesis(SPEC), Part.TRAIN, 2, TERMS)
    await home.ask(second)
    refused = await home.contribute(second)
    assert (refused.outcome, refused.rule) == (Outcome.REFUSED, "consent")


async def test_a_judge_answers_under_the_same_consent(home: Home) -> None:
    """With a specification by which everybody judges."""
    spec = replace(SPEC, judges_permille=1000)
    assert metrics.is_judge(spec, home.synced.core.account_id)
    made = federated.task(Model.genesis(spec), Part.JUDGE, 1, TERMS)
    await home.ask(made)
    await home.synced.consenting.grant("learning")
    assert (await home.contribute(made, spec)).outcome is Outcome.CONTRIBUTED


def test_the_shipped_policy_declares_both_parts_and_bounds_their_rounds() -> None:
    """Too few people, too little noise or another purpose is refused by its rule."""
    for part in Part:
        made = federated.task(Model.genesis(SPEC), part, 7, TERMS)

        def check(task: Task) -> None:
            HELD.check_task(
                task.task_id, purpose=task.purpose, kind=task.kind.name, k_min=task.k_min,
                micro_rho=task.cost_micro_rho,
            )  # fmt: skip

        check(made)
        loud = federated.task(Model.genesis(SPEC), part, 7, replace(
            TERMS, micro_rho=250_000, caps=Caps(250_000, 1, 250_000)
        ))  # fmt: skip
        for wrong, rule in (
            (replace(made, k_min=49), "task-k-min"),
            (replace(made, purpose="statistics"), "task-purpose"),
            (replace(made, task_id="fl/other/v1"), "task-undeclared"),
            (loud, "task-noise"),
        ):
            with pytest.raises(FormatError) as refused:
                check(wrong)
            assert refused.value.rule == rule
