"""Making accounts, appending to their chains, deleting them; what of it crosses slots.

An account's place among its subject's accounts lies elsewhere. It is reserved first, under a
token; given back after the account was deleted, unless it was reserved anew meanwhile. A place
that a crash left behind counts until it is needed: then those who hold places are looked at.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import Awaitable, Callable, Sequence

from crypto.chain import Chain
from crypto.grant import SealedGrant
from crypto.ids import AccountId, DeviceId
from crypto.link import SignedLink
from services.store.base import Limits, StoredLink
from services.store.errors import AccountAbsent, QuotaExceeded
from services.store.judge_chain import check_whole, ended_epochs, judge_again, judge_link
from services.store.redis_accounts import (
    APPEND,
    CREATE,
    DELETE,
    RELEASE,
    RESERVE,
    appended,
    created,
    everything,
)
from services.store.redis_keys import SHARDS, AccountKeys, due, gone, shard, subject, to_wake
from services.store.redis_known import Known, head_of
from services.store.redis_link import Link
from services.store.redis_state import Account, new_account
from services.store.replay import replay

SETTLED_MS = 60_000
"""What was begun so long ago and is not done was left by a crash."""
TOKEN = struct.Struct(">Q8s")
"""When an account's place under its subject was reserved, and by which attempt."""
_INTENT = struct.Struct(">Q8s16s")
"""when, the account's incarnation, token of its place; then the subject row"""


ForgetGiven = Callable[[AccountId, bytes], Awaitable[None]]
"""Drops what a deleted account, of this incarnation, gave to rounds."""


