"""A model's publisher: opens rounds about its newest model, which it follows as devices do.

It holds no model of its own. What was published and signed says which model is the newest, so
that a publisher that starts again, or another one with the same key, goes on where it was.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from client.analyst import collect
from client.analyst.collect import AskedParty
from client.analyst.publisher import Publisher
from client.errors import UserError
from client.intelligence import federated
from client.intelligence.federated import Part, Terms
from client.intelligence.federated_follow import Follower, catch_up, result_of, tasks_of
from client.intelligence.federated_metrics import Quality, quality
from client.intelligence.model import Model
from client.intelligence.model_spec import ModelSpec
from client.measure.errors import Ineligible
from client.measure.policy import Policy
from client.rounds import Rounds
from crypto.errors import FormatError
from mpc.manifest import Manifest
from mpc.result import RoundResult, Sums
from mpc.task import Task

_NUMBER: Final = re.compile(r"/v([0-9]+)\Z")


@dataclass(frozen=True, slots=True)
class Opened:
    """A round about a model."""

    model: Model
    task: Task
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Judged:
    """What a round of judges says of a model."""

    task: Task
    model: str
    """Its hash, in hex."""
    judges: int
    quality: Quality | None
    """None: the noise leaves nothing of it."""

    def data(self) -> dict[str, Any]:
        """For `--json`."""
        quality = None if self.quality is None else asdict(self.quality)
        return {
            "task": self.task.task_id, "model": self.model, "judges": self.judges,
            "quality": quality,
        }  # fmt: skip


class ModelPublisher:
    """Opens rounds of one model. `policy` pins the publisher's own key and its parties."""

    def __init__(
        self,
        spec: ModelSpec,
        publisher: Publisher,
        asked: Sequence[AskedParty],
        rounds: Rounds,
        policy: Policy,
    ) -> None:
        self.spec = spec
        self._publisher = publisher
        self._asked = asked
        self._rounds = rounds
        self._policy = policy

    async def newest(self, checkpoint: bytes | None = None) -> Model:
        """The model after all results that there are. A checkpoint is needed once the relay no
        longer keeps the first of them. RemoteError, UserError, FormatError."""
        follower = Follower(self.spec, {})
        if checkpoint is not None:
            follower.adopt(checkpoint, [one async for one in self._tasks()])
        caught = await catch_up(follower, self._rounds, self._policy)
        if caught.behind:
            raise UserError(
                "results are missing between here and the newest task: give a checkpoint"
            )
        return follower.model

    async def open(
        self, part: Part, terms: Terms, *, now_ms: int, model: Model | None = None
    ) -> Opened:
        """Publishes the next task about a model, the newest if none is given, and opens its one
        round from now on. PartiesFailed, UserError, and what the service's calls raise."""
        model = model or await self.newest()
        task = federated.task(model, part, await self._next(part), terms)
        planned = collect.plan(
            task,
            federated.round_id(task),
            [one.pinned for one in self._asked],
            open_ms=now_ms,
            now_ms=now_ms,
        )
        await self._publisher.publish(task)
        signed = self._publisher.signed(task)
        manifest = await collect.collect(self._publisher, self._asked, signed, task, planned)
        return Opened(model, task, manifest)

    async def judged(self) -> list[Judged]:
        """What judges said, in the order of publication; rounds without a result are left out."""
        found = []
        async for task in self._tasks():
            if federated.part_of(self.spec, task) is not Part.JUDGE:
                continue
            bound = federated.bound_to(task)
            with contextlib.suppress(Ineligible):  # nobody vouches for it
                result = await result_of(task, self._rounds, self._policy)
                if bound is not None and result is not None:
                    valid = result.counted.valid
                    found.append(Judged(task, bound.hex(), valid, _quality(task, result)))
        return found

    def _tasks(self) -> AsyncGenerator[Task, None]:
        return tasks_of(self.spec, self._rounds, self._policy)

    async def _next(self, part: Part) -> int:
        numbers = [0]
        async for task in self._tasks():
            found = _NUMBER.search(task.task_id)
            if found and federated.part_of(self.spec, task) is part:
                numbers.append(int(found[1]))
        return max(numbers) + 1


def _quality(task: Task, result: RoundResult) -> Quality | None:
    if not isinstance(result.outcome, Sums):
        return None
    sigma = math.sqrt(max(result.variances(task)))
    try:
        return quality(result.outcome.sums, sigma)
    except FormatError:
        return None
