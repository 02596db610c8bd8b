"""What a person says: from the profile, or by an app's function; as the parties then hold it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from client.device import Device
from client.measure.errors import Ineligible
from client.measure.values import from_profile
from crypto.field import FIELD31, FIELD61
from mpc.kinds import Count, Experiment, Histogram, Kind, Mean, Multihot, Quantile, Sum, Vector
from mpc.noise import Law, Mechanism
from mpc.oracle import aggregate
from mpc.task import Caps, Task
from tests.measure_worlds import POLICY, Meter, meter, opened, rule_of, summed
from tests.relay_worlds import manifest, task

CUISINES = ("thai", "italian", "georgian")
LOUD = Law(Mechanism.GAUSSIAN, 1_000_000)
WIDE = Caps(10**9, 86_400_000, 10**9)


def of_kind(kind: Kind, name: str) -> Task:
    """A task with that kind."""
    kappa = 2 if kind.field is FIELD31 else 1
    return task(name, kind=kind, kappa=kappa, noise=LOUD, caps=WIDE, reports_max=1000)


def generous(seed: str) -> Meter:
    """A device whose limits stand in no test's way."""
    one = meter(seed)
    most = {"round_micro_rho": 10**9, "period_micro_rho": 10**12, "all_time_micro_rho": 10**12}
    one.measuring.set_policy(POLICY.with_limits(**most))
    return one


KINDS: list[tuple[Kind, list[tuple[object, Any]]]] = [
    (Count(FIELD31), [(True, True), (False, False), (True, True)]),
    (Histogram(FIELD31, 3, CUISINES), [("thai", 0), ("georgian", 2), (1, 1)]),
    (Histogram(FIELD31, 4, ()), [(3, 3), (0, 0)]),
    (Multihot(FIELD31, 3, 2, CUISINES), [(["thai", "georgian"], [0, 2]), ([], []), ([1], [1])]),
    (Sum(FIELD61, -10, 1000), [(-10, -10), (7, 7), (1000, 1000)]),
    (Mean(FIELD61, 1, 5, True), [(1, 1), (5, 5), (4, 4)]),
    (Mean(FIELD31, 1, 5, False), [(2, 2), (5, 5)]),
    (Vector(FIELD61, 3, 8, 10_000), [([1, -2, 3], [1, -2, 3]), ([0, 0, 100], [0, 0, 100])]),
    (
        Experiment(FIELD61, 2, ("old", "new"), 0, 20),
        [({"variant": "new", "value": 3}, (1, 3)), ({"variant": 0, "value": 20}, (0, 20))],
    ),
    (Quantile(FIELD31, (0, 10, 20, 50)), [(0, 0), (19, 19), (49, 49)]),
]


@pytest.mark.parametrize(("kind", "people"), KINDS, ids=[kind.name for kind, _ in KINDS])
def test_what_is_sent_is_what_the_profile_says(
    kind: Kind, people: list[tuple[object, Any]]
) -> None:
    """The parties' keys together open the encoding of each entry; the sums are the oracle's."""
    made, rows = of_kind(kind, "food/entry"), []
    for number, (said, _) in enumerate(people):
        one = generous(f"{kind.name} {number}")
        one.put("food/entry", said)
        round_ = manifest(made, one.now_ms - 1_000)
        rows.append(opened(made, round_, one.answer(made, round_)))
    truth = aggregate(kind, [value for _, value in people])
    assert summed(made, rows) == list(truth.sums)
    assert truth.refused == 0


