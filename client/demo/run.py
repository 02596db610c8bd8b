"""The demo from beginning to end. Everything that it says was seen, not assumed."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client.demo import show
from client.demo.people import (
    ABOUT,
    RATINGS,
    REGION,
    Household,
    Town,
    refused_after_revocation,
)
from client.demo.ratings import Person, Population
from client.demo.stage import Service
from client.demo.traces import Search, record_pattern, search
from client.endpoint import Endpoint
from client.values import encode

AT_ONCE = 16
"""People that are looked after at the same time."""


@dataclass(slots=True)
class Totals:
    """What adds up over all people."""

    devices: int = 0
    ops: int = 0
    converged: int = 0


async def run(population: Population, *, seed: int, console: Console) -> dict[str, Any]:
    """Runs everything and gives the report."""
    start = time.monotonic()
    where = "made up (synthetic), seed" if population.synthetic else "real ratings from"
    console.print(
        f"[bold]{len(population.people):,} people[/bold], "
        f"{sum(len(person.ratings) for person in population.people):,} ratings, "
        f"{where} {seed if population.synthetic else population.source}"
    )
    with tempfile.TemporaryDirectory(prefix="rookery-demo-") as folder:
        with Service(Path(folder)) as service:
            console.print(
                f"a service on {service.address.target} with SQLite, its key pinned by every device"
            )
            report = await _acts(population, service, seed, console)
            running = search(service.files, population.words, _records(population))
        stopped = search(service.files, population.words, _records(population))
    report |= _found(running, stopped)
    report["seconds"] = round(time.monotonic() - start, 1)
    show.summary(console, report)
    return report


def _records(population: Population) -> Iterator[bytes]:
    for person in population.people:
        yield record_pattern(ABOUT, REGION, encode(person.region))
        for item, rating in person.ratings.items():
            yield record_pattern(RATINGS, item, encode(rating))


def _found(running: Search, stopped: Search) -> dict[str, Any]:
    """While the service ran its write-ahead log was there to be searched; afterwards all that
    it wrote is in the database."""
    return {
        "plaintext_hits_in_store_and_logs": len(running.hits) + len(stopped.hits),
        "patterns_searched": running.patterns,
        "bytes_searched": running.bytes_searched + stopped.bytes_searched,
        "files_searched": list(running.files),
    }


async def _acts(
    population: Population, service: Service, seed: int, console: Console
) -> dict[str, Any]:
    address = service.address
    town = Town(Endpoint.parse(address.target, address.audience, address.server_key), seed)
    totals = Totals()
    spotlight = await _everybody(population, town, totals, console)
    # A third device at least, so that one can be lost and two can agree.
    late = await town.pair(spotlight.first)
    totals.devices += 1
    late_converged = spotlight.agrees([late])
    spotlight.devices.append(late)
    show.side_by_side(console, late, service.database)
    lost = spotlight.devices.pop(1)
    refused = await refused_after_revocation(spotlight.first, lost)
    await lost.close()
    rotated = await _rotate(spotlight)
    report = {
        "people": len(population.people),
        "ratings": sum(len(person.ratings) for person in population.people),
        "source": population.source,
        "synthetic": population.synthetic,
        "devices": totals.devices,
        "ops_pushed": totals.ops + await _ops_since(spotlight),
        "all_devices_converged": totals.converged == len(population.people),
        "late_device_converged": late_converged,
        "revoked_device_refused": refused,
        "rotated_and_converged": rotated,
        "epoch_after_rotation": spotlight.first.core.chain.epoch,
    }
    await spotlight.close()
    return report


async def _ops_since(household: Household) -> int:
    """Ops that the person of the spotlight's devices pushed after the first count."""
    receipt = await household.first.remote.get_receipt()
    return sum(seq for _, seq, _ in receipt.heads) - household.ops


async def _rotate(household: Household) -> bool:
    """A scheduled rotation: a new epoch, every record sealed anew, all devices agree."""
    before = household.first.core.chain.epoch
    household.first.edit(lambda core, _: core.rotate())
    for _ in range(3):
        for device in household.devices:
            await device.sync_once()
    return household.agrees() and all(
        device.core.chain.epoch == before + 1 for device in household.devices
    )


async def _everybody(
    population: Population, town: Town, totals: Totals, console: Console
) -> Household:
    """Settles all people, some at a time; the one with the most ratings is kept."""
    star = max(population.people, key=lambda person: len(person.ratings))
    kept: list[Household] = []
    gate = asyncio.Semaphore(AT_ONCE)
    columns = (
        TextColumn("enrol, pair, edit offline, sync"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("people", total=len(population.people))

        async def one(person: Person) -> None:
            async with gate:
                household = await town.settle(person)
                totals.devices += len(household.devices)
                totals.ops += household.ops
                totals.converged += household.converged
                if person is star:
                    kept.append(household)
                else:
                    await household.close()
                progress.advance(task)

        async with asyncio.TaskGroup() as group:
            for person in population.people:
                group.create_task(one(person))
    return kept[0]
