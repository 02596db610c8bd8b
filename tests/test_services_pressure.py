"""Refusing early: a share of calls that follows how long calls wait, and what a flood meets."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench import load, processes, readers
from bench.accounts import CREATE, PULL, SUBSCRIBE, Account
from bench.crowd import Crowd
from bench.flood import Device, Generator
from bench.frames import Connection
from bench.subscribers import DEFAULTS, enrol
from bench.sync import AUDIENCE
from services.call import Lane
from services.limits import Gate
from services.pressure import (
    CALLS_MIN,
    FORGET_S,
    INTERVAL_S,
    LOOKS_LATE,
    SHARE_MAX,
    Pressure,
    Probe,
    own_address,
)
from tests import served
from tests.served import PUSH, push_request, refusal, serving

TARGET_S = 0.2


@dataclass
class Scene:
    """A pressure on a clock of our own, and the calls that it sent to itself."""

    now_s: float = 100.0
    probes: int = 0

    def __post_init__(self) -> None:
        self.pressure = Pressure(TARGET_S, monotonic_s=lambda: self.now_s, jitter=lambda: 0.5)
        self.pressure.probe = self._count

    def _count(self) -> None:
        self.probes += 1

    def rounds(self, count: int, *, pushes_s: float | None, probe_s: float | None) -> None:
        """So many intervals, in each of which calls came and the quickest push took `pushes_s`;
        a call to itself took `probe_s`, or is not back."""
        for _ in range(count):
            for _ in range(CALLS_MIN):
                self.pressure.refuses(Lane.PUSH)
            if pushes_s is not None:
                self.pressure.served(Lane.PUSH, pushes_s * 3)
                self.pressure.served(Lane.PUSH, pushes_s)
            if probe_s is not None:
                before, self.now_s = self.now_s, self.now_s + probe_s
                self.pressure.probed()
                self.now_s = before
            self.now_s += INTERVAL_S

    def share(self, lane: Lane) -> float:
        """Of the calls of a lane, how many are refused."""
        return self.pressure.valves[lane].share


def test_who_is_quick_refuses_nobody() -> None:
    """Below the target the share stays 0, however many calls come."""
    scene = Scene()
    scene.rounds(100, pushes_s=TARGET_S * 0.9, probe_s=0.001)
    assert [scene.share(lane) for lane in Lane] == [0.0] * len(Lane)
    assert scene.pressure.backoff_ms == 0


def test_pushes_that_wait_are_refused_and_pulls_are_not() -> None:
    """A slow store is no reason to refuse what it is not asked for; the share falls again."""
    scene = Scene()
    scene.rounds(60, pushes_s=TARGET_S * 3, probe_s=0.001)
    assert scene.share(Lane.PUSH) == SHARE_MAX
    assert scene.pressure.refuses(Lane.PUSH)
    assert scene.share(Lane.PULL) == 0.0
    assert scene.pressure.backoff_ms == 1000 * SHARE_MAX
    assert 2_000 < scene.pressure.retry_ms(Lane.PUSH) <= 7_500
    scene.rounds(60, pushes_s=0.002, probe_s=0.001)
    assert scene.share(Lane.PUSH) == 0.0


def test_a_stall_refuses_nobody() -> None:
    """Calls that were late for a moment are no overload."""
    scene = Scene()
    for _ in range(20):
        scene.rounds(LOOKS_LATE - 1, pushes_s=TARGET_S * 10, probe_s=0.001)
        scene.rounds(1, pushes_s=0.002, probe_s=0.001)
        assert scene.share(Lane.PUSH) == 0.0


async def test_a_slow_store_with_few_calls_refuses_nobody(tmp_path: Path) -> None:
    """Who takes long without anybody before them counts as quick: see `Gate.is_crowded`."""
    gate = Gate(8, lambda: 0.5)
    seen = []
    with gate:
        seen.append(gate.is_crowded)
        with gate:
            seen.append(gate.is_crowded)
    assert seen == [False, True]
    async with serving(tmp_path) as service:
        world = await service.account("alone")
        await service.push(world, world.op())
        assert service.server.pressure.valves[Lane.PUSH].shortest_s == 0.0


def test_a_queue_in_front_of_the_process_is_everybodys() -> None:
    """A call to itself that does not come back counts for as long as it waits, in every lane."""
    scene = Scene()
    scene.rounds(2, pushes_s=0.002, probe_s=0.001)
    scene.rounds(20, pushes_s=0.002, probe_s=None)
    assert all(scene.share(lane) > 0.3 for lane in Lane)


def test_a_quiet_process_neither_asks_itself_nor_remembers() -> None:
    """No calls, no calls to itself; after a pause it begins anew."""
    scene = Scene()
    for _ in range(100):
        scene.pressure.refuses(Lane.PUSH)
        scene.now_s += INTERVAL_S * 2
    assert scene.probes <= 100 / CALLS_MIN
    scene.rounds(60, pushes_s=TARGET_S * 3, probe_s=0.001)
    scene.now_s += FORGET_S * 2
    assert not scene.pressure.refuses(Lane.PUSH)
    assert scene.share(Lane.PUSH) == 0.0


def test_a_lane_without_a_call_that_ends_recovers_with_the_queue() -> None:
    """Streams never end as calls do, and nobody may pull for a while: what a lane refuses is
    judged by the queue of now, not by the longest that there ever was."""
    scene = Scene()
    scene.rounds(20, pushes_s=0.002, probe_s=None)
    assert all(scene.share(lane) > 0.3 for lane in Lane)
    scene.rounds(100, pushes_s=0.002, probe_s=0.001)
    assert [scene.share(lane) for lane in Lane] == [0.0] * len(Lane)
    assert scene.pressure.backoff_ms == 0


def test_an_old_queue_refuses_nobody_after_a_pause() -> None:
    """The last call to itself took long, and then nobody came: it says nothing of now."""
    for pause_s in (FORGET_S * 2, FORGET_S / 2):
        scene = Scene()
        scene.rounds(2, pushes_s=0.002, probe_s=TARGET_S * 10)
        scene.now_s += pause_s
        refused = 0
        for _ in range(4 * CALLS_MIN):
            probes = scene.probes
            refused += scene.pressure.refuses(Lane.PUSH)
            scene.pressure.served(Lane.PUSH, 0.002)
            if scene.probes > probes:
                scene.now_s += 0.001
                scene.pressure.probed()
            scene.now_s += 0.5
        assert not refused


async def test_a_call_to_itself_that_fails_is_not_waited_for_for_ever() -> None:
    """Whatever it failed with, also before it was sent: it says nothing of a queue, and the next
    one is sent."""
    scene = Scene()
    probe = Probe(scene.pressure, own_address())
    try:
        await probe._channel.close()
        for _ in range(3):
            sent = probe._running
            for _ in range(CALLS_MIN):
                scene.pressure.refuses(Lane.PULL)
            scene.now_s += INTERVAL_S * 2
            scene.pressure.refuses(Lane.PULL)
            assert probe._running is not None
            assert probe._running is not sent
            [error] = await asyncio.gather(probe._running, return_exceptions=True)
            assert error is not None
            scene.now_s += INTERVAL_S * 2
            scene.pressure.refuses(Lane.PULL)
            assert scene.pressure.queued_s == 0
    finally:
        await probe.close()


async def test_a_refused_call_was_not_looked_at(tmp_path: Path) -> None:
    """Neither its signature, so that a flood costs no verification, nor its nonce: the same
    bytes are taken once there is room."""
    async with serving(tmp_path, queue_target_ms=250) as service:
        world = await service.account("patient")
        payload = push_request(world.op()).SerializeToString()
        auth = service.auth(world.authors[0].identity, world, PUSH, payload)
        pressure = service.server.pressure
        pressure._jitter = lambda: 0.0
        pressure.valves[Lane.PUSH].share = SHARE_MAX
        for value in (auth, bytes(len(auth))):
            refused = await refusal(service.raw(PUSH, payload, [value]))
            assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refused.reason == "OVERLOADED"
            assert refused.retry_ms is not None
            assert refused.retry_ms >= 500
        assert (await service.pull(world)).info.backoff_ms > 0
        pressure.valves[Lane.PUSH].share = 0.0
        await service.raw(PUSH, payload, [auth])


async def test_a_flood_is_refused_in_words_and_passes(tmp_path: Path) -> None:
    """More than a process wants to bear: it takes some, refuses the rest with RetryInfo and
    nothing else, and afterwards everybody gets in."""
    devices = [Device(Account.make(AUDIENCE)) for _ in range(150)]
    with processes.service(tmp_path, settings={**DEFAULTS, "ROOKERY_PUSHES_MAX": "16"}) as service:
        await enrol(service, [device.account for device in devices])
        connections = [await Connection.open(service.address) for _ in range(16)]
        generator = Generator(service, devices, connections)
        flood = await generator.lanes(100, 1.0)
        assert flood.taken_s
        assert set(flood.outcomes) == {"RESOURCE_EXHAUSTED in words"}
        waiting = {id(device) for device in devices if device.message}
        while waiting:
            await generator.lanes(16, 0.2)
            waiting &= {id(device) for device in devices if device.message}
        for connection in connections:
            await connection.close()


async def test_a_lane_that_stays_shut_is_seen_by_who_reads_after_an_overload(
    tmp_path: Path,
) -> None:
    """The benchmark's readers meet each lane by itself, and say what was refused there."""
    accounts = [Account.make(served.AUDIENCE) for _ in range(2)]
    async with serving(tmp_path, queue_target_ms=250, pow_bits=0) as service:
        address = service.server.address
        async with grpc.aio.insecure_channel(address) as channel:
            for account in accounts:
                await load.unary(channel, CREATE)(account.creation, metadata=(), timeout=20)
        pressure = service.server.pressure
        pressure._jitter = lambda: 0.0
        for method, lane in ((PULL, Lane.PULL), (SUBSCRIBE, Lane.STREAM)):
            pressure.valves[lane].share = SHARE_MAX
            outcomes = await readers.read(address, accounts, readers.PACE_S * 2)
            for row, ended in outcomes.items():
                assert readers.refused(ended) == (1.0 if row == method else 0.0), (row, ended)
            assert outcomes[method].keys() == {"RESOURCE_EXHAUSTED with RetryInfo"}
            pressure.valves[lane].share = 0.0


async def test_a_crowd_comes_back_after_a_kill(tmp_path: Path) -> None:
    """All at one moment: each is live again, and no error was other than those that a client
    tries again."""
    accounts = [Account.make(AUDIENCE) for _ in range(100)]
    service = processes.service(tmp_path, settings=DEFAULTS)
    try:
        await enrol(service, accounts)
        crowd = Crowd(accounts, service.address, len(accounts), jitter=False)
        await crowd.open()
        crowd.forget(held=True)
        service.kill()
        service = processes.service(tmp_path, listen=crowd.address, settings=DEFAULTS)
        crowd.release()
        await crowd.all_back(within_s=100)
        seen: Counter[str] = crowd.outcomes
        assert seen["UNAVAILABLE"] >= 100
        assert set(seen) <= {
            "UNAVAILABLE",
            "UNAVAILABLE with RetryInfo",
            "RESOURCE_EXHAUSTED with RetryInfo",
        }
        await crowd.close()
    finally:
        service.kill()
