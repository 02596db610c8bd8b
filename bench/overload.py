"""`python -m bench.overload [overload] [mesh]`: twice what a process can serve, and what becomes
of it: straight at the process, and through edge and sidecar as they are shipped.

Lanes find the peak; an open loop then offers twice as much for a minute, whatever comes back;
then half as much, to see whether the service is itself again without being touched, for who
pulls and subscribes too. The service has one core, which it shares with nobody but neighbours.
Through the proxies, these and who makes the load share the other one.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench import frames, load, processes, readers
from bench.accounts import Account
from bench.flood import Device, Generator, Phase
from bench.frames import Connection
from bench.mesh import UNBOUND, dial
from bench.processes import Child
from bench.report import Part, Report, run
from bench.subscribers import DEFAULTS, enrol
from bench.sync import AUDIENCE
from deploy.proxies import Mesh, Proxy

ACCOUNTS, LANES, CONNECTIONS = 4_000, 32, 64
BATCH, BATCH_MESH = 4, 32
"""Ops of a push. More through the proxies: a push costs them as much however large it is, and
they must not be the first to give in, with one core for both and for who makes the load."""


@dataclass(frozen=True, slots=True)
class Way:
    """How calls reach the service."""

    service: Child
    core: int
    """The one that the service has."""
    address: str
    tls: ssl.SSLContext | None = None
    dial: load.Dial | None = None
    proxies: tuple[Proxy, ...] = ()


async def overload(report: Report) -> None:
    """Peak, a minute at twice of it, then half of it: the process alone."""
    with (
        tempfile.TemporaryDirectory() as folder,
        processes.service(Path(folder), settings=DEFAULTS) as service,
    ):
        core = max(os.sched_getaffinity(0))
        await _flooded(report, Way(service, core, service.address), BATCH)


async def proxied(report: Report) -> None:
    """The same through edge and sidecar, whose bounds are the shipped ones but for the rates."""
    with (
        tempfile.TemporaryDirectory() as folder,
        processes.service(Path(folder), settings=DEFAULTS) as service,
        Mesh(Path(folder) / "mesh") as mesh,
    ):
        sidecar = await mesh.sidecar(service.address)
        edge = await mesh.edge(
            sidecar,
            CALLS_AT_ONCE="128",  # of one replica; the sidecar's own is for those of several edges
            CALLS_BURST=UNBOUND,
            CALLS_PER_S=UNBOUND,
            ADDRESS_CALLS_BURST=UNBOUND,
            ADDRESS_CALLS_PER_S=UNBOUND,
        )
        tls = frames.trusting(str(mesh.authority.cert))
        core = max(os.sched_getaffinity(0))
        way = Way(service, core, edge.address, tls, dial(edge, mesh, None), (edge, sidecar))
        with _beside(core, way.proxies):
            flood = await _flooded(report, way, BATCH_MESH)
        overflow = r"cluster\.service_unary\.upstream_rq_active_overflow"
        # One in a hundred is noted there, in whole milliseconds.
        noted = [
            row["ms"] for proxy in way.proxies for row in proxy.access() if row["flags"] == "UO"
        ]
        report.row(
            "mesh: at the proxies",
            p50_ms_inside=statistics.median(noted or [0]),
            longest_ms_inside=max(noted, default=0),
            refused_by_sidecar=sidecar.stat(overflow),
            refused_by_edge=edge.stat(overflow),
            sent_again=edge.stat(r"cluster\.service_unary\.upstream_rq_retry"),
        )
        early = _ms(flood.refused_s, 50) / _ms(flood.taken_s, 50)
        report.goal("mesh: p50 of a refusal, of that of a push", early, 1.0, at_most=True)


@contextmanager
def _beside(core: int, proxies: Sequence[Proxy]) -> Iterator[None]:
    """Keeps the proxies and this process off the core of the service, if there is another."""
    mine = os.sched_getaffinity(0)
    others = mine - {core} or mine
    for process in (psutil.Process(), *(psutil.Process(proxy.pid) for proxy in proxies)):
        for thread in process.threads():
            os.sched_setaffinity(thread.id, others)
    try:
        yield
    finally:
        for thread in psutil.Process().threads():
            os.sched_setaffinity(thread.id, mine)


async def _flooded(report: Report, way: Way, batch: int) -> Phase:
    peak_s, flood_s, calm_s = (4.0, 10.0, 5.0) if report.quick else (10.0, 60.0, 10.0)
    accounts = [Account.make(AUDIENCE) for _ in range(ACCOUNTS)]
    await enrol(way.service, accounts)
    # One core for the service, or the one that makes the load is the first to give in.
    way.service.pin({way.core})
    connections = [await Connection.open(way.address, tls=way.tls) for _ in range(CONNECTIONS)]
    devices = [Device(account, batch) for account in accounts]
    generator = Generator(way.service, devices, connections, way.proxies)
    await generator.lanes(LANES, 2.0)
    first = await generator.lanes(LANES, peak_s)
    before = await generator.open_loop(first.goodput / 2, calm_s)
    flood = await generator.open_loop(2 * first.goodput, flood_s)
    coming_back = asyncio.create_task(
        readers.read(way.address, accounts, calm_s / 2, dial=way.dial)
    )
    after = await generator.open_loop(first.goodput / 2, calm_s)
    await coming_back
    # Half as many pushes again, beside them calls of the other lanes: by now all are taken.
    others, _ = await asyncio.gather(
        readers.read(way.address, accounts, calm_s / 2, dial=way.dial),
        generator.open_loop(first.goodput / 2, calm_s / 2),
    )
    second = await generator.lanes(LANES, peak_s)
    for connection in connections:
        await connection.close()
    named = "mesh: " if way.proxies else ""
    peak = (first.goodput + second.goodput) / 2
    worth = (first.worth + second.worth) / 2
    report.row(f"{named}peak, before and after", calls_per_s=first.goodput, again=second.goodput,
               p50_ms=_ms(first.taken_s, 50), cpu_us_a_call=1e6 / worth,
               others_of_a_core=first.others_cpu_s / first.seconds)  # fmt: skip
    for name, phase in (("half of it, before", before), ("twice", flood), ("half, after", after)):
        _tell(report, named + name, phase)
    report.goal(f"{named}goodput at twice the peak, of the peak", flood.goodput / peak, 0.7)
    report.goal(f"{named}the same a second of the service's CPU", flood.worth / worth, 0.7)
    bare = sum(number for key, number in flood.outcomes.items() if not key.endswith("in words"))
    report.goal(f"{named}refusals without a word", bare, 0, at_most=True)
    for method, ended in others.items():
        report.goal(f"{named}share of {method.rpartition('/')[2]} that is refused afterwards",
                    readers.refused(ended), 0, at_most=True)  # fmt: skip
    report.goal(f"{named}p50 after of p50 before",
                _ms(after.taken_s, 50) / _ms(before.taken_s, 50), 2.0, at_most=True)  # fmt: skip
    return flood


def _tell(report: Report, name: str, phase: Phase) -> None:
    report.row(
        name,
        offered_per_s=phase.offered / phase.seconds,
        of_a_core=phase.cpu_s / phase.seconds,
        others_of_a_core=phase.others_cpu_s / phase.seconds,
        goodput_per_s=phase.goodput,
        p50_ms=_ms(phase.taken_s, 50),
        p99_ms=_ms(phase.taken_s, 99),
        refused_p50_ms=_ms(phase.refused_s, 50),
        refused_p99_ms=_ms(phase.refused_s, 99),
        unsent=phase.unsent,
        memory_mib=phase.memory_max / 2**20,
        proxies_memory_mib=phase.proxies_memory_max / 2**20,
        load_average=os.getloadavg()[0],
        **{key.replace(" ", "_"): value for key, value in sorted(phase.outcomes.items())},
    )


def _ms(seconds: Sequence[float], percent: int) -> float:
    if len(seconds) < 2:
        return 0.0
    return statistics.quantiles(seconds, n=100)[percent - 1] * 1000


PARTS: dict[str, Part] = {"overload": overload, "mesh": proxied}

if __name__ == "__main__":
    sys.exit(run("python -m bench.overload", __doc__, PARTS, None))
