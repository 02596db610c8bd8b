"""Parties that are killed, that vanish and that come back; a relay that was restored."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cbor2
import pytest

from crypto import labels
from crypto.field import FIELD61
from crypto.primitives import verify
from mpc import result as results
from mpc.kinds import Sum
from mpc.manifest import Manifest
from mpc.noise import Law, Mechanism
from mpc.result import RoundResult, Sums
from mpc.task import Caps, Task
from rookery.v1 import rounds_pb2
from services.party.states import State
from tests.party_process import PartyProcess, Town, task, town, until
from tests.service_process import environment

pytestmark = pytest.mark.timeout(300)
VALUES = [0, 1, 1, 2, 2, 2, 3]
TRUTH = (1, 2, 3, 1)
DEATHS = [state for state in State if not state.ended]
SECRET = 123_456_789


def read(
    made: Task, manifest: Manifest, answer: rounds_pb2.GetResultResponse
) -> RoundResult:  # fmt: skip
    """As an analyst reads it; a histogram's error is noise."""
    sigs = {row.party: row.sig for row in answer.sigs}
    result = results.open_(answer.result, sigs, manifest, made)
    assert isinstance(result.outcome, Sums)
    for got, true in zip(result.outcome.sums, TRUTH, strict=True):
        assert abs(got - true) < 4 * 12
    return result


