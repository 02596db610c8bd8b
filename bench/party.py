"""One party's own work over a round, by the daemon's own code and with its own store.

Peers, relay and links are left out: `Alone` answers the joint steps at once, so that what is
timed is what the party computes and keeps. `python -m bench.party BINS REPORTS` prints how much
memory that takes at most, in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.rounds import Box, Devices, World, devices, task_of
from crypto.field import Array
from mpc import batch
from mpc.circuit import Zeros
from mpc.opening import Lines
from services.party import work
from services.party.intake import reports_of
from services.party.records import Window
from services.party.reports import Held
from services.party.store import PartyStore

PARTY = 1
RETENTION_MS = 7 * 86_400_000


class Alone:
    """The joint steps without peers: every report passes."""

    async def coin(self, context: bytes) -> bytes:
        """Any."""
        del context
        return bytes(32)

    async def consistent(self, name: str, d: Array) -> Lines:
        """All are."""
        del name
        return Lines(np.ones(len(d), np.bool_), {})

    async def zeros(self, name: str, q: Array) -> Zeros:
        """All are."""
        del name
        return Zeros(np.ones(len(q), np.bool_), checked=False)

    async def noise_in(self, name: str, noise: NDArray[np.int64]) -> Array:
        """Nobody's."""
        del name
        return np.zeros(len(noise), np.uint64)

    async def same(self, name: str, data: bytes) -> None:
        """They do."""


class Party:
    """A round at one party: `take` boxes, then `verify`, then `add`."""

    def __init__(self, world: World, store: PartyStore) -> None:
        self._world, self._store = world, store
        self._round_id = world.manifest.round_id
        self._box, self._shape = world.box(PARTY), world.shape
        task, manifest = world.task, world.manifest
        store.prepare(
            Window(
                round_id=manifest.round_id,
                spec_hash=task.spec_hash,
                open_ms=manifest.open_ms,
                close_ms=manifest.close_ms,
                retain_until_ms=manifest.close_ms + RETENTION_MS,
                task=task.encoded,
                task_sig=bytes(64),
                publisher=bytes(32),
            ),
            world.box_keys[PARTY - 1],
        )
        store.accept(manifest.round_id, manifest.encoded, manifest.digest, bytes(64))

    def take(self, boxes: Sequence[Box]) -> None:
        """Opens a micro-batch and keeps it, durably."""
        opened = batch.open_boxes(self._box, self._shape, boxes)
        if opened.refused:
            raise RuntimeError(f"refused: {opened.refused}")
        self._store.add_batch(
            self._round_id,
            cursor=b"",
            reports=reports_of(opened),
            refused=opened.refused,
            reports_max=self._world.task.reports_max,
        )

    def verify(self) -> None:
        """Lists the reports, reads their rows back, computes D and Q of each."""
        task, hashes = self._world.task, [one.report_hash for one in self._held()]
        self._rows = work.Rows.of(self._store, self._round_id, task, hashes)
        alone: Any = Alone()
        judge = work.verify(self._rows, bytes(32), bytes(8 * task.kind.d), known=None)

        async def judged() -> work.Verified:
            return await judge(alone)

        self._verdict = asyncio.run(judged()).verdict

    def _held(self) -> list[Held]:
        return self._store.reports(self._round_id)

    def add(self) -> None:
        """Reads the rows again and adds up the valid ones."""
        asyncio.run(work.row_sum(self._rows, self._verdict.valid))


@contextmanager
def party(world: World, folder: Path) -> Iterator[Party]:
    """On a fresh file in the folder."""
    store = PartyStore.open(folder / "party.db")
    try:
        yield Party(world, store)
    finally:
        store.close()


def fill(world: World, making: Devices, count: int) -> Iterator[list[Box]]:
    """The boxes of so many reports, a micro-batch at a time, made when they are asked for."""
    size = batch.micro_batch_reports(world.task.kind.length)
    for start in range(0, count, size):
        yield making.boxes(world, PARTY, min(size, count - start))


def main(bins: int, count: int) -> None:
    """A round of so many reports; prints the largest resident set that it took."""
    world = World.make(task_of(bins))
    with (
        devices() as making,
        tempfile.TemporaryDirectory() as folder,
        party(world, Path(folder)) as own,
    ):
        for boxes in fill(world, making, count):
            own.take(boxes)
        own.verify()
        own.add()
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"peak_bytes": peak_kib << 10}), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
