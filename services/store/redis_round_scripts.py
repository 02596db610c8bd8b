"""The scripts of joint aggregates. Each answers with a number first: what it found.

Times and positions are below 2^53, so that Lua's numbers are exact.
"""

from __future__ import annotations

from services.store.redis_link import Script

ABSENT = -1
OVER = -2
NOT_CLOSED = -3
CONFLICT = -4
DELETED = -5
FULL = -6
NOT_OPEN = -7
CLOSED = -8
STALE = -9
STANDS = 0
DONE = 1

PUBLISH_TASK = Script("""
-- KEYS: 1 tasks, 2 task ids, 3 their list. ARGV: 1 task id, 2 spec_hash, 3 task, 4 most.
local standing = redis.call('HGET', KEYS[2], ARGV[1])
if standing then return {0, redis.call('HGET', KEYS[1], standing)} end
if redis.call('LLEN', KEYS[3]) >= tonumber(ARGV[4]) then return {-6} end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('RPUSH', KEYS[3], ARGV[2])
return {1}
""")

READ_TASKS = Script(
    """
-- KEYS: 1 tasks, 2 their list. ARGV: 1 after, 2 most, 3 most bytes. Whether there are more, and
-- tasks.
local most = tonumber(ARGV[2])
local names = redis.call('LRANGE', KEYS[2], ARGV[1], string.format('%.0f', ARGV[1] + most))
local found, size = {0}, 0
for n, name in ipairs(names) do
  local task = redis.call('HGET', KEYS[1], name)
  size = size + #task
  if n > most or (n > 1 and size > tonumber(ARGV[3])) then
    found[1] = 1
    break
  end
  found[#found + 1] = task
end
return found
""",
    reads=True,
)

COLLECT = Script("""
-- KEYS: 1 tasks, 2 rounds, 3 windows, 4 rounds of the task, 5 rounds with boxes, 6 all rounds,
-- 7 parties, 8 their rounds. ARGV: 1 round id, 2 round, 3 spec_hash, 4 open, 5 close, 6 until,
-- 7 most, then ids of keys and keys.
local standing = redis.call('HGET', KEYS[2], ARGV[1])
if standing then return {0, standing} end
if redis.call('HEXISTS', KEYS[1], ARGV[3]) == 0 then return {-1} end
-- Windows of a task are disjoint: of those that open before this one closes, the last to open
-- is the last to close.
local before = redis.call('ZREVRANGEBYSCORE', KEYS[3], '(' .. ARGV[5], '-inf', 'LIMIT', 0, 1)[1]
if before and tonumber(string.sub(before, 17)) > tonumber(ARGV[4]) then return {-4} end
if redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[7]) then return {-6} end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[1] .. ARGV[5])
for n = 4, 6 do redis.call('ZADD', KEYS[n], ARGV[6], ARGV[1]) end
for n = 8, #ARGV, 2 do
  redis.call('HSET', KEYS[7], ARGV[n], ARGV[n + 1])
  redis.call('HINCRBY', KEYS[8], ARGV[n], 1)
end
return {1}
""")

MAKE = Script("""
-- KEYS: 1 state. ARGV: 1 open, 2 until.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'open', ARGV[1], 'until', ARGV[2], 'sealed', 0, 'over', 0,
  'position', 0, 'held', 0)
return 1
""")

LIST = Script(
    """
-- KEYS: 1 rounds of the task, 2 rounds. ARGV: 1 now. Rounds that end later.
local names = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[1], '+inf')
local found = {}
for n, name in ipairs(names) do found[n] = redis.call('HGET', KEYS[2], name) end
return found
""",
    reads=True,
)

STANDING = Script(
    """
-- KEYS: 1 state. The round as it stands.
local state = redis.call('HMGET', KEYS[1], 'sealed', 'over')
if not state[1] then return {-1} end
local abandoned = 0
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(name, 1, 1) == 'a' then abandoned = 1 end
end
return {0, tonumber(state[1]), tonumber(state[2]), redis.call('HEXISTS', KEYS[1], 'result'),
  abandoned}
""",
    reads=True,
)

