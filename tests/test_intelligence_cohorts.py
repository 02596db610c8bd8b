"""Cohorts: what a published rule says of a profile, and that it is told as a bin or not at all."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import pytest

from client.device import Device
from client.intelligence import facts
from client.intelligence.cohorts import (
    CohortMeasure,
    DeviceSignals,
    cohort_of,
    joint_labels,
    parse_label,
)
from client.intelligence.declared import recipe_for, recipe_of
from client.intelligence.ranking import rank
from client.intelligence.uses import PolicyUses
from client.measure.errors import Ineligible
from crypto.field import FIELD31
from crypto.policy import Bundle
from crypto.policy.cohorts import CohortRule, Comparison, Op, When
from mpc.kinds import Count, Histogram, Multihot
from mpc.kinds.base import Kind
from mpc.noise import Law, Mechanism
from mpc.task import Task
from tests.client_worlds import Service, first_phone
from tests.intelligence_worlds import (
    ADVICE,
    DAY_MS,
    ITEMS,
    POPULAR,
    PRODUCT,
    STYLE,
    Switches,
    bundle,
    kill,
)
from tests.judge_worlds import NOW_MS
from tests.measure_worlds import Meter, meter, opened, summed
from tests.relay_worlds import manifest, task


class Values:
    """Signals as they are given."""

    def __init__(self, **values: Mapping[str, object]) -> None:
        self._values = values

    def values(self, signal: str) -> Mapping[str, object]:
        """Of one."""
        return self._values.get(signal, {})


def rule(*tests: Comparison, every: bool = True) -> CohortRule:
    """`yes` if they hold."""
    return CohortRule("r", 1, (When("yes", every, tests),), "no")


@pytest.mark.parametrize(
    ("test", "yes", "no"),
    [
        (Comparison("s", Op.IS, "a"), [{"k": "a"}], [{"k": "b"}, {}, {"k": "a", "l": "a"}]),
        (Comparison("s", Op.IS, 1), [{"k": 1}], [{"k": True}, {"k": 1.0}, {"k": "1"}]),
        (Comparison("s", Op.IS, True, "k"), [{"k": True, "l": 3}], [{"k": 1}, {"l": True}]),
        (Comparison("s", Op.IN, ("a", 2)), [{"k": "a"}, {"k": 2}], [{"k": "c"}, {"k": True}]),
        (Comparison("s", Op.AT_LEAST, 3), [{"k": 3}, {"k": 3.5}], [{"k": 2.99}, {"k": "4"}]),
        (Comparison("s", Op.AT_LEAST, 0), [{"k": 0}], [{"k": False}, {}]),
        (Comparison("s", Op.BELOW, 3), [{"k": 2.99}, {"k": -4}], [{"k": 3}, {}]),
        (Comparison("s", Op.COUNT_AT_LEAST, 2), [{"k": "", "l": 0}], [{"k": 9}]),
        (Comparison("s", Op.TOP_IN, ("a",)), [{"a": 2, "b": 1}, {"a": 2, "b": 2}], [{"b": 1}]),
        (Comparison("s", Op.TOP_IN, ("b",)), [{"b": 0.5, "a": "z"}], [{"a": 2, "b": 2}, {}]),
    ],
)
def test_each_comparison_holds_for_what_it_says_only(
    test: Comparison, yes: list[dict[str, object]], no: list[dict[str, object]]
) -> None:
    """A value of another type, of no name or of too many never holds."""
    assert [cohort_of(rule(test), Values(s=one)) for one in yes] == ["yes"] * len(yes)
    assert [cohort_of(rule(test), Values(s=one)) for one in no] == ["no"] * len(no)


def test_the_first_label_that_holds_is_the_cohort() -> None:
    """All or any of the comparisons, in the order of the labels, else `otherwise`."""
    low, high = Comparison("s", Op.AT_LEAST, 1), Comparison("s", Op.AT_LEAST, 9)
    five = Values(s={"k": 5})
    assert cohort_of(rule(low, high), five) == "no"
    assert cohort_of(rule(low, high, every=False), five) == "yes"
    both = CohortRule("r", 1, (When("a", True, (low,)), When("b", True, (low,))), "c")
    assert cohort_of(both, five) == "a"
    assert cohort_of(both, Values()) == "c"


# --- out of a profile, through the gate ---


def fill(device: Device, **what: Any) -> None:
    """Settings `about/...` by name, ratings and more by collection."""
    for name, value in what.items():
        if name in ("region", "visits"):
            device.put("about", name, value, now_ms=NOW_MS)
        elif name == "taste":
            for key, score in value.items():
                device.add_score("taste", key, score, now_ms=NOW_MS)
        elif name == "saved":
            for key in value:
                device.add_member("saved", key, now_ms=NOW_MS)
        else:
            for key, stars in value.items():
                device.put("rating", key, stars, now_ms=NOW_MS)


def uses(held: Bundle, switches: Switches | None = None, purpose: str = PRODUCT) -> PolicyUses:
    """The gate for a purpose."""
    return PolicyUses(lambda: held, switches or Switches(), purpose)


def cohort(device: Device, held: Bundle, gate: PolicyUses, now_ms: int = NOW_MS) -> str:
    """By the rule of the bundle."""
    return cohort_of(STYLE, DeviceSignals(device, held, gate, now_ms=now_ms))


@pytest.mark.parametrize(
    ("what", "label"),
    [
        ({"region": "pacific"}, "coast"),
        ({"region": "inland", "rating": {"thai": 4, "lao": 2, "georgian": 1}}, "explorer"),
        ({"rating": {"lao": 5}}, "explorer"),
        ({"taste": {"soup": 3.0, "cake": 2.0}}, "cosy"),
        ({"taste": {"soup": 1.0, "cake": 2.0}, "visits": 1}, "new"),
        ({"visits": 2, "saved": ["cake"]}, "saver"),
        ({"visits": 2, "saved": ["soup"]}, "other"),
    ],
)
def test_a_profile_is_in_the_cohort_that_the_rule_says(what: dict[str, Any], label: str) -> None:
    """Settings, ratings, scores and members, read through the data dictionary."""
    device = first_phone(Service()).device
    fill(device, **what)
    assert cohort(device, bundle(), uses(bundle())) == label


def test_what_may_not_be_used_puts_nobody_into_a_cohort() -> None:
    """Off, paused, killed, or for another purpose: the answer is that of an empty profile."""
    device = first_phone(Service()).device
    fill(device, region="pacific")
    held = bundle()
    for gate in (
        uses(held, Switches(on={ADVICE})),
        uses(held, Switches(paused=True)),
        uses(held, purpose="undeclared"),
        uses(bundle(flags=(kill("purpose", PRODUCT),))),
        uses(bundle(flags=(kill("signal", "region"),))),
        PolicyUses(lambda: None, Switches(), PRODUCT),
        PolicyUses(lambda: held, Switches(), PRODUCT, among=("rating",)),
    ):
        assert cohort(device, held, gate) == "other"
    assert cohort(device, held, uses(held)) == "coast"


def test_scores_decay_as_their_signal_says() -> None:
    """After ten half-lives of thirty days an old passion no longer makes a cohort."""
    device = first_phone(Service()).device
    fill(device, taste={"soup": 9.0, "cake": 1.0})
    assert cohort(device, bundle(), uses(bundle())) == "cosy"
    device.add_score("taste", "cake", 1, now_ms=NOW_MS + 300 * DAY_MS)
    assert cohort(device, bundle(), uses(bundle()), NOW_MS + 300 * DAY_MS) == "other"


# --- told as a bin, or not at all ---

LABELS = joint_labels(STYLE, ITEMS)


def of_kind(kind: Kind, name: str = POPULAR, k_min: int = 20) -> Task:
    """A task of that kind."""
    law = Law(Mechanism.GAUSSIAN, 8_000)
    return task(name, kind=kind, k_min=k_min, noise=law)


def popular(most: int = 3) -> Task:
    """Items that are liked most, by cohort."""
    return of_kind(Multihot(FIELD31, len(LABELS), most, LABELS))


def measure(gate: PolicyUses | None = None, **changes: Any) -> CohortMeasure:
    """As a governed device answers."""
    held = bundle()
    rule_ = held.task_for(POPULAR)
    assert rule_ is not None
    recipe = recipe_for(held, ["rating"])
    return CohortMeasure(STYLE, held, gate or uses(held), recipe, **changes)


def test_a_cohort_is_told_as_bins_with_the_items_that_are_liked() -> None:
    """Its own bin and the best liked items, as many as the task takes; disliked ones never."""
    device = first_phone(Service()).device
    fill(device, region="pacific", rating={"thai": 4, "lao": 5, "georgian": 2})
    said = measure()(popular(), device, now_ms=NOW_MS)
    assert said == ["coast|*", "coast|lao", "coast|thai"]
    assert measure()(popular(2), device, now_ms=NOW_MS) == ["coast|*", "coast|lao"]
    histogram = of_kind(Histogram(FIELD31, len(LABELS), LABELS))
    assert measure()(histogram, device, now_ms=NOW_MS) == "coast|lao"
    alone = of_kind(Histogram(FIELD31, len(STYLE.labels), STYLE.labels))
    assert measure()(alone, device, now_ms=NOW_MS) == "coast"


REFUSED = [
    (of_kind(Count(FIELD31)), "cohort-kind"),
    (of_kind(Multihot(FIELD31, len(LABELS), 3, LABELS), k_min=19), "cohort-k-min"),
    (of_kind(Multihot(FIELD31, len(LABELS), 3, LABELS), f"{POPULAR}/v2"), "cohort-version"),
    (of_kind(Histogram(FIELD31, 3, ITEMS)), "cohort-labels"),
    (of_kind(Histogram(FIELD31, 4, ())), "cohort-labels"),
    (of_kind(Histogram(FIELD31, len(LABELS) - 1, LABELS[:-1])), "cohort-labels"),
    (of_kind(Histogram(FIELD31, len(LABELS), LABELS[::-1])), "cohort-labels"),
]


@pytest.mark.parametrize(("made", "expected"), REFUSED, ids=[rule_ for _, rule_ in REFUSED])
def test_a_cohort_is_told_in_no_other_way(made: Task, expected: str) -> None:
    """Another kind, too few reports, another version's bins: refused before anything is read."""

    class Unread:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(name)

    unread: Any = Unread()
    with pytest.raises(Ineligible) as refused:
        measure()(made, unread, now_ms=NOW_MS)
    assert refused.value.rule == expected


