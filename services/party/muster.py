"""Gathering the parties of a round for a job, and running it here.

A party says that it is ready: for which job, with whom, over what. Once all of them say the
same, each begins. The nonces of the attempt are in the job's id, so that no two attempts share
a key or a message. After an attempt that failed the next one waits longer each time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from crypto import labels
from crypto.errors import FormatError
from crypto.primitives import hash_
from mpc.child import JobProcess
from mpc.description import Description
from mpc.session import Limits
from mpc.terms import Terms
from services.call import Clock
from services.party.assignment import Assignment
from services.party.blame import Blame
from services.party.jobs import Ending, Jobs, Outcome
from services.party.messages import Job, Ready
from services.party.parley import Parley
from services.party.turns import Turns
from services.spans import NO_TRACES, Part, Tracer

BACKOFF_S_MAX: Final = 30.0
NONCE_BYTES: Final = 16
JOB_ID_BYTES: Final = 16
Work = Callable[[JobProcess], Awaitable[Any]]
_PARTS: Final = {Job.VERIFY: Part.VERIFY, Job.SHARE: Part.SHARE, Job.OPEN: Part.OPEN}


@dataclass(frozen=True, slots=True)
class Finished:
    """An attempt that is over."""

    job: Job
    job_id: bytes
    outcome: Outcome[Any]
    seconds: float


@dataclass(slots=True)
class _Running:
    job: Job
    job_id: bytes
    tag: bytes
    nonces: dict[int, bytes]
    task: asyncio.Task[Outcome[Any]]
    began_s: float


@dataclass(slots=True)
class _Attempt:
    failures: int = 0
    not_before_s: float = 0.0
    nonce: bytes = field(default_factory=lambda: os.urandom(NONCE_BYTES))


class Muster:
    """One round's jobs, one at a time. `poke`: called when one is over."""

    def __init__(
        self,
        assignment: Assignment,
        parley: Parley,
        jobs: Jobs,
        turns: Turns,
        *,
        limits: Limits,
        tick_s: float,
        clock: Clock,
        poke: Callable[[], None],
        tracer: Tracer = NO_TRACES,
    ) -> None:
        self._tracer = tracer
        self._assignment = assignment
        self._parley = parley
        self._jobs = jobs
        self._turns = turns
        self._place = (assignment.terms.until_ms, assignment.round_id)
        self._limits = limits
        self._tick_s = tick_s
        self._clock = clock
        self._poke = poke
        self._ready: dict[int, Ready] = {}
        self._running: _Running | None = None
        self._attempts = {job: _Attempt() for job in Job}
        self._done: set[tuple[int, bytes]] = set()
        """Parties with their nonces of attempts that came to their end here."""
        self._called: tuple[Job, bytes, frozenset[int]] | None = None
        self._called_s = 0.0
        self.blame = Blame()

    # What others say

    def hear(self, party: int, ready: Ready) -> None:
        """FormatError for a job or parties that there are not."""
        if ready.job not in list(Job) or len(ready.nonce) != NONCE_BYTES:
            raise FormatError("ready", "there is no such job")
        if not 0 < ready.parties < 1 << self._assignment.terms.m:
            raise FormatError("ready", "there are no such parties")
        if (party, ready.nonce) in self._done:
            # It is still in what is over here. It will come to the same end, or begin anew with
            # another nonce; to call it back from there would begin the job again for all.
            return
        self._ready[party] = ready
        running = self._running
        if (
            running is not None
            and running.job == ready.job
            and running.nonces.get(party, ready.nonce) != ready.nonce
        ):
            # It began anew; in the old job it will say nothing more.
            running.task.cancel()
            if running.job is Job.OPEN:
                self.blame.began_anew(party)

    def forget(self, party: int) -> None:
        """Its link is down."""
        self._ready.pop(party, None)
        self._jobs.lose(self._assignment.round_id, party)

    @property
    def offers(self) -> dict[int, Ready]:
        """What each of the others is ready for, as far as it is known."""
        return dict(self._ready)

    @property
    def opening(self) -> bool:
        """Whether an opening runs here now."""
        return self._running is not None and self._running.job is Job.OPEN

    # What this party does

    async def call(
        self, job: Job, parties: frozenset[int], tag: bytes, work: Callable[[], Work]
    ) -> None:
        """Says that this party is ready, and begins once all others are; to be called again
        until `over` gives what came of it."""
        running = self._running
        if running is not None:
            with_whom = frozenset(running.nonces)
            if (running.job, running.tag, with_whom) != (job, tag, parties):
                await self.stop()
        self._time(job, tag, parties)
        attempt = self._attempts[job]
        if self._clock.monotonic_s() < attempt.not_before_s or not self._turns.take(self._place):
            return
        mine = Ready(job, _mask(parties), tag, attempt.nonce)
        for party in parties - {self._assignment.terms.me}:
            self._parley.tell(party, mine)
        if self._running is None and (nonces := self._nonces(mine, parties)) is not None:
            self._begin(job, tag, nonces, work())

    def _time(self, job: Job, tag: bytes, parties: frozenset[int]) -> None:
        """Those that say nothing at all for as long as a job may stall are shunned."""
        now_s = self._clock.monotonic_s()
        if self._called != (job, tag, parties) or self._running is not None:
            self._called, self._called_s = (job, tag, parties), now_s
        elif job is Job.OPEN and now_s >= self._called_s + self._limits.stall_seconds:
            self.blame.silent(parties - self._ready.keys() - {self._assignment.terms.me})

    def _nonces(self, mine: Ready, parties: frozenset[int]) -> dict[int, bytes] | None:
        """Everybody's of this attempt; None while somebody has not said the same."""
        me = self._assignment.terms.me
        nonces = {me: mine.nonce}
        for party in parties - {me}:
            said = self._ready.get(party)
            if said is None or (said.job, said.parties, said.tag) != (
                mine.job, mine.parties, mine.tag,
            ):  # fmt: skip
                return None
            nonces[party] = said.nonce
        return nonces

    def _begin(self, job: Job, tag: bytes, nonces: dict[int, bytes], work: Work) -> None:
        assignment = self._assignment
        present = tuple(sorted(nonces))
        said = b"".join(bytes((party,)) + nonces[party] for party in present)
        job_id = hash_(
            labels.PARTY_JOB, assignment.digest + bytes((job,)) + tag + said, JOB_ID_BYTES
        )
        terms = Terms(
            job_id, assignment.digest, assignment.terms.m, assignment.terms.t, present,
            assignment.task.field.bits,
        )  # fmt: skip
        description = Description(terms, assignment.terms.me, self._limits)
        task = asyncio.create_task(self._run(job, description, work))
        task.add_done_callback(lambda _: self._poke())
        self._running = _Running(job, job_id, tag, nonces, task, self._clock.monotonic_s())

    async def _run(self, job: Job, description: Description, work: Work) -> Outcome[Any]:
        with self._tracer.root(_PARTS[job]) as active:
            outcome = await self._jobs.run(self._assignment.round_id, description, work)
            if active is not None:
                active.note("rookery.ending", outcome.ending.value)
                active.failed = outcome.ending is not Ending.DONE
            return outcome

    def over(self) -> Finished | None:
        """What came of a job that is over.

        A job is not ended because a party of it is gone: it may have all that it needs of it.
        """
        running = self._running
        if running is None or not running.task.done():
            return None
        failures = self._attempts[running.job].failures
        self._leave(running)
        if running.task.cancelled():
            return None
        outcome = running.task.result()
        if outcome.ending is Ending.DONE:
            self._done |= set(running.nonces.items())
        else:
            wait_s = min(BACKOFF_S_MAX, self._tick_s * 2**failures)
            self._attempts[running.job] = _Attempt(failures + 1, self._clock.monotonic_s() + wait_s)
            if running.job is Job.OPEN and outcome.party:
                self.blame.failed(outcome.party, outcome.rule)
        seconds = self._clock.monotonic_s() - running.began_s
        return Finished(running.job, running.job_id, outcome, seconds)

    def _leave(self, running: _Running) -> None:
        """What was said for it counts no more, until it is said again."""
        self._running = None
        self._turns.done(self._place)
        self._attempts[running.job] = _Attempt()
        self._ready = {
            party: ready
            for party, ready in self._ready.items()
            if ready.nonce != running.nonces.get(party)
        }

    async def stop(self) -> None:
        """Ends the job that runs, if one does."""
        running = self._running
        if running is None:
            self._turns.done(self._place)
            return
        self._leave(running)
        running.task.cancel()
        await asyncio.gather(running.task, return_exceptions=True)

    def rest(self) -> None:
        """Nothing can be gathered for now; a job that runs goes on."""
        if self._running is None:
            self._turns.done(self._place)


def _mask(parties: frozenset[int]) -> int:
    return sum(1 << (party - 1) for party in parties)


def parties_of(mask: int) -> frozenset[int]:
    """Of a `Ready`."""
    return frozenset(at + 1 for at in range(mask.bit_length()) if mask >> at & 1)
