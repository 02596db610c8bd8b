"""Open streams and what wakes them: commits, heartbeats, the end of the process.

A poke carries no data: whoever is woken reads the store. One task beats for all streams, a
slice of them at a time, so that an idle stream costs neither a timer nor a poll.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from crypto.ids import AccountId, DeviceId
from services.errors import Draining, Overloaded, RateLimited, RequestError

POKE, BEAT, DRAIN = 1, 2, 4
_SLICES = 64
_CROWDED_RETRY_MS = 30_000


class Stream:
    """One open stream. Slotted and without a timer: there are many."""

    __slots__ = (
        "account", "chain_seq", "device", "generation", "poked_s", "position", "slot", "task",
        "verdict", "waiter", "wakes", "writing_since_s",
    )  # fmt: skip

    def __init__(self, account: AccountId, device: DeviceId, slot: int) -> None:
        self.account = account
        self.device = device
        self.slot = slot
        self.position = 0
        self.generation = b""
        """Of the store, when the stream began: it ends if that changes."""
        self.chain_seq = 0
        self.wakes = 0
        self.waiter: asyncio.Future[None] | None = None
        self.task = asyncio.current_task()
        self.verdict: RequestError | None = None
        self.writing_since_s = 0.0
        """0 while no message is under way."""
        self.poked_s = 0.0
        """When the oldest commit was made that it was woken for and has not yet looked for."""

    def wake(self, why: int) -> None:
        """Has `woken` return; reasons that come together are told together."""
        self.wakes |= why
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def woken(self) -> int:
        """Waits until there is a reason to wake and takes it (POKE | BEAT | DRAIN)."""
        if not self.wakes:
            self.waiter = asyncio.get_running_loop().create_future()
            try:
                await self.waiter
            finally:
                self.waiter = None
        why, self.wakes = self.wakes, 0
        return why

    def end(self, verdict: RequestError) -> None:
        """Ends it even while it waits for its client to take a message."""
        self.verdict = verdict
        if self.task is not None:
            self.task.cancel()


class Hub:
    """All streams of this process."""

    def __init__(
        self,
        *,
        heartbeat_s: float,
        stall_s: float,
        per_account_max: int,
        monotonic_s: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._heartbeat_s = heartbeat_s
        self._stall_s = stall_s
        self._per_account_max = per_account_max
        self._monotonic_s = monotonic_s
        self._jitter = jitter
        # A lone stream needs no container of its own; most accounts have a few.
        self._by_account: dict[AccountId, tuple[Stream, ...]] = {}
        self._slots: list[set[Stream]] = [set() for _ in range(_SLICES)]
        self._hand = 0
        self._count = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._beats: asyncio.Task[None] | None = None
        self.draining = False
        self.on_stalled: Callable[[AccountId], None] = lambda account: None
        """Called when an account with a stream that is in the middle of a message changed."""
        self.on_closed: Callable[[AccountId, DeviceId], None] = lambda account, device: None
        """Called when a stream has ended, whoever ended it."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Stream]:
        for streams in list(self._by_account.values()):
            yield from streams

    def start(self) -> None:
        """Starts the heartbeat."""
        self._beats = asyncio.get_running_loop().create_task(self._beat_all())

    async def stop(self) -> None:
        """Stops the heartbeat."""
        if self._beats is not None:
            self._beats.cancel()
            await asyncio.gather(self._beats, return_exceptions=True)

    def open(self, account: AccountId, device: DeviceId) -> Stream:
        """Registers a stream. Draining, RateLimited("streams_per_account")."""
        if self.draining:
            raise self.farewell()
        others = self._by_account.get(account, ())
        if len(others) >= self._per_account_max:
            raise RateLimited("streams_per_account", _CROWDED_RETRY_MS)
        # The slice whose turn has just been: its first beat is a whole interval away.
        stream = Stream(account, device, self._hand)
        self._by_account[account] = (*others, stream)
        self._slots[stream.slot].add(stream)
        self._count += 1
        self._empty.clear()
        return stream

    def close(self, stream: Stream) -> None:
        """Forgets a stream."""
        rest = tuple(other for other in self._by_account[stream.account] if other is not stream)
        if rest:
            self._by_account[stream.account] = rest
        else:
            del self._by_account[stream.account]
        self._slots[stream.slot].discard(stream)
        self._count -= 1
        if not self._count:
            self._empty.set()
        self.on_closed(stream.account, stream.device)

    def poke(self, account: AccountId, age_s: float = 0.0, /) -> None:
        """Something of this account was committed, so long ago."""
        streams = self._by_account.get(account)
        if streams is None:
            return
        committed_s = self._monotonic_s() - age_s
        for stream in streams:
            stream.poked_s = stream.poked_s or committed_s
            stream.wake(POKE)
        if any(stream.writing_since_s for stream in streams):
            self.on_stalled(account)

    def of(self, account: AccountId) -> tuple[Stream, ...]:
        """The open streams of an account."""
        return self._by_account.get(account, ())

    def farewell(self) -> Draining:
        """What a stream is told when the process ends; spread, so that not all come at once."""
        return Draining(int(250 + 2_000 * self._jitter()))

    def end_all(self, verdict: RequestError) -> None:
        """Ends every stream, whatever it is at."""
        for stream in self:
            stream.end(verdict)

    async def drain(self, grace_s: float) -> None:
        """Tells every stream to connect elsewhere and waits until all have ended.

        Those whose client takes nothing are ended after `grace_s`.
        """
        self.draining = True
        for stream in self:
            stream.wake(DRAIN)
        try:
            async with asyncio.timeout(grace_s):
                await self._empty.wait()
        except TimeoutError:
            for stream in self:
                stream.end(self.farewell())

    async def _beat_all(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s / _SLICES)
            self.beat()

    def beat(self) -> None:
        """One slice of the heartbeat."""
        self._hand = (self._hand + 1) % _SLICES
        stalled_s = self._monotonic_s() - self._stall_s
        for stream in tuple(self._slots[self._hand]):
            if not stream.writing_since_s:
                stream.wake(BEAT)
            elif stream.writing_since_s < stalled_s:
                stream.end(Overloaded(1_000))
