"""Which variant an account sees, and what became of it: worked out and kept by its devices.

The variant is a PRF of the account's own secret, so that all its devices show the same one and
nobody else can tell which. Exposure and outcome leave the profile only as one report of an
aggregate of the kind `experiment`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from client.device import Device
from client.errors import UserError
from client.intelligence import exposures
from client.intelligence.exposures import Exposure
from client.measure.errors import Ineligible
from client.measure.values import source
from crypto import labels
from crypto.policy.experiments import ExperimentRule
from crypto.primitives import KEY_BYTES, need, prf, utf8
from mpc.kinds import Experiment
from mpc.task import Task

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
        variant = self.variant(name)
        if self.takes_part(name) and self._own(name) is None:
            exposures.put(self._device, name, Exposure(variant, now_ms, 0), now_ms=now_ms)
        return variant

    def outcome(self, name: str, amount: int, *, now_ms: int) -> bool:
        """Adds to what is measured: orders, minutes, stars. What the policy declares bounds it:
        beyond, adding adds nothing. False: it does not count, for the variant was not shown on
        this device, or too long ago, or the experiment is not allowed any more."""
        rule = self.rule(name)
        most = max(-rule.outcome_low, rule.outcome_high)
        if type(amount) is not int or abs(amount) > most:
            raise UserError(f"an outcome of this experiment is a whole number of at most {most:,}")
        held = self._own(name) if self.takes_part(name) else None
        if held is None or held.is_over(rule.days, now_ms=now_ms):
            return False
        after = Exposure(held.variant, held.shown_ms, _within(rule, held.outcome + amount))
        exposures.put(self._device, name, after, now_ms=now_ms)
        return True

    def total(self, name: str, *, now_ms: int | None = None) -> int | None:
        """The outcome of all the account's devices, in the declared range; None if none of them
        showed the variant that the account has now. Of records that are not over, if it is said
        for when."""
        if not self.takes_part(name):
            return None
        rule, variant = self.rule(name), self.variant(name)
        found = [
            one.outcome
            for one in exposures.every(self._device, name)
            if one.variant == variant
            and (now_ms is None or not one.is_over(rule.days, now_ms=now_ms))
        ]
        return _within(rule, sum(found)) if found else None

    def measure(self, task: Task, device: Device, /, *, now_ms: int) -> object:
        """What is said to an experiment's task (a `client.measure.values.Measure`): the variant
        and the outcome, brought into the task's bounds. None: nothing was shown. Ineligible if
        the task's variants are not the experiment's."""
        del device
        rule = next((one for one in self.rules.values() if one.task == source(task)), None)
        if rule is None:
            return None
        kind = task.kind
        if not isinstance(kind, Experiment) or kind.labels != rule.variants:
            raise Ineligible("experiment", "the task's variants are not those of the experiment")
        total = self.total(rule.name, now_ms=now_ms)
        if total is None:
            return None
        value = max(kind.low, min(kind.high, total))
        return {"variant": self.variant(rule.name), "value": value}

    def _assigned(self, rule: ExperimentRule) -> int | None:
        secret = self._device.aggregation_key
        if secret is None or not self._allows(rule):
            return None
        return assign(secret, rule)

    def _own(self, name: str) -> Exposure | None:
        """What this device keeps of the variant; of another one, that was shown before the rule
        changed, nothing counts."""
        held = exposures.own(self._device, name)
        return held if held is not None and held.variant == self.variant(name) else None


def _within(rule: ExperimentRule, outcome: int) -> int:
    return max(rule.outcome_low, min(rule.outcome_high, outcome))
