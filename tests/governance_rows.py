"""Rows of governance as a store takes them: bundles, entries of consent. Their bytes mean
nothing; that they form chains does."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from crypto.ids import AccountId, DeviceId
from services.store.base import Store
from services.store.governance import NOTHING, ConsentRow, Head, PolicyRow
from tests.store_worlds import NOW_MS


def digest(*parts: bytes) -> bytes:
    """32 bytes that stand for these."""
    return blake2b(b"|".join(parts), digest_size=32).digest()


def policy_after(head: Head, text: bytes = b"policy", *, at_ms: int = NOW_MS) -> PolicyRow:
    """A bundle that follows on the newest."""
    data = text + b" %d" % (head.seq + 1)
    return PolicyRow(
        head.seq + 1, head.hash, digest(data, head.hash), data, b"s" * 64, b"k" * 32, at_ms
    )


def consent_after(
    head: Head,
    purpose: str = "dishes",
    *,
    granted: bool = True,
    at_ms: int = NOW_MS,
    salt: bytes = b"",
) -> ConsentRow:
    """An entry that follows on the account's newest. `salt`: the account's own."""
    tag = digest(purpose.encode(), salt)
    entry = b"PSC1%d%d" % (head.seq + 1, granted) + tag + head.hash
    return ConsentRow(
        head.seq + 1, head.hash, digest(entry), tag, granted, DeviceId(b"d" * 16), entry,
        b"s" * 64, at_ms,
    )  # fmt: skip


async def put_policies(store: Store, count: int) -> list[PolicyRow]:
    """So many bundles, each behind the one before."""
    rows: list[PolicyRow] = []
    for _ in range(count):
        head = Head(rows[-1].sequence, rows[-1].hash) if rows else NOTHING
        rows.append(policy_after(head))
        assert await store.governance.put_policy(rows[-1])
    return rows


async def append_consents(
    store: Store, account_id: AccountId, said: Sequence[tuple[str, bool]]
) -> list[ConsentRow]:
    """One entry for each of these."""
    rows = []
    for purpose, granted in said:
        head = await store.governance.consent_head(account_id)
        rows.append(consent_after(head, purpose, granted=granted, salt=account_id))
        assert await store.governance.append_consent(account_id, rows[-1])
    return rows