GIVE = Script("""
-- KEYS: 1 state of the account, 2 rounds it gave to, 3 tags of consent. ARGV: 1 round, 2 when its
-- boxes are gone, 3 now, 4 tag or empty, 5 what must count under it. The account's incarnation.
local incarnation = redis.call('HGET', KEYS[1], 'i')
if not incarnation then return false end
if ARGV[4] ~= '' and redis.call('HGET', KEYS[3], ARGV[4]) ~= ARGV[5] then return -9 end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
return incarnation
""")

CONTRIBUTE = Script("""
-- KEYS: 1 state, 2 contributions, 3 barred, then the parties' boxes. ARGV: 1 who, 2 the same as
-- it is barred, 3 digest, 4 now, 5 most, 6 seq of the consent, 7 where it is noted behind which
-- one nothing comes any more; then boxes.
local state = redis.call('HMGET', KEYS[1], 'open', 'until', 'sealed', 'over', 'position')
if not state[1] then return -1 end
if redis.call('SISMEMBER', KEYS[3], ARGV[2]) == 1 then return -5 end
if tonumber(redis.call('HGET', KEYS[1], ARGV[7]) or 0) >= tonumber(ARGV[6]) then return -9 end
local held = redis.call('HGET', KEYS[2], ARGV[1])
if held then
  if string.sub(held, 1, 32) == ARGV[3] then return 0 end
  return -4
end
local now = tonumber(ARGV[4])
if now < tonumber(state[1]) then return -7 end
if state[3] == '1' or state[4] == '1' or now >= tonumber(state[2]) then return -8 end
local position = tonumber(state[5]) + 1
if position > tonumber(ARGV[5]) then return -6 end
redis.call('HSET', KEYS[1], 'position', string.format('%.0f', position))
redis.call('HINCRBY', KEYS[1], 'held', 1)
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3] .. struct.pack('>I4', position))
for n = 4, #KEYS do redis.call('RPUSH', KEYS[n], ARGV[n + 4]) end
return 1
""")

DROP = Script("""
-- KEYS: 1 state, 2 contributions, 3 barred, then the parties' boxes. ARGV: 1 who, 2 the same as
-- it is barred. Who was deleted; whoever it is does not contribute later, either.
local over = redis.call('HGET', KEYS[1], 'over')
if not over then return -1 end
if over == '1' then return 0 end
redis.call('SADD', KEYS[3], ARGV[2])
local held = redis.call('HGET', KEYS[2], ARGV[1])
if not held then return 0 end
local place = struct.unpack('>I4', held, 33) - 1
for n = 4, #KEYS do redis.call('LSET', KEYS[n], string.format('%.0f', place), '') end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HINCRBY', KEYS[1], 'held', -1)
return 1
""")

TAKE_BACK = Script("""
-- KEYS: 1 state, 2 contributions, then the parties' boxes. ARGV: 1 who, 2 seq of the withdrawal,
-- 3 where that is noted. Who may give another one, by a later consent.
local over = redis.call('HGET', KEYS[1], 'over')
if not over then return -1 end
if over == '1' then return 0 end
if tonumber(redis.call('HGET', KEYS[1], ARGV[3]) or 0) < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[3], ARGV[2])
end
local held = redis.call('HGET', KEYS[2], ARGV[1])
if not held then return 0 end
local place = struct.unpack('>I4', held, 33) - 1
for n = 3, #KEYS do redis.call('LSET', KEYS[n], string.format('%.0f', place), '') end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HINCRBY', KEYS[1], 'held', -1)
return 1
""")

SEAL = Script("""
-- KEYS: 1 state. How many contributions are held.
local state = redis.call('HMGET', KEYS[1], 'over', 'held')
if not state[1] then return -1 end
redis.call('HSET', KEYS[1], 'sealed', 1)
if state[1] == '1' then return -2 end
return tonumber(state[2])
""")

