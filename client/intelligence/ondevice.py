"""What a device makes of its profile, put together: one call for each thing that an app asks.

Reads the profile through the policy's gate, never the network, and writes nothing but what an
experiment keeps. On a device under no policy everything may be used, and there are no cohorts,
experiments or features: nobody declared any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from client.errors import UserError
from client.intelligence import blend, facts
from client.intelligence.cohorts import CohortMeasure, DeviceSignals, cohort_of
from client.intelligence.context import FEATURES, Context
from client.intelligence.declared import recipe_for, recipe_of
from client.intelligence.experiments import Experiments
from client.intelligence.flags import Features
from client.intelligence.model import PersonState, Predictor
from client.intelligence.ranking import Elsewhere, Influence, Prior, Ranked, rank
from client.intelligence.recipe import HIDDEN, Recipe, at_context
from client.intelligence.uses import PolicyUses, Unrestricted, Uses
from client.measure.results import Ended
from client.measure.values import Measures, source
from client.sync import SyncedDevice
from crypto.policy import Bundle
from crypto.policy.cohorts import CohortRule
from crypto.policy.experiments import ExperimentRule
from crypto.policy.generalise import DAY_MS
from crypto.policy.tasks import TaskRule
from mpc.task import Task

RANKING: Final = "ranking"
"""The purpose that a ranking, and a cohort for the device's own use, is for."""
_COUNTED: Final = ("histogram", "multihot")


