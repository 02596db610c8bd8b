"""The canary's joint aggregates: who publishes, opens and reads them."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from client import remoteerrors as reasons
from client.analyst import collect
from client.analyst.errors import PartiesFailed
from client.analyst.panel import PinnedParty
from client.analyst.publisher import PartyLine, Publisher
from client.canary import policy
from client.endpoint import Endpoint
from client.intelligence.federated import least_noise
from client.measure.policy import Panel, Policy
from client.remoteerrors import RemoteError
from client.rounds import Rounds
from client.transport import Signer, Transport
from crypto.field import FIELD61
from mpc import kinds
from mpc.keys import PublisherKey
from mpc.manifest import Manifest
from mpc.tail_params import AsTheyAre
from mpc.task import KAPPA, Caps, Task

T: Final = 1
RHO_MICRO: Final = 500_000_000
"""Of three people noise that protects them would hide all: what is tried here is where things
stand, not how well they are hidden among others."""
VECTOR: Final = {"name": "vector", "size": 4, "bits": 4, "norm2_max": 16}
WINDOW_MS: Final = 5_000
LONG_MS: Final = 3_600_000
_PATIENCE_S: Final = 60.0
_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Publishing:
    """A publisher, who asks these parties."""

    endpoint: Endpoint
    key: PublisherKey
    parties: tuple[PinnedParty, ...]

    @property
    def trusted(self) -> Policy:
        """What a device is told to trust."""
        panel = Panel(tuple(one.key for one in self.parties), T)
        pinned = Policy().with_publisher(self.key.public).with_panel(panel)
        return pinned.with_limits(round_micro_rho=RHO_MICRO, period_micro_rho=4 * RHO_MICRO)

    def _transport(self, target: str) -> Transport:
        return Transport(replace(self.endpoint, targets=(target,)))

    async def open(self, task: Task) -> Manifest:
        """Publishes the task, and opens a round of it from now on."""
        publisher = Publisher(Transport(self.endpoint), self.key)
        asked = [
            collect.AskedParty(one, PartyLine(self._transport(one.address), self.key))
            for one in self.parties
        ]
        await publisher.publish(task)
        end_s = time.monotonic() + _PATIENCE_S
        while True:
            now_ms = time.time_ns() // 1_000_000
            planned = collect.plan(
                task, secrets.token_bytes(16), self.parties, open_ms=now_ms, now_ms=now_ms
            )
            try:
                return await collect.collect(
                    publisher, asked, publisher.signed(task), task, planned
                )
            except PartiesFailed:
                # A party that has not heard of the policy yet signs nothing.
                if time.monotonic() > end_s:
                    raise
                await asyncio.sleep(0.2)

    async def results(self, manifests: Sequence[Manifest]) -> None:
        """Returns once all of them are there. RemoteError, TimeoutError."""
        rounds = Rounds(Transport(self.endpoint), Signer(self.key))
        async with asyncio.timeout(_PATIENCE_S):
            for one in manifests:
                while not await _result(rounds, one):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.2)


async def _result(rounds: Rounds, manifest: Manifest) -> bytes:
    try:
        return (await rounds.result(manifest.round_id)).result
    except RemoteError as error:
        if error.reason != reasons.RESULT_ABSENT:
            raise
        return b""


def favourites(task_id: str, title: str, *, window_ms: int = WINDOW_MS) -> Task:
    """Which cuisine people like."""
    params = {"name": "histogram", "bins": len(policy.CUISINES), "labels": list(policy.CUISINES)}
    return _task(task_id, title, policy.COUNTING, params, window_ms)


def learning(title: str) -> Task:
    """A step of a model of four weights."""
    return _task(policy.LEARN, title, policy.LEARNING, VECTOR, WINDOW_MS)


def _task(task_id: str, title: str, purpose: str, params: dict[str, Any], window_ms: int) -> Task:
    law = least_noise(kinds.make(params, FIELD61), RHO_MICRO, m=3, t=T)
    field = kinds.smallest_field(params, 1_000, law.reach(present=T + 1, t=T))
    return Task(
        task_id=task_id,
        title=title,
        purpose=purpose,
        kind=kinds.make(params, field),
        kappa=KAPPA[field.bits][0],
        window_ms=window_ms,
        grace_ms=0,
        reports_max=1_000,
        k_min=2,
        noise=law,
        caps=Caps(RHO_MICRO, _DAY_MS, RHO_MICRO),
        m=3,
        t=T,
        tail=AsTheyAre(),
        expires_ms=time.time_ns() // 1_000_000 + 30 * _DAY_MS,
    )
