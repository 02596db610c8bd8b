"""`python -m bench.sync`: what the sealed sync costs, each figure beside its floor.

Ops are sealed and requests signed ahead. Service and floors take turns in the same run, in
processes of their own; a ratio is the median of its rounds. `--json` prints one object.
"""

from __future__ import annotations

import asyncio
import contextlib
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import grpc.aio

from bench import floors, load, processes, redis, streams
from bench.accounts import PULL, PUSH, SUBSCRIBE, Account, batches, sealed_pushes
from bench.echo import CANNED, ECHO, PUT
from bench.report import Part, Report, run
from crypto.request import METADATA_KEY, CallKind
from rookery.v1 import sync_pb2
from services.store.base import Batch

AUDIENCE = "rookery.localhost"
GROUP_MAX = 128


def _seal(lanes: int, calls: int, batch: int) -> list[tuple[Account, list[bytes]]]:
    half = lanes // 2
    jobs = [(AUDIENCE, part, calls, batch) for part in (half, lanes - half) if part]
    if len(jobs) == 1:
        return sealed_pushes(jobs[0])
    with ProcessPoolExecutor(2) as pool:
        return [made for part in pool.map(sealed_pushes, jobs) for made in part]


def _interleaved(made: list[tuple[Account, list[bytes]]]) -> list[Batch]:
    """The pushes in the order in which lanes side by side would send them."""
    each = len(made[0][1])
    flat = batches(made)
    return [flat[lane * each + call] for call in range(each) for lane in range(len(made))]


CALLS = {(1, 1): 400, (1, 32): 100, (10, 1): 200, (10, 32): 60, (100, 1): 60, (100, 32): 24}
"""Calls of each lane, by batch and lanes."""


