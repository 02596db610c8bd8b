"""How long the service keeps what it holds: the settings', or less where the policy says so.

Neither can lengthen what the other shortens: the settings are what the operator can store, the
policy is what people were told.
"""

from __future__ import annotations

from typing import Final

from crypto.policy import Bundle
from services.store.base import Limits
from services.store.retention import Retention

DAY_MS: Final = 86_400_000
OVERDUE_MS: Final = 2 * 3_600_000
"""What has been over for two sweeps should be gone: it is no sign that one is about to come."""


def retention_of(limits: Limits, bundle: Bundle | None) -> Retention:
    """The bounds of a sweep. `bundle`: the one in force; None: none is, or the service is not
    governed. Without one the audit log is kept for good."""
    if bundle is None:
        return Retention.of(limits)

    def own_results_ms(task_id: bytes) -> int | None:
        rule = bundle.task_for(task_id.decode("ascii", "replace"))
        return None if rule is None else rule.result_days * DAY_MS

    told = bundle.retention
    return Retention(
        boxes_ms=min(limits.boxes_ms, told.boxes_days * DAY_MS),
        results_ms=min(limits.results_ms, told.result_days * DAY_MS),
        audit_ms=told.audit_days * DAY_MS,
        own_results_ms=own_results_ms,
    )


def handle_lifetime_ms(setting_ms: int, bundle: Bundle | None) -> int:
    """How long a wake handle lasts that is registered now."""
    return setting_ms if bundle is None else min(setting_ms, bundle.retention.wake_days * DAY_MS)
