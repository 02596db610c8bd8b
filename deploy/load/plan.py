"""What the devices of a load test do and when, with every request sealed and signed ahead.

A signature is good for two minutes about its moment and each nonce once: as the plan knows
when a request will be sent, all of them are made before the first one is. A request has a few
signatures, so that one which was refused can be sent again.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.accounts import PULL, PUSH, SUBSCRIBE, Account
from crypto.request import CallKind
from rookery.v1 import sync_pb2

SPREAD_MS: Final = 60_000
"""Between the moments of a request's spare signatures."""
SLACK_MS: Final = 40_000
"""How far the guessed beginning may be off; with the 75 s of lib/device.js under two minutes."""
_TRIES: Final = (0, 0, SPREAD_MS)


class PlanError(Exception):
    """The plan can't be made; says what to change."""


@dataclass(frozen=True, slots=True)
class Spike:
    """From when to when (seconds) pushes come so many times as often, and how long after it
    all must be as before."""

    begin_s: float
    end_s: float
    times: float
    after_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """How many devices do what, how often, for how long. Thresholds stand in its .js."""

    devices: int
    seconds: float
    push_every_s: float
    pull_every_s: float
    batch: int = 2
    spike: Spike | None = None
    waves_s: Sequence[float] = ()
    """When all connections are given up at once."""


SCENARIOS: Final = {
    "smoke": Scenario(devices=20, seconds=30, push_every_s=1, pull_every_s=5),
    "steady": Scenario(devices=200, seconds=180, push_every_s=2, pull_every_s=20),
    "spike": Scenario(
        devices=200, seconds=100, push_every_s=4, pull_every_s=20, spike=Spike(30, 45, 10)
    ),
    "soak": Scenario(devices=200, seconds=1_800, push_every_s=10, pull_every_s=60),
    "storm": Scenario(
        devices=500, seconds=60, push_every_s=10, pull_every_s=30, waves_s=(15, 30, 45)
    ),
}


@dataclass(slots=True)
class Seeded:
    """An account at the target, and the cursor up to which its device has everything."""

    account: Account
    cursor: bytes


def device_plan(
    seeded: Seeded, scenario: Scenario, *, start_ms: int, rng: random.Random
) -> dict[str, Any]:
    """What one device does, as lib/device.js wants it; moments are counted from `start_ms`."""
    account = seeded.account
    calls = [
        *((at, "Push") for at in _moments(scenario, scenario.push_every_s, rng, scenario.spike)),
        *((at, "Pull") for at in _moments(scenario, scenario.pull_every_s, rng, None)),
        *((at * 1000, "Subscribe") for at in (rng.uniform(0, 1), *scenario.waves_s)),
    ]
    calls.sort()
    return {
        "subscribe": {"cursor": _text(seeded.cursor)},
        "streams": _stream_signatures(account, seeded.cursor, scenario, start_ms),
        "calls": [_call(seeded, name, int(at), scenario.batch, start_ms) for at, name in calls],
    }


def _moments(
    scenario: Scenario, every_s: float, rng: random.Random, spike: Spike | None
) -> list[float]:
    """Milliseconds, evenly apart from a random first one; closer together in a spike.

    The first second belongs to the streams, the last two to what is still under way.
    """
    moments, at_s, last_s = [], 1 + rng.uniform(0, every_s), scenario.seconds - 2
    while at_s < last_s:
        moments.append(at_s * 1000)
        hot = spike is not None and spike.begin_s <= at_s < spike.end_s
        at_s += every_s / spike.times if hot and spike is not None else every_s
        if spike is not None and not hot and moments[-1] < spike.begin_s * 1000 < at_s * 1000:
            at_s = spike.begin_s + rng.uniform(0, every_s / spike.times)
    return moments


def _call(seeded: Seeded, name: str, at_ms: int, batch: int, start_ms: int) -> dict[str, Any]:
    account = seeded.account
    if name == "Subscribe":
        return {"at": at_ms, "method": name}
    if name == "Push":
        ops = list(account.seal(batch))
        method, payload = PUSH, sync_pb2.PushRequest(ops=ops).SerializeToString()
        body: dict[str, Any] = {"ops": [_text(op) for op in ops]}
    else:
        method, payload = PULL, sync_pb2.PullRequest(cursor=seeded.cursor).SerializeToString()
        body = {"cursor": _text(seeded.cursor)}
    auth = [
        [at_ms + later, _text(account.sign(method, payload, ts_ms=start_ms + at_ms + later))]
        for later in _TRIES
    ]
    return {"at": at_ms, "method": name, "body": body, "auth": auth}


def _stream_signatures(
    account: Account, cursor: bytes, scenario: Scenario, start_ms: int
) -> list[list[Any]]:
    """Enough to come back a few times a minute, and more often in waves."""
    payload = sync_pb2.SubscribeRequest(cursor=cursor).SerializeToString()
    moments = [
        *(at for at in range(0, int(scenario.seconds * 1000) + 1, SPREAD_MS) for _ in range(4)),
        *(int(at * 1000) for at in scenario.waves_s for _ in range(8)),
    ]
    return [
        [at, _text(account.sign(SUBSCRIBE, payload, CallKind.STREAM, ts_ms=start_ms + at))]
        for at in sorted(moments)
    ]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
