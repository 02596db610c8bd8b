"""`python -m bench.subscribers`: a process with thousands of idle subscribers.

What each costs in memory, how fast a push reaches one of them beside a process with few, and
what happens when the service is killed and all of them come back.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import load, processes
from bench.accounts import PUSH, Account, sealed_pushes
from bench.crowd import Crowd
from bench.processes import Child
from bench.report import Part, Report, run
from bench.sync import AUDIENCE, subscribed
from crypto.request import METADATA_KEY

SUBSCRIBERS, FEW = 5_000, 20
POKES = 200
BACK_WITHIN_S = 120.0
DEFAULTS = {
    "ROOKERY_MAX_PENDING_REQUESTS": "4000",
    "ROOKERY_QUEUE_TARGET_MS": "250",
    "ROOKERY_PUSHES_MAX": "256",
}
"""Of what `processes.service` turns off, what a flood meets at a service as it is."""


def room_for(connections: int) -> int:
    """How many connections the limit of open files allows, raised as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(connections, hard - 512)


async def enrol(service: Child, accounts: Sequence[Account]) -> None:
    """Makes the accounts, a few at a time."""
    parts = [accounts[number::8] for number in range(8)]
    await asyncio.gather(*(load.create_accounts(service, part) for part in parts if part))


async def deliveries(service: Child, count: int) -> list[float]:
    """Seconds from a push to its frame at another device's stream, one after the other."""
    [(account, requests)] = sealed_pushes((AUDIENCE, 1, count, 1))
    await load.create_accounts(service, [account])
    writer, reader = load.channel(service.address), load.channel(service.address)
    frames = await subscribed(reader, account)
    seconds = []
    for request in requests:
        auth = ((METADATA_KEY, account.sign(PUSH, request)),)
        start = time.perf_counter()
        pushed = asyncio.ensure_future(load.unary(writer, PUSH)(request, metadata=auth, timeout=60))
        await anext(frames)
        seconds.append(time.perf_counter() - start)
        await pushed
    await asyncio.gather(writer.close(), reader.close())
    return seconds


async def idle(report: Report) -> None:
    """Memory of each, and delivery of one poke beside a process with few."""
    count = SUBSCRIBERS // 10 if report.quick else SUBSCRIBERS
    for name, connections in (("own connections", room_for(count)), ("16 connections", 16)):
        accounts = [Account.make(AUDIENCE) for _ in range(count)]
        with (
            tempfile.TemporaryDirectory() as few_folder,
            tempfile.TemporaryDirectory() as folder,
            processes.service(Path(few_folder)) as small,
            processes.service(Path(folder)) as service,
        ):
            await enrol(service, accounts)
            few = Crowd(accounts[:FEW], small.address, FEW)
            await enrol(small, few.accounts)
            await few.open()
            crowd = Crowd(accounts, service.address, connections)
            before = service.memory_bytes()
            await crowd.open()
            await asyncio.sleep(1)  # the last writes; nothing is timed
            each = (service.memory_bytes() - before) / count
            lone, crowded = [], []
            for _ in range(4):
                lone += await deliveries(small, POKES // 4)
                crowded += await deliveries(service, POKES // 4)
            await crowd.close()
            await few.close()
        ratio = statistics.median(crowded) / statistics.median(lone)
        report.row(
            f"{count} idle subscribers, {name}",
            kib_each=each / 1024,
            delivery_p50_us=statistics.median(crowded) * 1e6,
            delivery_p99_us=statistics.quantiles(crowded, n=100)[-1] * 1e6,
            with_few_p50_us=statistics.median(lone) * 1e6,
            load_average=os.getloadavg()[0],
        )
        report.goal(f"delivery beside {FEW} subscribers, {name}", ratio, 10.0, at_most=True)


async def storm(report: Report) -> None:
    """The service is killed and started again; all come back, spread or at one moment."""
    count = SUBSCRIBERS // 10 if report.quick else SUBSCRIBERS
    for name, connections in (("own connections", room_for(count)), ("16 connections", 16)):
        accounts = [Account.make(AUDIENCE) for _ in range(count)]
        with tempfile.TemporaryDirectory() as folder:
            service = processes.service(Path(folder), settings=DEFAULTS)
            try:
                await enrol(service, accounts)
                crowd = Crowd(accounts, service.address, connections)
                await crowd.open()
                for jitter in (True, False):
                    crowd.jitter = jitter
                    crowd.forget(held=not jitter)
                    service.kill()
                    service = processes.service(
                        Path(folder), listen=crowd.address, settings=DEFAULTS
                    )
                    start = time.perf_counter()
                    crowd.release()
                    await crowd.all_back(within_s=BACK_WITHIN_S)
                    tell(report, crowd, f"{name}, {'spread' if jitter else 'at once'}", start)
                await crowd.close()
            finally:
                service.kill()


def tell(report: Report, crowd: Crowd, name: str, start: float) -> None:
    """What became of a storm."""
    back = sorted(seconds - start for seconds in crowd.back_s.values())
    report.row(
        f"storm of {len(back)}, {name}",
        half_back_s=statistics.median(back),
        all_back_s=back[-1],
        load_average=os.getloadavg()[0],
        **{key.replace(" ", "_"): value for key, value in sorted(crowd.outcomes.items())},
    )
    wrong = sum(
        number for key, number in crowd.outcomes.items()
        if not key.startswith(("UNAVAILABLE", "RESOURCE_EXHAUSTED with"))
    )  # fmt: skip
    report.goal(f"other errors, {name}", wrong, 0, at_most=True)


PARTS: dict[str, Part] = {"idle": idle, "storm": storm}

if __name__ == "__main__":
    sys.exit(run("python -m bench.subscribers", __doc__, PARTS, None))
