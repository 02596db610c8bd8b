"""Who may use a store in Redis: many processes that serve it, or one that moves it elsewhere.

Each process that serves holds a lease of half a minute, renewed every few seconds; one whose
lease ended asks for another before it sends anything. `rookery-server migrate-store` takes the
store while nobody holds one, and from then on nobody gets one. Both are one step in one slot.

So a process that can't renew for the whole of its lease serves nothing, not even what other
masters of a cluster have: the store may have been taken meanwhile by whoever reaches that slot,
and what was written to it then would be missing in the copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import Awaitable, Callable

from services.store.errors import StoreUnavailable
from services.store.redis_connection import MaybeDone, NotDone
from services.store.redis_lineage import META, Lineage

SERVING = b"serving{meta}"
LEASE_S = 30
MARGIN_S = 5
"""A process takes its lease for over so much earlier."""
RENEW_S = 8.0
LOST = (
    "Redis may have lost writes while the store was moved (its generation was renewed): run"
    " migrate-store again, which compares all of it"
)
_FIRST_PAUSE_S, _PAUSE_MAX_S = 0.02, 1.0

_NOW = b"local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"
_ENTER = (
    _NOW
    + b"""
local moving = redis.call('HGET', KEYS[1], 'moving')
if moving then return moving end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now))
redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[2]), ARGV[1])
return false
"""
)
_LEAVE = b"return redis.call('ZREM', KEYS[2], ARGV[1])"
_SEIZE = (
    _NOW
    + b"""
local serving = redis.call('ZCOUNT', KEYS[2], string.format('(%.0f', now), '+inf')
if serving > 0 then return {serving, ''} end
local moving = redis.call('HGET', KEYS[1], 'moving')
if not moving or moving == ARGV[1] then redis.call('HSET', KEYS[1], 'moving', ARGV[1]) end
return {0, moving or ARGV[1]}
"""
)
_SETTLE = b"""
if redis.call('HGET', KEYS[1], 'moving') ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[5] then return -1 end
if ARGV[2] == '' then redis.call('HDEL', KEYS[1], 'moving')
else redis.call('HSET', KEYS[1], 'moving', ARGV[2]) end
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'generation', ARGV[3], 'secret', ARGV[4]) end
return 1
"""
_KEYS = (META, SERVING)


async def enter(lineage: Lineage, own: bytes) -> None:
    """Takes or renews a lease. StoreUnavailable if the store is moved or was."""
    check_moving(await lineage.eval(_ENTER, _KEYS, own, b"%d" % (LEASE_S * 1000)))


def check_moving(moving: bytes | None) -> None:
    """StoreUnavailable if the store has the mark of a move."""
    if moving is None:
        return
    if moving.startswith(b"gone"):
        raise StoreUnavailable(
            "this store was moved elsewhere, and its clients with it: use the new one"
        )
    raise StoreUnavailable(
        "rookery-server migrate-store is at work on this store, or was interrupted: run it again"
    )


async def leave(lineage: Lineage, own: bytes) -> None:
    """Gives the lease back."""
    await lineage.eval(_LEAVE, _KEYS, own)


async def seize(lineage: Lineage, mark: bytes) -> bytes:
    """Marks the store as being moved; the mark that it has. StoreUnavailable while it is
    served."""
    serving, standing = await lineage.eval(_SEIZE, _KEYS, mark)
    if serving:
        raise StoreUnavailable(
            f"{serving} process{'es serve' if serving > 1 else ' serves'} this store: stop"
            f" {'them' if serving > 1 else 'it'} first (one that was killed counts for"
            f" {LEASE_S} seconds)"
        )
    return bytes(standing)


async def settle(
    lineage: Lineage,
    mark: bytes,
    after: bytes,
    known: bytes,
    generation: bytes = b"",
    secret: bytes = b"",
) -> bool:
    """Changes the mark, to none if `after` is empty; False if it was another one.
    StoreUnavailable if the generation is no longer the known one."""
    done: int = await lineage.eval(_SETTLE, _KEYS, mark, after, generation, secret, known)
    if done < 0:
        raise StoreUnavailable(LOST)
    return bool(done)


class Tenant:
    """The lease of this process, taken by `enter` and renewed until `close`."""

    def __init__(self, lineage: Lineage, refresh: Callable[[], Awaitable[None]]) -> None:
        self._lineage = lineage
        self._refresh = refresh
        self._own = os.urandom(16)
        self._until = -math.inf
        self._entering: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._pause = _FIRST_PAUSE_S
        self._not_before = -math.inf

    async def hold(self) -> None:
        """Returns while the lease lasts, or with another one. StoreUnavailable if the store is
        moved; NotDone, MaybeDone."""
        if asyncio.get_running_loop().time() > self._until:
            await self.enter()

    async def enter(self) -> None:
        """Takes or renews it. Whoever comes meanwhile waits for the same answer."""
        if self._entering is None or self._entering.done():
            self._entering = asyncio.get_running_loop().create_task(self._enter())
        await asyncio.shield(self._entering)

    async def _enter(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._not_before - loop.time()))
        now = loop.time()
        try:
            await enter(self._lineage, self._own)
        except BaseException:
            self._not_before = loop.time() + self._pause
            self._pause = min(2 * self._pause, _PAUSE_MAX_S)
            raise
        self._until = now + LEASE_S - MARGIN_S
        self._pause = _FIRST_PAUSE_S
        if self._renewing is None:
            self._renewing = loop.create_task(self._renew_often())

    async def _renew_often(self) -> None:
        """Early enough that a failover ends before the lease does."""
        while True:
            await asyncio.sleep(RENEW_S)
            while True:
                try:
                    await self.enter()
                    break
                except (NotDone, MaybeDone):
                    await self._refresh()
                except StoreUnavailable:
                    break  # who calls hears of it

    async def close(self) -> None:
        """Gives it back, if the store can be reached."""
        tasks = [task for task in (self._renewing, self._entering) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._until > -math.inf:
            with contextlib.suppress(NotDone, MaybeDone, StoreUnavailable):
                await leave(self._lineage, self._own)
