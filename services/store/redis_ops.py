"""Committing a batch in Redis: one script, which compares, decides winners and writes.

Python judges against the state that it knows (`services.store.judge`); if the account has
another version by now, the script changes nothing and answers with the state as it is.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from crypto.op import STUB_BYTES
from services.store import judge as judging
from services.store.account_state import HASH_START_BYTES, MARKS_MAX, Mark
from services.store.base import Batch, OpRow
from services.store.judge import Judged
from services.store.packed import prefix, stub_of
from services.store.redis_link import Script
from services.store.redis_lua import NONCES, TELL, VALUES
from services.store.redis_state import (
    HEAD,
    Account,
    pack_marks,
    version_after,
)

BLOCK_BITS = 6
ROW = struct.Struct(f">BHIB{HASH_START_BYTES}s32s")
"""flags, length of the value, position; then the value begins: push_rest, hash, ct_hash"""
_VALUE_HEAD_BYTES = 1 + HASH_START_BYTES + 32
_BLOCK = struct.Struct(">II")
_RUN = struct.Struct(">BQI")
_POSITION = struct.Struct(">I")
_LOST, _CURRENT, _BEFORE, _PINNED = 0, 1, 2, 4
"""What a row competes for: nothing any more, a tag of the current epoch, or of the one before;
and whether it stays whole if it loses."""

COMMIT = Script(
    TELL
    + NONCES
    + VALUES
    + """
-- KEYS: 1 state, 2 chain, 3 ops, 4 blocks, 5 runs, 6 superseded, 7 and 8 winners of this epoch
-- and the one before, 9 to 11 nonces, 12 channel, 13.. winners of marks that go.
-- ARGV: 1 version, 2 the next one, 3 chain known, 4 nonce or empty, 5 nonces allowed, 6 rows,
-- 7 number of rows, 8 position and lamport, 9 author, 10 records, 11 records before, 12 most,
-- 13 end of the push, 14 heads, 15 blocks, 16 runs, 17 marks or '-', 18 positions of marks that
-- go, 19 positions that stay whole, 20 command that publishes.
local call, unpack, position_of = redis.call, unpack, struct.unpack
if call('HGET', KEYS[1], 'v') ~= ARGV[1] then return tell(ARGV[3]) end
if ARGV[4] ~= '' then
  local refused = admit(ARGV[4], tonumber(ARGV[5]), KEYS[9], KEYS[10], KEYS[11])
  if refused > 0 then return {refused} end
