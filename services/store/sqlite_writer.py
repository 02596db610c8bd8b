"""Group commit: one thread writes; what waits while it commits shares the next transaction."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from crypto.errors import CryptoError
from crypto.ids import AccountId
from services.store.base import Batch
from services.store.errors import StoreError, StoreUnavailable
from services.store.observer import Fault, Retry, StoreObserver
from services.store.sqlite_ops import commit_ops, foresee
from services.store.sqlite_schema import fault_of, unavailable
from services.store.sqlite_state import Entry
from services.store.sqlite_transaction import Transaction
from services.store.sqlite_trim import trim_slice

REQUESTS_PER_COMMIT = 128
OPS_PER_COMMIT = 1_024
"""A group is full at either. Large pushes gain nothing by waiting for each other: with fewer a
group, some are prepared and answered while others are written."""
REQUESTS_WAITING_MAX = 4096
LINGER_S = 0.003
LINGER_OPS_MAX = 128
LINGER_SKIPS_MAX = 63
"""Each commit costs a sync and some ten hand-overs of the interpreter lock, however small it
is. Under load, three milliseconds of waiting bring three times as many requests into one."""

Work = Callable[[Transaction], Any]


@dataclass(slots=True)
class Job:
    """A request and where its caller waits. Nobody waits for the writer's own work."""

    work: Work
    future: asyncio.Future[Any] | None
    batch: Batch | None = None
    """Of a push: what it brings."""
    result: Any = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What one commit did. `entries` are the accounts that it changed, `poked` those whose
    readers want to know. `seconds`: what it took; `committed_s`: when, on `perf_counter`."""

    jobs: list[Job]
    entries: dict[AccountId, Entry | None]
    poked: list[AccountId]
    seconds: float
    committed_s: float


class Linger:
    """Whether a small group should wait a moment for more. It is learnt: where few callers take
    turns, waiting brings too few to make up for it, and is tried ever less often."""

    __slots__ = ("_pause", "_size", "_skip", "commit_s")

    def __init__(self) -> None:
        self._skip = self._pause = self._size = 0
        self.commit_s = 0.0
        """What the newest commit took."""

    def is_worth_it(self, requests: int, ops: int) -> bool:
        """Asked once a group, of what was queued when it began."""
        crowded, self._size = max(self._size, requests) > 1, requests
        if not crowded or ops >= LINGER_OPS_MAX:
            return False
        if self._skip:
            self._skip -= 1
            return False
        return True

    def learn(self, found: int, came: int) -> None:
        """`came`: how many more there were after waiting. It was worth it if as many would
        not have been committed in the same time without."""
        self._size = found + came
        paid = came * self.commit_s >= found * LINGER_S
        self._pause = 0 if paid else min(2 * self._pause + 1, LINGER_SKIPS_MAX)
        self._skip = self._pause


class Writer:
    """The only one who writes. `deliver` is called on the loop, once a commit, in order."""

    def __init__(
        self,
        transaction: Transaction,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[Done], None],
        observer: StoreObserver,
    ) -> None:
        self._tx = transaction
        self._observer = observer
        observer.watch_queue(lambda: self._waiting)
        self._loop = loop
        self._deliver = deliver
        self._queue: SimpleQueue[list[Job] | None] = SimpleQueue()
        self._fresh: list[Job] = []
        self._waiting = 0
        self._closing = False
        self._linger = Linger()
        self._began_s = 0.0
        self._ended: asyncio.Future[None] = loop.create_future()
        # A daemon: a process that ends without close() loses nothing that was acknowledged.
        self._thread = Thread(target=self._run, name="sqlite-writer", daemon=True)
        self._thread.start()

    def push(self, batch: Batch) -> asyncio.Future[Any]:
        """Queues a batch of ops. Raises what `submit` raises."""
        return self._submit(lambda tx: commit_ops(tx, batch), batch)

    def submit(self, work: Work) -> asyncio.Future[Any]:
        """Queues a request. StoreUnavailable if too many wait, or the store is closed."""
        return self._submit(work, None)

    def _submit(self, work: Work, batch: Batch | None) -> asyncio.Future[Any]:
        if self._closing:
            raise StoreUnavailable("the store is closed")
        if self._waiting >= REQUESTS_WAITING_MAX:
            self._observer.failed(Fault.CROWDED)
            raise StoreUnavailable("too many writes are waiting")
        self._waiting += 1
        future: asyncio.Future[Any] = self._loop.create_future()
        if not self._fresh:
            # What comes in the same turn of the loop goes over together: the writer is woken
            # once, and finds a group instead of the first of it.
            self._loop.call_soon(self._hand_over)
        self._fresh.append(Job(work, future, batch))
        return future

    def _hand_over(self) -> None:
        fresh, self._fresh = self._fresh, []
        if fresh:
            self._queue.put(fresh)

    async def close(self) -> None:
        """Finishes what was accepted."""
        if not self._closing:
            self._closing = True
            self._hand_over()
            self._queue.put(None)
        await asyncio.shield(self._ended)

    def _run(self) -> None:
        open_ = True
        while open_:
            group, open_ = self._next_group()
            if self._tx.trimmable:
                group.append(Job(trim_slice, None))
            if group:
                started_s = time.perf_counter()
                self._commit(group)
                self._linger.commit_s = time.perf_counter() - started_s
        self._call(self._end)

    def _next_group(self) -> tuple[list[Job], bool]:
        """At least one request, unless there is something to trim; False when closing."""
        group: list[Job] = []
        open_ = self._take(group, wait=not self._tx.trimmable)
        if open_ and self._linger.is_worth_it(len(group), _ops(group)):
            found = len(group)
            time.sleep(LINGER_S)
            open_ = self._take(group, wait=False)
            self._linger.learn(found, len(group) - found)
        return group, open_

    def _take(self, group: list[Job], *, wait: bool) -> bool:
        """What is queued, until the group is full; False if it ends with the end of all."""
        ops = _ops(group)
        try:
            while len(group) < REQUESTS_PER_COMMIT and ops < OPS_PER_COMMIT:
                jobs = self._queue.get(block=wait and not group)
                if jobs is None:
                    return False
                group += jobs
                ops += _ops(jobs)
        except Empty:
            pass
        return True

    def _commit(self, group: list[Job]) -> None:
        try:
            self._attempt(group)
        except Exception as error:  # noqa: BLE001 - the guilty request alone is to fail
            self._tx.rollback()
            self._one_by_one(group, error)
            return
        self._hand_back(group)

    def _one_by_one(self, group: list[Job], error: Exception) -> None:
        for job in group:
            if len(group) > 1:
                self._observer.retried(Retry.ALONE)
                try:
                    self._attempt([job])
                except Exception as own_error:  # noqa: BLE001 - its caller gets it
                    self._tx.rollback()
                    self._fail(job, own_error)
            else:
                self._fail(job, error)
            if job.error is not None and job.future is None:
                self._tx.trimmable.clear()  # The next sweep tries again.
            self._hand_back([job])

    def _attempt(self, group: list[Job]) -> None:
        """Runs a group in one transaction. Raises what isn't a refusal."""
        self._began_s = time.perf_counter()
        self._tx.begin()
        batches = [job.batch for job in group if job.batch is not None]
        if len(batches) > 1:
            foresee(self._tx, batches)
        for job in group:
            job.result = job.error = None
            try:
                job.result = job.work(self._tx)
            except (StoreError, CryptoError) as refused:
                job.error = refused
        self._tx.commit()

    def _fail(self, job: Job, error: Exception) -> None:
        job.error = error
        if isinstance(error, sqlite3.Error):
            self._observer.failed(fault_of(error))
            job.error = unavailable(error)

    def _hand_back(self, group: list[Job]) -> None:
        changed = self._tx.changed
        now_s = time.perf_counter()
        done = Done(
            group,
            self._tx.entries(),
            [key for key, poke in changed.items() if poke],
            seconds=now_s - self._began_s,
            committed_s=now_s,
        )
        self._tx.changed = {}
        if self._tx.deleted:
            self._forget_deleted()
        self._call(self._finish, done)

    def _forget_deleted(self) -> None:
        try:
            self._tx.truncate_wal()
        except sqlite3.Error:
            return  # Still flagged: after the next commit.

    def _finish(self, done: Done) -> None:
        requests = sum(job.future is not None for job in done.jobs)
        self._waiting -= requests
        self._deliver(done)
        if requests:
            self._observer.committed(requests=requests, ops=_ops(done.jobs), seconds=done.seconds)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return  # The loop is closed; nobody waits any more.


def _ops(jobs: Sequence[Job]) -> int:
    return sum(len(job.batch.rows) for job in jobs if job.batch is not None)