BAD: list[tuple[Kind, list[object]]] = [
    (Count(FIELD31), [1, "true", [True]]),
    (Histogram(FIELD31, 3, CUISINES), ["Thai", 3, -1, True, 1.0, ["thai"]]),
    (Histogram(FIELD31, 4, ()), ["0", 4]),
    (Multihot(FIELD31, 3, 1, CUISINES), [["thai", "italian"], ["thai", "thai"], "thai", [True]]),
    (Sum(FIELD61, 0, 9), [-1, 10, 5.0, "5", True]),
    (Vector(FIELD61, 2, 8, 100), [[1], [11, 0], [1, 2, 3], [1, "2"], 7]),
    (
        Experiment(FIELD61, 2, ("old", "new"), 0, 9),
        ["new", {"variant": "new"}, {"variant": "newer", "value": 1},
         {"variant": "new", "value": 10}, {"variant": "new", "value": 1, "x": 1}],
    ),
    (Quantile(FIELD31, (0, 10, 20)), [-1, 20, "3"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "values"), BAD, ids=[kind.name for kind, _ in BAD])
def test_what_the_kind_does_not_allow_is_refused_and_costs_nothing(
    kind: Kind, values: list[object]
) -> None:
    """By its rule, in a sentence that has the bounds and not the value; no entry is made."""
    one, made = generous("bad"), of_kind(kind, "food/entry")
    offer = one.look(made, manifest(made, one.now_ms - 1_000))
    for said in values:
        with pytest.raises(Ineligible) as caught:
            one.measuring.answer(offer, said, now_ms=one.now_ms, rand=one.phone.rand)
        assert rule_of(caught.value) == "value"
        assert "Thai" not in str(caught.value)
        assert "newer" not in str(caught.value)
    assert one.measuring.ledger.micro_rho == 0
    assert not one.measuring.take_changes()


def test_a_person_without_the_entry_says_nothing() -> None:
    """Neither where the setting is missing nor where none of the labels is there."""
    one = meter()
    for name in ("food/cuisine", "food", "none"):
        made = of_kind(Histogram(FIELD31, 3, CUISINES), name)
        assert from_profile(made, one.device, now_ms=one.now_ms) is None
    for kind in (Multihot(FIELD31, 3, 2, CUISINES), Count(FIELD31)):
        assert from_profile(of_kind(kind, "food"), one.device, now_ms=one.now_ms) is None


def test_a_collection_answers_with_its_members_or_else_its_top_scores() -> None:
    """Among the labels only; as many as the task takes; of equal scores the first label."""
    one = meter()
    favourite = of_kind(Histogram(FIELD31, 3, CUISINES), "food")
    three = of_kind(Multihot(FIELD31, 3, 2, CUISINES), "food/v2")

    def says(made: Task) -> object:
        return from_profile(made, one.device, now_ms=one.now_ms)

    for key, amount in (("italian", 2), ("georgian", 5), ("thai", 2), ("greek", 9)):
        one.device.add_score("food", key, amount, now_ms=one.now_ms)
    assert says(favourite) == "georgian"
    assert says(three) == ["georgian", "thai"]
    one.device.add_score("food", "georgian", -5, now_ms=one.now_ms)
    assert says(favourite) == "thai"
    one.device.add_member("food", "italian", now_ms=one.now_ms)
    one.device.add_member("food", "greek", now_ms=one.now_ms)
    assert says(three) == ["italian"]


def test_a_successor_reads_what_its_predecessor_read() -> None:
    """A last /v and a number is left out, of a setting's name as of a collection's."""
    one = meter()
    one.put("food/spice", 3)
    one.put("food/spice/v", 4)
    for name, value in (("food/spice/v12", 3), ("food/spice", 3), ("food/spice/v", 4)):
        made = of_kind(Sum(FIELD31, 0, 9), name)
        assert from_profile(made, one.device, now_ms=one.now_ms) == value


def test_an_app_answers_a_task_in_its_own_way() -> None:
    """Its function is asked for that task, and the profile for all others."""
    one = meter()

    def measure(made: Task, device: Device, *, now_ms: int) -> object:
        scores = device.scores("rating", now_ms=now_ms)
        return max(scores, key=lambda key: scores[key]) if scores else None

    one.measures.register("regions", measure)
    made = task("regions", kind=Histogram(FIELD31, 3, CUISINES))
    round_ = manifest(made, one.now_ms - 1_000)
    assert one.measures.of(made, one.device, now_ms=one.now_ms) is None
    rng = random.Random(1)
    for cuisine in CUISINES:
        one.device.add_score("rating", cuisine, rng.random(), now_ms=one.now_ms)
    one.device.add_score("rating", "italian", 9, now_ms=one.now_ms)
    assert opened(made, round_, one.answer(made, round_)).tolist() == [0, 1, 0]
    one.put("food/spice", 3)
    other = of_kind(Sum(FIELD31, 0, 9), "food/spice")
    assert one.measures.of(other, one.device, now_ms=one.now_ms) == 3
