"""The part of the store in Redis for governance: a `services.store.governance.GovernanceStore`.

Redis has no BLAKE2b, so whoever appends to a chain makes the entry, and one step puts it there if
the chain still ends where its maker saw it end. Where it does not, that step says where: for
bundles and consent that is the caller's conflict, for the audit log the entry is made anew.

| key | what | holds |
|---|---|---|
| `{policy}h` | string | sequence u64, hash: of the newest bundle |
| `{policy}b` | hash | sequence u64 -> a bundle |
| `{audit}h` | string | seq u64, hash, at_ms u64: the newest entry |
| `{audit}a` | string | the same of the last one that was trimmed |
| `{audit}e` | hash | seq u64 -> an entry |

An account's chain of consent stands behind its own tag (`redis_keys`): `e`, a hash, seq u64 -> an
entry; `y`, a hash, tag -> seq u64 and whether it is a grant, and `h` -> seq u64, hash: the newest.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable, Sequence
from typing import Final

from crypto.ids import AccountId
from services.store.errors import (
    AccountAbsent,
    ConsentConflict,
    PolicyConflict,
    QuotaExceeded,
)
from services.store.governance import (
    AUDIT_BODY_BYTES_MAX,
    NOTHING,
    AuditEntry,
    ConsentRow,
    ConsentState,
    Head,
    PolicyRow,
    following,
    without_gap,
)
from services.store.redis_governance_rows import (
    AUDIT_ANCHOR,
    AUDIT_ENTRIES,
    AUDIT_HEAD,
    NEWEST,
    POLICIES,
    POLICY_HEAD,
    consent_of,
    pack_consent,
    pack_end,
    pack_entry,
    pack_head,
    pack_policy,
    pack_state,
    policy_of,
    seq_name,
    unpack_end,
    unpack_entry,
    unpack_head,
)
from services.store.redis_keys import AccountKeys
from services.store.redis_link import Link, Script

LOOK_S: Final = 0.5
"""How often a replica asks whether another one put a bundle."""
TRIMMED_AT_ONCE: Final = 512
_DONE, _STANDS, _CONFLICT, _ABSENT, _FULL = range(5)

PUT = Script(
    """
-- KEYS: 1 newest, 2 bundles. ARGV: 1 newest as it should be or empty, 2 newest then, 3 sequence,
-- 4 bundle, 5 how many bytes of a bundle differ when it comes again.
local newest = redis.call('GET', KEYS[1]) or ''
if newest ~= '' then
  local row, from = redis.call('HGET', KEYS[2], string.sub(newest, 1, 8)), tonumber(ARGV[5]) + 1
  if row and string.sub(row, from) == string.sub(ARGV[4], from) then return {1, newest} end
end
if newest ~= ARGV[1] then return {2, newest} end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
redis.call('SET', KEYS[1], ARGV[2])
return {0, newest}
"""
)

CONSENT = Script(
    """
-- KEYS: 1 state, 2 entries, 3 tags. ARGV: 1 newest as it should be or empty, 2 newest then, 3 seq,
-- 4 entry, 5 how many bytes of an entry differ when it comes again, 6 tag, 7 what it says, 8 is
-- there room: 1, or 0, and then for what ends a grant alone. A state's 9th byte: 1 is a grant.
if redis.call('EXISTS', KEYS[1]) == 0 then return {3, ''} end
local newest = redis.call('HGET', KEYS[3], 'h') or ''
if newest ~= '' then
  local row, from = redis.call('HGET', KEYS[2], string.sub(newest, 1, 8)), tonumber(ARGV[5]) + 1
  if row and string.sub(row, from) == string.sub(ARGV[4], from) then return {1, newest} end
end
if newest ~= ARGV[1] then return {2, newest} end
if ARGV[8] == '0' then
  local state = redis.call('HGET', KEYS[3], ARGV[6])
  if string.byte(ARGV[7], 9) == 1 or not state or string.byte(state, 9) == 0 then
    return {4, newest}
  end
end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
redis.call('HSET', KEYS[3], 'h', ARGV[2], ARGV[6], ARGV[7])
return {0, newest}
"""
)

AUDIT = Script(
    """
