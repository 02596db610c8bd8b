"""Governance of a store in Redis that is moved: bundles, entries of consent, the audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from crypto.ids import DeviceId
from services.moving.rows import Row, Rows
from services.store.governance import AuditEntry, ConsentRow, Head, PolicyRow
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
from services.store.redis_link import Link

ROWS_AT_ONCE = 128
KINDS = frozenset(("policy", "anchor", "audit"))
"""Kinds of rows that belong to no account."""


async def shared(link: Link) -> Rows:
    """What belongs to no account."""
    newest = unpack_head(await link.call("GET", POLICY_HEAD)).seq
    async for sequence, raw in _by_seq(link, POLICIES, 0, newest):
        row = policy_of(sequence, raw)
        yield "policy", sequence, row.previous, row.hash, row.data, row.sig, row.key, row.at_ms
    anchor, anchor_ms = unpack_end(await link.call("GET", AUDIT_ANCHOR))
    if anchor.seq:
        yield "anchor", *anchor, anchor_ms
    head, _ = unpack_end(await link.call("GET", AUDIT_HEAD))
    async for seq, raw in _by_seq(link, AUDIT_ENTRIES, anchor.seq, head.seq):
        entry = unpack_entry(seq, raw)
        yield "audit", seq, entry.at_ms, entry.prev, entry.body, entry.hash


async def of_account(link: Link, keys: AccountKeys, account_id: bytes) -> Rows:
    """An account's entries of consent."""
    head = unpack_head(await link.call("HGET", keys.consent_tags, NEWEST))
    async for seq, raw in _by_seq(link, keys.consents, 0, head.seq):
        row = consent_of(seq, raw)
        yield (
            "consent", account_id, seq, row.prev, row.hash, row.tag, int(row.granted),
            bytes(row.device_id), row.entry, row.sig, row.at_ms,
        )  # fmt: skip


async def _by_seq(
    link: Link, key: bytes, after: int, last: int
) -> AsyncIterator[tuple[int, bytes]]:
    for first in range(after + 1, last + 1, ROWS_AT_ONCE):
        seqs = range(first, min(first + ROWS_AT_ONCE, last + 1))
        rows = await link.call("HMGET", key, *map(seq_name, seqs))
        for seq, raw in zip(seqs, rows, strict=True):
            if raw is not None:
                yield seq, raw


async def put(link: Link, kind: str, row: list[Any]) -> None:
    """One row of `shared`; they come in their order, the anchor before the log."""
    if kind == "policy":
        policy = PolicyRow(*row)
        await link.call("HSET", POLICIES, seq_name(policy.sequence), pack_policy(policy)[0])
        await link.call("SET", POLICY_HEAD, pack_head(Head(policy.sequence, policy.hash)))
    elif kind == "anchor":
        seq, digest, at_ms = row
        end = pack_end(Head(seq, digest), at_ms)
        await link.call("SET", AUDIT_ANCHOR, end)
        await link.call("SET", AUDIT_HEAD, end)
    else:
        entry = AuditEntry(*row)
        await link.call("HSET", AUDIT_ENTRIES, seq_name(entry.seq), pack_entry(entry))
        await link.call("SET", AUDIT_HEAD, pack_end(Head(entry.seq, entry.hash), entry.at_ms))


def consent_fields(keys: AccountKeys, row: Row) -> list[tuple[bytes, bytes, bytes]]:
    """Hash, field and value of one entry; they come in their order."""
    seq, prev, digest, tag, granted, device_id, entry, sig, at_ms = row
    consent = ConsentRow(
        seq, prev, digest, tag, bool(granted), DeviceId(device_id), entry, sig, at_ms
    )
    return [
        (keys.consents, seq_name(seq), pack_consent(consent)[0]),
        (keys.consent_tags, tag, pack_state(consent)),
        (keys.consent_tags, NEWEST, pack_head(Head(seq, digest))),
    ]
