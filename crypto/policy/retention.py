"""How long a service and the parties keep what they hold, in days."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from crypto.policy import fields
from crypto.policy.fields import DAYS_MAX, Fields

FIELDS: Final = (
    "result_days", "audit_days", "consent_days_after_account", "wake_days", "boxes_days",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ServiceRetention:
    """What is older is deleted by the sweep. A task's own `result_days` may be fewer.

    `audit_days`: entries of the audit log. `consent_days_after_account`: proofs of consent, from
    an account's deletion on. `wake_days`: handles that no device renewed. `boxes_days`:
    contributions at the relay and at parties, from their round's close on.
    """

    result_days: int
    audit_days: int
    consent_days_after_account: int
    wake_days: int
    boxes_days: int

    def __post_init__(self) -> None:
        for what, days in self.as_map().items():
            least = 0 if what == "consent_days_after_account" else 1
            fields.whole(what, days, least, DAYS_MAX)

    def as_map(self) -> dict[str, Any]:
        """As it is signed."""
        return asdict(self)

    @classmethod
    def of(cls, value: object) -> ServiceRetention:
        """From its map; FormatError."""
        read = Fields(value)
        made = cls(**{name: read.take(name) for name in FIELDS})
        read.done()
        return made
