"""What a gateway counts. No label says which service asked, whom it woke, or by which platform."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Counter

from services.metrics import CallMetrics
from services.wake.verdict import Verdict


class GatewayMetrics(CallMetrics):
    """All of one gateway."""

    def __init__(self) -> None:
        super().__init__()
        verdicts = Counter(
            "rookery_gateway_verdicts",
            "Handles that services gave, by what they were told of each.",
            ["verdict"],
            registry=self.registry,
        )
        self._verdicts = {one: verdicts.labels(one.name.lower()) for one in Verdict}

    def judged(self, verdicts: Iterable[Verdict]) -> None:
        """What one call was answered."""
        for verdict in verdicts:
            self._verdicts[verdict].inc()
