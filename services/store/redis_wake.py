"""The part of the store in Redis for waking: a `services.store.wake.WakeStore`.

An account has its handles and, of each device with one, where it stands: one step each, in the
account's slot. Which accounts are to be looked at, and when, stands in lists of their own; who
writes that a device is due does it before it puts the account there, and an account is taken
out only when nothing is due, and looked at once more then. So a crash leaves at worst an account
that is looked at for nothing, or one that the next ops put there again.

Handles of devices that were revoked are passed over from then on, and deleted when next looked
at. One that was not renewed is deleted when its account is next looked at, and with the last.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from crypto.ids import AccountId, DeviceId
from services.store.errors import AccountAbsent
from services.store.redis_keys import SHARDS, shard, to_wake
from services.store.redis_known import Known
from services.store.redis_link import Link, Script
from services.store.wake import HORIZON_MS, Claim, Mark, Outcome, Pace, Settled

AT_ONCE = 32
SPREADS = 16
"""How many devices of an account are spread, each by a time of its own."""
HANDLE = struct.Struct(">QQQIIBB")
"""What stands of a device beside its handle; the script below says which fields."""
_T = TypeVar("_T")

_LUA = """
-- KEYS: 1 where devices stand, 2 their handles.
-- A row: expires u64, due u64 (0: not due), sent u64, turn u32, tries u32, claimed u8, again u8.
local function row_of(raw)
  local r = {}
  r.expires, r.due, r.sent, r.turn, r.tries, r.claimed, r.again =
    struct.unpack('>I8I8I8I4I4BB', raw)
  return r
end
local function keep(device, r)
  redis.call('HSET', KEYS[1], device, struct.pack('>I8I8I8I4I4BB',
    r.expires, r.due, r.sent, r.turn, r.tries, r.claimed, r.again))
end
local function drop(device)
  redis.call('HDEL', KEYS[1], device)
  redis.call('HDEL', KEYS[2], device)
end
local function paced(r, now, debounce, spread)
  return math.max(now, math.min(r.sent, now) + debounce) + spread
end
-- Of each row that still counts: `look(device, row)`. When the first of them is due; 0: none is.
local function each(now, look)
  local first, flat = 0, redis.call('HGETALL', KEYS[1])
  for n = 1, #flat, 2 do
    local r = row_of(flat[n + 1])
    if r.expires <= now then
      drop(flat[n])
    elseif look(flat[n], r) ~= false and r.due > 0 and (first == 0 or r.due < first) then
      first = r.due
    end
  end
  return string.format('%.0f', first)
end
"""

SET = Script(
    _LUA
    + """
-- KEYS: 3 state. ARGV: 1 device, 2 handle, 3 expires.
if redis.call('EXISTS', KEYS[3]) == 0 then return 0 end
local old = redis.call('HGET', KEYS[1], ARGV[1])
local r = old and row_of(old) or {due = 0, sent = 0, turn = 0, again = 0}
-- Whoever has claimed the old handle has lost its turn.
r.expires, r.turn, r.claimed, r.tries = tonumber(ARGV[3]), r.turn + 1, 0, 0
keep(ARGV[1], r)
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
local last = 0
for _, raw in ipairs(redis.call('HVALS', KEYS[1])) do
  last = math.max(last, row_of(raw).expires)
end
for n = 1, 2 do redis.call('PEXPIREAT', KEYS[n], string.format('%.0f', last)) end
return 1
"""
)

REMOVE = Script(_LUA + "drop(ARGV[1]) return 1")

MARK = Script(
    _LUA
    + """
-- ARGV: 1 now, 2 horizon, 3 debounce, 4 the only device or empty, 5 how many are awake, those,
-- and what each device's poke is put off by.
local now, horizon, debounce = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local awake, count = {}, tonumber(ARGV[5])
for n = 6, 5 + count do awake[ARGV[n]] = true end
local at, marked = 5 + count, 0
local first = each(now, function(device, r)
  if awake[device] or (ARGV[4] ~= '' and ARGV[4] ~= device) then return end
  local was, again = r.due, r.again
  if r.due == 0 or r.due > horizon then
    at = at + 1
    if at > #ARGV then at = 6 + count end
    r.due = paced(r, now, debounce, tonumber(ARGV[at]))
  end
  r.again = r.claimed
  if r.due ~= was or r.again ~= again then
    keep(device, r)
    if marked == 0 or r.due < marked then marked = r.due end
  end
end)
return {string.format('%.0f', marked), first}
"""
)

CLAIM = Script(
    _LUA
    + """
