"""Parties under a policy: what they refuse, and that they never go back to an older one."""

from __future__ import annotations

import io
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cbor2
import grpc.aio
import pytest

from crypto.policy import Bundle
from mpc.keys import PublisherKey
from services.errors import TaskUndeclared
from services.listed import Listed
from services.party.governing import NO_POLICY, Governing
from services.party.relay import Relay
from services.party.store import PartyStore
from services.telemetry import Telemetry, configure
from tests.governed_service import KEYS, Governed
from tests.governed_worlds import CUISINE, KEY, OTHER_KEY, bundle, killing
from tests.party_process import PUBLISHER, Parties, task, until
from tests.relay_worlds import PARTIES, attached, task as histogram
from tests.served import AUDIENCE, Refusal, serving
from tests.service_process import ServiceProcess

pytestmark = pytest.mark.timeout(120)
FIRST = bundle()
SECOND = bundle(FIRST, flags=(killing("task", "cuisine"),))
THIRD = bundle(SECOND)


@dataclass
class Office:
    """What a party's process has for the policy: its file, its settings, its log."""

    path: Path
    log: io.StringIO
    key: PublisherKey = KEY

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Governing]:
        """For the life of a process."""
        store = PartyStore.open(self.path)
        try:
            telemetry = Telemetry(configure("info", "json", self.log))
            yield Governing(store, [Listed(self.key.public)], telemetry)
        finally:
            store.close()


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """A party that pins the publisher, and a folder for a relay."""
    (tmp_path / "relay").mkdir()
    return Office(tmp_path / "party.db", io.StringIO())


@asynccontextmanager
async def relay_of(governed: Governed) -> AsyncIterator[Relay]:
    """The relay as a party calls it."""
    async with grpc.aio.insecure_channel(governed.service.server.address) as channel:
        yield Relay(channel, PARTIES[0].as_party, AUDIENCE, lambda: governed.service.now_ms)


@asynccontextmanager
async def relaying(folder: Path, *bundles: Bundle) -> AsyncIterator[tuple[Governed, Relay]]:
    """A governed relay with these bundles."""
    async with serving(folder, **KEYS) as service:
        governed = Governed(service)
        for made in bundles:
            await governed.publish(made)
        async with relay_of(governed) as relay:
            yield governed, relay


async def test_a_party_without_a_policy_key_computes_what_its_publishers_ask(
    tmp_path: Path, office: Office
) -> None:
    """It asks for no policy, and refuses nothing for one."""
    async with (
        relaying(tmp_path / "relay", FIRST) as (_, relay),
        office.open() as it,
    ):
        it.pin([])
        await it.refresh(relay)
        assert (it.governed, it.bundle) == (False, None)
        assert it.stops(histogram("anything"), 2) is None


async def test_a_governed_party_refuses_what_no_bundle_allows(
    tmp_path: Path, office: Office
) -> None:
    """Without one: everything. Then what is undeclared, stopped, or outside its rule; what was
    published a moment ago counts at once."""
    async with relaying(tmp_path / "relay") as (governed, relay), office.open() as it:
        made = histogram()
        with pytest.raises(TaskUndeclared) as refused:
            await it.check(made, 2, relay)
        assert refused.value.rule == NO_POLICY
        await governed.publish(FIRST)
        await it.check(made, 2, relay)
        for odd, k_min, rule in (
            (histogram("other"), 2, "task-undeclared"),
            (histogram(purpose="statistics"), 2, "task-purpose"),
            (made, 1, "task-k-min"),
        ):
            with pytest.raises(TaskUndeclared) as refused:
                await it.check(odd, k_min, relay)
            assert refused.value.rule == rule
        quiet = bundle(
            FIRST,
            tasks=(*FIRST.tasks[:-1], replace(CUISINE, micro_rho_at_most=made.cost_micro_rho - 1)),
        )
        await governed.publish(quiet)
        await it.refresh(relay)
        assert it.stops(made, 2) == "task-noise"
        await governed.publish(bundle(quiet, flags=(killing("signal", "region"),)))
        await it.refresh(relay)
        assert it.stops(made, 2) == "task-killed"


async def test_a_party_never_goes_back(tmp_path: Path, office: Office) -> None:
    """Neither to what a relay that was put back has, nor to another bundle under the number; not
    after a restart either. It says so in its log, once."""
    async with relaying(tmp_path / "relay", FIRST) as (_, relay), office.open() as it:
        await it.refresh(relay)
        assert it.bundle == FIRST
    shutil.copytree(tmp_path / "relay", tmp_path / "old")
    async with relaying(tmp_path / "relay", SECOND) as (_, relay), office.open() as it:
        assert it.bundle == FIRST
        await it.refresh(relay)
        assert it.bundle == SECOND
    rival = bundle(FIRST, title="For somebody else")
    async with relaying(tmp_path / "old") as (governed, relay), office.open() as it:
        for _ in range(3):
            await it.refresh(relay)
            assert it.bundle == SECOND
            assert it.stops(histogram(), 2) == "task-killed"
        await governed.publish(rival)
        await it.refresh(relay)
        assert it.bundle == SECOND
    assert office.log.getvalue().count('"rule": "rollback"') == 1
    assert office.log.getvalue().count('"rule": "fork"') == 1
    async with relaying(tmp_path / "relay", THIRD) as (_, relay), office.open() as it:
        await it.refresh(relay)
        assert it.bundle == THIRD


