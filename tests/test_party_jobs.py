"""services/party/jobs.py: real child processes, and every way in which one can end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from crypto.field import FIELD31
from crypto.shares import split
from mpc.child import JobProcess
from mpc.description import Description
from mpc.session import Limits
from mpc.terms import Terms
from services.party.jobs import (
    CHANNELS_EARLY_MAX,
    EARLY_BYTES_MAX,
    EARLY_FRAMES_MAX,
    Ending,
    Jobs,
    Outcome,
)

ROUND = b"r" * 16
LIMITS = Limits(seconds=30, stall_seconds=20)
EVERYONE = (1, 2, 3)
Work = Callable[[JobProcess], Awaitable[dict[str, object]]]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes import this checkout."""
    root = Path(__file__).resolve().parent.parent
    monkeypatch.setenv("PYTHONPATH", f"{root}{os.pathsep}{root / 'proto'}")


def description(
    me: int, job: bytes, present: tuple[int, ...] = EVERYONE, limits: Limits = LIMITS
) -> Description:
    """One party's."""
    return Description(Terms(job * 16, b"d" * 32, 3, 1, present, 31), me, limits)


async def until(condition: Callable[[], bool]) -> None:
    """For what happens in another process, of which no event tells; the test's own time limit
    is the bound."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


class World:
    """Three parties' jobs in one process, linked directly. `drop`: these send nothing on."""

    def __init__(self) -> None:
        self.drop: set[int] = set()
        self.jobs = {me: Jobs(self._sender(me)) for me in EVERYONE}

    def _sender(self, me: int) -> Callable[[int, bytes, int, int, bytes], bool]:
        def send(party: int, round_id: bytes, channel: int, pc: int, payload: bytes) -> bool:
            if me in self.drop:
                return True
            return self.jobs[party].deliver(round_id, channel, me, pc, payload)

        return send

    async def run(
        self, job: bytes, work: dict[int, Work], limits: Limits = LIMITS
    ) -> dict[int, Outcome[dict[str, object]]]:
        """The outcome at each party that takes part."""
        present = tuple(sorted(work))
        found = await asyncio.gather(
            *(
                self.jobs[me].run(ROUND, description(me, job, present, limits), work[me])
                for me in present
            )
        )
        assert not [pid for jobs in self.jobs.values() for pid in jobs.pids]
        return dict(zip(present, found, strict=True))


def shares_of(values: list[int]) -> list[bytes]:
    """Party i's at i - 1."""
    field = FIELD31
    shares = split(field, field.encode(values), 3, 1, os.urandom)
    return [field.to_bytes(share.elements(field, len(values))) for share in shares]


def open_sum(noised: bytes, count: int) -> Work:
    return lambda job: job.step("open_sum", "o", noised=noised, count=count)


def opened(outcome: Outcome[dict[str, object]]) -> list[int]:
    assert outcome.ending is Ending.DONE, outcome
    assert outcome.value is not None
    values = outcome.value["values"]
    assert isinstance(values, bytes)
    return [int(value) for value in np.frombuffer(values, "<i8")]


async def test_a_lying_share_of_the_sum_is_refused_and_the_opening_named() -> None:
    world = World()
    sums = shares_of([5])
    lie = FIELD31.to_bytes(FIELD31.encode([12345]))
    found = await world.run(
        b"l", {1: open_sum(sums[0], 1), 2: open_sum(sums[1], 1), 3: open_sum(lie, 1)}
    )
    assert {(o.ending, o.opening) for o in found.values()} == {(Ending.OPENING_REFUSED, "o")}


async def test_frames_that_come_before_a_job_has_started_are_kept() -> None:
    world = World()
    sums = shares_of([7])
    first = asyncio.gather(
        *(world.jobs[me].run(ROUND, description(me, b"e"), open_sum(sums[me - 1], 1))
          for me in (1, 2))
    )  # fmt: skip
    await until(lambda: bool(world.jobs[3]._early))
    last = await world.jobs[3].run(ROUND, description(3, b"e"), open_sum(sums[2], 1))
    assert [opened(outcome) for outcome in [*await first, last]] == [[7], [7], [7]]


