"""`python -m bench policy watchers`: how long a published policy takes to be in force on devices.

Real devices with their whole state, each connected by a stream of its own; the shipped policy,
published again and again under the next number by its publisher's key. With `--store redis` two
replicas of the service on one Redis, half of the devices at each, and one of them takes all
bundles. Measured from the publisher's call to the moment when a device holds the bundle durably
and its gate goes by it. All devices are in the one process that measures, and each verifies and
checks the bundle for itself (1.5 ms).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import grpc.aio

from bench import load, processes, redis
from bench.accounts import Account
from bench.processes import Child
from bench.report import Part, Report
from bench.streams import open_stream
from bench.sync import AUDIENCE
from client.device import Device
from client.endpoint import Endpoint
from client.policykit import bundlefile
from client.policykit.bundlefile import BundleFile
from client.policykit.publish import publish
from client.sync import SyncedDevice
from client.transport import Transport
from client.vault import MemoryVault
from client.watch import Watch
from crypto.policy import FIRST, Bundle
from crypto.request import METADATA_KEY, CallKind
from mpc.keys import PublisherKey
from rookery.v1 import policy_pb2

SHIPPED = Path(__file__).resolve().parent.parent / "deploy/policy/baseline.policy"
DEVICES, BUNDLES = 50, 40
WATCHERS, CONNECTIONS = 2_000, 16
WATCH = "/rookery.v1.Policy/WatchPolicy"
WITHIN_S = 1.0
"""What is promised (proto/rookery/v1/policy.proto)."""


class Phone:
    """A connected device, and when it came to hold which bundle."""

    def __init__(self, synced: SyncedDevice) -> None:
        self.synced = synced
        self.held: dict[int, float] = {}
        self.changed = asyncio.Event()
        self._watch = Watch(synced, on_change=self._look)
        self.task = asyncio.create_task(self._watch.run())

    @classmethod
    async def create(cls, endpoint: Endpoint, key: bytes) -> Phone:
        """On an account of its own, under the policy."""
        transport = Transport(endpoint)
        core = Device.create(
            recovery_secret=None, now_ms=transport.clock.wall_ms(), rand=secrets.token_bytes
        )
        synced = SyncedDevice(core, MemoryVault(), transport)
        synced.pin_policy(key)
        await synced.sync_once()
        return cls(synced)

    def _look(self) -> None:
        bundle = self.synced.policy
        if bundle is not None:
            self.held.setdefault(bundle.sequence, time.perf_counter())
        self.changed.set()

    async def holds(self, sequence: int) -> float:
        """When it did."""
        while sequence not in self.held:
            if self.task.done():
                await self.task
            self.changed.clear()
            await self.changed.wait()
        return self.held[sequence]

    async def close(self) -> None:
        """Ends it."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.synced.close()


def next_after(before: Bundle | None) -> Bundle:
    """The shipped policy under the next number."""
    shipped = bundlefile.read(SHIPPED).bundle
    if before is None:
        return replace(shipped, sequence=1, previous=FIRST)
    return replace(shipped, sequence=before.sequence + 1, previous=before.hash)


