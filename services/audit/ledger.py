"""Writes privileged calls into the audit log, before they are answered.

A call whose entry can't be written fails as the store does. What changes something is written
down twice: before its handler runs, so that no change is ever without an entry, and after it,
with how it ended. One key writes so many entries a second and no more: a call beyond that is
refused before its handler, and leaves none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from crypto.keys import device_id
from services.audit.record import BEGUN, DONE, OPENED, Record, of_key, of_workload, request_hash
from services.call import KeyCall
from services.errors import failure
from services.limits import Buckets
from services.store.governance import GovernanceStore

T = TypeVar("T")


class Ledger:
    """The audit log, as the edge writes it. `rate`: of each key; `written`: told of each
    entry."""

    def __init__(
        self, store: GovernanceStore, rate: Buckets, *, written: Callable[[], None] = lambda: None
    ) -> None:
        self._store = store
        self._rate = rate
        self._written = written

    async def unary(
        self, raw: bytes, call: KeyCall, run: Callable[[], Awaitable[T]], *, changes: bool
    ) -> T:
        """What `run` answers or raises, written down. RateLimited; StoreUnavailable."""
        record = self._record(raw, call)
        begun = await self._append(record(BEGUN), call) if changes else 0
        try:
            answer = await run()
        except Exception as error:
            # Not a cancelled call: nobody is answered any more, and of a change there is the
            # entry that it was begun.
            await self._append(record(failure(error).reason, begun), call)
            raise
        await self._append(record(DONE, begun), call)
        return answer

    async def opened(self, raw: bytes, call: KeyCall, admit: Callable[[], None]) -> None:
        """A stream that begins if `admit` lets it."""
        record = self._record(raw, call)
        try:
            admit()
        except Exception as error:
            await self._append(record(failure(error).reason), call)
            raise
        await self._append(record(OPENED), call)

    def _record(self, raw: bytes, call: KeyCall) -> Callable[..., Record]:
        self._rate.take(_bucket(call), call.clock.monotonic_s())
        who = of_key(call.key.ik_pk) if call.key.ik_pk else f"workload:{of_workload(call.workload)}"
        beside = of_workload(call.workload) if call.workload and call.key.ik_pk else ""
        hashed = request_hash(raw)

        def made(outcome: str, begun: int = 0) -> Record:
            return Record(who, call.method, outcome, hashed, begun, beside)

        return made

    async def _append(self, record: Record, call: KeyCall) -> int:
        entry = await self._store.append_audit(record.encode(), now_ms=call.clock.wall_ms())
        self._written()
        return entry.seq


def _bucket(call: KeyCall) -> bytes | str:
    return device_id(call.key.ik_pk) if call.key.ik_pk else call.workload
