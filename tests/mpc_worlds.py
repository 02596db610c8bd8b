"""Parties of a job as real processes, with a wire between them that a test can hold. A helper."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from crypto.field import Array, Field
from mpc.child import JobProcess
from mpc.description import Description
from mpc.session import Limits
from mpc.terms import Terms

CONFIGURATIONS = ((3, 1), (4, 1), (5, 1), (5, 2))
Wire = Callable[[int, int, bytes], bytes | None]
"""(sender, receiver, payload) -> what arrives; None for nothing."""


def terms(m: int, t: int, bits: int = 61, **more: Any) -> Terms:
    """Some job with everybody present."""
    given = {"job_id": b"j" * 16, "round_digest": b"r" * 32, "present": tuple(range(1, m + 1))}
    return Terms(m=m, t=t, bits=bits, **{**given, **more})


def share(
    field: Field, values: Iterable[int], *, m: int, degree: int, seed: int = 1
) -> list[Array]:
    """Shares of signed values for parties 1..m, by the definition."""
    rng = random.Random(seed)
    rows: list[list[int]] = [[] for _ in range(m)]
    for value in values:
        polynomial = [value, *(rng.randrange(field.p) for _ in range(degree))]
        for party in range(1, m + 1):
            at = sum(c * party**k for k, c in enumerate(polynomial))
            rows[party - 1].append(at % field.p)
    return [np.array(row, np.uint64) for row in rows]


class World:
    """The processes by party number, and what is between them."""

    def __init__(self, wire: Wire | None = None) -> None:
        self.wire = wire
        self.parties: dict[int, JobProcess] = {}
        self.seen: list[tuple[int, int, bytes]] = []
        self._early: dict[int, list[tuple[int, int, bytes]]] = {}
        self._watches: list[asyncio.Task[None]] = []

    def _carry(self, sender: int, receiver: int, pc: int, payload: bytes) -> None:
        self.seen.append((sender, receiver, payload))
        arrives = payload if self.wire is None else self.wire(sender, receiver, payload)
        if arrives is None:
            return
        if receiver in self.parties:
            self.parties[receiver].deliver(sender, pc, arrives)
        else:
            self._early.setdefault(receiver, []).append((sender, pc, arrives))

    async def start(self, party: int, description: Description, module: str) -> None:
        """Starts one party, and tells the others when it is gone."""

        def outbound(to: int, pc: int, payload: bytes) -> None:
            self._carry(party, to, pc, payload)

        process = await JobProcess.start(description, outbound, module=module)
        self.parties[party] = process
        for early in self._early.pop(party, []):
            process.deliver(*early)

        async def watch() -> None:
            await process.gone
            for other, each in self.parties.items():
                if other != party:
                    each.lose(party)

        self._watches.append(asyncio.create_task(watch()))

    async def all(self, do: Callable[[int, JobProcess], Any]) -> dict[int, Any]:
        """What each party's call gives, or its error."""
        given = await asyncio.gather(
            *(do(party, process) for party, process in self.parties.items()),
            return_exceptions=True,
        )
        return dict(zip(self.parties, given, strict=True))

    async def good(self, do: Callable[[int, JobProcess], Any]) -> dict[int, Any]:
        """What each party's call gives; the first error is raised."""
        given = await self.all(do)
        for each in given.values():
            if isinstance(each, BaseException):
                raise each
        return given

    async def step(self, do: str, name: str, **more: Any) -> dict[int, Any]:
        """The same step at all."""
        return await self.good(lambda _, process: process.step(do, name, **more))

    async def end(self) -> dict[int, int]:
        """The exit codes."""
        codes = await asyncio.gather(*(process.end() for process in self.parties.values()))
        await asyncio.gather(*self._watches)
        return dict(zip(self.parties, codes, strict=True))


@asynccontextmanager
async def world(
    job: Terms,
    *,
    module: str = "tests.mpc_child",
    wire: Wire | None = None,
    is_ready: bool = True,
    others: dict[int, Terms] | None = None,
    limits: Limits | None = None,
    limits_of: dict[int, Limits] | None = None,
) -> AsyncIterator[World]:
    """All present parties of a job, by default after they agreed on its keys."""
    made = World(wire)

    def description(party: int) -> Description:
        own = (limits_of or {}).get(party, limits or Limits())
        return Description((others or {}).get(party, job), party, own)

    try:
        starts = (made.start(party, description(party), module) for party in job.present)
        await asyncio.gather(*starts)
        if is_ready:
            await made.good(lambda _, process: process.ready())
        yield made
    finally:
        for process in made.parties.values():
            process.kill()
        await made.end()
