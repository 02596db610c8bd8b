"""The demo from beginning to end. Everything that it says was seen, not assumed."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client.demo import governance, policy, rounds, show, showgovernance, showrounds
from client.demo.governance import Scene
from client.demo.measures import PARTIES, Catalogue
from client.demo.panel import panel
from client.demo.people import (
    ABOUT,
    RATINGS,
    REGION,
    Household,
    Town,
    refused_after_revocation,
)
from client.demo.policy import Governor
from client.demo.ratings import Person, Population
from client.demo.rounds import Measured, Organiser
from client.demo.stage import Service
from client.demo.traces import Search, record_pattern, search
from client.endpoint import Endpoint
from client.values import encode
from mpc.keys import PublisherKey

KEPT = 2
"""People all of whose devices are kept."""
AT_ONCE = 16
"""People that are looked after at the same time."""
WINDOW_MS_MIN = 8_000
WINDOW_SHARE = 0.7
"""Rounds are open for so much of the time that settling took. To answer takes less of it; who
is late all the same is missing from reports and from the truth beside them."""


@dataclass(slots=True)
class Totals:
    """What adds up over all people."""

    devices: int = 0
    ops: int = 0
    converged: int = 0
    settling_s: float = 0.0


async def run(population: Population, *, seed: int, console: Console) -> dict[str, Any]:
    """Runs everything and gives the report."""
    start = time.monotonic()
    where = "made up (synthetic), seed" if population.synthetic else "real ratings from"
    console.print(
        f"[bold]{len(population.people):,} people[/bold], "
        f"{sum(len(person.ratings) for person in population.people):,} ratings, "
        f"{where} {seed if population.synthetic else population.source}"
    )
    publisher, governor_key = (PublisherKey(secrets.token_bytes(32)) for _ in range(2))
    older_files: list[Path] = []
    with tempfile.TemporaryDirectory(prefix="rookery-demo-") as name:
        folder = Path(name)
        with (
            Service(folder, publisher.public, governor_key.public) as service,
            panel(
                folder,
                PARTIES,
                service.address,
                publisher.public,
                secrets.token_bytes,
                governor_key.public,
            ) as members,
        ):
            console.print(
                f"a service on {service.address.target} with SQLite, its key pinned by every"
                f" device; {PARTIES} parties, each with a database of its own"
            )
            address = service.address
            endpoint = Endpoint.parse(address.target, address.audience, address.server_key)
            governor = Governor(
                endpoint, governor_key, operator=PublisherKey(secrets.token_bytes(32))
            )
            held = await governor.begin(population)
            console.print(
                f"all of it under policy {held.sequence}, {held.title!r}: {len(held.signals)}"
                f" signals, {len(held.purposes)} purposes, {len(held.tasks)} tasks; every device"
                " pins its publisher"
            )
            scene = Scene(
                folder,
                service,
                governor,
                Organiser(endpoint, publisher, members),
                Catalogue.of(population),
                older_files,
            )
            report = await _acts(population, scene, seed, console)
            files = [file for one in (service, *members) for file in one.files] + older_files
            public = [one.encoded for one in governor.published]
            running = search(files, population.words, _records(population), public)
        stopped = search(files, population.words, _records(population), public)
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
    population: Population, scene: Scene, seed: int, console: Console
) -> dict[str, Any]:
    town = Town(
        scene.organiser.endpoint,
        seed,
        policy=scene.governor.key.public,
        purposes=policy.PURPOSES,
    )
    totals = Totals()
    settled = await _everybody(population, town, totals, console)
    # Of two people all devices are here: one loses a device, the other takes everything back.
    spotlight, leaver = sorted(settled, key=lambda one: -len(one.person.ratings))[:KEPT]
    # A third device at least, so that one can be lost and two can agree.
    late = await town.pair(spotlight.first)
    totals.devices += 1
    late_converged = spotlight.agrees([late])
    spotlight.devices.append(late)
    show.side_by_side(console, late, scene.service.database)
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
    window_ms = max(WINDOW_MS_MIN, int(totals.settling_s * 1000 * WINDOW_SHARE))
    measured = await _aggregate(settled, town, scene, window_ms, console)
    report["aggregate"] = rounds.report(measured)
    # A third of the answers, and devices that are connected already.
    rating = measured[1].task
    again = replace(
        rating,
        task_id=f"{rating.task_id}/v2",
        window_ms=max(WINDOW_MS_MIN, window_ms // 2),
    )
    seen = await governance.play(scene, settled, leaver, again)
    showgovernance.table(console, seen)
    report["governance"] = seen.data()
    for household in settled:
        await household.close()
    return report


async def _aggregate(
    settled: Sequence[Household],
    town: Town,
    scene: Scene,
    window_ms: int,
    console: Console,
) -> list[Measured]:
    """Three rounds in which one device of each person answers."""
    with _progress("three joint aggregates", console) as progress:
        bar = progress.add_task("people", total=len(settled))
        measured = await rounds.run(
            scene.catalogue,
            settled,
            town,
            scene.organiser,
            window_ms=window_ms,
            on_step=lambda: progress.advance(bar),
        )
    console.print(
        "\n[bold]Three joint aggregates[/bold], one answer of each person to each. The truth is"
        " known to this demo alone: it made these people or read their file.\n"
        f"{showrounds.LEGEND}\n"
    )
    for one in measured:
        showrounds.one(console, one, scene.catalogue.labels)
    return measured


def _progress(text: str, console: Console) -> Progress:
    columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


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
) -> list[Household]:
    """Settles all people, some at a time, in their order. Of each one device is kept, of who
    rated most all."""
    stars = sorted(population.people, key=lambda person: -len(person.ratings))[:KEPT]
    settled: list[Household] = []
    gate = asyncio.Semaphore(AT_ONCE)
    start = time.monotonic()
    with _progress("enrol, pair, edit offline, sync", console) as progress:
        task = progress.add_task("people", total=len(population.people))

        async def one(person: Person) -> None:
            async with gate:
                household = await town.settle(person)
                totals.devices += len(household.devices)
                totals.ops += household.ops
                totals.converged += household.converged
                if person not in stars:
                    await household.keep_one()
                settled.append(household)
                progress.advance(task)

        async with asyncio.TaskGroup() as group:
            for person in population.people:
                group.create_task(one(person))
    totals.settling_s = time.monotonic() - start
    return sorted(settled, key=lambda household: household.person.number)
