"""How much of the start of the audit log may be gone: what its policies let go by now.

Trimming leaves the newest of the entries that are past their time. Its time is chained, so that
whoever can only write the store can't pass off younger entries as trimmed. The policies are
believed by their signatures, not because the store holds them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from crypto.errors import CryptoError
from crypto.policy import Bundle, open_
from services.policy.retention import DAY_MS
from services.store.governance import GovernanceStore, PolicyRow

CLOCKS_MS: Final = 300_000
"""Clocks of replicas, and of whoever verifies, differ by no more."""
PUBLISHED_MS: Final = 30 * DAY_MS
"""From when a bundle was issued to when it took the place of the one before. The store says when,
and is believed no further than this."""


async def gone_before(
    store: GovernanceStore, policy_keys: Collection[bytes], *, now_ms: int
) -> int | None:
    """Entries from before this time may be gone; None: all must be there. `policy_keys`: Ed25519
    keys whose bundles count, those that have ended among them."""
    rows: list[PolicyRow] = []
    row = await store.policy()
    while row is not None:
        rows.append(row)
        row = await store.policy(row.sequence - 1)
    return gone_before_by(rows[::-1], policy_keys, now_ms=now_ms)


def gone_before_by(
    rows: Sequence[PolicyRow], policy_keys: Collection[bytes], *, now_ms: int
) -> int | None:
    """The same, by all bundles that are stored, oldest first. Each lets go of what was older than
    its `audit_days` when its time ended: one that kept the log for less is not undone by the
    next."""
    bundles = [(row, bundle) for row in rows if (bundle := _opened(row, policy_keys))]
    ends = [min(row.at_ms, after.issued_ms + PUBLISHED_MS) for row, after in bundles[1:]]
    bounds = [
        end_ms - bundle.retention.audit_days * DAY_MS
        for (_, bundle), end_ms in zip(bundles, [*ends, now_ms], strict=False)
    ]
    return max(bounds) + CLOCKS_MS if bounds else None


def _opened(row: PolicyRow, policy_keys: Collection[bytes]) -> Bundle | None:
    if row.key not in policy_keys:
        return None
    try:
        return open_(row.data, row.sig, row.key)
    except CryptoError:
        return None