-- KEYS: 3 state. ARGV: 1 now, 2 until, 3 at most, devices that were revoked: one that is not
-- known yet may have joined since they were read.
local now, room, claims, revoked = tonumber(ARGV[1]), tonumber(ARGV[3]), {}, {}
local there = redis.call('EXISTS', KEYS[3]) == 1
for n = 4, #ARGV do revoked[ARGV[n]] = true end
local first = each(now, function(device, r)
  if not there or revoked[device] then drop(device) return false end
  if r.due > 0 and r.due <= now and room > 0 then
    room = room - 1
    r.due, r.sent, r.claimed, r.again, r.turn = tonumber(ARGV[2]), now, 1, 0, r.turn + 1
    keep(device, r)
    local handle = redis.call('HGET', KEYS[2], device)
    claims[#claims + 1] = {device, handle, r.turn, r.tries}
  end
end)
return {claims, first}
"""
)

SETTLE = Script(
    _LUA
    + """
-- ARGV: 1 now, 2 debounce, 3 device, 4 turn, 5 done | later | gone, 6 due, 7 spread, 8 handle.
local now, device, how = tonumber(ARGV[1]), ARGV[3], ARGV[5]
return each(now, function(other, r)
  if other ~= device or r.turn ~= tonumber(ARGV[4]) then return end
  if how == 'gone' then
    if redis.call('HGET', KEYS[2], device) == ARGV[8] then drop(device) return false end
    return
  end
  if r.claimed == 0 then return end
  if how == 'later' then
    r.due, r.tries = tonumber(ARGV[6]), r.tries + 1
  else
    local again = r.again == 1
    r.due, r.tries = again and paced(r, now, tonumber(ARGV[2]), tonumber(ARGV[7])) or 0, 0
  end
  r.claimed, r.again = 0, 0
  keep(device, r)
end)
"""
)

FIRST = Script(_LUA + "return each(tonumber(ARGV[1]), function() end)")

DUE = Script(
    """
-- KEYS: 1 accounts to look at. ARGV: 1 now, 2 at most. Those that are due, and when the next is.
local function by(from, to, most)
  return redis.call('ZRANGEBYSCORE', KEYS[1], from, to, 'WITHSCORES', 'LIMIT', 0, most)
end
return {by('-inf', ARGV[1], ARGV[2]), by('(' .. ARGV[1], '+inf', 1)}
""",
    reads=True,
)

MOVE = Script(
    """
-- KEYS: 1 accounts to look at. ARGV: 1 account, 2 when it was due, 3 when it is; 0: not.
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) ~= tonumber(ARGV[2]) then return 0 end
if ARGV[3] == '0' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
end
return 1
"""
)


class RedisWake:
    """Each call asks Redis once an account, and once for its place in a list."""

    def __init__(self, link: Link, known: Known, check_open: Callable[[], None]) -> None:
        self._link = link
        self._known = known
        self._check_open = check_open

    def _keys(self, account_id: AccountId) -> tuple[bytes, bytes]:
        keys = self._known.keys(account_id)
        return keys.waking, keys.handles

    async def set_handle(
        self, account_id: AccountId, device_id: DeviceId, handle: bytes, *, expires_ms: int
    ) -> None:
        """See `WakeStore.set_handle`."""
        self._check_open()
        if device_id not in await self._active(account_id):
            raise AccountAbsent("no such device")
        keys = (*self._keys(account_id), self._known.keys(account_id).state)
        if not await self._link.run(SET, keys, (device_id, handle, expires_ms)):
            raise AccountAbsent("no such account")

    async def remove_handle(self, account_id: AccountId, device_id: DeviceId) -> None:
        """See `WakeStore.remove_handle`."""
        self._check_open()
        await self._link.run(REMOVE, self._keys(account_id), (device_id,))

    async def handle_expires_ms(
        self, account_id: AccountId, device_id: DeviceId, *, now_ms: int
    ) -> int:
        """See `WakeStore.handle_expires_ms`."""
        self._check_open()
        if device_id not in await self._active(account_id):
            return 0
        waking, _ = self._keys(account_id)
        raw = await self._link.call(b"HGET", waking, device_id)
        expires_ms: int = 0 if raw is None else HANDLE.unpack(raw)[0]
        return expires_ms if expires_ms > now_ms else 0

    async def mark(self, marks: Sequence[Mark], *, now_ms: int, pace: Pace) -> int | None:
        """See `WakeStore.mark`."""
        self._check_open()
        found = await _each(marks, lambda mark: self._mark(mark, now_ms, pace))
        return min((due_ms for due_ms in found if due_ms), default=None)

    async def _mark(self, mark: Mark, now_ms: int, pace: Pace) -> int:
        spreads = (pace.spread_ms() for _ in range(SPREADS))
        marked, first = await self._link.run(
            MARK,
            self._keys(mark.account_id),
            (
                now_ms, now_ms + HORIZON_MS, pace.debounce_ms, mark.only or b"", len(mark.awake),
                *mark.awake, *spreads,
            ),
        )  # fmt: skip
        # Also if it is there: who was to put it there may have died.
        await self._put(mark.account_id, int(first))
        return int(marked)

    async def claim(
        self, *, now_ms: int, lease_ms: int, claims_max: int
    ) -> tuple[Sequence[Claim], int | None]:
        """See `WakeStore.claim`."""
        self._check_open()
        lists = await _each(range(SHARDS), lambda number: self._due(number, now_ms, claims_max))
        due = sorted(row for rows, _ in lists for row in rows)
        claims: list[Claim] = []
        nexts = [next_ms for _, next_ms in lists if next_ms is not None]
        for score, account_id in due:
            room = claims_max - len(claims)
            if not room:
                nexts.append(score)
                break
            made, first = await self._claim(account_id, score, now_ms, lease_ms, room)
            claims += made
            nexts += [first] if first else []
        return claims, min(nexts, default=None)

    async def _due(
        self, number: int, now_ms: int, most: int
    ) -> tuple[list[tuple[int, AccountId]], int | None]:
        rows, then = await self._link.run(DUE, (to_wake(number),), (now_ms, most))
        accounts = [
            (int(float(score)), AccountId(account))
            for account, score in zip(rows[::2], rows[1::2], strict=True)
        ]
        return accounts, int(float(then[1])) if then else None

    async def _claim(
        self, account_id: AccountId, score: int, now_ms: int, lease_ms: int, room: int
    ) -> tuple[list[Claim], int]:
        account = await self._known.load(account_id)
        devices = () if account is None else account.chain.devices
        revoked = (device.device_id for device in devices if not device.active)
        rows, first = await self._link.run(
            CLAIM,
            (*self._keys(account_id), self._known.keys(account_id).state),
            (now_ms, now_ms + lease_ms, room, *revoked),
        )
        await self._link.run(MOVE, (to_wake(shard(account_id)),), (account_id, score, int(first)))
        # Whoever marked between the two found the account in the list, and left it there.
        first = await self._link.run(FIRST, self._keys(account_id), (now_ms,))
        await self._put(account_id, int(first))
        claims = [
            Claim(account_id, DeviceId(device), handle, turn, tries)
            for device, handle, turn, tries in rows
        ]
        return claims, int(first)

    async def settle(self, ends: Sequence[Settled], *, now_ms: int, pace: Pace) -> None:
        """See `WakeStore.settle`."""
        self._check_open()
        await _each(ends, lambda end: self._settle(end, now_ms, pace))

    async def _settle(self, end: Settled, now_ms: int, pace: Pace) -> None:
        claim = end.claim
        handle = claim.handle if end.outcome is Outcome.GONE else b""
        first = await self._link.run(
            SETTLE,
            self._keys(claim.account_id),
            (
                now_ms, pace.debounce_ms, claim.device_id, claim.turn, end.outcome.value,
                end.due_ms, pace.spread_ms(), handle,
            ),
        )  # fmt: skip
        await self._put(claim.account_id, int(first))

    async def _put(self, account_id: AccountId, due_ms: int) -> None:
        """Among the accounts to look at, unless it is there for an earlier time; 0: nothing."""
        if due_ms:
            await self._link.call(b"ZADD", to_wake(shard(account_id)), b"LT", due_ms, account_id)

    async def _active(self, account_id: AccountId) -> frozenset[DeviceId]:
        """Devices that are active now."""
        account = await self._known.load(account_id)
        devices = () if account is None else account.chain.active
        return frozenset(device.device_id for device in devices)


async def _each(rows: Iterable[_T], work: Callable[[_T], Awaitable[Any]]) -> list[Any]:
    """The results of all, in their order, some at once."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(row: _T) -> Any:
        async with room:
            return await work(row)

    return list(await asyncio.gather(*(one(row) for row in rows)))
