"""Three real party processes and a real relay: one histogram, whatever happens to a party."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import cbor2
import grpc
import pytest

from crypto import labels
from crypto.primitives import verify
from mpc import result as results
from mpc.manifest import Manifest
from mpc.result import RoundResult
from mpc.task import Task
from services.party.states import State
from tests.party_process import PUBLISHER, Parties, PartyProcess, contribute, contribution, task
from tests.served import serving
from tests.worlds import World

VALUES = [0, 1, 1, 2, 2, 2, 3, 3, 3, 3]
pytestmark = pytest.mark.timeout(110)


@pytest.fixture
async def parties(tmp_path: Path) -> AsyncIterator[Parties]:
    folder = tmp_path / "relay"
    folder.mkdir()
    async with serving(folder, publishers=(PUBLISHER.ik_pk.hex(),)) as service:
        made = Parties(tmp_path, service)
        try:
            made.start()
            yield made
        finally:
            made.end()


async def contributed(parties: Parties, made: Task, manifest: Manifest) -> None:
    """Ten honest reports, and one of a device that votes twice."""
    service, kind = parties.service, made.kind
    worlds = [World.create(f"person {number}") for number in range(len(VALUES) + 1)]
    await asyncio.gather(*(service.create(world) for world in worlds))
    vectors = [kind.encode(value) for value in VALUES]
    vectors.append(kind.field.add(kind.encode(0), kind.encode(1)))
    for number, (world, vector) in enumerate(zip(worlds, vectors, strict=True)):
        await contribute(service, world, contribution(made, manifest, vector, number))


async def finished(parties: Parties, manifest: Manifest, abandoned: int = 0) -> Any:
    """The signed result, or so many abandonments; the test's own time limit is the bound."""
    while True:
        answer = await parties.result(manifest.round_id)
        if answer is not None and (answer.result or len(answer.abandonments) >= max(1, abandoned)):
            return answer
        await asyncio.sleep(0.2)


def check_result(answer: Any, manifest: Manifest, made: Task) -> RoundResult:
    """At least two signed it, the cheater is out, the error is noise."""
    assert answer.result, answer
    sigs = {row.party: row.sig for row in answer.sigs}
    result = results.open_(answer.result, sigs, manifest, made)
    assert (result.counted.reports, result.counted.valid) == (11, 10)
    assert isinstance(result.outcome, results.Sums)
    for got, true in zip(result.outcome.sums, (1, 2, 3, 4), strict=True):
        assert abs(got - true) < 4.0 * 12
    return result


def stored(party: PartyProcess, query: str) -> list[tuple[Any, ...]]:
    """What a party's file says now."""
    look = sqlite3.connect(f"file:{party.folder / 'party.db'}?mode=ro", uri=True)
    try:
        return look.execute(query).fetchall()
    finally:
        look.close()


async def until(condition: Callable[[], bool]) -> None:
    """For what happens in other processes; the test's own time limit is the bound."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def state_of(party: PartyProcess) -> State:
    return State(stored(party, "SELECT state FROM round")[0][0])


async def test_three_parties_compute_a_histogram(parties: Parties) -> None:
    """From devices to a result that all signed; nothing of a report is left anywhere."""
    made = task("whole")
    manifest = await parties.collect(made)
    await contributed(parties, made, manifest)
    result = check_result(await finished(parties, manifest), manifest, made)
    assert result.noise_of == (1, 2, 3)
    for party in parties.all:
        await until(lambda party=party: state_of(party) is State.SIGNED)  # type: ignore[misc]
        tables = [name for (name,) in stored(party, "SELECT name FROM sqlite_master")]
        assert not [name for name in tables if name.startswith("r1_")]
        assert stored(party, "SELECT box_sk FROM round") == [(None,)]
        assert stored(party, "SELECT * FROM refused") == []
        assert len(stored(party, "SELECT * FROM ledger")) == 1
        assert "defect" not in party.log


async def test_an_old_manifest_or_a_second_one_is_not_signed(parties: Parties) -> None:
    made = task("manifests")
    manifest = await parties.collect(made)
    other = Manifest(
        manifest.round_id, manifest.spec_hash, 1, manifest.open_ms, manifest.close_ms,
        manifest.k_min, manifest.parties[::-1],
    )  # fmt: skip
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await parties.sign(parties.all[0], other)
    assert refusal.value.code() is grpc.StatusCode.ABORTED
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await parties.prepare(parties.all[0], made, b"another-round-id", manifest.open_ms)
    assert refusal.value.code() is grpc.StatusCode.ABORTED


@pytest.mark.parametrize(
    "state",
    [State.OPEN, State.CLOSED, State.VERIFIED, State.SUMMED, State.NOISED, State.OPENED],
)
async def test_a_party_that_is_killed_in_a_state_comes_back_and_goes_on(
    parties: Parties, state: State
) -> None:
    """SIGKILL as soon as its file is at that state or beyond; its noise stays what it was."""
    made = task(f"killed-{state}")
    manifest = await parties.collect(made)
    await contributed(parties, made, manifest)
    victim = parties.all[1]
    await until(lambda: state_of(victim) >= state)
    victim.kill()
    at = state_of(victim)
    noise = stored(victim, "SELECT name, bytes FROM item WHERE name = 'noise'")
    parties.restart(victim)
    check_result(await finished(parties, manifest), manifest, made)
    await until(lambda: state_of(victim) is State.SIGNED)
    assert at >= state
    assert len(noise) <= 1
    assert len(stored(victim, "SELECT * FROM ledger")) <= 1


async def test_a_party_that_is_gone_before_verified_ends_the_round(tmp_path: Path) -> None:
    """The others wait until retention ends, then abandon with a signed reason."""
    folder = tmp_path / "relay"
    folder.mkdir()
    async with serving(folder, publishers=(PUBLISHER.ik_pk.hex(),)) as service:
        parties = Parties(tmp_path, service, ROOKERY_PARTY_RETENTION_DAYS=str(6 / 86_400))
        try:
            parties.start()
            made = task("gone")
            manifest = await parties.collect(made)
            await contributed(parties, made, manifest)
            parties.all[2].kill()
            answer = await finished(parties, manifest, abandoned=2)
            assert not answer.result
            for row in answer.abandonments:
                key = manifest.parties[row.party - 1].ik_pk
                verify(key, labels.ABANDONMENT, manifest.digest + row.statement, row.sig)
                assert cbor2.loads(row.statement)["reason"] == "party_missing"
            assert [row.party for row in answer.abandonments] == [1, 2]
        finally:
            parties.end()


async def test_a_party_that_is_gone_after_verified_is_done_without(tmp_path: Path) -> None:
    folder = tmp_path / "relay"
    folder.mkdir()
    async with serving(folder, publishers=(PUBLISHER.ik_pk.hex(),)) as service:
        parties = Parties(tmp_path, service, ROOKERY_PARTY_PATIENCE_S="1")
        try:
            parties.start()
            made = task("without")
            manifest = await parties.collect(made)
            await contributed(parties, made, manifest)
            victim = parties.all[2]
            await until(lambda: all(state_of(one) >= State.VERIFIED for one in parties.all))
            victim.kill()
            check_result(await finished(parties, manifest), manifest, made)
            for party in parties.all[:2]:
                await until(lambda party=party: state_of(party) is State.SIGNED)  # type: ignore[misc]
        finally:
            parties.end()
