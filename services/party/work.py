"""The three jobs of a round, each from what is stored to what will be stored.

`verify` gives the verdicts, `noise_in` a share of the noised sum, `open_sum` the noised sum.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto.field import Words
from mpc import batch
from mpc.batch import Challenge, Verdict
from mpc.child import JobProcess
from mpc.circuit import OpenedSum
from mpc.task import Task
from services.party.store import PartyStore

Bits = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rows:
    """The agreed reports of a round in the order of their hashes, and where their rows lie."""

    task: Task
    order: list[tuple[int, int]]
    """(micro-batch, row in it) of each."""
    _store: PartyStore
    _round_id: bytes

    @classmethod
    def of(cls, store: PartyStore, round_id: bytes, task: Task, agreed: set[bytes]) -> Rows:
        """Those of the round that are in the agreed set."""
        held = [
            (hashed, (number, row))
            for _, hashed, number, row in store.reports(round_id)
            if hashed in agreed
        ]
        return cls(task, [place for _, place in sorted(held)], store, round_id)

    def __len__(self) -> int:
        return len(self.order)

    def read(self, start: int, count: int) -> Words:
        """So many rows from a place on, out of as many micro-batches as they lie in."""
        field, length = self.task.field, self.task.kind.length
        part = self.order[start : start + count]
        rows: Words = np.empty((len(part), length), field.word)
        by_batch: dict[int, list[tuple[int, int]]] = {}
        for at, (number, row) in enumerate(part):
            by_batch.setdefault(number, []).append((at, row))
        for number, places in by_batch.items():
            held = batch.rows_of(field, length, self._store.batch(self._round_id, number).rows)
            to, source = zip(*places, strict=True)
            rows[list(to)] = held[list(source)]
        return rows

    def starts(self, size: int) -> Iterator[int]:
        """Where each run of `size` rows begins."""
        return iter(range(0, len(self), size))


def run_of(task: Task, frame_bytes: int) -> int:
    """How many reports are checked at once: what a micro-batch and one message take."""
    opened_bytes = task.kappa * task.field.element_bytes
    return max(1, min(batch.micro_batch_reports(task.kind.length), frame_bytes // opened_bytes))


def verify(
    rows: Rows, set_digest: bytes, size: int, *, known: bytes | None = None
) -> Callable[[JobProcess], Any]:
    """Which of the agreed reports are valid. `known`: what this party stored of it before;
    other verdicts than those are refused."""
    task = rows.task

    async def work(job: JobProcess) -> Verdict:
        coin = await job.coin(set_digest)
        equations = task.kind.equations
        challenge = Challenge.of(
            task.field, coin, length=task.kind.length, equations=equations, kappa=task.kappa
        )
        parts: list[Verdict] = []
        for number, start in enumerate(rows.starts(size)):
            d, q = await asyncio.to_thread(challenge.check, rows.read(start, size))
            consistent = (await job.consistent(f"d{number}", d)).consistent
            # Shares that don't belong together lie on no polynomial of degree 2t either.
            zero = (await job.zeros(f"q{number}", q[consistent])).zero
            parts.append(batch.verdict(consistent, zero))
        whole = Verdict(
            np.concatenate([np.zeros(0, np.bool_), *(part.valid for part in parts)]),
            sum(part.inconsistent for part in parts),
            sum(part.invalid for part in parts),
        )
        await job.same("verdicts", packed(whole.valid) if known is None else known)
        return whole

    return work


def packed(valid: Bits) -> bytes:
    """Verdicts as they are stored and told."""
    return np.packbits(valid).tobytes()


def unpacked(data: bytes, reports: int) -> Bits:
    """What `packed` made of so many."""
    return np.unpackbits(np.frombuffer(data, np.uint8), count=reports).astype(np.bool_)


def row_sum(rows: Rows, valid: Bits, size: int) -> bytes:
    """This party's share of the outputs, over the valid reports."""
    task = rows.task
    total = np.zeros(task.kind.length, np.uint64)
    for start in rows.starts(size):
        part = rows.read(start, size)
        total = batch.add_valid(task.field, total, part, valid[start : start + len(part)])
    return task.field.to_bytes(task.kind.project(total, int(valid.sum())))


def noise_in(task: Task, sums: bytes, noise: bytes) -> Callable[[JobProcess], Any]:
    """This party's share of the sum with everybody's noise in it."""
    field, count = task.field, task.kind.d

    async def work(job: JobProcess) -> bytes:
        mine = np.frombuffer(noise, "<i8").astype(np.int64)
        shares = await job.noise_in("noise", mine)
        return field.to_bytes(field.add(field.from_bytes(sums, count), shares))

    return work


def open_sum(task: Task, noised: bytes) -> Callable[[JobProcess], Any]:
    """The noised sums, and whether a lie would have shown."""

    async def work(job: JobProcess) -> OpenedSum:
        return await job.open_sum("sum", task.field.from_bytes(noised, task.kind.d))

    return work
