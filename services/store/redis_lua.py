"""Lua that several scripts share. Numbers in Lua are exact below 2^53; nothing is compared as
text, because Redis's Lua does so by locale and stops at zero bytes.

An op's value: how many ops of its push come behind it u8 | 8 bytes of its hash | ct_hash[32] |
the op or stub as a page has it (`services.store.packed`).
"""

TELL = """
-- KEYS[1] state, KEYS[2] chain. The state; the chain, unless the caller knows it already.
local function tell(known)
  local state = redis.call('HGETALL', KEYS[1])
  local chain = false
  if #state > 0 and redis.call('HGET', KEYS[1], 'h') ~= known then
    chain = redis.call('GET', KEYS[2])
  end
  return {0, state, chain}
end
"""

NONCES = """
-- 0 if the nonce may be used, and is from now on.
local function admit(nonce, most, before, now, after)
  if redis.call('SISMEMBER', before, nonce) + redis.call('SISMEMBER', after, nonce) > 0 then
    return 3
  end
  local used = redis.call('SCARD', now)
  if redis.call('SISMEMBER', now, nonce) == 1 then return 3 end
  if used + redis.call('SCARD', before) >= most then return 4 end
  redis.call('SADD', now, nonce)
  if used == 0 then redis.call('PEXPIRE', now, 900000) end
  return 0
end
"""

VALUES = """
local sub, byte = string.sub, string.byte
-- Where the op begins in its value: its length takes two bytes, or three.
local function start(value)
  if byte(value, 44) < 128 then return 45 end
  return 46
end
local function is_stub(value) return #value == 324 end
local function stub_of(value)
  if is_stub(value) then return value end
  local at = start(value)
  return sub(value, 1, 41) .. '\\18\\152\\2' .. sub(value, at, at + 183)
    .. sub(value, 10, 41) .. sub(value, -64)
end
local function tag_of(value)
  local at = start(value)
  return sub(value, at + 108, at + 123)
end
local function kind_of(value) return byte(value, start(value) + 5) end
-- By (lamport, device id).
local function beats(value, other)
  local at, there = start(value), start(other)
  local mine, its = struct.unpack('>I8', value, at + 100), struct.unpack('>I8', other, there + 100)
  if mine ~= its then return mine > its end
  for n = 44, 59 do
    local a, b = byte(value, at + n), byte(other, there + n)
    if a ~= b then return a > b end
  end
  return false
end
-- No longer kept whole; loses its payload if it is not the winner.
local function unpin(ops, winners, position)
  local value = redis.call('HGET', ops, position)
  if value and not is_stub(value) and redis.call('HGET', winners, tag_of(value)) ~= position then
    redis.call('HSET', ops, position, stub_of(value))
  end
end
"""

FORGET = """
-- Deletes ops, but for eight bytes of each one's hash.
local function forget(ops, blocks, trimmed, positions)
  if #positions == 0 then return end
  local values = redis.call('HMGET', ops, unpack(positions))
  local chunks, counts, going = {}, {}, {}
  for n, value in ipairs(values) do
    if value then
      local at = start(value)
      local dev_seq = struct.unpack('>I8', value, at + 60)
      local name = sub(value, at + 44, at + 59) .. struct.pack('>I8', math.floor(dev_seq / 64))
      local chunk = chunks[name] or redis.call('HGET', trimmed, name) or string.rep('\\0', 512)
      local slot = 8 * (dev_seq % 64)
      chunks[name] = sub(chunk, 1, slot) .. sub(value, 2, 9) .. sub(chunk, slot + 9)
      local block = struct.pack('>I4', math.floor(struct.unpack('>I4', positions[n]) / 64))
      counts[block] = (counts[block] or 0) + 1
      going[#going + 1] = positions[n]
    end
  end
  if #going == 0 then return end
  for name, chunk in pairs(chunks) do redis.call('HSET', trimmed, name, chunk) end
  redis.call('HDEL', ops, unpack(going))
  for block, count in pairs(counts) do
    if redis.call('HINCRBY', blocks, block, -count) <= 0 then redis.call('HDEL', blocks, block) end
  end
end
-- A list of positions, as a set.
local function set_of(packed)
  local set = {}
  for at = 1, #packed, 4 do set[sub(packed, at, at + 3)] = true end
  return set
end
"""
