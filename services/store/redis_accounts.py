"""Accounts and their chains in Redis: making, appending, deleting."""

from __future__ import annotations

from collections.abc import Sequence

from services.store import snapshot
from services.store.base import StoredLink
from services.store.redis_link import Script
from services.store.redis_lua import TELL
from services.store.redis_read import pack_link
from services.store.redis_state import Account, pack_ends, pack_marks

CREATE = Script(
    TELL
    + """
-- KEYS: 1 state, 2 chain, 3 links, 4 channel. ARGV: 1 chain known, 2 command that publishes,
-- 3 chain, 4 number of fields and values, then these, then links.
if redis.call('EXISTS', KEYS[1]) == 1 then return tell(ARGV[1]) end
local fields = 4 + tonumber(ARGV[4])
redis.call('HSET', KEYS[1], unpack(ARGV, 5, fields))
redis.call('SET', KEYS[2], ARGV[3])
for n = fields + 1, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[n], ARGV[n + 1]) end
redis.call(ARGV[2], KEYS[4], '')
return {1}
"""
)

APPEND = Script(
    TELL
    + """
-- KEYS: 1 state, 2 chain, 3 links, 4 channel. ARGV: 1 version, 2 chain known, 3 command that
-- publishes, 4 chain, 5 number of fields and values, then these, then links.
if redis.call('HGET', KEYS[1], 'v') ~= ARGV[1] then return tell(ARGV[2]) end
local fields = 5 + tonumber(ARGV[5])
redis.call('HSET', KEYS[1], unpack(ARGV, 6, fields))
redis.call('SET', KEYS[2], ARGV[4])
for n = fields + 1, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[n], ARGV[n + 1]) end
redis.call(ARGV[3], KEYS[4], '')
return {1}
"""
)

DELETE = Script(
    TELL
    + """
-- KEYS: 1 state, 2 chain, 3 channel, 4 rounds that it gave to, 5 the same for who finishes the
-- deletion, 6.. all others. ARGV: 1 version, 2 chain known, 3 command that publishes.
if redis.call('HGET', KEYS[1], 'v') ~= ARGV[1] then return tell(ARGV[2]) end
redis.call(ARGV[3], KEYS[3], '')
if redis.call('EXISTS', KEYS[4]) == 1 then redis.call('RENAME', KEYS[4], KEYS[5]) end
redis.call('UNLINK', KEYS[1], KEYS[2])
for n = 6, #KEYS, 1000 do redis.call('UNLINK', unpack(KEYS, n, math.min(n + 999, #KEYS))) end
return {1}
"""
)

RESERVE = Script(
    """
-- KEYS: 1 accounts of a subject. ARGV: 1 account, 2 token, 3 most. 0 if there is no room.
local others = redis.call('HLEN', KEYS[1]) - redis.call('HEXISTS', KEYS[1], ARGV[1])
if others >= tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
"""
)

RELEASE = Script(
    """
-- KEYS: 1 accounts of a subject. ARGV: 1 account, 2 token: unless it was reserved anew since.
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return 1
"""
)


def created(account: Account, links: Sequence[StoredLink], publish: bytes) -> list[bytes | int]:
    """Arguments of `CREATE`."""
    fields = [
        *_changed(account), b"i", account.incarnation, b"m", pack_marks(account.marks),
        b"u", account.subject_row,
    ]  # fmt: skip
    return [
        account.chain.head, publish, snapshot.encode(account.chain), len(fields), *fields,
        *_links(0, links),
    ]  # fmt: skip


def appended(
    before: Account, after: Account, links: Sequence[StoredLink], publish: bytes
) -> list[bytes | int]:
    """Arguments of `APPEND`. `links`: those that were added."""
    fields = _changed(after)
    return [
        before.version, before.chain.head, publish, snapshot.encode(after.chain), len(fields),
        *fields, *_links(before.chain.seq + 1, links),
    ]  # fmt: skip


def _changed(account: Account) -> list[bytes]:
    return [
        b"v", account.version, b"h", account.chain.head, b"t", account.tail,
        b"e", pack_ends(account.ends),
    ]  # fmt: skip


def _links(first: int, links: Sequence[StoredLink]) -> list[bytes]:
    flat = []
    for seq, row in enumerate(links, start=first):
        flat += [seq.to_bytes(4, "big"), pack_link(row.link, row.grants)]
    return flat


def everything(account: Account) -> list[bytes]:
    """Keys of `DELETE`."""
    keys = account.keys
    state, chain, *others = keys.everything(account.chain.epoch)
    given = keys.given, keys.given_by_deleted(account.incarnation)
    return [state, chain, keys.channel, *given, *others]