async def test_a_party_takes_no_bundle_of_another_publisher(tmp_path: Path, office: Office) -> None:
    """Whatever the relay trusts: the keys are the party's own."""
    office.key = OTHER_KEY
    async with relaying(tmp_path / "relay", FIRST) as (governed, relay), office.open() as it:
        await it.refresh(relay)
        assert it.stops(histogram(), 2) == NO_POLICY
        it.pin([Listed(KEY.public), Listed(OTHER_KEY.public)])
        await it.refresh(relay)
        await governed.publish(SECOND, OTHER_KEY)
        await it.refresh(relay)
        it.pin([Listed(OTHER_KEY.public)])
        assert it.bundle == SECOND
    assert '"rule": "publisher"' in office.log.getvalue()


async def test_a_relay_that_is_away_changes_nothing(tmp_path: Path, office: Office) -> None:
    """What is held stays in force."""
    async with relaying(tmp_path / "relay", FIRST) as (_, relay), office.open() as it:
        await it.refresh(relay)
    async with office.open() as it, grpc.aio.insecure_channel("127.0.0.1:1") as nowhere:
        await it.refresh(Relay(nowhere, PARTIES[0].as_party, AUDIENCE, lambda: 0))
        assert it.bundle == FIRST


# --- processes ---


@dataclass
class Town:
    """A governed relay and three governed parties, all processes."""

    process: ServiceProcess
    parties: Parties

    async def publish(self, made: Bundle) -> None:
        """By the policy's publisher."""
        async with attached(self.process) as relay:
            await Governed(relay.service).publish(made)

    def reasons(self, answer: Any) -> list[str]:
        """Why parties gave up."""
        return [cbor2.loads(row.statement)["reason"] for row in answer.abandonments]


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    """For the time of a test."""
    place = tmp_path / "relay"
    place.mkdir()
    pinned = KEY.public.hex()
    with ServiceProcess(
        place, ROOKERY_AUDIENCE=AUDIENCE, ROOKERY_PUBLISHERS=PUBLISHER.ik_pk.hex(),
        ROOKERY_POLICY_KEYS=pinned,
    ) as process:  # fmt: skip
        [address] = process.endpoint.targets
        parties = Parties(
            tmp_path, address, ROOKERY_PARTY_POLICY_KEYS=pinned, ROOKERY_PARTY_POLICY_POLL_S="0.2"
        )
        try:
            parties.start()
            yield Town(process, parties)
        finally:
            parties.end()


async def refused(call: Any) -> tuple[str, str]:
    """Reason and rule of a refusal."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    found = Refusal.of(failed.value)
    return found.reason, found.metadata.get("rule", "")


async def test_parties_sign_and_compute_what_the_policy_allows(town: Town) -> None:
    """No round of an undeclared task; one of a declared task comes to its end; one that a switch
    stops after it was signed is given up by all of them, and its task signed no more."""
    parties = town.parties
    made = task("cuisine", window_ms=3_000)
    one, *_ = parties.all
    asked = parties.prepare(one, made, b"r" * 16, 4_000_000_000_000)
    assert await refused(asked) == ("TASK_UNDECLARED", "no-policy")
    await town.publish(FIRST)
    odd = parties.prepare(one, task("other"), b"r" * 16, 4_000_000_000_000)
    assert await refused(odd) == ("TASK_UNDECLARED", "task-undeclared")
    allowed = await parties.collect(made)
    answer = await parties.finished(allowed, 3)
    # Nobody has contributed: it is as far as it gets.
    assert "too_few_valid" in town.reasons(answer)
    assert {*town.reasons(answer)} <= {"too_few_valid", "party_gave_up"}
    stopped = await parties.collect(made, "stopped")
    await town.publish(SECOND)
    answer = await parties.finished(stopped, 3)
    assert "policy" in town.reasons(answer)
    assert {*town.reasons(answer)} <= {"policy", "party_gave_up"}
    asked = parties.prepare(one, made, b"s" * 16, 4_000_000_000_000)
    assert await refused(asked) == ("TASK_UNDECLARED", "task-killed")


async def test_a_relay_that_was_put_back_makes_no_party_compute(town: Town) -> None:
    """What has been stopped stays so for a party that knew it, also after it was killed, while
    the relay itself would take the task again."""
    parties, process = town.parties, town.process
    made = task("cuisine", window_ms=3_000)
    await town.publish(FIRST)
    process.stop()
    old = process.folder / "old.db"
    shutil.copy(process.folder / "service.db", old)
    process.start()
    await town.publish(SECOND)
    one, *_ = parties.all
    held = "SELECT sequence FROM policy"
    await until(lambda: all(party.stored(held) == [(2,)] for party in parties.all))
    process.stop()
    shutil.copy(old, process.folder / "service.db")
    process.start()
    one.kill()
    parties.restart(one)
    await parties.publish(made)
    for party in parties.all:
        asked = parties.prepare(party, made, b"r" * 16, 4_000_000_000_000)
        assert await refused(asked) == ("TASK_UNDECLARED", "task-killed")
    assert [party.stored(held) for party in parties.all] == [[(2,)]] * 3
