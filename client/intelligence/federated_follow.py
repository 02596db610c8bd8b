"""Which model is the newest: results of rounds followed from one model to the next.

`Follower` is pure. It holds two models: the last one that a signed task named, and the one that
the result after it makes, which no task has named yet. Where two tasks trained one model, the
task that follows says which of the results counts. Devices follow a model, and so does its
publisher: `catch_up` reads what the relay has, and believes what pinned keys signed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from client import remoteerrors as reasons
from client.errors import RowsError
from client.intelligence import federated
from client.intelligence.federated import Part
from client.intelligence.model import Model
from client.intelligence.model_spec import ModelSpec
from client.measure import judge
from client.measure.errors import Ineligible
from client.measure.policy import Policy
from client.remoteerrors import RemoteError
from client.rounds import Rounds
from client.rows import Changes, Journal, Rows, pack, unpack
from crypto.errors import CryptoError, FormatError
from mpc import result as results
from mpc.result import RoundResult
from mpc.task import Task

ROWS: Final = "shell/model/"


class Follower:
    """One model, followed. Whatever it is told must have been verified."""

    def __init__(self, spec: ModelSpec, rows: Rows) -> None:
        """From the vault's rows, or from the start; RowsError."""
        self.spec = spec
        self._journal = Journal()
        self._row = ROWS + spec.hash.hex()
        self.settled = self.model = Model.genesis(spec)
        """The last one that a task named, and the newest one."""
        if (row := rows.get(self._row)) is not None:
            try:
                self.settled, self.model = (Model.decode(one, spec) for one in unpack(row, 2))
            except (CryptoError, TypeError):
                raise RowsError from None

    def take_changes(self) -> Changes:
        """Rows to store."""
        return self._journal.take()

    def due(self, tasks: Iterable[Task]) -> list[Task]:
        """The tasks whose results would lead on from here, in the order of their versions."""
        ours = [
            one
            for one in tasks
            if federated.part_of(self.spec, one) is Part.TRAIN
            and federated.bound_to(one) == self.settled.hash
        ]
        return sorted(ours, key=lambda one: (len(one.task_id), one.task_id))

    def follow(self, ended: Sequence[tuple[Task, RoundResult]], tasks: Iterable[Task]) -> bool:
        """Takes the results of tasks that were `due`; `tasks` are all that are known. Whether it
        has got on to a model that some task names: then more may be due."""
        following = []
        for task, result in ended:
            try:
                following.append(federated.follow(self.settled, task, result))
            except FormatError:
                continue  # this publisher's mistake makes no model; the next task goes on
        named = {federated.bound_to(one) for one in tasks}
        settled = next((one for one in following if one.hash in named), None)
        if settled is not None:
            self._keep(settled, settled)
        elif following:
            self._keep(self.settled, following[0])
        return settled is not None

    def adopt(self, checkpoint: bytes, tasks: Iterable[Task]) -> Model:
        """A model from elsewhere, for a device that can't follow: its bytes must be those that a
        signed task names, and not from before. FormatError."""
        model = Model.decode(checkpoint, self.spec)
        named = {federated.bound_to(one) for one in tasks if federated.part_of(self.spec, one)}
        if model.hash not in named:
            raise FormatError("model-unknown", "no task names this model: take the newest one")
        if model.step <= self.settled.step:
            raise FormatError("model-old", "this device has a model that is as new")
        self._keep(model, model)
        return model

    def _keep(self, settled: Model, model: Model) -> None:
        if (settled.hash, model.hash) == (self.settled.hash, self.model.hash):
            return
        self.settled, self.model = settled, model
        self._journal.set(self._row, pack(settled.encoded, model.encoded))


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """How far a device got."""

    step: int
    behind: bool
    """The newest task of training names a model that can't be reached from here: a checkpoint is
    needed."""
    refused: tuple[tuple[str, Ineligible], ...]
    """Results that are there and did not verify, by task id."""


async def catch_up(follower: Follower, rounds: Rounds, policy: Policy) -> CaughtUp:
    """Follows as far as the relay's results lead, by the keys that the policy pins; store the
    changes then. RemoteError."""
    tasks = [task async for task in tasks_of(follower.spec, rounds, policy)]
    refused: dict[str, Ineligible] = {}
    more = True
    while more:
        ended = []
        for task in follower.due(tasks):
            try:
                result = await result_of(task, rounds, policy)
            except Ineligible as error:
                refused[task.task_id] = error
            else:
                ended += [(task, result)] if result is not None else []
        more = follower.follow(ended, tasks)
    behind = is_behind(follower, tasks)
    return CaughtUp(follower.model.step, behind, tuple(refused.items()))


def is_behind(follower: Follower, tasks: Sequence[Task]) -> bool:
    """Whether a model is trained that is neither here nor one that this one came from: a task
    names it that was published after the last one that names a model that is here."""
    here = {follower.settled.hash, follower.model.hash}
    for task in reversed(tasks):
        if federated.bound_to(task) in here:
            return False
        if federated.part_of(follower.spec, task) is Part.TRAIN:
            return True
    return False


async def tasks_of(spec: ModelSpec, rounds: Rounds, policy: Policy) -> AsyncGenerator[Task, None]:
    """This model's tasks that a pinned publisher signed, in the order of publication."""
    async for listed in rounds.tasks():
        try:
            task = judge.open_task(policy, listed.task)
        except Ineligible:
            continue
        if federated.part_of(spec, task):
            yield task


async def result_of(task: Task, rounds: Rounds, policy: Policy) -> RoundResult | None:
    """What came of a task's one round, verified; None while there is nothing. Ineligible."""
    round_id = federated.round_id(task)
    try:
        relayed = await rounds.round(round_id)
        told = await rounds.result(round_id)
    except RemoteError as error:
        if error.reason not in (reasons.RESULT_ABSENT, reasons.ROUND_UNKNOWN):
            raise
        return None
    if not told.result:
        return None
    manifest = judge.open_round(policy, task, relayed.published)
    try:
        return results.open_(told.result, told.sigs, manifest, task)
    except CryptoError as error:
        raise Ineligible.of(error) from None
