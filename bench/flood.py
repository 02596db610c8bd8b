"""Pushes of many accounts, in a closed loop or an open one, and what comes of them. A helper."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import grpc
import psutil

from bench import crafted, frames
from bench.accounts import PUSH, Account
from bench.frames import Connection
from bench.processes import Child
from deploy.proxies import Proxy

DEADLINE_S = 20
STATUS = {code.value[0]: code.name for code in grpc.StatusCode}
_TICK_S = 0.004


@dataclass(slots=True)
class Device:
    """An account with the push that it has to get rid of: the next is made when this is in."""

    account: Account
    batch: int = 4
    """Ops of a push."""
    message: bytes = b""
    block: bytes = b""
    sent_s: float = 0.0

    def prepare(self, shared: bytes) -> None:
        """Makes the next push and signs it. A call that was refused unread is sent as it was."""
        if not self.message:
            self.message = crafted.push(self.account, self.batch)
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
    proxies_memory_max: int = 0
    cpu_s: float = 0.0
    others_cpu_s: float = 0.0
    """Of the proxies and of who makes the load."""
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
        self,
        service: Child,
        devices: Sequence[Device],
        connections: Sequence[Connection],
        proxies: Sequence[Proxy] = (),
    ) -> None:
        self._service = service
        self._proxies = [psutil.Process(proxy.pid) for proxy in proxies]
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
        phase.cpu_s, phase.others_cpu_s = -self._service.cpu_seconds(), -self._others_cpu_seconds()
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            for _ in range(int(per_s * elapsed) - phase.offered if per_s else 0):
                self._push(phase)
            phase.memory_max = max(phase.memory_max, self._service.memory_bytes())
            beside = sum(proxy.memory_info().rss for proxy in self._proxies)
            phase.proxies_memory_max = max(phase.proxies_memory_max, beside)
            await asyncio.sleep(_TICK_S)
        phase.seconds = time.perf_counter() - start
        phase.cpu_s += self._service.cpu_seconds()
        phase.others_cpu_s += self._others_cpu_seconds()
        phase.over = True
        if self._under_way:
            self._all_back.clear()
            await self._all_back.wait()

    def _others_cpu_seconds(self) -> float:
        times = [process.cpu_times() for process in self._proxies]
        return time.process_time() + sum(row.user + row.system for row in times)

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