async def test_a_killed_process_ends_as_died_and_its_peers_hear_of_it() -> None:
    world = World()
    tasks = [
        asyncio.create_task(
            world.jobs[me].run(ROUND, description(me, b"k"), lambda job: asyncio.sleep(60))
        )
        for me in (1, 2)
    ]
    await until(lambda: all(world.jobs[me].pids for me in (1, 2)))
    os.kill(world.jobs[1].pids[0], signal.SIGKILL)
    assert (await tasks[0]).ending is Ending.DIED
    world.jobs[2].lose(ROUND, 1)
    lost = await tasks[1]
    assert (lost.ending, lost.party, lost.rule) == (Ending.PEER_LOST, 1, "gone")


async def test_a_stalling_peer_ends_the_job_by_its_deadline() -> None:
    world = World()
    world.drop = {3}
    sums = shares_of([7])
    limits = Limits(seconds=6, stall_seconds=2)
    found = await world.run(b"s", {me: open_sum(sums[me - 1], 1) for me in EVERYONE}, limits)
    assert (found[1].ending, found[1].party) == (Ending.PEER_LOST, 3)
    assert (found[2].ending, found[2].party) == (Ending.PEER_LOST, 3)


async def test_garbage_from_a_peer_ends_the_job_and_nothing_else() -> None:
    """Bytes in the place of a hello; then the same parties do another job."""
    world = World()
    sums = shares_of([7])
    send = world.jobs[1]._send

    def garbled(party: int, round_id: bytes, channel: int, pc: int, _: bytes) -> bool:
        return send(party, round_id, channel, pc, b"\x80\x04cos\nsystem\n.")

    world.jobs[1]._send = garbled
    limits = Limits(seconds=20, stall_seconds=3)
    found = await world.run(b"g", {me: open_sum(sums[me - 1], 1) for me in EVERYONE}, limits)
    for me in (2, 3):
        assert (found[me].ending, found[me].rule) == (Ending.PEER_LOST, "garbage")
        assert found[me].party == 1
    world.jobs[1]._send = send
    again = await world.run(b"h", {me: open_sum(sums[me - 1], 1) for me in EVERYONE})
    assert opened(again[3]) == [7]


async def test_cancelling_a_job_leaves_no_process() -> None:
    jobs = Jobs(lambda *_: True)
    task = asyncio.create_task(jobs.run(ROUND, description(1, b"c"), lambda job: asyncio.sleep(60)))
    await until(lambda: bool(jobs.pids))
    (pid,) = jobs.pids
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_comes_early_is_bounded() -> None:
    """By frames, by bytes over all channels, and by channels."""
    jobs = Jobs(lambda *_: True)
    taken = 0
    while jobs.deliver(ROUND, 1 << 31, 2, taken, b"x"):
        taken += 1
    assert taken == EARLY_FRAMES_MAX
    megabyte = bytes(1 << 20)
    sent = 0
    while jobs.deliver(ROUND, sent % 3, 2, 0, megabyte):
        sent += 1
    assert sent == EARLY_BYTES_MAX >> 20
    for channel in range(1000):
        assert jobs.deliver(ROUND, channel, 2, 0, megabyte)
    [early] = jobs._early.values()
    assert len(early.channels) == CHANNELS_EARLY_MAX
    assert early.bytes == CHANNELS_EARLY_MAX << 20
    jobs.forget(ROUND)
    assert not jobs._early


def test_what_one_party_sends_early_takes_no_room_from_another() -> None:
    """The one that floods is told so, and nobody else."""
    jobs = Jobs(lambda *_: True)
    assert jobs.deliver(ROUND, 7, 2, 0, b"honest")
    while jobs.deliver(ROUND, 7, 3, 0, b""):
        pass
    for channel in range(100):
        jobs.deliver(ROUND, channel, 3, 0, b"x")
    assert jobs.deliver(ROUND, 7, 2, 1, b"honest")
    assert len(jobs._early[ROUND, 2].channels[7]) == 2
