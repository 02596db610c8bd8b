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
CHANNELS_EARLY_MAX = 4
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
    """One party's frames of a round's jobs that have not started here, by channel."""

    __slots__ = ("bytes", "channels")

    def __init__(self) -> None:
        self.channels: dict[int, deque[tuple[int, bytes]]] = {}
        self.bytes = 0

    def put(self, channel: int, pc: int, payload: bytes) -> bool:
        """False if there is no room. Of too many channels the oldest is let go: its job never
        started here, or is over."""
        frames = self.channels.get(channel)
        if frames is None:
            if len(self.channels) >= CHANNELS_EARLY_MAX:
                self.take(next(iter(self.channels)))
            frames = self.channels[channel] = deque()
        if len(frames) >= EARLY_FRAMES_MAX or self.bytes + len(payload) > EARLY_BYTES_MAX:
            return False
        self.bytes += len(payload)
        frames.append((pc, payload))
        return True

    def take(self, channel: int) -> deque[tuple[int, bytes]]:
        """What came for a channel, which is forgotten here."""
        frames = self.channels.pop(channel, None) or deque()
        self.bytes -= sum(len(payload) for _, payload in frames)
        return frames


class Jobs:
    """All jobs of this party."""

    def __init__(self, send: Send, *, module: str = MODULE) -> None:
        self._send = send
        self._module = module
        self._running: dict[Key, JobProcess] = {}
        self._early: dict[tuple[bytes, int], _Early] = {}
        """By round and party: what one party sends takes no room from another."""

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
        early = self._early.setdefault((round_id, party), _Early())
        if early.put(channel, pc, payload):
            return True
        del self._early[round_id, party]
        return False

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
            for (of, party), early in self._early.items():
                for frame in early.take(channel) if of == round_id else ():
                    job.deliver(party, *frame)
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
