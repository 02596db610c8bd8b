"""`python -m bench.growth`: what push, pull, memory, disk and start-up cost as accounts grow.

The store is filled without the service (crafted ops, one push of ten an account); then the
service starts on it and is asked by accounts drawn from all of them, none of which it knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import crafted, load, processes, redis
from bench.accounts import PULL, PUSH, Account
from bench.processes import Child
from bench.report import Part, Report, run
from bench.sync import AUDIENCE
from rookery.v1 import sync_pb2
from services.config import load as load_config
from services.store.base import Batch, Store
from services.store.opening import open_store

SIZES = (1_000, 10_000, 100_000)
"""Filling takes a millisecond an account on a quiet core."""
OPS_EACH, ASKED, LANES = 10, 1_000, 32
_FILLERS = 64


async def fill(store: Store, count: int, rng: random.Random) -> list[Account]:
    """Accounts with their first ops; a sample of them that can sign."""
    kept: list[Account] = []
    numbers = iter(range(count))
    now_ms = time.time_ns() // 1_000_000

    async def filler() -> None:
        for number in numbers:
            account = Account.make(AUDIENCE)
            await store.create_account(account.genesis, subject_row=None, now_ms=now_ms)
            rows = crafted.rows(account, OPS_EACH)
            await store.commit_ops(
                Batch(account.account_id, account.identity.device_id, rows, now_ms)
            )
            # Drawn evenly from all, in one pass.
            if len(kept) < ASKED:
                kept.append(account)
            elif (place := rng.randrange(number + 1)) < ASKED:
                kept[place] = account

    await asyncio.gather(*(filler() for _ in range(_FILLERS)))
    rng.shuffle(kept)
    return kept


async def growth(report: Report) -> None:
    """One row a size."""
    first: dict[str, float] = {}
    for size in SIZES[:2] if report.quick else SIZES:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            settings = {"ROOKERY_DATABASE": str(folder / "rookery.db")}
            kept = None
            if report.store == "redis":
                kept = stack.enter_context(redis.running(folder / "redis"))
                settings["ROOKERY_REDIS_URL"] = kept.url
            empty = kept.used_bytes() if kept else 0
            store = await open_store(load_config(None, settings))
            began = time.perf_counter()
            accounts = await fill(store, size, random.Random(size))
            filled_s = time.perf_counter() - began
            await store.close()
            figures = {"filled_a_s": size / filled_s, "disk_bytes_each": _disk(folder) / size}
            if kept:
                figures["redis_bytes_each"] = (kept.used_bytes() - empty) / size
            began = time.perf_counter()
            service = stack.enter_context(processes.service(folder, settings=settings))
            figures["start_s"] = time.perf_counter() - began
            figures["start_mib"] = service.memory_bytes() / 2**20
            figures |= await _ask(service, accounts)
        figures["load_average"] = os.getloadavg()[0]
        report.row(f"{size} accounts, {report.store}", **figures)
        first = first or figures
    for name in ("push_cpu_us", "pull_cpu_us"):
        report.goal(f"{name}, of it with {SIZES[0]}", figures[name] / first[name], 2, at_most=True)


async def _ask(service: Child, accounts: list[Account]) -> dict[str, float]:
    """A push and a pull by each of the sample, which the service has not seen since it began."""
    pulls = [sync_pb2.PullRequest().SerializeToString()]
    pushes = {account.account_id: [crafted.push(account, 1)] for account in accounts}
    before = service.memory_bytes()
    pulled = await load.run_lanes(
        service, PULL, _lanes([load.signed(account, PULL, pulls) for account in accounts])
    )
    pushed = await load.run_lanes(
        service,
        PUSH,
        _lanes([load.signed(one, PUSH, pushes[one.account_id]) for one in accounts]),
    )
    return {
        "pull_cpu_us": pulled.cpu_us,
        "pulls_a_s": pulled.calls_per_s,
        "push_cpu_us": pushed.cpu_us,
        "pushes_a_s": pushed.calls_per_s,
        "known_kib_each": (service.memory_bytes() - before) / len(accounts) / 1024,
    }


def _disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _lanes(calls: list[Any]) -> list[Any]:
    return [list(itertools.chain.from_iterable(calls[number::LANES])) for number in range(LANES)]


PARTS: dict[str, Part] = {"accounts": growth}

if __name__ == "__main__":
    sys.exit(run("python -m bench.growth", __doc__, PARTS, None))
