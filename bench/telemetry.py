"""`python -m bench.telemetry`: what metrics and traces cost a call.

Metrics are always counted, so what they cost is timed alone and set beside the CPU that a push
takes in the same run; traces are off, at one call in a hundred, and at every call, in turns.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from bench import load, processes
from bench.accounts import PUSH, sealed_pushes
from bench.report import Part, Report, run
from services.metrics import Metrics

AUDIENCE = "rookery.localhost"
LANES = 32
SHARES = {"off": None, "1 %": "0.01", "100 %": "1"}


def counted(metrics: Metrics) -> Callable[[], None]:
    """All that is counted of one push that shares its commit with no other."""

    def push() -> None:
        metrics.called(PUSH, "OK", 0.004)
        metrics.pushed(ops=1, new=1)
        metrics.store.committed(requests=1, ops=1, seconds=0.002)

    return push


def _us(action: Callable[[], None], count: int = 20_000) -> float:
    """CPU of one, the median of nine runs."""
    runs = []
    for _ in range(9):
        start = time.thread_time()
        for _ in range(count):
            action()
        runs.append((time.thread_time() - start) / count * 1e6)
    return statistics.median(runs)


async def metrics_cost(report: Report) -> None:
    """CPU of what is counted of a call, of that of a push; and of a scrape."""
    metrics = Metrics()
    metrics.serve([PUSH])
    call = _us(lambda: metrics.called(PUSH, "OK", 0.004))
    push = _us(counted(metrics))
    calls = 25 if report.quick else 100
    made = sealed_pushes((AUDIENCE, LANES, calls, 1))
    with (
        tempfile.TemporaryDirectory() as folder,
        processes.service(
            Path(folder), settings={"ROOKERY_METRICS_LISTEN": "127.0.0.1:0"}
        ) as service,
    ):
        await load.create_accounts(service, [account for account, _ in made])
        pushed = await load.push(service, made)
        scrapes = 20
        before = service.cpu_seconds()
        for _ in range(scrapes):
            with urllib.request.urlopen(f"http://{service.ready['metrics']}/metrics") as page:  # noqa: ASYNC210
                size = len(page.read())
        scrape_ms = (service.cpu_seconds() - before) / scrapes * 1000
    report.row(
        "metrics",
        us_a_call=call,
        us_a_push=push,
        push_cpu_us=pushed.cpu_us,
        scrape_cpu_ms=scrape_ms,
        page_bytes=size,
    )
    report.goal("metrics of a push's CPU", push / pushed.cpu_us, 0.03, at_most=True)


async def traces_cost(report: Report) -> None:
    """CPU of a push without traces, with few and with all, in turns."""
    rounds, calls = (1, 25) if report.quick else (5, 60)
    cpu: dict[str, list[float]] = {name: [] for name in SHARES}
    with processes.Child([sys.executable, "-m", "bench.collector"]) as collector:
        for _ in range(rounds):
            for name, share in SHARES.items():
                more: dict[str, str] = (
                    {}
                    if share is None
                    else {
                        "ROOKERY_TRACES_ENDPOINT": f"http://{collector.address}",
                        "ROOKERY_TRACES_SHARE": share,
                    }
                )
                made = sealed_pushes((AUDIENCE, LANES, calls, 1))
                with (
                    tempfile.TemporaryDirectory() as folder,
                    processes.service(Path(folder), settings=more) as service,
                ):
                    await load.create_accounts(service, [account for account, _ in made])
                    cpu[name].append((await load.push(service, made)).cpu_us)
    off = statistics.median(cpu["off"])
    report.row("traces, CPU of a push", **{
        f"us_{name.replace(' %', '')}": statistics.median(found) for name, found in cpu.items()
    })  # fmt: skip
    ratios = {
        name: statistics.median(
            traced / plain for traced, plain in zip(cpu[name], cpu["off"], strict=True)
        )
        for name in SHARES
    }
    report.row("traces, of a push without", off_us=off, **{
        name.replace(" %", "_percent"): ratio for name, ratio in ratios.items()
    })  # fmt: skip
    report.goal("a push with traces at 1 %, of one without", ratios["1 %"], 1.1, at_most=True)


PARTS: dict[str, Part] = {"metrics": metrics_cost, "traces": traces_cost}

if __name__ == "__main__":
    sys.exit(run("python -m bench.telemetry", __doc__, PARTS, None))