def test_without_consent_there_is_nothing_to_say() -> None:
    """A purpose that is off answers no task: not even with the label for everybody else."""
    device = first_phone(Service()).device
    fill(device, region="pacific")
    assert measure(uses(bundle(), Switches(on=set())))(popular(), device, now_ms=NOW_MS) is None


def test_labels_of_bins_can_be_told_apart() -> None:
    """Each cohort's size and items, and nothing else is read as one of them."""
    pairs = [parse_label(label) for label in LABELS]
    assert pairs == [(one, item) for one in STYLE.labels for item in ("*", *ITEMS)]
    assert [parse_label(text) for text in ("thai", "|thai", "coast|", "")] == [None] * 4


def _forms(word: str) -> list[bytes]:
    data = word.encode()
    return [data, data.hex().encode(), base64.b64encode(data)]


def _contribute(one: Meter, what: dict[str, Any]) -> tuple[list[int], list[bytes], int]:
    """(what the parties open, all bytes that left the device since, records of the profile)."""
    fill(one.device, **what)
    one.phone.poke()
    before = len(one.phone.service.rows)
    one.device.take_changes()
    held = bundle()
    label = cohort(one.device, held, uses(held))
    assert label == "coast"
    assert not one.device.take_changes()
    made = popular()
    round_ = manifest(made, one.now_ms - 1_000)
    one.measures.register(made.task_id, measure())
    given = one.answer(made, round_)
    one.phone.poke()
    sent = [row.raw for row in one.phone.service.rows[before:]]
    sums = summed(made, [opened(made, round_, given)])
    return sums, [given.header, *given.boxes, *sent], len(one.phone.service.rows) - before


