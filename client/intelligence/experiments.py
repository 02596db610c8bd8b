"""Which variant an account sees, and what became of it: worked out and kept by its devices.

The variant is a PRF of the account's own secret, so that all its devices show the same one and
nobody else can tell which. Exposure and outcome are sealed records of the profile, a row for
each device; they leave it only as one report of an aggregate of the kind `experiment`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from client.device import Device
from client.errors import UserError
from client.measure.errors import Ineligible
from client.measure.values import source
from client.profile import Name
from client.values import Value
from crypto import labels
from crypto.policy.experiments import ExperimentRule
from crypto.primitives import KEY_BYTES, need, prf, utf8
from mpc.kinds import Experiment
from mpc.task import Task

COLLECTION: Final = ".rookery/experiments"
NAME_CHARS_MAX: Final = 120
"""Of an experiment's name: a device's number is put behind it."""
OUTCOME_MAX: Final = 1 << 40
_HALF_BYTES: Final = 8


def assign(secret: bytes, rule: ExperimentRule) -> int | None:
    """The number of an account's variant; None: it is not in the experiment.

    `secret`: K_agg, 32 bytes. All variants are equally likely; who is in at some percentage is
    in at every larger one, with the same variant. Another name draws both anew.
    """
    drawn = prf(need("secret", secret, KEY_BYTES), labels.EXPERIMENT, utf8(rule.name))
    place, variant = (
        int.from_bytes(drawn[at : at + _HALF_BYTES], "big") for at in (0, _HALF_BYTES)
    )
    if place * 100 >= rule.percent << (8 * _HALF_BYTES):
        return None
    return variant * len(rule.variants) >> (8 * _HALF_BYTES)


@dataclass(frozen=True, slots=True)
class Record:
    """What one device keeps of an experiment."""

    variant: str
    exposed_ms: int
    outcome: int

    def __repr__(self) -> str:
        return "Record(content hidden)"

    def value(self) -> Value:
        """As it is stored."""
        return [self.variant, self.exposed_ms, self.outcome]

    @classmethod
    def of(cls, value: Value) -> Record | None:
        """None for what is no record."""
        if not isinstance(value, list) or len(value) != 3:
            return None
        variant, exposed_ms, outcome = value
        if type(variant) is not str or type(exposed_ms) is not int or type(outcome) is not int:
            return None
        return cls(variant, exposed_ms, outcome)


class Experiments:
    """The experiments of one device, by the rules of its policy."""

    def __init__(
        self,
        device: Device,
        rules: Iterable[ExperimentRule],
        allows: Callable[[ExperimentRule], bool],
    ) -> None:
        """`allows`: whether the purpose of an experiment's task is on, and nothing has stopped
        it; asked anew each time."""
        self._device = device
        self._allows = allows
        self.rules = {rule.name: rule for rule in rules}

    def rule(self, name: str) -> ExperimentRule:
        """UserError if there is none of this name."""
        if name not in self.rules:
            raise UserError("the policy declares no experiment of this name")
        return self.rules[name]

    def takes_part(self, name: str) -> bool:
        """Whether this account is in it now."""
        return self._assigned(self.rule(name)) is not None

    def variant(self, name: str) -> str:
        """What to show. Who is not in the experiment sees the first variant."""
        rule = self.rule(name)
        assigned = self._assigned(rule)
        return rule.variants[0 if assigned is None else assigned]

    def expose(self, name: str, *, now_ms: int) -> str:
        """The variant, which is shown now: from here on outcomes count."""
        rule, variant = self.rule(name), self.variant(name)
        if self._assigned(rule) is not None and self._own(rule, variant) is None:
            self._put(rule, Record(variant, now_ms, 0), now_ms)
        return variant

    def outcome(self, name: str, amount: int, *, now_ms: int) -> bool:
        """Adds to what is measured: orders, minutes, stars. False: it does not count, for the
        variant was not shown on this device, or the experiment is not allowed any more."""
        if type(amount) is not int or abs(amount) > OUTCOME_MAX:
            raise UserError(f"an outcome is a whole number of at most {OUTCOME_MAX:,}")
        rule = self.rule(name)
        held = self._own(rule, self.variant(name))
        if held is None or self._assigned(rule) is None:
            return False
        total = max(-OUTCOME_MAX, min(OUTCOME_MAX, held.outcome + amount))
        self._put(rule, Record(held.variant, held.exposed_ms, total), now_ms)
        return True

    def total(self, name: str) -> int | None:
        """The outcome of all the account's devices; None if none of them showed the variant that
        the account has now."""
        rule = self.rule(name)
        if self._assigned(rule) is None:
            return None
        variant = self.variant(name)
        records = [one for one in self._records(rule) if one.variant == variant]
        return sum(one.outcome for one in records) if records else None

    def forget(self, *names: str, now_ms: int) -> int:
        """Removes all records of these experiments, or of those that the policy no longer
        declares; how many."""
        gone = 0
        for key in self._device.list(COLLECTION):
            name = key.rpartition("/")[0]
            if name in names or (not names and name not in self.rules):
                self._device.put_reserved(Name(COLLECTION, key), None, now_ms=now_ms)
                gone += 1
        return gone

    def measure(self, task: Task, device: Device, /, *, now_ms: int) -> object:
        """What is said to an experiment's task (a `client.measure.values.Measure`): the variant
        and the outcome, brought into the task's bounds. None: nothing was shown. Ineligible if
        the task's variants are not the experiment's."""
        del device, now_ms
        for rule in self.rules.values():
            if rule.task == source(task):
                break
        else:
            return None
        kind = task.kind
        if not isinstance(kind, Experiment) or kind.labels != rule.variants:
            raise Ineligible("experiment", "the task's variants are not those of the experiment")
        total = self.total(rule.name)
        if total is None:
            return None
        value = max(kind.low, min(kind.high, total))
        return {"variant": self.variant(rule.name), "value": value}

    # -- records ------------------------------------------------------------------------

    def _assigned(self, rule: ExperimentRule) -> int | None:
        secret = self._device.aggregation_key
        if secret is None or not self._allows(rule):
            return None
        return assign(secret, rule)

    def _key(self, rule: ExperimentRule) -> str | None:
        me = next((one for one in self._device.devices if one.this_device), None)
        if len(rule.name) > NAME_CHARS_MAX:
            raise UserError(f"an experiment's name has {NAME_CHARS_MAX} characters at most")
        return None if me is None else f"{rule.name}/{me.index}"

    def _own(self, rule: ExperimentRule, variant: str) -> Record | None:
        """What this device keeps of the variant; of another one, that was shown before the rule
        changed, nothing counts."""
        key = self._key(rule)
        held = None if key is None else Record.of(self._device.get(COLLECTION, key))
        return held if held is not None and held.variant == variant else None

    def _records(self, rule: ExperimentRule) -> Iterator[Record]:
        for key, value in self._device.list(COLLECTION).items():
            name, _, index = key.rpartition("/")
            record = Record.of(value)
            if name == rule.name and index.isdigit() and record is not None:
                yield record

    def _put(self, rule: ExperimentRule, record: Record, now_ms: int) -> None:
        key = self._key(rule)
        if key is not None:
            self._device.put_reserved(Name(COLLECTION, key), record.value(), now_ms=now_ms)
