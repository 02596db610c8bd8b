"""The gRPC front of a party: publishers' signed calls, peers' streams, and the health."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from services.call import Clock, KeyRole, Route
from services.front import KeyFront, PinnedKeys
from services.listed import Listed
from services.party.config import PartyConfig
from services.party.duplex import LINK_METHOD, link_handler
from services.party.links import Duplex
from services.spans import NO_TRACES, Tracer
from services.telemetry import Telemetry

SERVED = "rookery.v1.Parties"


class Front(KeyFront):
    """Serves the routes to publishers, and Link to whoever `serve_link` lets in."""

    def __init__(
        self,
        config: PartyConfig,
        routes: Iterable[Route],
        publishers: Iterable[Listed],
        serve_link: Callable[[Duplex, str], Awaitable[None]],
        *,
        options: Iterable[tuple[str, int]],
        telemetry: Telemetry,
        clock: Clock,
        tracer: Tracer = NO_TRACES,
    ) -> None:
        self._pinned = PinnedKeys(publishers, KeyRole.PUBLISHER, clock)
        super().__init__(
            config,
            SERVED,
            routes,
            self._pinned,
            options=options,
            telemetry=telemetry,
            clock=clock,
            tracer=tracer,
            others={LINK_METHOD: link_handler(serve_link)},
        )

    def take_publishers(self, publishers: Iterable[Listed]) -> None:
        """These are pinned from now on."""
        self._pinned.pin(publishers)
