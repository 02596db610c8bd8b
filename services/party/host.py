"""What all rounds of a party share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mpc.keys import PartyKey
from mpc.task import Task
from services.call import Clock
from services.party.config import PartyConfig
from services.party.jobs import Jobs
from services.party.metrics import PartyMetrics
from services.party.relay import Relay
from services.party.store import PartyStore
from services.party.turns import Turns
from services.spans import Tracer
from services.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Host:
    """Handed to each round."""

    config: PartyConfig
    store: PartyStore
    key: PartyKey
    relay: Relay
    jobs: Jobs
    turns: Turns
    telemetry: Telemetry
    metrics: PartyMetrics
    tracer: Tracer
    clock: Clock
    say: Callable[[bytes, bytes, bytes], bool]
    """(identity key, round id, message) -> whether the peer can be reached"""
    stops: Callable[[Task, int], str | None]
    """(task, k_min) -> the rule of the policy by which it may not be computed now"""
    up: Callable[[], frozenset[bytes]]
    """Identity keys of the peers that can be reached."""