async def pushes(report: Report) -> None:
    """Durable push at batch 1, 10, 100 with 1 and 32 calls in flight."""
    for (batch, lanes), calls in CALLS.items():
        calls = max(4, calls // 4) if report.quick else calls
        ratios: dict[str, list[float]] = {"store": [], "echo": [], "lower": []}
        rates: dict[str, list[float]] = {"push": [], "store": [], "echo": []}
        cpu: dict[str, list[float]] = {"push": [], "echo": []}
        for _ in range(1 if report.quick else 3):
            made = _seal(lanes, calls, batch)
            with contextlib.ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                bare = stack.enter_context(processes.echo())
                settings = {}
                if report.store == "redis":
                    kept = stack.enter_context(redis.running(folder / "redis"))
                    settings["ROOKERY_REDIS_URL"] = kept.url
                service = stack.enter_context(processes.service(folder, settings=settings))
                await load.create_accounts(service, [account for account, _ in made])
                echoed = await load.echo(bare, made)
                pushed = await load.push(service, made)
            inserted = await _floor(report.store, made, lanes)
            rates["push"].append(pushed.calls_per_s * batch)
            rates["echo"].append(echoed.calls_per_s * batch)
            rates["store"].append(inserted)
            cpu["push"].append(pushed.cpu_us)
            cpu["echo"].append(echoed.cpu_us)
            ratios["store"].append(rates["push"][-1] / inserted)
            ratios["echo"].append(rates["push"][-1] / rates["echo"][-1])
            ratios["lower"].append(rates["push"][-1] / min(inserted, rates["echo"][-1]))
        middle = {name: statistics.median(values) for name, values in ratios.items()}
        report.row(
            f"push batch {batch}, {lanes} in flight",
            ops_per_s=statistics.median(rates["push"]),
            **{f"{report.store}_ops_per_s": statistics.median(rates["store"])},
            echo_ops_per_s=statistics.median(rates["echo"]),
            **{f"of_{report.store}": middle["store"]},
            of_echo=middle["echo"],
            cpu_us_a_call=statistics.median(cpu["push"]),
            echo_cpu_us_a_call=statistics.median(cpu["echo"]),
        )
        if (batch, lanes) == (100, 32) and report.store == "redis":
            report.goal("push 100 x 32 of bare scripts", middle["store"], 0.4)
        elif (batch, lanes) == (100, 32):
            report.goal("push 100 x 32 of the lower floor", middle["lower"], 0.6)
        elif (batch, lanes) == (1, 32) and report.store == "sqlite":
            report.goal("push 1 x 32 of the echo", middle["echo"], 0.5)


async def _floor(store: str, made: list[tuple[Account, list[bytes]]], lanes: int) -> float:
    """Ops a second that go straight into what the store is built on."""
    if store == "redis":
        with tempfile.TemporaryDirectory() as folder, redis.running(Path(folder)) as bare:
            floor = await redis.bare_scripts(bare, _interleaved(made), lanes=lanes)
    else:
        floor = floors.bare_sqlite_insert(
            _interleaved(made), batches_per_commit=min(lanes, GROUP_MAX)
        )
    return floor.ops / floor.seconds


async def _read(one: grpc.aio.Channel, account: Account) -> tuple[list[bytes], list[bytes]]:
    """Requests and answers of all pages of a profile, from an empty cursor."""
    requests, answers, cursor, more = [], [], b"", True
    call = load.unary(one, PULL)
    while more:
        request = sync_pb2.PullRequest(cursor=cursor).SerializeToString()
        auth = ((METADATA_KEY, account.sign(PULL, request)),)
        raw = await call(request, metadata=auth, timeout=60)
        answer = sync_pb2.PullResponse.FromString(raw)
        requests.append(request)
        answers.append(raw)
        cursor, more = answer.cursor, answer.more
    return requests, answers


async def _pages(one: grpc.aio.Channel, account: Account, requests: list[bytes]) -> float:
    """The same requests again, signed ahead; the answers are parsed and thrown away like those
    of the floor. Seconds."""
    call = load.unary(one, PULL)
    signed = [(request, ((METADATA_KEY, account.sign(PULL, request)),)) for request in requests]
    start = time.perf_counter()
    for request, auth in signed:
        sync_pb2.PullResponse.FromString(await call(request, metadata=auth, timeout=60))
    return time.perf_counter() - start


async def _canned(bare: processes.Child, pages: list[bytes]) -> Callable[[], Any]:
    one = load.channel(bare.address)
    put, fetch = load.unary(one, PUT), load.unary(one, CANNED)
    for page in pages:
        await put(page, timeout=60)

    async def again() -> float:
        start = time.perf_counter()
        for number in range(len(pages)):
            sync_pb2.PullResponse.FromString(await fetch(number.to_bytes(4, "big"), timeout=60))
        return time.perf_counter() - start

    return again


async def pulls(report: Report) -> None:
    """Pull of a 10,000-op profile beside an echo of the same bytes, and a bare read."""
    [(account, pushes)] = sealed_pushes((AUDIENCE, 1, 40, 250))
    with (
        tempfile.TemporaryDirectory() as folder,
        processes.echo() as bare,
        processes.service(Path(folder)) as service,
    ):
        await load.create_accounts(service, [account])
        await load.push(service, [(account, pushes)])
        one = load.channel(service.address)
        requests, pages = await _read(one, account)
        held = sum(len(sync_pb2.PullResponse.FromString(page).ops) for page in pages)
        if held != 10_000:
            raise RuntimeError(f"pulled {held} ops instead of 10,000")
        again = await _canned(bare, pages)
        pulled, echoed, read = [], [], []
        for _ in range(3 if report.quick else 9):
            pulled.append(await _pages(one, account, requests))
            echoed.append(await again())
            read.append(floors.bare_read(Path(folder) / "rookery.db"))
        await one.close()
    ratio = statistics.median(e / p for e, p in zip(echoed, pulled, strict=True))
    report.row(
        "pull of 10,000 ops",
        ops_per_s=10_000 / statistics.median(pulled),
        echo_ops_per_s=10_000 / statistics.median(echoed),
        bare_read_ops_per_s=10_000 / statistics.median(read),
        pages=len(pages),
    )
    report.goal("pull of an echo with the same bytes", ratio, 0.6)


async def latency(report: Report) -> None:
    """From a device's push to the frame at another's open stream, in echo round trips."""
    rounds = 100 if report.quick else 400
    [(account, requests)] = sealed_pushes((AUDIENCE, 1, rounds, 1))
    with (
        tempfile.TemporaryDirectory() as folder,
        processes.echo() as bare,
        processes.service(Path(folder)) as service,
    ):
        await load.create_accounts(service, [account])
        writer, reader, floor = (
            load.channel(address) for address in (service.address, service.address, bare.address)
        )
        echo = load.unary(floor, ECHO)
        frames = await subscribed(reader, account)
        deliveries, trips = [], []
        for request in requests:
            auth = ((METADATA_KEY, account.sign(PUSH, request)),)
            start = time.perf_counter()
            pushed = asyncio.ensure_future(
                load.unary(writer, PUSH)(request, metadata=auth, timeout=60)
            )
            await anext(frames)
            deliveries.append(time.perf_counter() - start)
            await pushed
            start = time.perf_counter()
            await echo(request, timeout=60)
            trips.append(time.perf_counter() - start)
        for one in (writer, reader, floor):
            await one.close()
    p50, trip = statistics.median(deliveries), statistics.median(trips)
    report.row(
        "push to delivery",
        p50_us=p50 * 1e6,
        p99_us=statistics.quantiles(deliveries, n=100)[-1] * 1e6,
        echo_p50_us=trip * 1e6,
    )
    report.goal("delivery p50 in echo round trips", p50 / trip, 4.0, at_most=True)


async def subscribed(one: grpc.aio.Channel, account: Account) -> AsyncIterator[bytes]:
    """Frames with ops of an account's stream, which has caught up."""
    request = sync_pb2.SubscribeRequest().SerializeToString()
    auth = ((METADATA_KEY, account.sign(SUBSCRIBE, request, CallKind.STREAM)),)
    frames = streams.open_stream(one, SUBSCRIBE, request, auth)
    while (
        sync_pb2.SubscribeResponse.FromString(await anext(frames)).event
        != sync_pb2.SubscribeResponse.EVENT_CAUGHT_UP
    ):
        pass

    async def with_ops() -> AsyncIterator[bytes]:
        async for raw in frames:
            if sync_pb2.SubscribeResponse.FromString(raw).event == (
                sync_pb2.SubscribeResponse.EVENT_OPS
            ):
                yield raw

    return with_ops()


async def hot_spots(report: Report) -> None:
    """Where the service's own thread spends its time, by cProfile (which slows it down)."""
    for batch, lanes, calls in ((1, 32, 60), (100, 32, 8)):
        made = _seal(lanes, calls, batch)
        with tempfile.TemporaryDirectory() as folder:
            profile = Path(folder) / "profile"
            with processes.service(Path(folder), profile=profile) as service:
                await load.create_accounts(service, [account for account, _ in made])
                await load.push(service, made)
            print(f"\nhot spots at batch {batch}, own time:", file=sys.stderr)
            stats = pstats.Stats(str(profile), stream=sys.stderr)
            stats.strip_dirs().sort_stats("tottime").print_stats(14)


PARTS: dict[str, Part] = {
    "push": pushes,
    "pull": pulls,
    "latency": latency,
    "streams": streams.idle_streams,
    "profile": hot_spots,
}

if __name__ == "__main__":
    sys.exit(run("python -m bench.sync", __doc__, PARTS, None))
