"""`python -m bench.overload`: twice what a process can serve, and what becomes of it.

Lanes find the peak; an open loop then offers twice as much for a minute, whatever comes back;
then half as much, to see whether the service is itself again without being touched, for who
pulls and subscribes too. The
service has one core, which it shares with nobody but neighbours.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc

from bench import crafted, frames, processes, readers
from bench.accounts import PUSH, Account
from bench.frames import Connection
from bench.processes import Child
from bench.report import Part, Report, run
from bench.subscribers import DEFAULTS, enrol
from bench.sync import AUDIENCE

ACCOUNTS, LANES, BATCH = 4_000, 32, 4
CONNECTIONS = 64
DEADLINE_S = 20
STATUS = {code.value[0]: code.name for code in grpc.StatusCode}
_TICK_S = 0.004


@dataclass(slots=True)
class Device:
    """An account with the push that it has to get rid of: the next is made when this is in."""

    account: Account
    message: bytes = b""
    block: bytes = b""
    sent_s: float = 0.0

    def prepare(self, shared: bytes) -> None:
        """Makes the next push and signs it. A call that was refused unread is sent as it was."""
        if not self.message:
            self.message = crafted.push(self.account, BATCH)
        if not self.block:
            self.block = shared + frames.signature(self.account.sign(PUSH, self.message))


@dataclass(slots=True)
class Phase:
    """What was offered for so long, and what came of it."""

    seconds: float = 0.0
    offered: int = 0
    unsent: int = 0
    """Offered when every device waited for an answer: the crowd was too small."""
    taken_s: list[float] = field(default_factory=list)
    """How long pushes took that were committed."""
    refused_s: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    memory_max: int = 0
    cpu_s: float = 0.0
    over: bool = False
    """What comes back from now on came too late to count."""

    @property
    def goodput(self) -> float:
        """Committed a second."""
        return len(self.taken_s) / self.seconds

    @property
    def worth(self) -> float:
        """Committed a second of the service's CPU: what neighbours on the machine don't change."""
        return len(self.taken_s) / self.cpu_s


class Generator:
    """Sends pushes of many accounts over many connections."""

    def __init__(
        self, service: Child, devices: Sequence[Device], connections: Sequence[Connection]
    ) -> None:
        self._service = service
        self._connections = connections
        self._shared = frames.headers(PUSH, service.address, f"{DEADLINE_S}S")
        self._free = deque(devices)
        self._sent = 0
        self._under_way = 0
        self._all_back = asyncio.Event()
        self._on_answer: Callable[[], None] = lambda: None

    async def lanes(self, count: int, seconds: float) -> Phase:
        """So many pushes at any time: a closed loop finds the peak."""
        phase = Phase()
        self._on_answer = lambda: None if phase.over else self._push(phase)
        for _ in range(count):
            self._push(phase)
        await self._run(phase, seconds, 0)
        return phase

    async def open_loop(self, per_s: float, seconds: float) -> Phase:
        """So many a second, however long answers take."""
        phase = Phase()
        self._on_answer = lambda: None
        await self._run(phase, seconds, per_s)
        return phase

    async def _run(self, phase: Phase, seconds: float, per_s: float) -> None:
        phase.cpu_s = -self._service.cpu_seconds()
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            for _ in range(int(per_s * elapsed) - phase.offered if per_s else 0):
                self._push(phase)
            phase.memory_max = max(phase.memory_max, self._service.memory_bytes())
            await asyncio.sleep(_TICK_S)
        phase.seconds = time.perf_counter() - start
        phase.cpu_s += self._service.cpu_seconds()
        phase.over = True
        if self._under_way:
            self._all_back.clear()
            await self._all_back.wait()

    def _push(self, phase: Phase) -> None:
        phase.offered += 1
        if not self._free:
            phase.unsent += 1
            return
        device = self._free.popleft()
        device.prepare(self._shared)
        device.sent_s = time.perf_counter()
        self._sent += 1
        self._under_way += 1
        self._connections[self._sent % len(self._connections)].call(
            device.block, device.message, partial(self._answered, device, phase)
        )

    def _answered(self, device: Device, phase: Phase, status: int, detailed: bool) -> None:
        took_s = time.perf_counter() - device.sent_s
        self._under_way -= 1
        if status == 0:
            device.message = device.block = b""
            if not phase.over:
                phase.taken_s.append(took_s)
        else:
            if not detailed:
                device.block = b""  # its nonce may be spent
            name = STATUS[status] + (" in words" if detailed else "")
            phase.outcomes[name] += 1
            phase.refused_s.append(took_s)
        self._free.append(device)
        self._on_answer()
        if not self._under_way:
            self._all_back.set()


async def overload(report: Report) -> None:
    """Peak, a minute at twice of it, then half of it."""
    peak_s, flood_s, calm_s = (4.0, 10.0, 5.0) if report.quick else (10.0, 60.0, 10.0)
    devices = [Device(Account.make(AUDIENCE)) for _ in range(ACCOUNTS)]
    with (
        tempfile.TemporaryDirectory() as folder,
        processes.service(Path(folder), settings=DEFAULTS) as service,
    ):
        await enrol(service, [device.account for device in devices])
        # One core for the service, or the one that makes the load is the first to give in.
        service.pin({max(os.sched_getaffinity(0))})
        connections = [await Connection.open(service.address) for _ in range(CONNECTIONS)]
        generator = Generator(service, devices, connections)
        await generator.lanes(LANES, 2.0)
        first = await generator.lanes(LANES, peak_s)
        before = await generator.open_loop(first.goodput / 2, calm_s)
        flood = await generator.open_loop(2 * first.goodput, flood_s)
        accounts = [device.account for device in devices]
        coming_back = asyncio.create_task(readers.read(service.address, accounts, calm_s / 2))
        after = await generator.open_loop(first.goodput / 2, calm_s)
        await coming_back
        # Half as many pushes again, beside them calls of the other lanes: by now all are taken.
        others, _ = await asyncio.gather(
            readers.read(service.address, accounts, calm_s / 2),
            generator.open_loop(first.goodput / 2, calm_s / 2),
        )
        second = await generator.lanes(LANES, peak_s)
        for connection in connections:
            await connection.close()
    peak = (first.goodput + second.goodput) / 2
    worth = (first.worth + second.worth) / 2
    report.row("peak, before and after", calls_per_s=first.goodput, again=second.goodput,
               p50_ms=_ms(first.taken_s, 50), cpu_us_a_call=1e6 / worth)  # fmt: skip
    for name, phase in (("half of it, before", before), ("twice", flood), ("half, after", after)):
        report.row(
            name,
            offered_per_s=phase.offered / phase.seconds,
            of_a_core=phase.cpu_s / phase.seconds,
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
    report.goal("goodput at twice the peak, of the peak", flood.goodput / peak, 0.7)
    report.goal("the same a second of the service's CPU", flood.worth / worth, 0.7)
    bare = sum(number for key, number in flood.outcomes.items() if not key.endswith("in words"))
    report.goal("refusals without a word", bare, 0, at_most=True)
    for method, ended in others.items():
        report.goal(f"share of {method.rpartition('/')[2]} that is refused afterwards",
                    readers.refused(ended), 0, at_most=True)  # fmt: skip
    report.goal("p50 after of p50 before", _ms(after.taken_s, 50) / _ms(before.taken_s, 50), 2.0,
                at_most=True)  # fmt: skip


def _ms(seconds: Sequence[float], percent: int) -> float:
    if len(seconds) < 2:
        return 0.0
    return statistics.quantiles(seconds, n=100)[percent - 1] * 1000


PARTS: dict[str, Part] = {"overload": overload}

if __name__ == "__main__":
    sys.exit(run("python -m bench.overload", __doc__, PARTS, None))
