"""What a party says of a relay that does not know it, or can't be reached."""

from __future__ import annotations

import io
import json
from pathlib import Path

import grpc.aio
import pytest

from services.party.metrics import UNREACHABLE, PartyMetrics
from services.party.relay import Relay, RelayDown, RelayUnknown
from services.party.relaylog import UNKNOWN_MS, tell_down
from services.telemetry import Telemetry, configure
from tests.metered import value
from tests.relay_worlds import PARTIES
from tests.served import AUDIENCE, serving

OPEN_MS = 1_800_000_000_000
ROUND = bytes(16)


def told(error: RelayDown, after_ms: int, level: str = "debug") -> tuple[list[str], str]:
    """The events, and the reason that is counted, so long after the window began."""
    log, metrics = io.StringIO(), PartyMetrics()
    telemetry = Telemetry(configure(level, "json", log))
    tell_down(error, telemetry, metrics, open_ms=OPEN_MS, now_ms=OPEN_MS + after_ms)
    reasons = [
        reason
        for reason in ("UNAUTHENTICATED", UNREACHABLE)
        if value(metrics, "rookery_party_relay_failures_total", reason=reason)
    ]
    return [json.loads(row)["event"] for row in log.getvalue().splitlines()], "".join(reasons)


def test_a_party_that_is_not_known_yet_waits_quietly() -> None:
    """While the manifest is on its way; a minute later it is a failure, and counted as one."""
    unknown = RelayUnknown("UNAUTHENTICATED")
    assert told(unknown, 0) == (["relay_unknown"], "")
    assert told(unknown, 0, "info") == ([], "")
    assert told(unknown, UNKNOWN_MS) == (["relay_down"], "UNAUTHENTICATED")
    assert told(RelayDown("UNAVAILABLE"), 0) == (["relay_down"], UNREACHABLE)


async def test_a_relay_without_a_round_of_the_party_does_not_know_it(tmp_path: Path) -> None:
    """A clock that is off is no reason to wait quietly, though it has the same code."""
    async with (
        serving(tmp_path) as service,
        grpc.aio.insecure_channel(service.server.address) as channel,
    ):
        key = PARTIES[0].as_party
        with pytest.raises(RelayUnknown):
            await Relay(channel, key, AUDIENCE, lambda: service.now_ms).round(ROUND)
        with pytest.raises(RelayDown) as late:
            await Relay(channel, key, AUDIENCE, lambda: service.now_ms - 600_000).round(ROUND)
        assert not isinstance(late.value, RelayUnknown)