def test_nothing_of_a_cohort_is_stored_at_the_service() -> None:
    """Working it out writes nothing. What leaves the device is one contribution, which opens to
    the bins for the parties together, and the ledger of what was spent: the cohort's name is in
    neither, nor in any record of the profile."""
    one = meter("cohort")
    sums, sent, records = _contribute(one, {"region": "pacific", "rating": {"lao": 5}})
    told = {LABELS[at] for at, count in enumerate(sums) if count}
    assert told == {"coast|*", "coast|lao"}
    assert records > 0
    for word in STYLE.labels:
        assert not any(form in data for form in _forms(word) for data in sent)
    for collection in one.device.collections():
        values = one.device.list(collection)
        assert not set(STYLE.labels) & {*values, *map(str, values.values())}


def test_contributions_of_all_cohorts_look_alike() -> None:
    """Same length for every cohort and every number of liked items."""
    sizes = set()
    for seed, what in (
        ("a", {"region": "pacific"}),
        ("b", {"rating": {"lao": 5, "thai": 4, "georgian": 4}}),
        ("c", {"visits": 7}),
    ):
        one = meter(seed)
        fill(one.device, **what)
        made = popular()
        one.measures.register(made.task_id, measure())
        given = one.answer(made, manifest(made, one.now_ms - 1_000))
        # Which party gets the short box changes from report to report, whatever is said.
        sizes.add((len(given.header), *sorted(len(box) for box in given.boxes)))
    assert len(sizes) == 1


def test_a_governed_ranking_uses_declared_signals_of_its_purpose_only() -> None:
    """By the bundle's recipe: a device-reach context counts, a killed signal does not, and with
    the purpose off nothing is left."""
    device = first_phone(Service()).device
    fill(device, rating={"thai": 5, "lao": 4})
    device.add_member("rating.hidden", "lao", now_ms=NOW_MS)
    device.add_score("rating.at.evening", "georgian", 3, now_ms=NOW_MS)
    held = bundle()
    recipe = recipe_of(held, "rating")
    assert recipe is not None

    def items(gate: PolicyUses, **more: Any) -> list[str]:
        taken = facts.take(device, recipe, gate, now_ms=more.pop("now_ms", NOW_MS), **more)
        return [one.item for one in rank(taken, recipe)]

    evening = {"features": ("evening",)}
    assert items(uses(held, purpose=ADVICE), **evening) == ["georgian", "thai"]
    assert items(uses(held, purpose=ADVICE)) == ["thai"]
    stopped = bundle(flags=(kill("signal", "rating"),))
    assert items(uses(stopped, purpose=ADVICE), **evening) == ["georgian"]
    assert items(uses(held, Switches(on={PRODUCT}), ADVICE), **evening) == []
    assert items(uses(held, purpose=PRODUCT), **evening) == ["thai", "lao"]
    assert items(uses(held, purpose=ADVICE), now_ms=NOW_MS + 400 * DAY_MS, **evening) == []
    assert recipe_of(held, "about") is None
