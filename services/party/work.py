"""What is done in the jobs of a round, each from what is stored to what will be stored."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cbor2
import numpy as np
from numpy.typing import NDArray

from crypto.field import Words
from mpc import batch
from mpc.batch import Challenge, Verdict
from mpc.child import JobProcess
from mpc.circuit import OpenedSum
from mpc.task import Task
from services.party.store import PartyStore

FRAME_BYTES: Final = 4 << 20
"""The largest message of a job; reports per opening follow from it."""
_RUN_BYTES: Final = 64 << 20
"""Share rows in memory at once."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The agreed reports of a round in their order, and where their rows lie."""

    task: Task
    _batches: NDArray[np.int64]
    _places: NDArray[np.int64]
    """In their micro-batches."""
    _store: PartyStore
    _round_id: bytes

    @classmethod
    def of(
        cls, store: PartyStore, round_id: bytes, task: Task, agreed: Sequence[bytes]
    ) -> Rows:  # fmt: skip
        """Those of the agreed set. It is in the order of party 1, and so mostly in this one's:
        a relay sends all parties their boxes in the order in which it took them."""
        held = {one.report_hash: (one.batch, one.row) for one in store.reports(round_id)}
        places = np.array([held[hashed] for hashed in agreed], np.int64).reshape(-1, 2)
        return cls(task, places[:, 0], places[:, 1], store, round_id)

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def run(self) -> int:
        """How many are worked on at once: what a micro-batch, memory and one message take."""
        length, field = self.task.kind.length, self.task.field
        return max(
            1,
            min(
                batch.micro_batch_reports(length),
                _RUN_BYTES // (length * field.element_bytes),
                FRAME_BYTES // (self.task.kappa * field.element_bytes),
            ),
        )

    def starts(self) -> Iterator[int]:
        """Where each run begins."""
        return iter(range(0, len(self), self.run))

    def read(self, start: int) -> Words:
        """A run of rows, out of as many micro-batches as they lie in."""
        field, length = self.task.field, self.task.kind.length
        batches = self._batches[start : start + self.run]
        places = self._places[start : start + self.run]
        rows: Words = np.empty((len(batches), length), field.word)
        for number in np.unique(batches).tolist():
            held = batch.rows_of(field, length, self._store.batch(self._round_id, number).rows)
            there = batches == number
            rows[there] = held[places[there]]
        return rows


@dataclass(frozen=True, slots=True, eq=False)
class Verified:
    """What the first job gives."""

    verdict: Verdict
    sharing: bytes
    """This party's share of the noise of all."""
    liars: frozenset[int] = frozenset()
    """Parties whose wrong shares were corrected in the check of validity."""


def verify(
    rows: Rows, set_digest: bytes, noise: bytes, *, known: bytes | None
) -> Callable[[JobProcess], Awaitable[Verified]]:
    """Judges the agreed reports, then shares the noise in. `known`: the verdicts that this party
    stored before; others are refused, for verdicts are given once."""
    task = rows.task

    async def work(job: JobProcess) -> Verified:
        coin = await job.coin(set_digest)
        challenge = Challenge.of(
            task.field,
            coin,
            length=task.kind.length,
            equations=task.kind.equations,
            kappa=task.kappa,
        )
        parts = []
        liars: set[int] = set()
        for number, start in enumerate(rows.starts()):
            d, q = await asyncio.to_thread(challenge.check, rows.read(start))
            consistent = (await job.consistent(f"d{number}", d)).consistent
            # Shares that don't belong together lie on no polynomial of degree 2t either.
            zeros = await job.zeros(f"q{number}", q[consistent])
            liars.update(zeros.liars)
            parts.append(batch.verdict(consistent, zeros.zero))
        found = _whole(parts)
        await job.same("verdicts", encode_verdict(found) if known is None else known)
        return Verified(found, await _shared(job, task, noise), frozenset(liars))

    return work


def share(task: Task, noise: bytes) -> Callable[[JobProcess], Awaitable[bytes]]:
    """The same noise shared again; this party's share of the noise of all."""
    return lambda job: _shared(job, task, noise)


async def _shared(job: JobProcess, task: Task, noise: bytes) -> bytes:
    mine = np.frombuffer(noise, "<i8").astype(np.int64)
    return task.field.to_bytes(await job.noise_in("noise", mine))


def open_sum(task: Task, sums: bytes, sharing: bytes) -> Callable[[JobProcess], Awaitable[Any]]:
    """The noised sums, and whether a lie would have shown."""
    field, count = task.field, task.kind.d

    async def work(job: JobProcess) -> OpenedSum:
        noised = field.add(field.from_bytes(sums, count), field.from_bytes(sharing, count))
        return await job.open_sum("sum", noised)

    return work


async def row_sum(rows: Rows, valid: NDArray[np.bool_]) -> bytes:
    """This party's share of the outputs, over the valid reports."""
    task = rows.task
    total = np.zeros(task.kind.length, np.uint64)
    for start in rows.starts():
        part = rows.read(start)
        total = await asyncio.to_thread(
            batch.add_valid, task.field, total, part, valid[start : start + len(part)]
        )
    return task.field.to_bytes(task.kind.project(total, int(valid.sum())))


def draw_noise(task: Task, rand: Callable[[int], bytes]) -> bytes:
    """This party's part of the noise of all m parties."""
    assert task.noise is not None, "no party takes on a task without noise"
    drawn = task.noise.share(task.kind.d, present=task.m, t=task.t, rand=rand)
    return np.asarray(drawn).astype("<i8").tobytes()


# Verdicts as they are compared and stored


def _whole(parts: Sequence[Verdict]) -> Verdict:
    return Verdict(
        np.concatenate([np.zeros(0, np.bool_), *(part.valid for part in parts)]),
        sum(part.inconsistent for part in parts),
        sum(part.invalid for part in parts),
    )


def encode_verdict(found: Verdict) -> bytes:
    """A bit for each report, in the order of the set, and the counts."""
    bits = np.packbits(found.valid).tobytes()
    return cbor2.dumps([len(found.valid), bits, found.inconsistent, found.invalid], canonical=True)


def decode_verdict(data: bytes) -> Verdict:
    """What `encode_verdict` wrote."""
    count, bits, inconsistent, invalid = cbor2.loads(data)
    valid = np.unpackbits(np.frombuffer(bits, np.uint8), count=count).astype(np.bool_)
    return Verdict(valid, inconsistent, invalid)