-- KEYS: 1 newest, 2 entries. ARGV: 1 newest as it should be or empty, 2 newest then, 3 seq,
-- 4 entry.
local newest = redis.call('GET', KEYS[1]) or ''
if newest ~= ARGV[1] then return {2, newest} end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
redis.call('SET', KEYS[1], ARGV[2])
return {0, newest}
"""
)

TRIM = Script(
    """
-- KEYS: 1 last trimmed, 2 entries. ARGV: 1 last trimmed as it should be or empty, 2 that then,
-- and the entries that go.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('HDEL', KEYS[2], unpack(ARGV, 3))
return 1
"""
)


class RedisGovernance:
    """Each write is one exchange, but for the audit log, which first asks where it ends unless it
    was this process that wrote last."""

    def __init__(
        self,
        link: Link,
        keys: Callable[[AccountId], AccountKeys],
        check_open: Callable[[], None],
        consents_max: int,
    ) -> None:
        self._link = link
        self._keys = keys
        self._check_open = check_open
        self._consents_max = consents_max
        self._told: Callable[[], None] = lambda: None
        self._look: asyncio.Task[None] | None = None
        self._audit_end = b""
        self._auditing = asyncio.Lock()

    async def close(self) -> None:
        """Looks for bundles no more. Idempotent."""
        if self._look is not None:
            self._look.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._look
            self._look = None

    # --- policy bundles ---

    async def put_policy(self, row: PolicyRow) -> bool:
        """See `GovernanceStore.put_policy`."""
        self._check_open()
        before = Head(row.sequence - 1, row.previous)
        if (before.seq == 0) != (before == NOTHING):
            raise PolicyConflict(*unpack_head(await self._link.call("GET", POLICY_HEAD)))
        status, newest = await self._link.run(
            PUT,
            (POLICY_HEAD, POLICIES),
            (
                pack_head(before), pack_head(Head(row.sequence, row.hash)),
                seq_name(row.sequence), *pack_policy(row),
            ),
        )  # fmt: skip
        if status == _CONFLICT:
            raise PolicyConflict(*unpack_head(newest))
        if status == _DONE:
            self._told()
        return bool(status == _DONE)

    async def policy(self, sequence: int | None = None) -> PolicyRow | None:
        """See `GovernanceStore.policy`."""
        self._check_open()
        if sequence is None:
            sequence = await self.policy_sequence()
        raw = await self._link.call("HGET", POLICIES, seq_name(sequence))
        return None if raw is None else policy_of(sequence, raw)

    async def policy_sequence(self) -> int:
        """See `GovernanceStore.policy_sequence`."""
        self._check_open()
        return unpack_head(await self._link.call("GET", POLICY_HEAD)).seq

    def on_policy(self, told: Callable[[], None]) -> None:
        """See `GovernanceStore.on_policy`. Asking twice a second is one short read, and misses
        nothing, whatever becomes of a connection meanwhile."""
        self._told = told
        if self._look is None:
            self._look = asyncio.get_running_loop().create_task(self._look_on())

    async def _look_on(self) -> None:
        seen = b""
        while True:
            # Whatever is wrong with one look, the next one may be right.
            with contextlib.suppress(Exception):
                newest = await self._link.call("GET", POLICY_HEAD) or b""
                if newest != seen:
                    seen = newest
                    self._told()
            await asyncio.sleep(LOOK_S)

    # --- consent ---

    async def append_consent(self, account_id: AccountId, row: ConsentRow) -> bool:
        """See `GovernanceStore.append_consent`."""
        self._check_open()
        before = Head(row.seq - 1, row.prev)
        if (before.seq == 0) != (before == NOTHING):
            raise ConsentConflict(*await self.consent_head(account_id))
        keys = self._keys(account_id)
        status, newest = await self._link.run(
            CONSENT,
            (keys.state, keys.consents, keys.consent_tags),
            (
                pack_head(before), pack_head(Head(row.seq, row.hash)), seq_name(row.seq),
                *pack_consent(row), row.tag, pack_state(row),
                int(row.seq <= self._consents_max),
            ),
        )  # fmt: skip
        if status == _ABSENT:
            raise AccountAbsent("no such account")
        if status == _FULL:
            raise QuotaExceeded("consents_per_account", self._consents_max)
        if status == _CONFLICT:
            raise ConsentConflict(*unpack_head(newest))
        return bool(status == _DONE)

    async def consents(
        self, account_id: AccountId, after: int, *, rows_max: int
    ) -> Sequence[ConsentRow]:
        """See `GovernanceStore.consents`."""
        head = await self.consent_head(account_id)
        seqs = range(after + 1, min(after + rows_max, head.seq) + 1)
        if not seqs:
            return ()
        rows = await self._link.call("HMGET", self._keys(account_id).consents, *map(seq_name, seqs))
        found = zip(seqs, rows, strict=True)
        return [consent_of(seq, raw) for seq, raw in found if raw is not None]

    async def consent_head(self, account_id: AccountId) -> Head:
        """See `GovernanceStore.consent_head`."""
        self._check_open()
        return unpack_head(
            await self._link.call("HGET", self._keys(account_id).consent_tags, NEWEST)
        )

    async def consent_state(self, account_id: AccountId, tag: bytes) -> ConsentState | None:
        """See `GovernanceStore.consent_state`."""
        self._check_open()
        raw = await self._link.call("HGET", self._keys(account_id).consent_tags, tag)
        if raw is None:
            return None
        seq, granted = struct.unpack(">Q?", raw)
        return ConsentState(seq, granted)

    # --- audit log ---

    async def append_audit(self, body: bytes, *, now_ms: int) -> AuditEntry:
        """See `GovernanceStore.append_audit`. Those of one process take turns, so that only
        other replicas can be in between."""
        self._check_open()
        if len(body) > AUDIT_BODY_BYTES_MAX:
            raise ValueError(f"an entry has at most {AUDIT_BODY_BYTES_MAX} bytes")
        async with self._auditing:
            while True:
                head, last_ms = unpack_end(self._audit_end)
                entry = following(head, last_ms, body, now_ms)
                end = pack_end(Head(entry.seq, entry.hash), entry.at_ms)
                status, newest = await self._link.run(
                    AUDIT,
                    (AUDIT_HEAD, AUDIT_ENTRIES),
                    (self._audit_end, end, seq_name(entry.seq), pack_entry(entry)),
                )
                self._audit_end = end if status == _DONE else newest
                if status == _DONE:
                    return entry

    async def read_audit(self, after: int, *, rows_max: int) -> Sequence[AuditEntry]:
        """See `GovernanceStore.read_audit`."""
        anchor, head = await self.audit_anchor(), await self.audit_head()
        first = max(after, anchor.seq) + 1
        seqs = range(first, min(first + rows_max - 1, head.seq) + 1)
        if not seqs:
            return ()
        rows = await self._link.call("HMGET", AUDIT_ENTRIES, *map(seq_name, seqs))
        found = zip(seqs, rows, strict=True)
        return without_gap([unpack_entry(seq, raw) for seq, raw in found if raw is not None], first)

    async def audit_head(self) -> Head:
        """See `GovernanceStore.audit_head`."""
        self._check_open()
        return unpack_end(await self._link.call("GET", AUDIT_HEAD))[0]

    async def audit_anchor(self) -> Head:
        """See `GovernanceStore.audit_anchor`."""
        self._check_open()
        return unpack_end(await self._link.call("GET", AUDIT_ANCHOR))[0]

    async def trim_audit(self, *, before_ms: int) -> int:
        """See `GovernanceStore.trim_audit`. Of several replicas that trim at once, one does."""
        self._check_open()
        anchor = await self._link.call("GET", AUDIT_ANCHOR) or b""
        rows = await self.read_audit(unpack_end(anchor)[0].seq, rows_max=TRIMMED_AT_ONCE + 1)
        # Times never go back along the log. The newest of them stays, whether or not there are
        # more behind it.
        going = [entry for entry in rows if entry.at_ms < before_ms][:-1]
        if not going:
            return 0
        last = going[-1]
        names = [seq_name(entry.seq) for entry in going]
        end = pack_end(Head(last.seq, last.hash), last.at_ms)
        done = await self._link.run(TRIM, (AUDIT_ANCHOR, AUDIT_ENTRIES), (anchor, end, *names))
        return len(going) if done else 0
