"""Nonces of signed requests, each good once (S2). In memory: a restart forgets them.

What a restart opens is small: a request that was captured may be sent again within 120 s of
its time stamp, to the restarted process. Every write is idempotent, so nothing comes of it.
"""

from __future__ import annotations

from services.store.errors import StoreUnavailable

REMEMBERED_MS = 300_000


class NonceWindow:
    """Two sets that take turns, so that what is over goes without being looked for.

    At its bound it refuses rather than forget, or a flood would open the door to replays.
    """

    def __init__(self, nonces_max: int = 1_000_000) -> None:
        self._nonces_max = nonces_max
        self._now: set[bytes] = set()
        self._before: set[bytes] = set()
        self._turned_ms = 0

    def __len__(self) -> int:
        return len(self._now) + len(self._before)

    def remember(self, account_id: bytes, nonce: bytes, *, now_ms: int) -> bool:
        """False if the account used it within the last 300 s. StoreUnavailable when full."""
        self.turn(now_ms=now_ms)
        key = account_id + nonce
        if key in self._now or key in self._before:
            return False
        if len(self) >= self._nonces_max:
            raise StoreUnavailable("too many requests within five minutes to tell them apart")
        self._now.add(key)
        return True

    def turn(self, *, now_ms: int) -> None:
        """Forgets what is older than 300 s, at the latest after another 300 s."""
        age_ms = now_ms - self._turned_ms
        if age_ms < REMEMBERED_MS:
            return
        self._before = self._now if age_ms < 2 * REMEMBERED_MS else set()
        self._now = set()
        self._turned_ms = now_ms
