"""Mustering the parties for a job: who is ready, who is still busy, who began anew."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from crypto.errors import FormatError
from mpc.session import Limits
from services.call import Clock
from services.party import messages
from services.party.assignment import Assignment
from services.party.blame import POINTS_MAX, Blame
from services.party.jobs import Ending, Outcome
from services.party.messages import Job, Ready
from services.party.muster import Finished, Muster
from services.party.parley import Parley
from services.party.states import Terms
from services.party.turns import Turns
from tests.mpc_samples import manifest, party, task

TAG = b"\x05" * 32
EVERYONE = frozenset((1, 2, 3))


class Attempts:
    """In the place of child processes: what was begun, and an end for it when it is wanted."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.end = asyncio.Event()

    async def run(self, _: bytes, description: Any, work: Any) -> Outcome[Any]:
        """Done once the test says so."""
        self.begun.append(description.terms.job_id)
        await self.end.wait()
        return Outcome(Ending.DONE, await work(None))

    def lose(self, round_id: bytes, party: int) -> None:
        """Nothing runs that could lose anybody."""


class Scene:
    """Party 1's muster, and what it says to 2 and 3."""

    def __init__(self) -> None:
        of = task()
        made = manifest(of)
        terms = Terms(
            m=3, t=1, me=1, until_ms=made.close_ms, retain_until_ms=made.close_ms + 1, k_min=2
        )
        assignment = Assignment(made, of, terms, None, party(1))
        self.said: list[tuple[bytes, Ready]] = []
        self.attempts = Attempts()
        clock = Clock.system()
        parley = Parley(
            assignment.others, say=self._say, up=lambda: frozenset(), tick_s=0.0,
            monotonic_s=clock.monotonic_s,
        )  # fmt: skip
        jobs: Any = self.attempts
        turns = Turns(4, expires_s=9, monotonic_s=clock.monotonic_s)
        self.muster = Muster(
            assignment, parley, jobs, turns, limits=Limits(seconds=9, stall_seconds=9), tick_s=0.01,
            clock=clock, poke=lambda: None,
        )  # fmt: skip

    def _say(self, ik: bytes, payload: bytes) -> bool:
        message = messages.decode(payload)
        assert isinstance(message, Ready)
        self.said.append((ik, message))
        return True

    async def call(self, job: Job) -> Finished | None:
        """One more turn of the party's loop."""
        done = self.muster.over()
        await self.muster.call(job, EVERYONE, TAG, lambda: _nothing)
        await asyncio.sleep(0)
        return done


async def _nothing(_: Any) -> bytes:
    return b""


def ready(job: Job, nonce: int) -> Ready:
    """What 2 and 3 say."""
    return Ready(job, 0b111, TAG, bytes((nonce,)) * 16)


async def begun(scene: Scene) -> None:
    """All three are in the verification."""
    for number in (2, 3):
        scene.muster.hear(number, ready(Job.VERIFY, number))
    assert await scene.call(Job.VERIFY) is None
    assert len(scene.attempts.begun) == 1


async def finished(scene: Scene) -> None:
    """It came to its end here."""
    scene.attempts.end.set()
    turns = [await scene.call(Job.VERIFY) for _ in range(5)]
    [done] = [one for one in turns if one is not None]
    assert done.outcome.ending is Ending.DONE


async def test_who_is_slower_in_the_same_attempt_is_not_called_back_from_it() -> None:
    """What it says again of an attempt that is over here is no wish to begin anew."""
    scene = Scene()
    await begun(scene)
    await finished(scene)
    for number in (2, 3):
        scene.muster.hear(number, ready(Job.VERIFY, number))
    assert scene.muster.offers == {}


@pytest.mark.parametrize("mask", [0, 0b1000, 1 << 4000])
async def test_parties_that_there_are_not_are_refused(mask: int) -> None:
    """Whoever works with a mask can trust in its length."""
    with pytest.raises(FormatError, match="no such parties"):
        Scene().muster.hear(2, Ready(Job.OPEN, mask, TAG, bytes(16)))


async def test_who_began_anew_is_heard() -> None:
    """Another nonce is another attempt: it lacks what came of the one before."""
    scene = Scene()
    await begun(scene)
    await finished(scene)
    scene.muster.hear(2, ready(Job.VERIFY, 9))
    assert scene.muster.offers == {2: ready(Job.VERIFY, 9)}


async def test_who_begins_anew_while_the_job_runs_ends_it_here_too() -> None:
    """In the old attempt it will say nothing more."""
    scene = Scene()
    await begun(scene)
    for _ in range(3):
        scene.muster.hear(2, ready(Job.VERIFY, 2))
        scene.muster.hear(3, ready(Job.VERIFY, 8))
        assert await scene.call(Job.VERIFY) is None
    assert len(set(scene.attempts.begun)) == 2


async def test_who_leaves_an_opening_again_and_again_is_shunned() -> None:
    """Once may be a restart; each time is a way to keep the others from the result."""
    scene = Scene()
    for nonce in range(10, 10 + POINTS_MAX):
        assert scene.muster.blame.shunned == frozenset()
        for number in (2, 3):
            scene.muster.hear(number, ready(Job.OPEN, nonce + 100 * number % 150))
        await scene.call(Job.OPEN)
        scene.muster.hear(3, ready(Job.OPEN, 200 + nonce - 10))
        for _ in range(3):
            await scene.call(Job.OPEN)
    assert scene.muster.blame.shunned == {3}


def test_stalls_and_garbage_are_blamed_at_once_and_being_gone_is_not() -> None:
    for rule, at_once in (("stalled", True), ("garbage", True), ("flood", True), ("gone", False)):
        blame = Blame()
        blame.failed(2, rule)
        assert (blame.shunned == {2}) is at_once
        blame.failed(2, rule)
        blame.failed(2, rule)
        assert blame.shunned == {2}
        blame.forgive()
        assert blame.shunned == frozenset()
