"""`python -m bench.overload`: twice what a process can serve, and what becomes of it.

Lanes find the peak; an open loop then offers twice as much for a minute, whatever comes back;
then half as much, to see whether the service is itself again without being touched.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from bench import crafted, load, processes
from bench.accounts import PUSH, Account
from bench.crowd import outcome
from bench.processes import Child
from bench.report import Part, Report, run
from bench.subscribers import DEFAULTS, enrol
from bench.sync import AUDIENCE
from crypto.request import METADATA_KEY

ACCOUNTS, LANES, BATCH = 4_000, 64, 4
DEADLINE_S = 20.0
_TICK_S = 0.004
_CONNECTIONS = 8


@dataclass(slots=True)
class Device:
    """An account with the push that it has to get rid of: the next is made when this is in."""

    account: Account
    batch: int
    request: bytes = b""

    def next(self) -> bytes:
        """The same until it was taken."""
        if not self.request:
            self.request = crafted.push(self.account, self.batch)
        return self.request


@dataclass(slots=True)
class Phase:
    """What was offered for so long, and what came of it."""

    seconds: float
    offered: int = 0
    unsent: int = 0
    """Offered when every device waited for an answer: the crowd was too small."""
    taken_s: list[float] = field(default_factory=list)
    """How long pushes took that were committed."""
    refused_s: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    memory_max: int = 0

    @property
    def goodput(self) -> float:
        """Committed a second."""
        return len(self.taken_s) / self.seconds


class Generator:
    """Sends pushes of many accounts over a few connections."""

    def __init__(self, service: Child, devices: Sequence[Device]) -> None:
        self._service = service
        self._channels = [load.channel(service.address) for _ in range(_CONNECTIONS)]
        self._calls = [load.unary(one, PUSH) for one in self._channels]
        self._free = deque(devices)
        self._sent = 0
        self._running: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Connections go; what is under way fails."""
        await asyncio.gather(*(one.close() for one in self._channels))

    async def lanes(self, count: int, seconds: float) -> Phase:
        """So many pushes at any time: a closed loop finds the peak."""
        phase = Phase(seconds)
        end = time.perf_counter() + seconds

        async def lane() -> None:
            while time.perf_counter() < end:
                await self._push(self._free.popleft(), phase)

        await asyncio.gather(*(lane() for _ in range(count)))
        return phase

    async def open_loop(self, per_s: float, seconds: float) -> Phase:
        """So many a second, however long answers take."""
        phase = Phase(seconds)
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            for _ in range(int(per_s * elapsed) - phase.offered):
                phase.offered += 1
                if not self._free:
                    phase.unsent += 1
                    continue
                task = asyncio.create_task(self._push(self._free.popleft(), phase))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            phase.memory_max = max(phase.memory_max, self._service.memory_bytes())
            await asyncio.sleep(_TICK_S)
        return phase

    async def settle(self) -> None:
        """Until nothing is under way."""
        await asyncio.gather(*self._running)

    async def _push(self, device: Device, phase: Phase) -> None:
        request = device.next()
        auth = ((METADATA_KEY, device.account.sign(PUSH, request)),)
        self._sent += 1
        start = time.perf_counter()
        try:
            await self._calls[self._sent % _CONNECTIONS](
                request, metadata=auth, timeout=DEADLINE_S
            )
        except grpc.aio.AioRpcError as error:
            phase.outcomes[outcome(error)] += 1
            phase.refused_s.append(time.perf_counter() - start)
        else:
            device.request = b""
            phase.taken_s.append(time.perf_counter() - start)
        self._free.append(device)


async def overload(report: Report) -> None:
    """Peak, a minute at twice of it, then half of it."""
    peak_s, flood_s, calm_s = (4.0, 10.0, 5.0) if report.quick else (10.0, 60.0, 10.0)
    devices = [Device(Account.make(AUDIENCE), BATCH) for _ in range(ACCOUNTS)]
    with (
        tempfile.TemporaryDirectory() as folder,
        processes.service(Path(folder), **DEFAULTS) as service,
    ):
        await enrol(service, [device.account for device in devices])
        generator = Generator(service, devices)
        await generator.lanes(LANES, 2.0)
        cpu = service.cpu_seconds()
        peak = await generator.lanes(LANES, peak_s)
        cpu = service.cpu_seconds() - cpu
        before = await generator.open_loop(peak.goodput / 2, calm_s)
        await generator.settle()
        flood = await generator.open_loop(2 * peak.goodput, flood_s)
        await generator.settle()
        after = await generator.open_loop(peak.goodput / 2, calm_s)
        await generator.settle()
        await generator.close()
    report.row("peak", calls_per_s=peak.goodput, cpu_us_a_call=cpu / len(peak.taken_s) * 1e6,
               p50_ms=_ms(peak.taken_s, 50))  # fmt: skip
    for name, phase in (("half of it, before", before), ("twice", flood), ("half, after", after)):
        report.row(
            name,
            offered_per_s=phase.offered / phase.seconds,
            goodput_per_s=phase.goodput,
            p50_ms=_ms(phase.taken_s, 50),
            p99_ms=_ms(phase.taken_s, 99),
            refused_p50_ms=_ms(phase.refused_s, 50),
            refused_p99_ms=_ms(phase.refused_s, 99),
            unsent=phase.unsent,
            memory_mib=phase.memory_max / 2**20,
            load_average=os.getloadavg()[0],
            **{key.replace(" ", "_"): value for key, value in sorted(phase.outcomes.items())},
        )
    report.goal("goodput at twice the peak, of the peak", flood.goodput / peak.goodput, 0.7)
    bare = sum(
        number for key, number in flood.outcomes.items() if not key.endswith("with RetryInfo")
    )
    report.goal("refusals without RetryInfo", bare, 0, at_most=True)
    report.goal("p50 after of p50 before", _ms(after.taken_s, 50) / _ms(before.taken_s, 50), 2.0,
                at_most=True)  # fmt: skip


def _ms(seconds: Sequence[float], percent: int) -> float:
    if len(seconds) < 2:
        return 0.0
    return statistics.quantiles(seconds, n=100)[percent - 1] * 1000


PARTS: dict[str, Part] = {"overload": overload}

if __name__ == "__main__":
    sys.exit(run("python -m bench.overload", __doc__, PARTS, None))
