"""All of it against a governed service, with consent as people give and take it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from client.consent.exporting import export
from client.device import Device
from client.intelligence import exposures
from client.intelligence.context import Context
from client.intelligence.explain import explain
from client.intelligence.ondevice import OnDevice
from client.measure.participant import Outcome, Participant, Report
from client.measure.values import Measures
from client.sync import SyncedDevice
from crypto.field import FIELD61
from mpc.kinds import Experiment
from mpc.noise import Law, Mechanism
from mpc.task import Caps, Task
from tests.governed_service import KEYS, Governed
from tests.governed_worlds import KEY, OPEN, shown
from tests.measure_worlds import POLICY
from tests.relay_worlds import Relay, manifest, relaying, task
from tests.shell_worlds import endpoint_of, fleet
from tests.test_intelligence_ondevice import popular, shipped

SHIPPED = shipped()
EVERYBODY = tuple(replace(one, percent=100) for one in SHIPPED.experiments)
HELD = replace(SHIPPED, access=OPEN, experiments=EVERYBODY)
WIDE = Caps(10**9, 86_400_000, 10**9)


@dataclass
class House:
    """Two devices of one account, under the shipped policy, and their service."""

    relay: Relay
    a: SyncedDevice
    b: SyncedDevice

    async def both(self) -> None:
        """Everybody has everything."""
        for synced in (self.a, self.b, self.a):
            await synced.sync_once()

    async def ask(self, made: Task) -> None:
        """Opens a round."""
        await self.relay.publish(made)
        await self.relay.collect(manifest(made, self.relay.now_ms - 1_000, made.task_id))

    async def contribute(self, synced: SyncedDevice, task_id: str) -> Report:
        """What became of a task, as the app of a device answers it."""
        measures = Measures()
        OnDevice(synced).register(measures)
        one = Participant(synced, measures=measures)
        one.core.set_policy(POLICY.with_limits(round_micro_rho=200_000))
        one.save()
        return (await one.contribute_once(only=task_id))[-1]


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    """They have said yes to nothing yet."""
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(relaying(tmp_path, **KEYS))
        await Governed(relay.service).publish(HELD)
        devices = await stack.enter_async_context(fleet(endpoint_of(relay.service)))
        a = await devices.first()
        b = await devices.another(a)
        for synced in (a, b):
            synced.pin_policy(KEY.public)
            synced.on_policy(shown(HELD))
        made = House(relay, a, b)
        await made.both()
        yield made


def rate(item: str, stars: int) -> Callable[[Device, int], None]:
    """A rating, through the gate."""
    return lambda core, now_ms: core.put("rating", item, stars, now_ms=now_ms)


def order(synced: SyncedDevice) -> list[str]:
    """Three cuisines, best first."""
    items = ("italian", "korean", "thai")
    return [one.item for one in OnDevice(synced).rank("rating", Context(), items=items)]


async def test_a_ranking_follows_what_its_person_agrees_to(home: House) -> None:
    """Granted on one device it holds on both, which name each other's ratings; paused nothing is
    used; withdrawn it is gone, with the ratings that nothing else needed."""
    await home.a.consenting.grant("ranking")
    await home.both()
    home.a.edit(rate("thai", 5))
    home.b.edit(rate("korean", 4))
    await home.both()
    for synced in (home.a, home.b):
        assert order(synced) == ["thai", "korean", "italian"]
        told = explain("korean", OnDevice(synced).rank("rating", Context()))
        assert told is not None
        assert [one.devices for one in told.reasons] == [(1,)]
    home.b.consenting.pause(True)
    await home.both()
    assert order(home.a) == order(home.b) == ["italian", "korean", "thai"]
    home.a.consenting.pause(False)
    assert order(home.a) == ["thai", "korean", "italian"]
    await home.a.consenting.withdraw("ranking")
    await home.both()
    assert order(home.b) == ["italian", "korean", "thai"]
    assert home.b.core.list("rating") == {}


async def test_a_cohort_is_counted_with_consent_alone(home: House) -> None:
    """Without the task's purpose its round is not answered; with it the contribution carries its
    proof, and the service takes it."""
    await home.a.consenting.grant("ranking")
    home.a.edit(rate("thai", 5))
    made = popular(HELD)
    await home.ask(made)
    refused = await home.contribute(home.a, made.task_id)
    assert (refused.outcome, refused.rule) == (Outcome.REFUSED, "consent")
    await home.a.consenting.grant("statistics")
    given = await home.contribute(home.a, made.task_id)
    assert given.outcome is Outcome.CONTRIBUTED
    await home.both()
    again = await home.contribute(home.b, made.task_id)
    assert again.outcome is Outcome.ALREADY


async def test_an_experiment_runs_and_ends_with_its_purpose(home: House) -> None:
    """One variant on both devices, one report of both outcomes; a reset
    removes what was kept, and so does withdrawing, on both."""
    await home.a.consenting.grant("experiments")
    await home.both()
    shown_, total = set(), 0
    for synced in (home.a, home.b):
        trials = OnDevice(synced).experiments
        now_ms = synced.now_ms()
        shown_.add(trials.expose("home-first", now_ms=now_ms))
        total += trials.outcome("home-first", 2, now_ms=now_ms)
        synced.save()
    assert (len(shown_), total) == (1, 2)
    await home.both()
    assert OnDevice(home.a).experiments.total("home-first") == 4
    exported = export(home.a, Participant(home.a).core)["experiments"]
    assert [(one["device"], one["outcome"]) for one in exported] == [(0, 2), (1, 2)]
    assert {(one["experiment"], one["variant"]) for one in exported} == {
        ("home-first", next(iter(shown_)))
    }
    rule = OnDevice(home.a).experiments.rule("home-first")
    kind = Experiment(FIELD61, 2, rule.variants, 1, 5)
    law = Law(Mechanism.GAUSSIAN, 40_000)
    made = task(
        rule.task, kind=kind, kappa=1, noise=law, caps=WIDE, purpose="experiments", k_min=50
    )
    await home.ask(made)
    assert (await home.contribute(home.b, made.task_id)).outcome is Outcome.CONTRIBUTED
    assert home.a.consenting.reset() == 2
    await home.both()
    assert OnDevice(home.b).experiments.total("home-first") is None
    OnDevice(home.b).experiments.expose("home-first", now_ms=home.b.now_ms())
    home.b.save()
    await home.b.consenting.withdraw("experiments")
    await home.both()
    for synced in (home.a, home.b):
        assert not list(exposures.every(synced.core, "home-first"))
        assert OnDevice(synced).experiments.variant("home-first") == "as-before"
