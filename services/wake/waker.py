"""Who is poked, and when: ops come in, pokes go out, and a push waits for neither.

What was committed waits in memory for some 50 ms, then it is marked in the store: from there on
it outlives the process. A process that is killed in between forgets to poke for these ops, until
the next ones come; a poke is a hint, never the data. A device with an open stream here is not
marked. One whose stream ends soon after ops came is, for a while later: a connection that died
unseen has delivered nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from crypto.ids import AccountId, DeviceId
from services.call import Clock
from services.hub import Hub
from services.store.errors import StoreError
from services.store.wake import Claim, Mark, Outcome, Pace, Settled, WakeStore
from services.telemetry import Telemetry
from services.wake.circuit import Circuit
from services.wake.metrics import Poke, WakeMetrics
from services.wake.sender import GatewayDown
from services.wake.verdict import Verdict

GATHER_S = 0.05
POLL_S = 15.0
"""How often to look for what other replicas left."""
MARKS_MAX = 256
TRUST_S = 120.0
"""A stream that was alive so long ago may have been dead when ops came."""
RECONNECT_MS = 10_000
TRUSTED_MAX = 50_000
LATER_FIRST_MS, LATER_LONGEST_MS = 5_000, 3_600_000
STORE_PAUSE_S = 1.0
STOP_S = 2.0

Send = Callable[[Sequence[bytes]], Awaitable[Sequence[Verdict]]]


@dataclass(slots=True)
class Fresh:
    """Accounts with ops that are not marked yet, and their author where it is one only."""

    rows_max: int
    dropped: Callable[[], None]
    rows: OrderedDict[AccountId, DeviceId | None] = field(default_factory=OrderedDict)

    def add(self, account: AccountId, author: DeviceId | None) -> None:
        """The oldest makes room."""
        if account in self.rows:
            if self.rows[account] != author:
                self.rows[account] = None
            return
        if len(self.rows) >= self.rows_max:
            self.rows.popitem(last=False)
            self.dropped()
        self.rows[account] = author


class Waker:
    """Pokes sleeping devices. `send` may fail with GatewayDown and nothing else."""

    def __init__(
        self,
        store: WakeStore,
        hub: Hub,
        send: Send,
        *,
        debounce_ms: int,
        spread_ms: int,
        batch_max: int,
        queue_max: int,
        timeout_s: float,
        telemetry: Telemetry,
        metrics: WakeMetrics,
        clock: Clock,
        chance: random.Random | None = None,
    ) -> None:
        self._store = store
        self._hub = hub
        self._send = send
        self._batch_max = batch_max
        self._lease_ms = int(2_000 * timeout_s) + 2_000
        self._telemetry = telemetry
        self._clock = clock
        self._chance = chance or random.SystemRandom()
        self._pace = Pace(debounce_ms, lambda: self._chance.randint(0, spread_ms))
        self._late = Pace(debounce_ms, lambda: RECONNECT_MS + self._pace.spread_ms())
        self._circuit = Circuit(self._chance.random)
        self._news, self._due = asyncio.Event(), asyncio.Event()
        self._trusted: OrderedDict[tuple[AccountId, DeviceId], float] = OrderedDict()
        self._ended: list[tuple[AccountId, DeviceId]] = []
        self._marking = 0
        self._flying: Sequence[Claim] = ()
        self._tasks: list[asyncio.Task[None]] = []
        self._metrics = metrics
        self._fresh = Fresh(queue_max, metrics.dropped)
        metrics.watch(lambda: self.waiting, lambda: not self._circuit.is_closed)
        hub.on_closed = self.closed

    # --- what is told, on the way of a push: it costs a dictionary's look ---

    def committed(self, account: AccountId, author: DeviceId) -> None:
        """This device brought new ops."""
        self._fresh.add(account, author)
        self._news.set()

    def closed(self, account: AccountId, device: DeviceId) -> None:
        """A stream ended. Who may have missed something by it is poked unless it comes back."""
        trusted_s = self._trusted.pop((account, device), None)
        if trusted_s is None or self._hub.draining:
            return
        if self._clock.monotonic_s() - trusted_s < TRUST_S and len(self._ended) < TRUSTED_MAX:
            self._ended.append((account, device))
            self._news.set()

    @property
    def waiting(self) -> int:
        """Accounts, and ended streams, that are not marked yet."""
        return len(self._fresh.rows) + len(self._ended) + self._marking

    # --- life ---

    def start(self) -> None:
        """Begins to mark and to poke."""
        loop = asyncio.get_running_loop()
        for part in (self._mark_all, self._poke_all):
            self._tasks.append(loop.create_task(self._for_ever(part)))

    async def stop(self) -> None:
        """Marks what it can, gives back what it has claimed, and ends."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(STOP_S):
                while self._fresh.rows or self._ended:
                    await self._mark()
                now_ms = self._clock.wall_ms()
                back = [Settled(claim, Outcome.LATER, now_ms) for claim in self._flying]
                await self._store.settle(back, now_ms=now_ms, pace=self._pace)
        except (StoreError, TimeoutError):
            return

    async def _for_ever(self, part: Callable[[], Awaitable[None]]) -> None:
        """A store that is away, or a defect, must not end it."""
        while True:
            try:
                await part()
            except StoreError as error:
                self._telemetry.event("wake_store_away", error=type(error).__name__)
            except Exception as error:  # noqa: BLE001 - see above
                self._telemetry.defect("wake", error)
            await asyncio.sleep(STORE_PAUSE_S)

    # --- marking ---

    async def _mark_all(self) -> None:
        while True:
            await self._news.wait()
            await asyncio.sleep(GATHER_S)
            self._news.clear()
            while self._fresh.rows or self._ended:
                await self._mark()

    async def _mark(self) -> None:
        """One store call for many accounts. If it fails, they wait again."""
        taken = list(islice(self._fresh.rows.items(), MARKS_MAX))
        for account, _ in taken:
            del self._fresh.rows[account]
        ended, self._ended = self._ended[:MARKS_MAX], self._ended[MARKS_MAX:]
        self._marking = len(taken) + len(ended)
        try:
            marks = [Mark(account, self._awake(account, author)) for account, author in taken]
            await self._mark_them(marks, self._pace)
            back = [Mark(account, self._streams(account), device) for account, device in ended]
            await self._mark_them(back, self._late)
        except BaseException:
            for account, author in taken:
                self._fresh.add(account, author)
            self._ended += ended
            self._news.set()
            raise
        finally:
            self._marking = 0

    async def _mark_them(self, marks: Sequence[Mark], pace: Pace) -> None:
        if not marks:
            return
        due_ms = await self._store.mark(marks, now_ms=self._clock.wall_ms(), pace=pace)
        if due_ms is not None:
            self._due.set()

    def _awake(self, account: AccountId, author: DeviceId | None) -> frozenset[DeviceId]:
        """The author, and who has a stream: those are remembered, for streams die unseen."""
        streams = self._streams(account)
        now_s = self._clock.monotonic_s()
        for device in streams:
            self._trusted[account, device] = now_s
            self._trusted.move_to_end((account, device))
            if len(self._trusted) > TRUSTED_MAX:
                self._trusted.popitem(last=False)
        return streams if author is None else streams | {author}

    def _streams(self, account: AccountId) -> frozenset[DeviceId]:
        return frozenset(stream.device for stream in self._hub.of(account))

    # --- poking ---

    async def _poke_all(self) -> None:
        while True:
            self._due.clear()
            wait_s = self._circuit.wait_s(self._clock.monotonic_s())
            if not wait_s:
                wait_s = await self._poke()
                await self._pause(wait_s)
            else:
                # What becomes due meanwhile waits in the store.
                await asyncio.sleep(wait_s)

    async def _pause(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._due.wait()
        except TimeoutError:
            return

    async def _poke(self) -> float:
        """Pokes a batch of those that are due; how long until there may be more to do."""
        now_ms = self._clock.wall_ms()
        claims, due_ms = await self._store.claim(
            now_ms=now_ms, lease_ms=self._lease_ms, claims_max=self._batch_max
        )
        if claims:
            self._flying = claims
            ends = await self._deliver(list(claims))
            await self._store.settle(ends, now_ms=self._clock.wall_ms(), pace=self._pace)
            self._flying = ()
            return 0.0
        if due_ms is None:
            return POLL_S
        return min(POLL_S, max(0.0, (due_ms - now_ms) / 1000))

    async def _deliver(self, claims: list[Claim]) -> list[Settled]:
        # Devices of one account must not stand side by side.
        self._chance.shuffle(claims)
        asleep, ends = [], []
        for claim in claims:
            if claim.device_id in self._streams(claim.account_id):
                ends.append(Settled(claim, Outcome.DONE))
            else:
                asleep.append(claim)
        self._metrics.poked(Poke.SPARED, len(ends))
        if not asleep:
            return ends
        try:
            verdicts = await self._send([claim.handle for claim in asleep])
        except GatewayDown as error:
            return ends + self._fail(asleep, error)
        if not self._circuit.is_closed:
            self._telemetry.event("gateway_up")
        self._circuit.succeeded()
        return ends + [self._judged(*row) for row in zip(asleep, verdicts, strict=True)]

    def _fail(self, claims: Sequence[Claim], error: GatewayDown) -> list[Settled]:
        if self._circuit.is_closed:
            self._telemetry.event("gateway_down", reason=error.reason)
        now_s = self._clock.monotonic_s()
        self._circuit.failed(now_s, hint_s=error.retry_ms / 1000)
        self._metrics.poked(Poke.PUT_OFF, len(claims))
        due_ms = self._clock.wall_ms() + int(1000 * self._circuit.wait_s(now_s))
        return [Settled(claim, Outcome.LATER, due_ms) for claim in claims]

    def _judged(self, claim: Claim, verdict: Verdict) -> Settled:
        match verdict:
            case Verdict.OK:
                self._metrics.poked(Poke.SENT)
                return Settled(claim, Outcome.DONE)
            case Verdict.GONE:
                self._metrics.poked(Poke.GONE)
                return Settled(claim, Outcome.GONE)
            case Verdict.RETRY:
                self._metrics.poked(Poke.PUT_OFF)
                longest_ms = min(LATER_LONGEST_MS, LATER_FIRST_MS << min(claim.tries, 16))
                wait_ms = self._chance.randint(longest_ms // 2, longest_ms)
                return Settled(claim, Outcome.LATER, self._clock.wall_ms() + wait_ms)