class Chains:
    """Accounts and their chains."""

    def __init__(self, link: Link, known: Known, limits: Limits, forget_given: ForgetGiven) -> None:
        self._link = link
        self._known = known
        self._limits = limits
        self._forget_given = forget_given

    async def create(
        self,
        genesis: SignedLink,
        later: Sequence[StoredLink],
        subject_rows: Sequence[bytes],
        now_ms: int,
    ) -> Account | None:
        """See `Store.create_account`. None if nothing was added. `subject_rows`: the one that
        the account gets, then those that count as well."""
        chain = await asyncio.to_thread(replay, genesis, later) if later else replay(genesis, ())
        links = (StoredLink(genesis, ()), *later)
        account_id = chain.account
        async with self._known.lock(account_id):
            standing = await self._known.load(account_id)
            while standing is None:
                check_whole(chain, self._limits)
                await self._reserve(subject_rows, account_id)
                row = next(iter(subject_rows), b"")
                account = new_account(chain, AccountKeys(account_id), row)
                for epoch in ended_epochs(links):
                    account.end_epoch(epoch, now_ms)
                keys = account.keys
                answer = await self._link.run(
                    CREATE,
                    (keys.state, keys.chain, keys.links, keys.channel),
                    created(account, links, self._link.publish_command),
                )
                if answer[0]:
                    self._known.keep(account)
                    return account
                standing = self._known.told(account_id, answer[1], answer[2], account)
            while standing is not None:
                if not judge_again(standing.chain, chain, self._limits):
                    return None
                done, standing = await self._append(standing, chain, links, now_ms)
                if done:
                    return standing
            raise AccountAbsent("the account was deleted meanwhile")

    async def append(
        self,
        account_id: AccountId,
        signed: SignedLink,
        grants: Sequence[SealedGrant],
        now_ms: int,
    ) -> bool:
        """See `Store.append_link`."""
        async with self._known.lock(account_id):
            account = await self._known.load(account_id)
            while account is not None:
                link = judge_link(account.chain, signed, grants, self._limits)
                if link is None:
                    return False
                links = [StoredLink(signed, tuple(grants))]
                done, account = await self._append(account, link.chain, links, now_ms)
                if done:
                    return True
            raise AccountAbsent("no such account")

    async def _append(
        self, account: Account, chain: Chain, links: Sequence[StoredLink], now_ms: int
    ) -> tuple[bool, Account | None]:
        """Writes the newest of these links, which lead from the account's chain to this one.
        False, and the account as it is, if it changed meanwhile."""
        added = links[len(links) - (chain.seq - account.chain.seq) :]
        after = account.continued(chain)
        for epoch in ended_epochs(added):
            after.end_epoch(epoch, now_ms)
        keys = account.keys
        answer = await self._link.run(
            APPEND,
            (keys.state, keys.chain, keys.links, keys.channel),
            appended(account, after, added, self._link.publish_command),
        )
        if answer[0]:
            self._known.keep(after)
            return True, after
        return False, self._known.told(chain.account, answer[1], answer[2], account)

    async def delete(self, account_id: AccountId, by: DeviceId | None) -> Account | None:
        """See `Store.delete_account`. The account that was."""
        async with self._known.lock(account_id):
            account = await self._known.load(account_id)
            if account is None or not _may_delete(account, by):
                return None
            intent = await self._intend(account)
            while account is not None and _may_delete(account, by):
                answer = await self._link.run(
                    DELETE,
                    everything(account),
                    (account.version, head_of(account), self._link.publish_command),
                )
                if answer[0]:
                    self._known.drop(account_id)
                    await self._finish(account_id, intent)
                    return account
                account = self._known.told(account_id, answer[1], answer[2], account)
            await self._link.call("HDEL", gone(shard(account_id)), account_id)
            return None

    async def _intend(self, account: Account) -> bytes:
        """Says that a deletion begins, so that it is finished whatever happens."""
        account_id, row = account.chain.account, account.subject_row
        token = await self._link.call("HGET", subject(row), account_id) if row else None
        now_ms = time.time_ns() // 1_000_000
        intent = _INTENT.pack(now_ms, account.incarnation, token or b"") + row
        await self._link.call("HSET", gone(shard(account_id)), account_id, intent)
        return intent

    async def _finish(self, account_id: AccountId, intent: bytes) -> None:
        """What of a deleted account lies in other slots."""
        _, incarnation, token = _INTENT.unpack_from(intent)
        await self._forget_given(account_id, incarnation)
        # Whoever looks there later would find nobody, but until then the id would stand there.
        for key in (due(shard(account_id)), to_wake(shard(account_id))):
            await self._link.call("ZREM", key, account_id)
        row = intent[_INTENT.size :]
        if row:
            await self._link.run(RELEASE, (subject(row),), (account_id, token))
        await self._link.call("HDEL", gone(shard(account_id)), account_id)

    async def sweep(self, *, settled_ms: int = SETTLED_MS) -> None:
        """Finishes deletions that a crash interrupted."""
        before_ms = time.time_ns() // 1_000_000 - settled_ms
        for number in range(SHARDS):
            flat = await self._link.call("HGETALL", gone(number))
            for raw_id, intent in zip(flat[::2], flat[1::2], strict=True):
                begun_ms, incarnation, _ = _INTENT.unpack_from(intent)
                if begun_ms > before_ms:
                    continue
                account_id = AccountId(raw_id)
                async with self._known.lock(account_id):
                    account = await self._known.load(account_id)
                    if account is None or account.incarnation != incarnation:
                        await self._finish(account_id, intent)
                    else:  # It never came to pass, and nobody was told that it had.
                        await self._link.call("HDEL", gone(number), account_id)

    async def unfinished(self) -> int:
        """How many deletions were begun and never finished, long enough ago for a sweep."""
        before_ms = time.time_ns() // 1_000_000 - SETTLED_MS
        intents = [await self._link.call("HVALS", gone(number)) for number in range(SHARDS)]
        return sum(
            _INTENT.unpack_from(intent)[0] <= before_ms for found in intents for intent in found
        )

    # --- accounts of a subject ---

    async def _reserve(self, rows: Sequence[bytes], account_id: AccountId) -> None:
        """A place for the account under the first row. QuotaExceeded."""
        if not rows:
            return
        most = self._limits.accounts_per_subject_max
        token = TOKEN.pack(time.time_ns() // 1_000_000, os.urandom(8))
        before = sorted({*rows[1:]} - {rows[0]})
        for _ in range(2):
            room = most - await self._count(before)
            if await self._link.run(RESERVE, (subject(rows[0]),), (account_id, token, room)):
                return
            if not await self._release_unused((rows[0], *before)):
                break
        raise QuotaExceeded("accounts_per_subject", most)

    async def _count(self, rows: Sequence[bytes]) -> int:
        """How many accounts a subject has under these rows, to which none is added any more."""
        count = 0
        for row in rows:
            count += await self._link.call("HLEN", subject(row))
        return count

    async def _release_unused(self, rows: Sequence[bytes]) -> bool:
        """Gives back places whose accounts are not there. True if there was one."""
        before_ms = time.time_ns() // 1_000_000 - SETTLED_MS
        released = False
        for row in rows:
            holders = await self._link.call("HGETALL", subject(row))
            for raw_id, token in zip(holders[::2], holders[1::2], strict=True):
                if TOKEN.unpack(token)[0] > before_ms:
                    continue  # Its account may be about to be made.
                account = await self._known.load(AccountId(raw_id))
                if account is None or account.subject_row != row:
                    await self._link.run(RELEASE, (subject(row),), (raw_id, token))
                    released = True
        return released


def _may_delete(account: Account, by: DeviceId | None) -> bool:
    device = None if by is None else account.chain.find(by)
    return by is None or (device is not None and device.active)
