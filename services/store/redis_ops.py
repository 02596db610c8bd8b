"""Committing a batch in Redis: one script, which compares, decides winners and writes.

Python judges against the state that it knows (`services.store.judge`); if the account has
another version by now, the script changes nothing and answers with the state as it is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from crypto.op import STUB_BYTES
from services.store import judge as judging
from services.store.account_state import HASH_START_BYTES, MARKS_MAX, Mark
from services.store.base import Batch, OpRow
from services.store.judge import Judged
from services.store.packed import PREFIXES, stub_of
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
_ROW_BYTES = ROW.size
VALUE_HEAD_BYTES = 1 + HASH_START_BYTES + 32
_BLOCK = struct.Struct(">II")
RUN = struct.Struct(">BQI")
"""device index, dev_seq, position"""
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
-- go, 19 positions that stay whole, 20 command that publishes, 21 and 22 how many records
-- compete in this epoch and the one before, 23 length of a row if all are alike, else 0.
local call, unpack, position_of = redis.call, unpack, struct.unpack
if call('HGET', KEYS[1], 'v') ~= ARGV[1] then return tell(ARGV[3]) end
if ARGV[4] ~= '' then
  local refused = admit(ARGV[4], tonumber(ARGV[5]), KEYS[9], KEYS[10], KEYS[11])
  if refused > 0 then return {refused} end
end
local rows, ops, superseded = ARGV[6], {}, {}
local tags, places = {{}, {}}, {{}, {}}
local pinned = {}
local at, count, stride = 1, tonumber(ARGV[7]), tonumber(ARGV[23])
local function lose(position)
  superseded[#superseded + 1] = ARGV[13]
  superseded[#superseded + 1] = position
end
if stride > 0 then
  -- The common push: rows of one length, all of which compete in this epoch.
  local some, place = tags[1], places[1]
  local tag = 6 + start(sub(rows, 8, 100)) + 108
  for n = 1, count do
    ops[2 * n - 1] = sub(rows, at + 3, at + 6)
    ops[2 * n] = sub(rows, at + 7, at + stride - 1)
    some[n] = sub(rows, at + tag, at + tag + 15)
    place[n] = n
    at = at + stride
  end
else
  for n = 1, count do
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
end
local growth, wins, stubs = {tonumber(ARGV[21]), tonumber(ARGV[22])}, {{}, {}}, {}
local kept
-- Decides between a row and what stands. True if the row wins.
local function against(epoch, place, old, rival)
  local value = ops[2 * place]
  if not beats(value, rival) then
    if kind_of(value) == 1 then growth[epoch] = growth[epoch] - 1 end
    lose(ops[2 * place - 1])
    if not pinned[place] then ops[2 * place] = stub_of(value) end
    return false
  end
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
  return true
end
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
    local won, size, place = wins[epoch], 0, places[epoch]
    for n, tag in ipairs(some) do
      local old = standing[n]
      if not old or against(epoch, place[n], old, rivals[old]) then
        won[size + 1], won[size + 2] = tag, ops[2 * place[n] - 1]
        size = size + 2
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
    runs, author = judging.runs_of(account, judged)
    rows = _rows(account, fresh, marked)
    version = version_after(account.version)
    end = account.position + len(fresh)
    keys = account.keys
    return Push(
        keys=(
            keys.state, keys.chain, keys.ops, keys.blocks, keys.runs, keys.superseded,
            keys.winners(account.chain.epoch), keys.winners(account.chain.epoch - 1),
            *keys.nonces(batch.now_ms), keys.channel, *(keys.winners(mark.epoch) for mark in going),
        ),
        args=(
            account.version, version, account.chain.head, nonce or b"", nonces_max,
            rows.packed, len(fresh),
            struct.pack(">IQ", end, judged.lamport_max),
            struct.pack(">H", account.index[author] + 1),
            account.records, account.records_before, records_max, end,
            b"".join(
                bytes((account.index[device_id],)) + HEAD.pack(*head)
                for device_id, head in judged.heads.items()
            ),
            _blocks(first, end),
            b"".join(RUN.pack(*run) for run in runs),
            b"-" if marked is None else pack_marks(marks),
            pack_positions(mark.position for mark in going),
            pack_positions(mark.position for mark in account.marks),
            publish, rows.records, rows.records_before, rows.stride,
        ),
        judged=judged,
        author=author,
        marks=marks,
        version=version,
    )  # fmt: skip


def pack_positions(positions: Iterable[int]) -> bytes:
    """One behind the other."""
    return b"".join(map(_POSITION.pack, positions))


def _blocks(first: int, end: int) -> bytes:
    """How many of these positions each block gets."""
    counts = []
    for block in range(first >> BLOCK_BITS, (end >> BLOCK_BITS) + 1):
        start = block << BLOCK_BITS
        last = start + (1 << BLOCK_BITS) - 1
        counts.append(_BLOCK.pack(block, min(end, last) - max(first, start) + 1))
    return b"".join(counts)


class _Rows(NamedTuple):
    """The rows as the script takes them apart; how many records compete in each epoch; the
    length of a row if all are alike and compete in the current epoch, else 0."""

    packed: bytes
    records: int
    records_before: int
    stride: int


def _rows(account: Account, fresh: Sequence[OpRow], marked: int | None) -> _Rows:
    """What lost in the batch itself is a stub already."""
    raws = [row.raw for row in fresh]
    sizes = set(map(len, raws))
    if (
        len(sizes) == 1
        and marked is None
        and STUB_BYTES not in sizes
        and {row.epoch for row in fresh} == {account.chain.epoch}
        and len({row.tag for row in fresh}) == len(fresh)
    ):
        records = [row.kind for row in fresh].count(judging.RECORD)
        flags: Sequence[int] = (_CURRENT,) * len(fresh)
        stride = _ROW_BYTES + len(PREFIXES[len(raws[0])]) + len(raws[0])
        return _Rows(_packed(account.position + 1, fresh, raws, flags), records, 0, stride)
    current = account.chain.epoch
    marks = [
        _LOST if len(row.raw) == STUB_BYTES else _CURRENT if row.epoch == current else _BEFORE
        for row in fresh
    ]
    names = [
        bytes((flag,)) + row.tag if flag else b"" for flag, row in zip(marks, fresh, strict=True)
    ]
    for place in judging.rank(names, fresh).losers:
        marks[place] = _LOST
        if place != marked and len(raws[place]) != STUB_BYTES:
            raws[place] = stub_of(raws[place], fresh[place].ct_hash)
    competing = [flag for flag, row in zip(marks, fresh, strict=True) if row.kind == judging.RECORD]
    if marked is not None:
        marks[marked] |= _PINNED
    rows = _packed(account.position + 1, fresh, raws, marks)
    return _Rows(rows, competing.count(_CURRENT), competing.count(_BEFORE), 0)


def _packed(
    first: int, fresh: Sequence[OpRow], raws: Sequence[bytes], flags: Sequence[int]
) -> bytes:
    prefixes = PREFIXES
    heads = {
        size: (VALUE_HEAD_BYTES + len(prefixes[size]) + size, prefixes[size])
        for size in set(map(len, raws))
    }
    pack, end = ROW.pack, len(fresh) - 1
    return b"".join(
        [
            part
            for place, (row, raw, flag) in enumerate(zip(fresh, raws, flags, strict=True))
            for length, before in (heads[len(raw)],)
            for part in (
                pack(flag, length, first + place, end - place, row.op_hash, row.ct_hash),
                before,
                raw,
            )
        ]
    )


def adopt(account: Account, push: Push, records: int, records_before: int) -> None:
    """The push was written: the account is as it left it."""
    account.heads.update(push.judged.heads)
    account.position += len(push.judged.fresh)
    account.lamport_max = push.judged.lamport_max
    account.records, account.records_before = records, records_before
    account.author, account.marks, account.version = push.author, push.marks, push.version
