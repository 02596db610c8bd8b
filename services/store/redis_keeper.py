"""What happens to accounts behind the calls: where devices stand, and what may go.

One task does it, an account at a time and a slice at a time. What a crash leaves undone is
found again in the lists of accounts to look at (`redis_keys.due`), by any replica's sweep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from crypto.ids import AccountId, DeviceId
from services.store.account_state import Mark
from services.store.base import Limits
from services.store.errors import StoreUnavailable
from services.store.redis_keys import SHARDS, due, shard
from services.store.redis_known import Known, head_of
from services.store.redis_link import Link
from services.store.redis_ops import pack_positions
from services.store.redis_state import (
    Account,
    pack_ends,
    pack_marks,
    passed_field,
    version_after,
)
from services.store.redis_trim import (
    FORGET_EPOCHS,
    GIVE_DUE,
    PASSED,
    SETTLE,
    SLICE_ROWS,
    TAKE_DUE,
    TRIM_EPOCH,
    TRIM_STUBS,
)

POSITIONS_KEPT = 65_536
ACCOUNTS_PER_LOOK = 64
LEASE_MS = 3_600_000
LOOK_AGAIN_MS = 7 * 86_400_000


class Keeper:
    """Notes and trims. `close` waits for what was begun."""

    def __init__(self, link: Link, known: Known, limits: Limits) -> None:
        self._link = link
        self._known = known
        self._limits = limits
        self._positions: dict[AccountId, dict[DeviceId, int]] = {}
        self._count = 0
        self._notes: dict[AccountId, dict[DeviceId, int]] = {}
        self._trims: set[AccountId] = set()
        self._worker: asyncio.Task[None] | None = None

    # --- positions that devices have passed ---

    def note(self, account: Account, device_id: DeviceId, position: int) -> None:
        """See `Store.passed`. Written at once only if a checkpoint waits for this device."""
        account_id = account.chain.account
        devices = self._positions.setdefault(account_id, {})
        known = devices.get(device_id)
        if known is None:
            self._count += 1
        if known is None or position > known:
            devices[device_id] = position
        self.changed(account)
        if self._count > POSITIONS_KEPT:
            self._send_all()

    def changed(self, account: Account) -> None:
        """An account may have a checkpoint that its devices have passed."""
        if not account.marks:
            return
        account_id = account.chain.account
        devices = self._positions.get(account_id, {})
        if any(devices.get(device_id, -1) >= at for device_id, at in account.awaited().items()):
            self._send(account_id)
        elif account.settled() is not None:
            self._trims.add(account_id)
            self._work()

    def forget(self, account_id: AccountId) -> None:
        """The account is gone."""
        self._count -= len(self._positions.pop(account_id, {}))

    def clear(self) -> None:
        """Redis may have lost what devices have passed."""
        self._positions.clear()
        self._notes.clear()
        self._count = 0

    def _send(self, account_id: AccountId) -> None:
        devices = self._positions.pop(account_id, {})
        self._count -= len(devices)
        if devices:
            self._notes.setdefault(account_id, {}).update(devices)
            self._work()

    def _send_all(self) -> None:
        for account_id in list(self._positions):
            self._send(account_id)

    # --- the task ---

    def _work(self) -> None:
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._notes or self._trims:
                if self._notes:
                    account_id = next(iter(self._notes))
                    await self._write(account_id, self._notes.pop(account_id))
                else:
                    await self.trim(self._trims.pop(), 0)
        except StoreUnavailable:
            # Learnt again when devices ask again, and found by a sweep.
            self._notes.clear()
            self._trims.clear()

    async def idle(self) -> None:
        """Returns when all that was noted is done."""
        while self._worker is not None and not self._worker.done():
            await asyncio.wait([self._worker])

    async def close(self) -> None:
        """Writes what was noted."""
        self._send_all()
        await self.idle()

    async def _write(self, account_id: AccountId, devices: Mapping[DeviceId, int]) -> None:
        account = self._known.get(account_id) or await self._known.load(account_id)
        if account is None:
            return
        flat: list[bytes | int] = []
        for device_id, asked in devices.items():
            index = account.index.get(bytes(device_id))
            position = min(asked, account.position)
            if index is not None and position > account.passed.get(device_id, 0):
                flat += [passed_field(index), position]
        if not flat:
            return
        keys = account.keys
        _, state, raw_chain = await self._link.run(
            PASSED, (keys.state, keys.chain), (account.incarnation, head_of(account), *flat)
        )
        now = self._known.told(account_id, state, raw_chain, account)
        if now is not None and now.settled() is not None:
            self._trims.add(account_id)

    # --- trimming ---

    async def trim(self, account_id: AccountId, now_ms: int) -> Account | None:
        """Everything that may go. `now_ms`: by which ends of epochs are judged."""
        account = await self._known.load(account_id)
        settled = None if account is None else account.settled()
        if account is None or settled is None:
            return account
        account = await self._unpin(account_id, settled)
        if account is None:
            return None
        keys = account.keys
        stays = pack_positions(mark.position for mark in account.marks)
        while await self._link.run(
            TRIM_STUBS,
            (keys.state, keys.ops, keys.blocks, keys.trimmed, keys.superseded),
            (account.incarnation, settled.covers, stays, SLICE_ROWS),
        ):
            pass
        await self._trim_epochs(account, settled, now_ms, stays)
        return await self._known.load(account_id)

    async def _unpin(self, account_id: AccountId, settled: Mark) -> Account | None:
        """Marks that the settled one makes superfluous go."""
        async with self._known.lock(account_id):
            account = await self._known.load(account_id)
            while account is not None and (going := account.outdated(settled)):
                marks = [mark for mark in account.marks if mark not in going]
                keys, version = account.keys, version_after(account.version)
                answer = await self._link.run(
                    SETTLE,
                    (
                        keys.state, keys.chain, keys.ops,
                        *(keys.winners(mark.epoch) for mark in going),
                    ),
                    (
                        account.version, account.chain.head, version, pack_marks(marks),
                        pack_positions(mark.position for mark in going),
                    ),
                )  # fmt: skip
                if answer[0]:
                    account.marks, account.version = marks, version
                    self._known.keep(account)
                else:
                    account = self._known.told(account_id, answer[1], answer[2], account)
        return account

    async def _trim_epochs(
        self, account: Account, settled: Mark, now_ms: int, stays: bytes
    ) -> None:
        """Ops of epochs before the checkpoint's whose grace is over, as far as it covers them."""
        over = [
            epoch
            for epoch, ended_ms in account.ends.items()
            if epoch < settled.epoch and ended_ms <= now_ms - self._limits.grace_ms
        ]
        if not over:
            return
        emptied = True
        keys = account.keys
        for epoch in sorted(epoch for epoch in account.ends if epoch <= max(over)):
            cursor, left = b"0", 1
            while True:
                cursor, left = await self._link.run(
                    TRIM_EPOCH,
                    (keys.state, keys.ops, keys.blocks, keys.trimmed, keys.winners(epoch)),
                    (account.incarnation, settled.covers, stays, cursor, SLICE_ROWS),
                )
                if cursor == b"0":
                    break
            emptied = emptied and not left
        if emptied:
            await self._forget_epochs(account, max(over))

    async def _forget_epochs(self, known: Account, last: int) -> None:
        account_id = known.chain.account
        async with self._known.lock(account_id):
            account = await self._known.load(account_id)
            while account is not None and account.incarnation == known.incarnation:
                ends = {epoch: ms for epoch, ms in account.ends.items() if epoch > last}
                if ends == account.ends:
                    return
                keys, version = account.keys, version_after(account.version)
                answer = await self._link.run(
                    FORGET_EPOCHS,
                    (keys.state, keys.chain),
                    (account.version, account.chain.head, version, pack_ends(ends)),
                )
                if answer[0]:
                    account.ends, account.version = ends, version
                    self._known.keep(account)
                else:
                    account = self._known.told(account_id, answer[1], answer[2], account)

    # --- accounts to look at ---

    async def expect(self, account_id: AccountId, now_ms: int) -> None:
        """The account is about to have a checkpoint: some sweep is to look at it."""
        await self._link.call("ZADD", due(shard(account_id)), now_ms, account_id)

    async def sweep(self, now_ms: int) -> None:
        """Writes what was noted; trims every account whose time has come."""
        self._send_all()
        await self.idle()
        until = now_ms + LEASE_MS
        for number in range(SHARDS):
            key = due(number)
            while accounts := await self._link.run(
                TAKE_DUE, (key,), (now_ms, until, ACCOUNTS_PER_LOOK)
            ):
                for raw in accounts:
                    account = await self.trim(AccountId(raw), now_ms)
                    await self._link.run(
                        GIVE_DUE, (key,), (raw, until, self._next_look(account, now_ms))
                    )

    def _next_look(self, account: Account | None, now_ms: int) -> int | bytes:
        if account is None or not account.marks:
            return b""
        ends = (ended_ms + self._limits.grace_ms for ended_ms in account.ends.values())
        later = [end for end in ends if end > now_ms]
        return min([now_ms + LOOK_AGAIN_MS, *later])