READ = Script(
    """
-- KEYS: 1 state, 2 boxes of a party. ARGV: 1 after, 2 most bytes. Where the page ends, whether
-- there are more, and positions, each with its box.
local state = redis.call('HMGET', KEYS[1], 'over', 'position')
if not state[1] then return {-1} end
if state[1] == '1' then return {-2} end
local at, last, most = tonumber(ARGV[1]), tonumber(state[2]), tonumber(ARGV[2])
local ends, found, size = at, {0, 0}, 0
local function index(n) return string.format('%.0f', n) end
while at < last do
  local some = redis.call('LRANGE', KEYS[2], index(at), index(at + 63))
  for _, box in ipairs(some) do
    at = at + 1
    if #box > 0 then
      if size > 0 and size + #box > most then
        found[1], found[2] = ends, 1
        return found
      end
      found[#found + 1] = at
      found[#found + 1] = box
      size, ends = size + #box, at
    end
  end
end
found[1] = math.max(tonumber(ARGV[1]), last)
return found
""",
    reads=True,
)

COUNTS = Script(
    """
-- KEYS: 1 state. Positions so far, and how many contributions are held.
local state = redis.call('HMGET', KEYS[1], 'over', 'position', 'held')
if not state[1] then return {-1} end
if state[1] == '1' then return {-2} end
return {tonumber(state[2]), tonumber(state[3])}
""",
    reads=True,
)

RESULT = Script("""
-- KEYS: 1 state, then what goes. ARGV: 1 now, 2 result, then names of signatures and these.
local state = redis.call('HMGET', KEYS[1], 'until', 'sealed', 'result')
if not state[1] then return -1 end
if state[2] ~= '1' and tonumber(ARGV[1]) < tonumber(state[1]) then return -3 end
if state[3] and state[3] ~= ARGV[2] then return -4 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
if state[3] then return 0 end
redis.call('HSET', KEYS[1], 'result', ARGV[2], 'sealed', 1, 'over', 1, 'held', 0)
redis.call('UNLINK', unpack(KEYS, 2))
return 1
""")

ABANDON = Script("""
-- KEYS: 1 state, then what goes. ARGV: 1 name, 2 signature and statement, 3 parties, 4 quorum.
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local standing = redis.call('HGET', KEYS[1], ARGV[1])
if standing then
  if string.sub(standing, 65) == string.sub(ARGV[2], 65) then return 0 end
  return -4
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
local left = tonumber(ARGV[3])
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(name, 1, 1) == 'a' then left = left - 1 end
end
if left < tonumber(ARGV[4]) then
  redis.call('HSET', KEYS[1], 'sealed', 1, 'over', 1, 'held', 0)
  redis.call('UNLINK', unpack(KEYS, 2))
end
return 1
""")

END = Script("""
-- KEYS: 1 state, then what goes.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'sealed', 1, 'over', 1, 'held', 0)
redis.call('UNLINK', unpack(KEYS, 2))
return 1
""")

FORGET = Script("""
-- KEYS: 1 rounds, 2 windows, 3 rounds of the task, 4 rounds with boxes, 5 all rounds, 6 parties,
-- 7 their rounds, 8 being forgotten. ARGV: 1 round id, 2 close, 3 parties, then ids of keys.
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1] .. ARGV[2])
for n = 3, 5 do redis.call('ZREM', KEYS[n], ARGV[1]) end
for n = 4, #ARGV do
  if redis.call('HINCRBY', KEYS[7], ARGV[n], -1) <= 0 then
    redis.call('HDEL', KEYS[6], ARGV[n])
    redis.call('HDEL', KEYS[7], ARGV[n])
  end
end
redis.call('HSET', KEYS[8], ARGV[1], ARGV[3])
return 1
""")
