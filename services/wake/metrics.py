"""What is counted of waking. No label says whom, or by which platform."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from prometheus_client import CollectorRegistry, Counter, Gauge


class Poke(Enum):
    """What became of a device whose turn it was."""

    SENT = "sent"
    GONE = "gone"
    """The gateway says that its handle is of no more use."""
    PUT_OFF = "put_off"
    """The gateway was away, or wants it later."""
    SPARED = "spared"
    """It had a stream by then."""


class WakeMetrics:
    """The service's part; all zero where nobody is woken."""

    def __init__(self, registry: CollectorRegistry) -> None:
        pokes = Counter(
            "rookery_wake_pokes",
            "Sleeping devices whose turn it was, by what became of it.",
            ["outcome"],
            registry=registry,
        )
        self._pokes = {poke: pokes.labels(poke.value) for poke in Poke}
        self._dropped = Counter(
            "rookery_wake_dropped",
            "Accounts with new ops that were forgotten before anybody was poked: too many waited.",
            registry=registry,
        )
        self._waiting = Gauge(
            "rookery_wake_waiting",
            "Accounts with new ops that nobody was marked for yet.",
            registry=registry,
        )
        self._down = Gauge(
            "rookery_wake_gateway_down",
            "1 while the push gateway does not answer, or refuses this service.",
            registry=registry,
        )

    def poked(self, outcome: Poke, count: int = 1) -> None:
        """So many devices had their turn."""
        self._pokes[outcome].inc(count)

    def dropped(self) -> None:
        """An account was forgotten."""
        self._dropped.inc()

    def watch(self, waiting: Callable[[], int], is_down: Callable[[], bool]) -> None:
        """Both are asked at each scrape."""
        self._waiting.set_function(lambda: float(waiting()))
        self._down.set_function(lambda: float(is_down()))
