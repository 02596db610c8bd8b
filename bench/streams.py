"""What an idle `Subscribe` costs in memory, beside a bare stream that says nothing."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc.aio

from bench import load, processes
from bench.accounts import RECEIPT, SUBSCRIBE, Account
from bench.echo import IDLE
from bench.load import Metadata
from bench.report import Report
from crypto.request import METADATA_KEY, CallKind
from rookery.v1 import sync_pb2

STREAMS = 2_000
AUDIENCE = "rookery.localhost"


def open_stream(
    one: grpc.aio.Channel, method: str, request: bytes, metadata: Metadata
) -> AsyncIterator[bytes]:
    """The frames of a server stream of raw bytes."""
    call: Any = one.unary_stream(method)
    frames: AsyncIterator[bytes] = aiter(call(request, metadata=metadata))
    return frames


async def _open_streams(
    child: processes.Child, method: str, count: int, shared: bool, auth: Callable[[int], Metadata]
) -> float:
    """Opens the streams, waits until each has said it is open; bytes of server memory each."""
    channels = [load.channel(child.address) for _ in range(1 if shared else count)]
    request = b""
    before = child.memory_bytes()
    gate = asyncio.Semaphore(64)

    async def one(number: int) -> AsyncIterator[bytes]:
        async with gate:
            frames = open_stream(channels[number % len(channels)], method, request, auth(number))
            await anext(frames)
            return frames

    frames = await asyncio.gather(*(one(number) for number in range(count)))
    await asyncio.sleep(1)  # let the allocator and the last writes settle; nothing is timed
    used = child.memory_bytes() - before
    del frames
    await asyncio.gather(*(channel.close() for channel in channels))
    return used / count


async def _service_streams(count: int, shared: bool) -> float:
    """As `_open_streams`, at the service, for as many accounts, which it has all seen."""
    accounts = [Account.make(AUDIENCE) for _ in range(count)]
    with tempfile.TemporaryDirectory() as folder, processes.service(Path(folder)) as service:
        await load.create_accounts(service, accounts)
        async with load.channel(service.address) as one:
            for account in accounts:
                auth = ((METADATA_KEY, account.sign(RECEIPT, b"")),)
                await load.unary(one, RECEIPT)(b"", metadata=auth, timeout=60)

        def auth_of(number: int) -> Metadata:
            return ((METADATA_KEY, accounts[number].sign(SUBSCRIBE, b"", CallKind.STREAM)),)

        return await _open_streams(service, SUBSCRIBE, count, shared, auth_of)


async def idle_streams(report: Report) -> None:
    """Memory per idle stream, on one connection and on connections of their own."""
    assert sync_pb2.SubscribeRequest().SerializeToString() == b""
    count = STREAMS // 4 if report.quick else STREAMS
    for name, shared in (("one connection", True), ("own connections", False)):
        with processes.echo() as bare:
            floor = await _open_streams(bare, IDLE, count, shared, lambda _: None)
        used = await _service_streams(count, shared)
        report.row(
            f"{count} idle streams, {name}", kib_each=used / 1024, bare_kib_each=floor / 1024
        )
        report.goal(f"idle stream of a bare one, {name}", used / floor, 1.3, at_most=True)