end
local rows, ops, superseded = ARGV[6], {}, {}
local tags, places = {{}, {}}, {{}, {}}
local pinned = {}
local at = 1
local function lose(position)
  superseded[#superseded + 1] = ARGV[13]
  superseded[#superseded + 1] = position
end
for n = 1, tonumber(ARGV[7]) do
  local flags, length = position_of('>BI2', rows, at)
  local position = sub(rows, at + 3, at + 6)
  local value = sub(rows, at + 7, at + 6 + length)
  at = at + 7 + length
  ops[2 * n - 1], ops[2 * n] = position, value
  if flags >= 4 then
    pinned[n] = true
    flags = flags - 4
  end
  if flags == 0 then
    lose(position)
  else
    local some = tags[flags]
    some[#some + 1] = tag_of(value)
    places[flags][#some] = n
  end
end
local growth, wins, stubs = {0, 0}, {{}, {}}, {}
local kept
for epoch = 1, 2 do
  local some = tags[epoch]
  if #some > 0 then
    local standing = call('HMGET', KEYS[6 + epoch], unpack(some))
    local asked, rivals = {}, {}
    for n, position in ipairs(standing) do
      if position then asked[#asked + 1] = position end
    end
    if #asked > 0 then
      for n, value in ipairs(call('HMGET', KEYS[3], unpack(asked))) do rivals[asked[n]] = value end
    end
    local won = wins[epoch]
    for n, tag in ipairs(some) do
      local place, old = places[epoch][n], standing[n]
      local position, value = ops[2 * place - 1], ops[2 * place]
      if old and not beats(value, rivals[old]) then
        lose(position)
        if not pinned[place] then ops[2 * place] = stub_of(value) end
      else
        if kind_of(value) == 1 then growth[epoch] = growth[epoch] + 1 end
        if old then
          local rival = rivals[old]
          if kind_of(rival) == 1 then growth[epoch] = growth[epoch] - 1 end
          lose(old)
          if not kept then
            kept = {}
            for p = 1, #ARGV[19], 4 do kept[sub(ARGV[19], p, p + 3)] = true end
          end
          if not kept[old] then
            stubs[#stubs + 1] = old
            stubs[#stubs + 1] = stub_of(rival)
          end
        end
        won[#won + 1] = tag
        won[#won + 1] = position
      end
    end
  end
end
local records = {tonumber(ARGV[10]), tonumber(ARGV[11])}
for epoch = 1, 2 do
  local after = records[epoch] + growth[epoch]
  if growth[epoch] > 0 and after > tonumber(ARGV[12]) then return {2} end
  records[epoch] = after
end
call('HSET', KEYS[3], unpack(ops))
if #stubs > 0 then call('HSET', KEYS[3], unpack(stubs)) end
for epoch = 1, 2 do
  if #wins[epoch] > 0 then call('HSET', KEYS[6 + epoch], unpack(wins[epoch])) end
end
if #superseded > 0 then call('ZADD', KEYS[6], unpack(superseded)) end
for at = 1, #ARGV[15], 8 do
  call('HINCRBY', KEYS[4], sub(ARGV[15], at, at + 3), (position_of('>I4', ARGV[15], at + 4)))
end
for at = 1, #ARGV[16], 13 do call('ZADD', KEYS[5], 0, sub(ARGV[16], at, at + 12)) end
local tail = ARGV[8] .. struct.pack('>I4I4', records[1], records[2]) .. ARGV[9]
local fields = {'v', ARGV[2], 't', tail}
for at = 1, #ARGV[14], 41 do
  fields[#fields + 1] = 'd' .. byte(ARGV[14], at)
  fields[#fields + 1] = sub(ARGV[14], at + 1, at + 40)
end
if ARGV[17] ~= '-' then
  fields[#fields + 1] = 'm'
  fields[#fields + 1] = ARGV[17]
end
call('HSET', KEYS[1], unpack(fields))
for n = 1, #ARGV[18] / 4 do
  unpin(KEYS[3], KEYS[12 + n], sub(ARGV[18], 4 * n - 3, 4 * n))
end
call(ARGV[20], KEYS[12], '')
return {1, records[1], records[2]}
"""
)
STALE, WRITTEN, FULL, USED, EXCEEDED = range(5)
"""What a script answers first."""


class Push(NamedTuple):
    """A judged batch on its way: the script's keys and arguments, and what will be known."""

    keys: Sequence[bytes]
    args: Sequence[bytes | int]
    judged: Judged
    author: bytes
    marks: list[Mark]
    version: bytes


def prepare(
    account: Account, batch: Batch, judged: Judged, nonce: bytes | None, records_max: int,
    nonces_max: int, publish: bytes,
) -> Push:  # fmt: skip
    """What to ask of Redis for a batch with fresh rows."""
    fresh = judged.fresh
    first = account.position + 1
    marked = judging.marked(batch, fresh)
    marks, going = account.marks, []
    if marked is not None:
        covers = min(batch.checkpoint_covers, account.position)
        # Too many unsettled ones: the newest makes room.
        marks, going = account.marks[: MARKS_MAX - 1], account.marks[MARKS_MAX - 1 :]
        marks = [*marks, Mark(first + marked, covers, fresh[marked].epoch)]
    runs, author = judging.runs_of(account, fresh)
    version = version_after(account.version)
    end = account.position + len(fresh)
    blocks = Counter(position >> BLOCK_BITS for position in range(first, end + 1))
    keys = account.keys
    return Push(
        keys=(
            keys.state, keys.chain, keys.ops, keys.blocks, keys.runs, keys.superseded,
            keys.winners(account.chain.epoch), keys.winners(account.chain.epoch - 1),
            *keys.nonces(batch.now_ms), keys.channel, *(keys.winners(mark.epoch) for mark in going),
        ),
        args=(
            account.version, version, account.chain.head, nonce or b"", nonces_max,
            _rows(account, fresh, marked), len(fresh),
            struct.pack(">IQ", end, judged.lamport_max),
            struct.pack(">H", account.index[author] + 1),
            account.records, account.records_before, records_max, end,
            b"".join(
                bytes((account.index[device_id],)) + HEAD.pack(*head)
                for device_id, head in judged.heads.items()
            ),
            b"".join(_BLOCK.pack(*block) for block in blocks.items()),
            b"".join(_RUN.pack(*run) for run in runs),
            b"-" if marked is None else pack_marks(marks),
            pack_positions(mark.position for mark in going),
            pack_positions(mark.position for mark in account.marks),
            publish,
        ),
        judged=judged,
        author=author,
        marks=marks,
        version=version,
    )  # fmt: skip


def pack_positions(positions: Iterable[int]) -> bytes:
    """One behind the other."""
    return b"".join(map(_POSITION.pack, positions))


def _rows(account: Account, fresh: Sequence[OpRow], marked: int | None) -> bytes:
    """The rows as the script takes them apart. What lost in the batch itself is a stub already."""
    current = account.chain.epoch
    flags = [
        _LOST if len(row.raw) == STUB_BYTES else _CURRENT if row.epoch == current else _BEFORE
        for row in fresh
    ]
    names = [
        bytes((flag,)) + row.tag if flag else b"" for flag, row in zip(flags, fresh, strict=True)
    ]
    raws = [row.raw for row in fresh]
    for place in judging.rank(names, fresh).losers:
        flags[place] = _LOST
        if place != marked and len(raws[place]) != STUB_BYTES:
            raws[place] = stub_of(raws[place], fresh[place].ct_hash)
    if marked is not None:
        flags[marked] |= _PINNED
    pack, rest, position = ROW.pack, len(fresh) - 1, account.position + 1
    parts: list[bytes] = []
    for place, (row, raw) in enumerate(zip(fresh, raws, strict=True)):
        before = prefix(len(raw))
        length = _VALUE_HEAD_BYTES + len(before) + len(raw)
        parts += (
            pack(flags[place], length, position + place, rest - place, row.op_hash, row.ct_hash),
            before,
            raw,
        )
    return b"".join(parts)


def adopt(account: Account, push: Push, records: int, records_before: int) -> None:
    """The push was written: the account is as it left it."""
    account.heads.update(push.judged.heads)
    account.position += len(push.judged.fresh)
    account.lamport_max = push.judged.lamport_max
    account.records, account.records_before = records, records_before
    account.author, account.marks, account.version = push.author, push.marks, push.version
