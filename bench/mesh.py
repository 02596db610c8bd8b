"""`python -m bench.mesh`: what the proxies cost: pushes straight, through one, through two.

The real Envoy with the shipped configuration, one thread each, mTLS between workloads. Load
generator, proxies and service share the machine, and the ways take turns at one service.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import grpc
import grpc.aio
import psutil

from bench import load, processes
from bench.accounts import sealed_pushes
from bench.echo import OPTIONS
from bench.report import Part, Report, run
from deploy.proxies import Mesh, Proxy

AUDIENCE = "rookery.localhost"
UNBOUND = "100000000"


def dial(proxy: Proxy, mesh: Mesh, shown: Path | None) -> load.Dial:
    """Channels through a proxy, with a workload's certificate or none."""
    key, chain = (
        ((shown / "tls.key").read_bytes(), (shown / "tls.crt").read_bytes())
        if shown
        else (None, None)
    )
    credentials = grpc.ssl_channel_credentials(mesh.authority.cert.read_bytes(), key, chain)
    options = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    return lambda: grpc.aio.secure_channel(proxy.address, credentials, options)


def _cpu_seconds(proxies: Sequence[Proxy]) -> float:
    times = [psutil.Process(proxy.pid).cpu_times() for proxy in proxies]
    return float(sum(row.user + row.system for row in times))


async def pushes(report: Report) -> None:
    """Durable pushes of one op, one at a time and 32 at once."""
    with (
        tempfile.TemporaryDirectory() as folder,
        processes.service(Path(folder), settings={"ROOKERY_QUEUE_TARGET_MS": "0"}) as service,
        Mesh(Path(folder) / "mesh") as mesh,
    ):
        sidecar = await mesh.sidecar(service.address)
        edge = await mesh.edge(
            sidecar,
            CALLS_BURST=UNBOUND,
            CALLS_PER_S=UNBOUND,
            ADDRESS_CALLS_BURST=UNBOUND,
            ADDRESS_CALLS_PER_S=UNBOUND,
        )
        ways: dict[str, tuple[load.Dial | None, tuple[Proxy, ...]]] = {
            "direct": (None, ()),
            "sidecar": (dial(sidecar, mesh, mesh.workload("edge")), (sidecar,)),
            "edge and sidecar": (dial(edge, mesh, None), (edge, sidecar)),
        }
        for lanes, calls in ((1, 300), (32, 60)):
            await _compared(report, service, ways, lanes, calls // 4 if report.quick else calls)


async def _compared(
    report: Report,
    service: processes.Child,
    ways: dict[str, tuple[load.Dial | None, tuple[Proxy, ...]]],
    lanes: int,
    calls: int,
) -> None:
    rates: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(2 if report.quick else 6):
        # Whoever is first in a turn finds the machine as the last turn left it.
        order = list(ways.items())
        for name, (way, proxies) in order[turn % 3 :] + order[: turn % 3]:
            made = sealed_pushes((AUDIENCE, lanes, calls, 1))
            await load.create_accounts(service, [account for account, _ in made])
            before = _cpu_seconds(proxies)
            timing = await load.push(service, made, way)
            rates[name].append(timing.calls_per_s)
            cpu[name].append((_cpu_seconds(proxies) - before) / timing.calls * 1e6)
    for name in ways:
        ratios = [rate / bare for rate, bare in zip(rates[name], rates["direct"], strict=True)]
        rate = statistics.median(rates[name])
        report.row(
            f"push, {lanes} in flight, {name}",
            calls_per_s=rate,
            of_direct=statistics.median(ratios),
            added_ms=1000 * lanes * (1 / rate - 1 / statistics.median(rates["direct"])),
            proxy_cpu_us_a_call=statistics.median(cpu[name]),
        )


PARTS: dict[str, Part] = {"mesh": pushes}

if __name__ == "__main__":
    sys.exit(run("python -m bench.mesh", __doc__, PARTS, None))
