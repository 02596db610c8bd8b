"""How long a party keeps what it holds: its settings', or less where the policy says so.

Milliseconds: of boxes and shares from the end of a round's grace on, of an ended round with its
result from the end of its window on. Neither the settings nor the policy lengthens what the
other shortens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from crypto.errors import CryptoError
from crypto.policy import Bundle
from mpc import task as tasks
from services.party.config import PartyConfig

DAY_MS: Final = 86_400_000
BOXES: Final = "boxes"
"""Rounds that should have ended, and their shares with them."""
RESULTS: Final = "results"
"""Rounds that should be forgotten."""
KINDS: Final = (BOXES, RESULTS)


class Keeping:
    """The bounds, by the policy bundle in force."""

    def __init__(self, config: PartyConfig, policy: Callable[[], Bundle | None]) -> None:
        """`policy` is asked anew each time; None: there is none, or the party is not governed."""
        self._config = config
        self._policy = policy

    @property
    def shares_ms(self) -> int:
        """How long a round that does not come to its end is kept, with its shares."""
        bundle, own_ms = self._policy(), self._config.retention_ms
        return own_ms if bundle is None else min(own_ms, bundle.retention.boxes_days * DAY_MS)

    def history_ms(self, published: bytes) -> int:
        """How long an ended round of a task, as it was published, is kept."""
        bundle, own_ms = self._policy(), self._config.history_ms
        if bundle is None:
            return own_ms
        days = bundle.retention.result_days
        try:
            rule = bundle.task_for(tasks.decode(published).task_id)
        except CryptoError:
            rule = None  # stored by another version: the bound of all tasks counts
        if rule is not None:
            days = min(days, rule.result_days)
        # For so long a result is handed in to a relay that is away.
        return min(own_ms, max(days * DAY_MS, 2 * self.shares_ms))