async def dead(party: PartyProcess) -> None:
    """Waits until it has killed itself."""
    assert await asyncio.to_thread(party.process.wait) == -9


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Three parties that wait long for one another."""
    with town(tmp_path_factory.mktemp("restarts"), 3, 8, ROOKERY_PARTY_POLL_S="1") as made:
        yield made


def test_a_party_that_is_killed_in_every_state_ends_the_round_with_the_others(
    world: Town,
) -> None:
    """SIGKILL as soon as each state is in its file, in one round; its noise is drawn once."""
    victim = world.parties.all[1]
    made = task("killed")
    noises = set()

    async def play() -> tuple[Manifest, Any]:
        manifest = await world.parties.collect(made)
        await world.vote(made, manifest, VALUES)
        for at, state in enumerate(DEATHS):
            await dead(victim)
            assert victim.state(manifest) is state
            noises.add(victim.item(manifest, "noise"))
            later = DEATHS[at + 1].name if at + 1 < len(DEATHS) else ""
            world.parties.restart(victim, TEST_DIES_AT=later)
        return manifest, await world.parties.finished(manifest)

    victim.kill()
    world.parties.restart(victim, TEST_DIES_AT=State.OPEN.name)
    manifest, answer = asyncio.run(play())
    result = read(made, manifest, answer)
    assert (result.counted.valid, result.checked) == (len(VALUES), True)
    assert len(noises - {None}) == 1
    for party in world.parties.all:
        asyncio.run(until(lambda: party.state(manifest) is State.SIGNED))  # noqa: B023
        assert len(party.stored("SELECT * FROM ledger WHERE spec_hash = ?", made.spec_hash)) == 1


def held(party: PartyProcess, manifest: Manifest) -> int:
    """How many reports of a round a party has taken in."""
    [(number,)] = party.stored("SELECT round_n FROM round WHERE round_id = ?", manifest.round_id)
    [(count,)] = party.stored(f"SELECT count(*) FROM r{number:d}_report")  # noqa: S608
    return int(count)


def test_a_relay_that_was_restored_is_read_from_the_start(world: Town) -> None:
    """Its cursors are void: what is held is skipped, what is new is taken in, each report counts
    once. No value that a device sent stands in a file of relay or party, while they hold it."""
    process, parties = world.process, world.parties.all
    made = task("restored", window_ms=20_000)
    secret = task(
        "secret", window_ms=20_000, kind=Sum(FIELD61, 0, 1 << 30), kappa=1,
        noise=Law(Mechanism.GAUSSIAN, 1 << 45), caps=Caps(1 << 40, 1, 1 << 40),
    )  # fmt: skip

    async def play() -> tuple[Manifest, Any]:
        manifest, other = await asyncio.gather(
            world.parties.collect(made), world.parties.collect(secret)
        )
        await world.vote(made, manifest, VALUES[:4])
        await world.vote(secret, other, [SECRET] * 4)
        for party in parties:
            await until(lambda: held(party, manifest) == 4)  # noqa: B023
            await until(lambda: held(party, other) == 4)  # noqa: B023
        await asyncio.to_thread(restore)
        await world.vote(made, manifest, VALUES[4:], first=4)
        return manifest, await world.parties.finished(manifest)

    def restore() -> None:
        process.kill()
        for folder in (process.folder, *(party.folder for party in parties)):
            wrote = b"".join(
                file.read_bytes() for file in folder.iterdir() if file.name != "party.key"
            )
            assert len(wrote) > 10_000
            for trace in (
                str(SECRET).encode(), SECRET.to_bytes(4, "big"), SECRET.to_bytes(4, "little"),
            ):  # fmt: skip
                assert trace not in wrote
        subprocess.run(
            [sys.executable, "-m", "services.cli", "new-generation"],
            cwd=process.folder, check=True, capture_output=True,
            env=environment(ROOKERY_DATABASE=str(process.folder / "service.db")),
        )  # fmt: skip
        process.start()

    manifest, answer = asyncio.run(play())
    result = read(made, manifest, answer)
    assert result.counted.reports == result.counted.valid == len(VALUES)
    assert result.counted.refused == ({}, {}, {})
    for party in parties:
        assert party.stored("SELECT again FROM round WHERE round_id = ?", manifest.round_id) == [
            (1,)
        ]


# --- Parties that stay away

BEFORE = (State.OPEN, State.CLOSED)
AFTER = (State.VERIFIED, State.SUMMED, State.NOISED, State.OPENED)
STALLS = "stalls"


@dataclass(frozen=True)
class Left:
    """A round of two parties and one that stayed away, or stalled."""

    task: Task
    manifest: Manifest
    answer: Any
    victim: PartyProcess


async def left(world: Town, name: str, victim: PartyProcess) -> Left:
    """One such round: its result, or the word of both that are left."""
    first, second = world.parties.all[:2]
    made = task(name)
    manifest = await world.parties.collect(made, by=(first, second, victim))
    await world.vote(made, manifest, VALUES)
    answer = await world.parties.finished(manifest, abandoned=2)
    return Left(made, manifest, answer, victim)


async def vanished(world: Town, states: Sequence[State]) -> dict[object, Left]:
    """A round of the first two parties and each further one, which vanishes in one of the
    states; the last of them stalls in one."""
    victims = dict(zip(states, world.parties.all[2:], strict=False))

    async def play(state: State, victim: PartyProcess) -> Left:
        found = await left(world, f"vanished/{int(state)}", victim)
        await dead(victim)
        return found

    rounds = {state: play(state, victim) for state, victim in victims.items()}
    others: dict[object, Any] = {}
    if len(world.parties.all) > 2 + len(states):
        others[STALLS] = left(world, "lies/3/stall", world.parties.all[-1])
    played = await asyncio.gather(*rounds.values(), *others.values())
    return dict(zip([*rounds, *others], played, strict=True))


@dataclass(frozen=True)
class Away:
    """Two towns: one that soon gives up, and one that soon goes on without."""

    before: Town
    after: Town
    rounds: dict[object, Left]


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Away]:
    hasty = {"ROOKERY_PARTY_RETENTION_DAYS": str(6 / 86_400)}
    brisk = {
        "ROOKERY_PARTY_PATIENCE_S": "1",
        "ROOKERY_PARTY_POLL_S": "0.5",
        "ROOKERY_PARTY_JOB_STALL_S": "4",
    }
    with (
        town(
            tmp_path_factory.mktemp("before"), 2 + len(BEFORE), 8, dying=BEFORE, **hasty
        ) as before,
        town(tmp_path_factory.mktemp("after"), 3 + len(AFTER), 8, dying=AFTER, **brisk) as after,
    ):

        async def play() -> dict[object, Left]:
            played = await asyncio.gather(vanished(before, BEFORE), vanished(after, AFTER))
            return {**played[0], **played[1]}

        yield Away(before, after, asyncio.run(play()))


@pytest.mark.parametrize("state", BEFORE)
def test_who_vanishes_before_verified_ends_the_round(away: Away, state: State) -> None:
    """The others wait until retention is over, then give up, and sign why. Who comes back after
    that gives up as well."""
    one = away.rounds[state]
    assert not one.answer.result
    assert [row.party for row in one.answer.abandonments] == [1, 2]
    for row in one.answer.abandonments:
        key = one.manifest.parties[row.party - 1].ik_pk
        verify(key, labels.ABANDONMENT, one.manifest.digest + row.statement, row.sig)
        assert cbor2.loads(row.statement)["reason"] in ("party_missing", "party_gave_up")
    away.before.parties.restart(one.victim)
    asyncio.run(until(lambda: one.victim.state(one.manifest) is State.ABANDONED))


@pytest.mark.parametrize("state", AFTER)
def test_who_vanishes_later_is_done_without_and_learns_the_result_from_the_relay(
    away: Away, state: State
) -> None:
    """Once patience is over two of three open, the third one's noise in the sum. When it comes
    back all others are gone: the relay has what they signed."""
    one = away.rounds[state]
    result = read(one.task, one.manifest, one.answer)
    assert result.noise_of == (1, 2, 3)
    # Who dies in OPENED may have sent its share to the others, or not.
    assert not result.checked or state is State.OPENED
    for party in away.after.parties.all[:2]:
        party.kill()
    away.after.parties.restart(one.victim)
    asyncio.run(until(lambda: one.victim.state(one.manifest) is State.SIGNED))
    assert one.victim.item(one.manifest, "result") == one.answer.result
    assert len(one.victim.stored("SELECT * FROM ledger")) == 1


def test_a_party_that_stalls_in_the_opening_is_done_without(away: Away) -> None:
    """It answers, says that it is ready, and then sends nothing: the others shun it."""
    one = away.rounds[STALLS]
    result = read(one.task, one.manifest, one.answer)
    assert (result.checked, result.noise_of) == (False, (1, 2, 3))
    assert any('"rule": "stalled"' in party.log for party in away.after.parties.all[:2])
