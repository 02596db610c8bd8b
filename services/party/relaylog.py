"""What a party says of a relay that could not be asked."""

from __future__ import annotations

from typing import Final

from services.party.metrics import UNREACHABLE, PartyMetrics
from services.party.relay import RelayDown, RelayUnknown
from services.telemetry import Telemetry

UNKNOWN_MS: Final = 60_000
"""So long after a round's window begins the relay may not have its manifest yet. It knows a party
by the rounds that name it, and a publisher hands in a manifest only when all parties signed it."""


def tell_down(
    error: RelayDown, telemetry: Telemetry, metrics: PartyMetrics, *, open_ms: int, now_ms: int
) -> None:
    """Logs and counts it. A party that is not known yet waits, and says so at level debug only;
    `open_ms`: when the round's window began, by the same clock as `now_ms`."""
    unknown = isinstance(error, RelayUnknown)
    if unknown and now_ms < open_ms + UNKNOWN_MS:
        telemetry.detail("relay_unknown")
        return
    metrics.relay_failed("UNAUTHENTICATED" if unknown else UNREACHABLE)
    telemetry.event("relay_down")
