"""Nonces of signed requests, each good once (S2). In memory: a restart forgets them.

What a restart opens is small: a request that was captured may be sent again within 120 s of
its time stamp, to the restarted process. Every write is idempotent, so nothing comes of it.
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b

from services.store.errors import CallsExceeded, StoreUnavailable

REMEMBERED_MS = 300_000
BUCKET_MS = 20_000


class NonceWindow:
    """Short sets in a row, so that what is over goes a set at a time and soon: a nonce is kept
    for 300 to 320 s. Some 100 bytes each.

    At a bound it refuses rather than forget, or a flood would open the door to replays. An
    account has a bound of its own, so that one can't use up what all share. What accounts
    used is counted from up to 600 s ago.
    """

    def __init__(self, nonces_max: int, account_max: int) -> None:
        self._nonces_max = nonces_max
        self._account_max = account_max
        self._buckets: deque[tuple[int, set[bytes]]] = deque([(0, set())])
        self._count = 0
        self._used: dict[bytes, int] = {}
        self._used_before: dict[bytes, int] = {}
        self._used_since_ms = 0

    def __len__(self) -> int:
        return self._count

    def remember(self, account_id: bytes, nonce: bytes, *, now_ms: int) -> bool:
        """False if the account used it within the last 300 s. CallsExceeded, StoreUnavailable
        when full."""
        buckets = self._buckets
        if now_ms >= buckets[-1][0] + BUCKET_MS:
            self.turn(now_ms=now_ms)
        key = blake2b(account_id + nonce, digest_size=16).digest()
        for _, seen in buckets:
            if key in seen:
                return False
        used = self._used.get(account_id, 0)
        if used + self._used_before.get(account_id, 0) >= self._account_max:
            raise CallsExceeded("calls_in_five_minutes", self._account_max)
        if self._count >= self._nonces_max:
            raise StoreUnavailable("too many requests within five minutes to tell them apart")
        buckets[-1][1].add(key)
        self._count += 1
        self._used[account_id] = used + 1
        return True

    def turn(self, *, now_ms: int) -> None:
        """Forgets what is over. A clock that goes back changes nothing."""
        buckets = self._buckets
        if now_ms >= buckets[-1][0] + BUCKET_MS:
            buckets.append((now_ms, set()))
        while len(buckets) > 1 and now_ms >= buckets[0][0] + BUCKET_MS + REMEMBERED_MS:
            self._count -= len(buckets.popleft()[1])
        age_ms = now_ms - self._used_since_ms
        if age_ms >= REMEMBERED_MS:
            self._used_before = self._used if age_ms < 2 * REMEMBERED_MS else {}
            self._used = {}
            self._used_since_ms = now_ms