class OnDevice:
    """One device's own intelligence."""

    def __init__(
        self,
        synced: SyncedDevice,
        *,
        purpose: str = RANKING,
        half_life_ms: int | None = None,
    ) -> None:
        """`half_life_ms`: of scores on a device under no policy; a policy says it itself."""
        self._synced = synced
        self._purpose = purpose
        self._half_life_ms = half_life_ms
        self.features = Features(
            lambda: synced.policy, lambda: synced.core.aggregation_key, self.cohort
        )

    # -- ranking ------------------------------------------------------------------------

    def collections(self) -> tuple[str, ...]:
        """Collections whose keys can be ranked."""
        synced = self._synced
        if synced.governed:
            signals = () if synced.policy is None else synced.policy.signals
            every = sorted({one.collection for one in signals})
            return tuple(one for one in every if not _is_aside(one) and self.recipe(one))
        return tuple(
            one for one in synced.core.collections() if not _is_aside(one) and self._says(one)
        )

    def _says(self, collection: str) -> bool:
        """Whether the profile says anything of a collection's items."""
        now_ms = self._synced.now_ms()
        taken = facts.take(
            self._synced.core, Recipe.of(collection), Unrestricted(), now_ms=now_ms
        )  # fmt: skip
        return bool(taken.by_item)

    def recipe(self, collection: str) -> Recipe | None:
        """What a ranking of its items is made of; None: the policy declares nothing for it."""
        if not self._synced.governed:
            return Recipe.of(collection)
        bundle = self._synced.policy
        return None if bundle is None else recipe_of(bundle, collection)

    def rank(
        self,
        collection: str,
        context: Context,
        *,
        items: Iterable[str] | None = None,
        ended: Iterable[Ended] = (),
        influences: Mapping[str, Sequence[Influence]] | None = None,
    ) -> list[Ranked]:
        """The items, best first. `ended`: verified results, of which what is popular is taken;
        `influences`: a model's, by item. UserError if there is nothing to rank by."""
        recipe = self.recipe(collection)
        if recipe is None:
            raise UserError(
                "the policy declares nothing to rank these by: a signal of many keys with numbers,"
                " or a set, in this collection"
            )
        now_ms = self._synced.now_ms()
        taken = facts.take(
            self._synced.core, recipe, self.uses(), features=context.features, now_ms=now_ms
        )
        elsewhere = Elsewhere(self.priors(collection, ended), influences or {})
        return rank(taken, recipe, items=items, elsewhere=elsewhere)

    def influences(self, predictor: Predictor) -> dict[str, tuple[Influence, ...]]:
        """What a model's logits of its items are the sums of, out of the ratings that may be
        used: for `rank`."""
        core, spec, gate = self._synced.core, predictor.spec, self.uses()
        state = PersonState.of(
            spec,
            {
                item: value
                for item, value in core.list(spec.collection).items()
                if gate.use_of("setting", spec.collection, item) is not None
            },
        )
        return {item: predictor.influences(item, state) for item in spec.items}

    def uses(self) -> Uses:
        """The gate in front of what is read for the purpose."""
        if not self._synced.governed:
            return Unrestricted(self._half_life_ms)
        return self._gate(self._purpose)

    def _gate(self, purpose: str, among: Sequence[str] | None = None) -> PolicyUses:
        synced = self._synced
        return PolicyUses(lambda: synced.policy, synced.ledger, purpose, among=among)

    def priors(self, collection: str, ended: Iterable[Ended]) -> dict[str, Prior]:
        """What is popular of a collection, for the person's cohort if that may be worked out."""
        bundle, results = self._synced.policy, list(ended)
        for task in () if bundle is None else bundle.tasks:
            assert bundle is not None
            rule = _counted_by(bundle, task)
            recipe = recipe_for(bundle, task.signals) if rule is not None else None
            if rule is None or recipe is None:
                continue
            if collection not in {term.collection for term in recipe.terms}:
                continue
            oldest_ms = self._synced.now_ms() - task.result_days * DAY_MS
            fresh = (one for one in results if one.shown.manifest.close_ms > oldest_ms)
            found = blend.newest(fresh, task.source, rule)
            if found is not None and found.items:
                return blend.priors(found, self.cohort(rule.name))
        return {}

    def counts(self, task: Task) -> bool:
        """Whether a task's results say what is popular by cohort, as the policy declares it."""
        bundle = self._synced.policy
        rule = None if bundle is None else bundle.task_for(task.task_id)
        return bundle is not None and rule is not None and _counted_by(bundle, rule) is not None

    # -- cohorts ------------------------------------------------------------------------

    def cohort(self, name: str) -> str | None:
        """The person's label by a rule, for the device's own use; None while the purpose is off
        or there is no such rule. Nothing is stored."""
        bundle = self._synced.policy
        rule = None if bundle is None else bundle.cohort(name)
        gate = self._gate(self._purpose)
        if bundle is None or rule is None or not gate.open:
            return None
        signals = DeviceSignals(self._synced.core, bundle, gate, now_ms=self._synced.now_ms())
        return cohort_of(rule, signals)

    # -- experiments --------------------------------------------------------------------

    @property
    def experiments(self) -> Experiments:
        """Those that the policy declares."""
        bundle = self._synced.policy
        rules = () if bundle is None else bundle.experiments
        return Experiments(self._synced.core, rules, self._runs)

    def _runs(self, rule: ExperimentRule) -> bool:
        bundle = self._synced.policy
        task = None if bundle is None else bundle.task_for(rule.task)
        if bundle is None or task is None or bundle.task_killed(task):
            return False
        return self._gate(task.purpose).open and not bundle.killed("feature", rule.name)

    # -- tasks --------------------------------------------------------------------------

    def reads(self, task: Task) -> str:
        """What of the profile a task reads: of one by cohort or experiment the signals that the
        policy names for it."""
        bundle = self._synced.policy
        rule = None if bundle is None else bundle.task_for(task.task_id)
        if bundle is None or rule is None:
            return source(task)
        if _counted_by(bundle, rule) or any(one.task == rule.source for one in bundle.experiments):
            return ", ".join(rule.signals)
        return source(task)

    def register(self, measures: Measures) -> None:
        """Answers the tasks of cohorts and experiments that the policy declares, from now on."""
        bundle = self._synced.policy
        for task in () if bundle is None else bundle.tasks:
            assert bundle is not None
            rule = _counted_by(bundle, task)
            if rule is not None:
                gate = self._gate(task.purpose, among=task.signals)
                recipe = recipe_for(bundle, task.signals)
                measure = CohortMeasure(rule, bundle, gate, recipe)
                measures.register_source(task.source, measure)
        for trial in () if bundle is None else bundle.experiments:
            measures.register_source(trial.task, self.experiments.measure)


def _counted_by(bundle: Bundle, task: TaskRule) -> CohortRule | None:
    """The rule whose cohorts a task counts."""
    if task.cohort is None or task.kind not in _COUNTED:
        return None
    return bundle.cohort(task.cohort)


def _is_aside(collection: str) -> bool:
    """Whether it says something of another collection's items: hidden, or in a context."""
    ends = (HIDDEN, *(at_context("", feature) for feature in FEATURES))
    return collection.endswith(ends)
