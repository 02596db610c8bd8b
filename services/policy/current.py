"""The bundle in force in this process: read from the store, verified, parsed once.

The store is not believed: a bundle counts if a key of the setting `policy_keys` signed it, also
one that has ended since. What is in force is never replaced by an older one. Should the store
have lost the newest (a failover), whoever still has it puts it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from crypto.errors import CryptoError
from crypto.policy import Bundle, open_
from crypto.policy.tasks import TaskRule
from mpc.task import Task
from rookery.v1 import policy_pb2
from services import wire
from services.errors import TaskUndeclared
from services.keeping.current import Keys
from services.store.errors import PolicyConflict, StoreUnavailable
from services.store.governance import GovernanceStore, PolicyRow
from services.telemetry import Telemetry

AGAIN_S: Final = 1.0
"""A store that is away is asked again after so long."""


class CurrentPolicy:
    """`bundle` and `sequence` are of the one in force: None and 0 if there is none, or the service
    is not governed. Handlers ask at each call and keep neither."""

    def __init__(self, store: GovernanceStore, keys: Keys, telemetry: Telemetry) -> None:
        self._store = store
        self._keys = keys
        self._telemetry = telemetry
        self._row: PolicyRow | None = None
        self._held: Bundle | None = None
        self._signed = b""
        self._listeners: list[Callable[[Bundle], None]] = []
        self._reading = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None
        self._refused = 0
        self._again = False
        self._looking = asyncio.Lock()
        self._looks_begun = self._looks_done = 0
        self._look_failed: StoreUnavailable | None = None

    @property
    def governed(self) -> bool:
        """Whether the settings list a key that may publish: then nothing is allowed that no
        bundle allows."""
        return bool(self._keys.trusted.policy)

    @property
    def bundle(self) -> Bundle | None:
        """The one in force."""
        return self._held if self.governed else None

    @property
    def sequence(self) -> int:
        """Of the one in force; 0: none."""
        bundle = self.bundle
        return 0 if bundle is None else bundle.sequence

    def newer(self, after: int) -> bytes:
        """The fields `policy`, `sequence` and `hash` of an answer to who holds `after`."""
        bundle = self.bundle
        if bundle is None:
            return b""
        own = wire.number(3, bundle.sequence) + wire.data(4, bundle.hash)
        return wire.data(2, self._signed) + own if bundle.sequence > after else own

    def on_taken(self, told: Callable[[Bundle], None]) -> None:
        """Registers a listener, called on the event loop whenever another bundle is in force."""
        self._listeners.append(told)

    def rule_of(self, task: Task) -> TaskRule | None:
        """The rule that a task keeps to; None where the service is not governed.
        TaskUndeclared: none does, a switch stops it, or it is outside the rule."""
        if not self.governed:
            return None
        if self._held is None:
            raise TaskUndeclared("no-policy")
        try:
            return self._held.check_task(
                task.task_id,
                purpose=task.purpose,
                kind=task.kind.name,
                k_min=task.k_min,
                micro_rho=task.cost_micro_rho,
            )
        except CryptoError as error:
            raise TaskUndeclared(error.rule) from None

    # --- what keeps it current ---

    async def start(self) -> None:
        """Reads the newest; from then on whatever any replica publishes is in force here within
        about a second."""
        self._store.on_policy(self.poke)
        try:
            await self.refresh()
        except StoreUnavailable:
            self.poke()

    async def stop(self) -> None:
        """Reads no more."""
        task, self._refreshing = self._refreshing, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def poke(self) -> None:
        """There may be another one: it is read soon."""
        self._again = True
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh_on())

    async def _refresh_on(self) -> None:
        while self._again:
            self._again = False
            try:
                await self.refresh()
            except StoreUnavailable:
                self._again = True
                await asyncio.sleep(AGAIN_S)

    async def refresh(self) -> None:
        """What stands in the store is in force when it returns. StoreUnavailable."""
        async with self._reading:
            held = 0 if self._row is None else self._row.sequence
            stored = await self._store.policy_sequence()
            if stored > held:
                row = await self._store.policy()
                if row is not None and row.sequence > held:
                    self._take(row)
            elif stored < held and self._row is not None:
                await self._put_back(self._row)

    async def look(self) -> None:
        """The same, for callers who may be many and whom nobody knows: those who come while one
        reads the store share the read after it. StoreUnavailable."""
        begun = self._looks_begun
        async with self._looking:
            if self._looks_done > begun:
                # One that began after this caller came.
                if self._look_failed is not None:
                    raise self._look_failed
                return
            self._looks_begun += 1
            self._look_failed = None
            # One that is given up with its call is never done: nobody has anything of it.
            try:
                await self.refresh()
            except StoreUnavailable as error:
                self._look_failed, self._looks_done = error, self._looks_begun
                raise
            self._looks_done = self._looks_begun

    async def _put_back(self, row: PolicyRow) -> None:
        try:
            await self._store.put_policy(row)
        except PolicyConflict as conflict:
            # More than the newest is gone, or there is another past: its publisher must look.
            self._telemetry.event("policy_lost", held=row.sequence, stored=conflict.sequence)
        else:
            self._telemetry.event("policy_put_back", sequence=row.sequence)

    def _take(self, row: PolicyRow) -> None:
        if row.key not in {listed.key for listed in self._keys.trusted.policy}:
            self._refuse(row, "publisher")
            return
        try:
            bundle = open_(row.data, row.sig, row.key)
        except CryptoError as error:
            self._refuse(row, error.rule)
            return
        self._row, self._held = row, bundle
        self._signed = policy_pb2.SignedPolicy(
            bundle=row.data, sig=row.sig, publisher=row.key
        ).SerializeToString()
        self._telemetry.event("policy_taken", sequence=bundle.sequence)
        for told in self._listeners:
            try:
                told(bundle)
            except Exception as error:  # noqa: BLE001 - the others are told all the same
                self._telemetry.defect("policy", error)

    def _refuse(self, row: PolicyRow, rule: str) -> None:
        """Said once of each; what was in force before stays."""
        if self.governed and self._refused != row.sequence:
            self._refused = row.sequence
            self._telemetry.event("policy_refused", sequence=row.sequence, rule=rule)