@contextlib.contextmanager
def services(report: Report, key: PublisherKey) -> Iterator[Sequence[Child]]:
    """One on SQLite, or two on one Redis."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = {"ROOKERY_POLICY_KEYS": key.public.hex()}
        count = 1
        if report.store == "redis":
            server = stack.enter_context(redis.running(folder / "redis"))
            settings["ROOKERY_REDIS_URL"] = server.url
            count = 2
        made = []
        for number in range(count):
            place = folder / str(number)
            place.mkdir()
            made.append(stack.enter_context(processes.service(place, settings=settings)))
        yield made


def endpoint_of(service: Child) -> Endpoint:
    """How a client names it."""
    ready = service.ready
    return Endpoint.parse(service.address, str(ready["audience"]), str(ready["server_key"]))


async def spread(report: Report) -> None:
    """Bundle after bundle to all devices."""
    key = PublisherKey(secrets.token_bytes(32))
    devices = DEVICES // 5 if report.quick else DEVICES
    with services(report, key) as running:
        endpoints = [endpoint_of(one) for one in running]
        publisher = Transport(endpoints[0])
        made = next_after(None)
        await publish(publisher, key, BundleFile.signed(made, key))
        await asyncio.sleep(2 * WITHIN_S)
        phones: list[Phone] = []
        try:
            for number in range(devices):
                at = endpoints[number % len(endpoints)]
                phones.append(await Phone.create(at, key.public))
            await asyncio.gather(*(phone.holds(1) for phone in phones))
            seconds: list[list[float]] = [[] for _ in endpoints]
            for _ in range(BUNDLES):
                made = next_after(made)
                began_s = time.perf_counter()
                await publish(publisher, key, BundleFile.signed(made, key))
                times = await asyncio.gather(*(phone.holds(made.sequence) for phone in phones))
                for number, held_s in enumerate(times):
                    seconds[number % len(endpoints)].append(held_s - began_s)
        finally:
            await asyncio.gather(*(phone.close() for phone in phones))
            await publisher.close()
    names = ["where it was published", "at another replica"]
    for name, some in zip(names, seconds, strict=False):
        cuts = statistics.quantiles(some, n=100)
        report.row(
            f"policy in force, {name}",
            devices=devices / len(endpoints), kib=len(made.encoded) / 1024,
            p50_ms=1e3 * cuts[49], p99_ms=1e3 * cuts[98], max_ms=1e3 * max(some),
        )  # fmt: skip
    report.goal("seconds until every device has it", max(map(max, seconds)), WITHIN_S, at_most=True)


async def crowd(report: Report) -> None:
    """What each of many open streams costs the service, and when the last of them has a bundle.
    Nobody verifies it here: this is the service alone."""
    key = PublisherKey(secrets.token_bytes(32))
    count = WATCHERS // 10 if report.quick else WATCHERS
    accounts = [Account.make(AUDIENCE) for _ in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        settings = {"ROOKERY_POLICY_KEYS": key.public.hex()}
        with processes.service(Path(folder), settings=settings) as service:
            publisher = Transport(endpoint_of(service))
            made = next_after(None)
            await publish(publisher, key, BundleFile.signed(made, key))
            await load.create_accounts(service, accounts)
            channels = [load.channel(service.address) for _ in range(CONNECTIONS)]
            before = service.memory_bytes()
            streams = [
                await watching(channels[number % CONNECTIONS], account)
                for number, account in enumerate(accounts)
            ]
            await asyncio.sleep(1)  # the last writes; nothing is timed
            each = (service.memory_bytes() - before) / count
            seconds: list[float] = []
            for _ in range(BUNDLES // 4):
                made = next_after(made)
                began_s, cpu_s = time.perf_counter(), service.cpu_seconds()
                read = asyncio.gather(*(had(stream, made.sequence) for stream in streams))
                await publish(publisher, key, BundleFile.signed(made, key))
                seconds += [at - began_s for at in await read]
                cpu_s = service.cpu_seconds() - cpu_s
            await asyncio.gather(*(channel.close() for channel in channels))
            await publisher.close()
    cuts = statistics.quantiles(seconds, n=100)
    report.row(
        f"{count} watchers", kib_each=each / 1024, cpu_us_each=1e6 * cpu_s / count,
        p50_ms=1e3 * cuts[49], p99_ms=1e3 * cuts[98], max_ms=1e3 * max(seconds),
    )  # fmt: skip


async def watching(channel: grpc.aio.Channel, account: Account) -> AsyncIterator[bytes]:
    """An open stream that has had the newest bundle."""
    asked = policy_pb2.WatchPolicyRequest().SerializeToString()
    auth = ((METADATA_KEY, account.sign(WATCH, asked, CallKind.STREAM)),)
    frames = open_stream(channel, WATCH, asked, auth)
    await anext(frames)
    return frames


async def had(frames: AsyncIterator[bytes], sequence: int) -> float:
    """When a stream brought this one."""
    while True:
        raw = await anext(frames)
        at_s = time.perf_counter()
        if policy_pb2.WatchPolicyResponse.FromString(raw).sequence == sequence:
            return at_s


PARTS: dict[str, Part] = {"policy": spread, "watchers": crowd}
