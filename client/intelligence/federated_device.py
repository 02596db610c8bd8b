"""A device's part in federated learning: it answers a model's tasks, and predicts with it."""

from __future__ import annotations

from client.device import Device
from client.intelligence import federated, federated_metrics as metrics
from client.intelligence.federated import Part
from client.intelligence.federated_follow import CaughtUp, Follower, catch_up
from client.intelligence.model import PersonState
from client.intelligence.model_spec import ModelSpec
from client.intelligence.quantise import Int8Model
from client.intelligence.train import Examples, updates
from client.measure.errors import Ineligible
from client.measure.participant import Participant
from client.measure.values import Measures
from client.rows import Rows
from crypto.errors import FormatError
from mpc.draw import Rand
from mpc.task import Task


class Learner(Follower):
    """One model on one device. Pure, as its base is."""

    def __init__(self, spec: ModelSpec, rows: Rows, *, rand: Rand) -> None:
        """From the vault's rows; RowsError. `rand` must be a CSPRNG."""
        super().__init__(spec, rows)
        self._rand = rand
        self._predictor = (self.model.hash, Int8Model.of(self.model))

    @property
    def predictor(self) -> Int8Model:
        """What predicts: the newest model in 8 bits."""
        if self._predictor[0] != self.model.hash:
            self._predictor = (self.model.hash, Int8Model.of(self.model))
        return self._predictor[1]

    def state(self, device: Device) -> PersonState:
        """The person's ratings, out of the profile."""
        return PersonState.of(self.spec, device.list(self.spec.collection))

    def register(self, measures: Measures) -> None:
        """Answers this model's tasks from now on, whatever their version."""
        for part in Part:
            measures.register_source(federated.source_of(self.spec, part), self.measure)

    def measure(self, task: Task, device: Device, *, now_ms: int) -> object:
        """An update, or what a judge found; None from an account that has another part, or too
        few ratings. Ineligible `model-...` if the task is not of a model that is here."""
        del now_ms
        part = federated.part_of(self.spec, task)
        bound = federated.bound_to(task)
        model = self.settled if bound == self.settled.hash else self.model
        try:
            federated.check(task, model, Part.TRAIN if part is None else part)
        except FormatError as error:
            raise Ineligible.of(error) from None
        judging = metrics.is_judge(self.spec, device.account_id)
        state = self.state(device)
        if judging is not (part is Part.JUDGE) or len(state) < self.spec.least:
            return None
        if judging:
            hidden = metrics.asked(self.spec, device.account_id, state)
            return metrics.judged(Int8Model.of(model), state, hidden)
        [update] = updates(model, Examples.of(self.spec, [state]), rand=self._rand)
        return update


async def follow(learner: Learner, participant: Participant) -> CaughtUp:
    """Follows the model as far as the relay's results lead, and stores it. RemoteError."""
    caught = await catch_up(learner, participant.rounds, participant.core.policy)
    participant.synced.save(learner.take_changes())
    return caught
