"""Jobs of a party: one child process each, with a deadline that is kept from outside as well.

A job has a channel of its own on every link. Frames that come before it has started here are
kept, within bounds. However it ends, it ends with an `Outcome` and without its process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar

from crypto import labels
from crypto.primitives import hash_
from mpc.child import JobProcess
from mpc.description import Description
from mpc.errors import JobError, OpeningError, PeerLost

T = TypeVar("T")

MODULE = "mpc.job"
DEADLINE_GRACE_S = 7.0
"""The child keeps its deadline itself, twice; this is for one that can't."""
EARLY_FRAMES_MAX = 512
EARLY_BYTES_MAX = 32 << 20
CHANNELS_EARLY_MAX = 64
JOB_CHANNEL_BIT = 1 << 31


class Ending(Enum):
    """How a job ended."""

    DONE = "done"
    PEER_LOST = "peer_lost"
    OPENING_REFUSED = "opening_refused"
    DEADLINE = "deadline"
    DIED = "died"
    """The process ended without an answer."""
    REFUSED = "refused"
    """It was asked for something that can't be done: a defect on this side."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What a job gave. `party` and `opening` where it is known whose fault it was and where."""

    ending: Ending
    value: T | None = field(default=None, repr=False)
    party: int | None = None
    opening: str | None = None
    rule: str = ""


def channel_of(job_id: bytes) -> int:
    """The channel of a job's frames: 31 bits of its id, above all channels of steps."""
    return JOB_CHANNEL_BIT | int.from_bytes(hash_(labels.MPC_JOB, job_id, 4), "big")


Key = tuple[bytes, int]
"""(round id, channel)"""
Send = Callable[[int, bytes, int, int, bytes], bool]
"""(party, round id, channel, program counter, payload) -> whether it can be reached"""


class _Early:
    """Frames of one job that has not started here."""

    __slots__ = ("bytes", "frames")

    def __init__(self) -> None:
        self.frames: deque[tuple[int, int, bytes]] = deque()
        self.bytes = 0


class Jobs:
    """All jobs of this party."""

    def __init__(self, send: Send, *, module: str = MODULE) -> None:
        self._send = send
        self._module = module
        self._running: dict[Key, JobProcess] = {}
        self._early: dict[Key, _Early] = {}

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        return [job.pid for job in self._running.values()]

    def deliver(self, round_id: bytes, channel: int, party: int, pc: int, payload: bytes) -> bool:
        """A frame of a peer's process; False if there is no room for it: the peer floods."""
        job = self._running.get((round_id, channel))
        if job is not None:
            job.deliver(party, pc, payload)
            return True
        early = self._early.get((round_id, channel))
        if early is None:
            if len(self._early) >= CHANNELS_EARLY_MAX:
                # The oldest is of a job that never started here, or is over.
                del self._early[next(iter(self._early))]
            early = self._early[round_id, channel] = _Early()
        early.bytes += len(payload)
        if len(early.frames) >= EARLY_FRAMES_MAX or early.bytes > EARLY_BYTES_MAX:
            del self._early[round_id, channel]
            return False
        early.frames.append((party, pc, payload))
        return True

    def lose(self, round_id: bytes, party: int) -> None:
        """A party of the round can't be reached any more."""
        for (running, _), job in self._running.items():
            if running == round_id:
                job.lose(party)

    def forget(self, round_id: bytes) -> None:
        """Drops what came early for a round that has ended."""
        for key in [key for key in self._early if key[0] == round_id]:
            del self._early[key]

    async def run(
        self,
        round_id: bytes,
        description: Description,
        work: Callable[[JobProcess], Awaitable[T]],
    ) -> Outcome[T]:
        """Runs `work` on a process that is ready. Cancelling it kills the process."""
        try:
            async with asyncio.timeout(description.limits.seconds + DEADLINE_GRACE_S):
                return Outcome(Ending.DONE, await self._run(round_id, description, work))
        except TimeoutError:
            return Outcome(Ending.DEADLINE, rule="deadline")
        except OpeningError as error:
            return _failed(Ending.OPENING_REFUSED, error)
        except PeerLost as error:
            return _failed(Ending.PEER_LOST, error)
        except JobError as error:
            return _failed(_ENDINGS.get(error.rule, Ending.REFUSED), error)

    async def _run(
        self,
        round_id: bytes,
        description: Description,
        work: Callable[[JobProcess], Awaitable[T]],
    ) -> T:
        channel = channel_of(description.terms.job_id)
        key = (round_id, channel)

        def outbound(party: int, pc: int, payload: bytes) -> None:
            if not self._send(party, round_id, channel, pc, payload) and key in self._running:
                self._running[key].lose(party)

        job = await JobProcess.start(description, outbound, module=self._module)
        clean = False
        try:
            self._running[key] = job
            early = self._early.pop(key, None)
            for frame in early.frames if early else ():
                job.deliver(*frame)
            await job.ready()
            value = await work(job)
            clean = True
            return value
        finally:
            del self._running[key]
            if not clean:
                job.kill()
            await asyncio.shield(job.end())


_ENDINGS = {"died": Ending.DIED, "deadline": Ending.DEADLINE}


def _failed(ending: Ending, error: JobError) -> Outcome[Any]:
    return Outcome(ending, party=error.party, opening=error.opening, rule=error.rule)
