"""Calls in flight: lanes that each send their prepared requests one after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import grpc.aio

from bench.accounts import CREATE, PUSH, Account
from bench.echo import ECHO, OPTIONS
from bench.processes import Child
from crypto.request import METADATA_KEY

Metadata = tuple[tuple[str, bytes], ...] | None
Call = tuple[bytes, Metadata]


class Unary(Protocol):
    """A unary call of raw bytes."""

    def __call__(
        self, request: bytes, *, metadata: Metadata = None, timeout: float
    ) -> Awaitable[bytes]: ...


@dataclass(frozen=True, slots=True)
class Timing:
    """What a run took, and how much CPU the server used."""

    calls: int
    seconds: float
    cpu_seconds: float

    @property
    def calls_per_s(self) -> float:
        """Throughput."""
        return self.calls / self.seconds

    @property
    def cpu_us(self) -> float:
        """Server CPU microseconds a call: steadier than the throughput."""
        return self.cpu_seconds / self.calls * 1e6


def channel(address: str) -> grpc.aio.Channel:
    """A connection of its own."""
    return grpc.aio.insecure_channel(
        address, options=[*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    )


def unary(one: grpc.aio.Channel, method: str) -> Unary:
    """A method on raw bytes."""
    return cast(Unary, one.unary_unary(method))


Dial = Callable[[], grpc.aio.Channel]


async def run_lanes(
    child: Child, method: str, lanes: Sequence[Sequence[Call]], dial: Dial | None = None
) -> Timing:
    """Sends every lane's calls in order, all lanes at once, over four connections; `dial` makes
    one that does not lead straight to the child."""
    dial = dial or partial(channel, child.address)
    channels = [dial() for _ in range(min(4, len(lanes)))]
    calls = [unary(one, method) for one in channels]

    async def lane(number: int, requests: Sequence[Call]) -> None:
        call = calls[number % len(calls)]
        for request, metadata in requests:
            await call(request, metadata=metadata, timeout=60)

    await asyncio.gather(*(one.channel_ready() for one in channels))
    cpu, wall = child.cpu_seconds(), time.perf_counter()
    await asyncio.gather(*(lane(number, requests) for number, requests in enumerate(lanes)))
    wall, cpu = time.perf_counter() - wall, child.cpu_seconds() - cpu
    await asyncio.gather(*(one.close() for one in channels))
    return Timing(sum(map(len, lanes)), wall, cpu)


async def create_accounts(child: Child, accounts: Sequence[Account]) -> None:
    """Enrols them."""
    async with channel(child.address) as one:
        call = unary(one, CREATE)
        for account in accounts:
            await call(account.creation, timeout=60)


def signed(account: Account, method: str, requests: Sequence[bytes]) -> list[Call]:
    """Requests with their signatures."""
    return [(request, ((METADATA_KEY, account.sign(method, request)),)) for request in requests]


async def push(
    child: Child, made: Sequence[tuple[Account, list[bytes]]], dial: Dial | None = None
) -> Timing:
    """Pushes each account's requests in a lane of its own."""
    lanes = [signed(account, PUSH, requests) for account, requests in made]
    return await run_lanes(child, PUSH, lanes, dial)


async def echo(child: Child, made: Sequence[tuple[Account, list[bytes]]]) -> Timing:
    """The same bytes through the bare server."""
    return await run_lanes(
        child, ECHO, [[(request, None) for request in requests] for _, requests in made]
    )
