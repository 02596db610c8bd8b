"""What goes once all devices have passed a checkpoint, in slices of one script each
(docs/protocol.md, 5). A slice needs no version: what it takes is nobody's any more."""

from __future__ import annotations

from services.store.redis_link import Script
from services.store.redis_lua import FORGET, TELL, VALUES

SLICE_ROWS = 128

PASSED = Script(
    TELL
    + """
-- KEYS: 1 state, 2 chain. ARGV: 1 incarnation, 2 chain known, then fields and positions.
if redis.call('HGET', KEYS[1], 'i') == ARGV[1] then
  for n = 3, #ARGV, 2 do
    local known = redis.call('HGET', KEYS[1], ARGV[n])
    if not known or tonumber(known) < tonumber(ARGV[n + 1]) then
      redis.call('HSET', KEYS[1], ARGV[n], ARGV[n + 1])
    end
  end
end
return tell(ARGV[2])
"""
)

SETTLE = Script(
    TELL
    + VALUES
    + """
-- Marks go. KEYS: 1 state, 2 chain, 3 ops, 4.. winners of their epochs. ARGV: 1 version, 2 chain
-- known, 3 the next version, 4 marks that stay, 5 positions of those that go.
if redis.call('HGET', KEYS[1], 'v') ~= ARGV[1] then return tell(ARGV[2]) end
redis.call('HSET', KEYS[1], 'v', ARGV[3], 'm', ARGV[4])
for n = 1, #ARGV[5] / 4 do
  unpin(KEYS[3], KEYS[3 + n], sub(ARGV[5], 4 * n - 3, 4 * n))
end
return {1}
"""
)

FORGET_EPOCHS = Script(
    TELL
    + """
-- KEYS: 1 state, 2 chain. ARGV: 1 version, 2 chain known, 3 the next version, 4 ends that stay.
if redis.call('HGET', KEYS[1], 'v') ~= ARGV[1] then return tell(ARGV[2]) end
redis.call('HSET', KEYS[1], 'v', ARGV[3], 'e', ARGV[4])
return {1}
"""
)

TRIM_STUBS = Script(
    VALUES
    + FORGET
    + """
-- KEYS: 1 state, 2 ops, 3 blocks, 4 trimmed, 5 superseded. ARGV: 1 incarnation, 2 up to which
-- push, 3 positions that stay, 4 how many at most. 1 if there may be more.
if redis.call('HGET', KEYS[1], 'i') ~= ARGV[1] then return 0 end
local rows = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', ARGV[2], 'LIMIT', 0, ARGV[4])
local kept, going = set_of(ARGV[3]), {}
for _, position in ipairs(rows) do
  if not kept[position] then going[#going + 1] = position end
end
forget(KEYS[2], KEYS[3], KEYS[4], going)
if #going > 0 then redis.call('ZREM', KEYS[5], unpack(going)) end
if #rows == tonumber(ARGV[4]) then return 1 end
return 0
"""
)

TRIM_EPOCH = Script(
    VALUES
    + FORGET
    + """
-- KEYS: 1 state, 2 ops, 3 blocks, 4 trimmed, 5 winners of an epoch that is over. ARGV:
-- 1 incarnation, 2 up to which position, 3 positions that stay, 4 cursor, 5 how many about.
-- The next cursor, and how many winners are left.
if redis.call('HGET', KEYS[1], 'i') ~= ARGV[1] then return {'0', 1} end
local found = redis.call('HSCAN', KEYS[5], ARGV[4], 'COUNT', ARGV[5])
local kept, going, tags = set_of(ARGV[3]), {}, {}
for n = 1, #found[2], 2 do
  local position = found[2][n + 1]
  if not kept[position] and struct.unpack('>I4', position) <= tonumber(ARGV[2]) then
    going[#going + 1] = position
    tags[#tags + 1] = found[2][n]
  end
end
forget(KEYS[2], KEYS[3], KEYS[4], going)
if #tags > 0 then redis.call('HDEL', KEYS[5], unpack(tags)) end
return {found[1], redis.call('HLEN', KEYS[5])}
"""
)

TAKE_DUE = Script(
    """
-- KEYS: 1 accounts to look at. ARGV: 1 now, 2 until when they are ours, 3 how many at most.
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, account in ipairs(found) do redis.call('ZADD', KEYS[1], ARGV[2], account) end
return found
"""
)

GIVE_DUE = Script(
    """
-- KEYS: 1 accounts to look at. ARGV: 1 account, 2 until when it was ours, 3 when next, or empty.
-- Nothing if there is a reason to look earlier.
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) ~= tonumber(ARGV[2]) then return 0 end
if ARGV[3] == '' then return redis.call('ZREM', KEYS[1], ARGV[1]) end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return 0
"""
)
