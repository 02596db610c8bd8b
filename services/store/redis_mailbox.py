"""Pairing mailboxes in Redis: all in one slot, so that their number is exact."""

from __future__ import annotations

from services.store.errors import MailboxAbsent, MailboxTaken, QuotaExceeded
from services.store.redis_keys import MAIL_BODIES, MAIL_ENDS
from services.store.redis_link import Link, Script

LIFETIME_MS = 300_000
_KEYS = (MAIL_ENDS, MAIL_BODIES)
_PURGED_MAX = 256
_POSTED, _ABSENT, _TAKEN, _FULL = range(4)

_PURGE = """
local function purge(now, most)
  local over = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, most)
  for _, place in ipairs(over) do
    redis.call('HDEL', KEYS[2], place .. '1', place .. '2', place .. '3')
    redis.call('ZREM', KEYS[1], place)
  end
  return #over
end
"""

POST = Script(
    _PURGE
    + """
-- KEYS: 1 mailboxes by their end, 2 messages. ARGV: 1 place, 2 number, 3 body, 4 now, 5 end,
-- 6 mailboxes at most, 7 how many to remove that are over.
local place, number, now = ARGV[1], ARGV[2], tonumber(ARGV[4])
local finish = redis.call('ZSCORE', KEYS[1], place)
local open = finish and tonumber(finish) > now
if number ~= '1' and not open then return 1 end
if open then
  local body = redis.call('HGET', KEYS[2], place .. number)
  if body then
    if body == ARGV[3] then return 0 end
    return 2
  end
end
if number == '1' then
  purge(ARGV[4], ARGV[7])
  if redis.call('ZCOUNT', KEYS[1], '(' .. ARGV[4], '+inf') >= tonumber(ARGV[6]) then return 3 end
  redis.call('HDEL', KEYS[2], place .. '2', place .. '3')
  redis.call('ZADD', KEYS[1], ARGV[5], place)
end
redis.call('HSET', KEYS[2], place .. number, ARGV[3])
return 0
"""
)

FETCH = Script(
    """
-- KEYS as above. ARGV: 1 place, 2 number, 3 now.
local finish = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not finish or tonumber(finish) <= tonumber(ARGV[3]) then return false end
return redis.call('HGET', KEYS[2], ARGV[1] .. ARGV[2])
""",
    reads=True,
)

PURGE = Script(_PURGE + "return purge(ARGV[1], ARGV[2])")


async def post(
    link: Link, place: bytes, number: int, body: bytes, now_ms: int, mailboxes_max: int
) -> None:
    """See `Store.post_message`."""
    end_ms = now_ms + LIFETIME_MS
    answer = await link.run(
        POST, _KEYS, (place, number, body, now_ms, end_ms, mailboxes_max, _PURGED_MAX)
    )
    if answer == _ABSENT:
        raise MailboxAbsent("no such mailbox, or its five minutes are over")
    if answer == _TAKEN:
        raise MailboxTaken("that message was posted already")
    if answer == _FULL:
        raise QuotaExceeded("pairing_mailboxes", mailboxes_max)


async def fetch(link: Link, place: bytes, number: int, now_ms: int) -> bytes | None:
    """See `Store.fetch_message`."""
    body: bytes | None = await link.run(FETCH, _KEYS, (place, number, now_ms))
    return body


async def overdue(link: Link, now_ms: int) -> int:
    """How many mailboxes are over and here."""
    count: int = await link.call("ZCOUNT", _KEYS[0], "-inf", now_ms)
    return count


async def sweep(link: Link, now_ms: int) -> None:
    """Removes mailboxes that are over."""
    while await link.run(PURGE, _KEYS, (now_ms, _PURGED_MAX)) == _PURGED_MAX:
        pass
