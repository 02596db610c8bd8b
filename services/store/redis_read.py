"""Reading an account: its state, pages of ops, links, and whether an old op is held."""

from __future__ import annotations

from collections.abc import Sequence

from crypto import op
from crypto.grant import SealedGrant
from crypto.link import SignedLink
from services.store import packed
from services.store.base import StoredLink
from services.store.judge_chain import pack_grants, unpack_grants
from services.store.redis_link import Script
from services.store.redis_lua import NONCES, TELL, VALUES

_VALUE_OP = 41
SCANNED_MAX = 4096
"""Blocks that one call looks at: some milliseconds in the worst case, all of it trimmed."""

STATE = Script(TELL + "return tell(ARGV[1])", reads=True)

ADMIT = Script(
    TELL
    + NONCES
    + """
-- KEYS: 1 state, 2 chain, 3 to 5 nonces. ARGV: 1 version, 2 chain known, 3 nonce, 4 most.
local answer = {0, false, false}
if redis.call('HGET', KEYS[1], 'v') ~= ARGV[1] then answer = tell(ARGV[2]) end
if ARGV[3] ~= '' then
  answer[1] = admit(ARGV[3], tonumber(ARGV[4]), KEYS[3], KEYS[4], KEYS[5])
end
return answer
"""
)

NONCE = Script(
    NONCES + "return admit(ARGV[1], tonumber(ARGV[2]), KEYS[1], KEYS[2], KEYS[3])",
)

PAGE = Script(
    TELL
    + VALUES
    + """
-- KEYS: 1 state, 2 chain, 3 ops, 4 blocks. ARGV: 1 version, 2 chain known, 3 position, 4 ops,
-- 5 bytes, 6 blocks to look at. Answers state and chain if the version is another; the run, how
-- many ops, where the page ends, and 2 if it does not end there, 1 if there is more, else 0.
local told = {0, false, false}
if redis.call('HGET', KEYS[1], 'v') ~= ARGV[1] then told = tell(ARGV[2]) end
local tail = redis.call('HGET', KEYS[1], 't')
if not tail then return {told[2], told[3]} end
local finish = struct.unpack('>I4', tail)
local after, most, most_bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local parts, size, push_end = {}, 0, 0
local function page(position, how)
  return {told[2], told[3], table.concat(parts), #parts, position, how}
end
if after >= finish then return page(after, 0) end
local block, last = math.floor((after + 1) / 64), math.floor(finish / 64)
local stop = math.min(last, block + tonumber(ARGV[6]) - 1)
local pack, call = struct.pack, redis.call
while block <= stop do
  local names = {}
  for n = block, math.min(stop, block + 31) do names[#names + 1] = pack('>I4', n) end
  local counts = call('HMGET', KEYS[4], unpack(names))
  for n, count in ipairs(counts) do
    if count then
      local here, fields, first = block + n - 1, {}, nil
      first = math.max(after + 1, here * 64)
      local until_ = math.min(finish, here * 64 + 63)
      for position = first, until_ do fields[#fields + 1] = pack('>I4', position) end
      for m, value in ipairs(call('HMGET', KEYS[3], unpack(fields))) do
        if value then
          local position = first + m - 1
          if position > push_end and (#parts >= most or size >= most_bytes) then
            return page(push_end, 1)
          end
          local item = sub(value, 42)
          parts[#parts + 1] = item
          size = size + #item
          push_end = position + byte(value, 1)
        end
      end
    end
  end
  block = block + #names
end
if stop < last then
  local here = math.max(push_end, stop * 64 + 63)
  return page(here, #parts > 0 and 1 or 2)
end
return page(finish, 0)
""",
    reads=True,
)

LINKS = Script(
    """
-- KEYS: 1 state, 2 links. ARGV: 1 seq of the first, 2 links, 3 bytes.
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
local links, size, seq = {}, 0, tonumber(ARGV[1])
while #links < tonumber(ARGV[2]) do
  local link = redis.call('HGET', KEYS[2], struct.pack('>I4', seq))
  if not link then break end
  size = size + #link
  if #links > 0 and size > tonumber(ARGV[3]) then break end
  links[#links + 1] = link
  seq = seq + 1
end
return links
""",
    reads=True,
)

HELD = Script(
    """
-- KEYS: 1 runs, 2 ops, 3 trimmed. ARGV: device index, dev_seq, device id. The op's value, or
-- eight bytes of its hash, or nothing.
local index, dev_seq = tonumber(ARGV[1]), tonumber(ARGV[2])
local first = '[' .. struct.pack('>BI8I4', index, 0, 0)
local last = '[' .. struct.pack('>BI8I4', index, dev_seq, 4294967295)
local found = redis.call('ZREVRANGEBYLEX', KEYS[1], last, first, 'LIMIT', 0, 1)[1]
if not found then return false end
local _, start, position = struct.unpack('>BI8I4', found)
local value = redis.call('HGET', KEYS[2], struct.pack('>I4', position + dev_seq - start))
if value then return value end
local chunk = redis.call('HGET', KEYS[3], ARGV[3] .. struct.pack('>I8', math.floor(dev_seq / 64)))
if not chunk then return false end
local slot = 8 * (dev_seq % 64)
return string.sub(chunk, slot + 1, slot + 8)
""",
    reads=True,
)


def held_hash(answer: bytes | None) -> bytes:
    """What `HELD` found: the op's hash, or how it begins; of nothing, what no hash begins with."""
    if answer is None:
        return bytes(33)
    if len(answer) <= _VALUE_OP:
        return answer
    (raw,) = packed.split(answer[_VALUE_OP:])
    return op.parse_any(raw).op_hash


def pack_link(signed: SignedLink, grants: Sequence[SealedGrant]) -> bytes:
    """As it is stored: each part behind its length."""
    parts = (signed.raw, signed.sig, signed.pop, pack_grants(grants))
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def unpack_link(stored: bytes) -> StoredLink:
    """What `pack_link` was given."""
    parts = []
    at = 0
    while at < len(stored):
        end = at + 4 + int.from_bytes(stored[at : at + 4], "big")
        parts.append(stored[at + 4 : end])
        at = end
    raw, sig, pop, grants = parts
    return StoredLink(SignedLink(raw, sig, pop), unpack_grants(grants))
