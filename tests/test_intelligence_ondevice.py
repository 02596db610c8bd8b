"""All of it on one device, under the shipped policy and under none."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any, cast

import pytest

from client.consent.ledger import ConsentLedger
from client.device import Device
from client.endpoint import Endpoint
from client.errors import UserError
from client.gate import SignalRefused
from client.intelligence.cohorts import joint_labels
from client.intelligence.context import Context
from client.intelligence.explain import explain
from client.intelligence.model import PersonState
from client.intelligence.ondevice import OnDevice
from client.intelligence.ranking import MODEL_MAX, Elsewhere
from client.measure.core import Measuring
from client.measure.records import Shown
from client.measure.results import Ended
from client.measure.values import Measures
from client.policykit.folder import read
from client.sync import SyncedDevice
from client.transport import Transport
from client.vault import MemoryVault
from crypto.field import FIELD31, FIELD61
from crypto.policy import FIRST, Bundle
from mpc.kinds import Experiment, Multihot
from mpc.noise import Law, Mechanism
from mpc.task import Task
from tests.governed_worlds import govern
from tests.intelligence_worlds import Switches, kill
from tests.measure_worlds import POLICY, signed_task
from tests.model_samples import SPEC
from tests.policy_folders import SHIPPED
from tests.relay_worlds import manifest, task
from tests.test_intelligence_blend import result_of
from tests.test_model import trained

NOW_MS = 1_790_000_000_000
PURPOSES = {"ranking", "statistics", "experiments"}
ITEMS = ("italian", "korean", "thai")
CUISINES = (*ITEMS, "polish", "turkish")


def shipped(**changes: Any) -> Bundle:
    """The policy that the demo is under."""
    made = read(SHIPPED).bundle(sequence=1, previous=FIRST, issued_ms=NOW_MS)
    return replace(made, **changes)


def device(seed: str = "one") -> SyncedDevice:
    """A device of its own account, that never calls anybody."""
    core = Device.create(
        recovery_secret=None, now_ms=NOW_MS, rand=random.Random(seed).randbytes
    )  # fmt: skip
    transport = Transport(Endpoint(("127.0.0.1:1",), "nobody.example", bytes(32)))
    return SyncedDevice(core, MemoryVault(), transport)


def governed(bundle: Bundle | None = None, seed: str = "one") -> tuple[SyncedDevice, Switches]:
    """Under a policy, with its person's switches."""
    synced, switches = device(seed), Switches(on=set(PURPOSES))
    synced.ledger = cast("ConsentLedger", switches)
    govern(synced, bundle or shipped())
    return synced, switches


@pytest.fixture
def synced() -> tuple[SyncedDevice, Switches]:
    """A governed device that has rated."""
    made, switches = governed()
    now_ms = made.now_ms()
    for item, stars in (("thai", 5), ("korean", 4), ("polish", 1), ("italian", 3)):
        made.core.put("rating", item, stars, now_ms=now_ms)
    made.core.add_member("rating.hidden", "swedish", now_ms=now_ms)
    for _ in range(5):
        made.core.add_score("rating.at.evening", "italian", 1, now_ms=now_ms)
    return made, switches


def items(own: OnDevice, *features: str, **more: Any) -> list[str]:
    """Best first."""
    return [one.item for one in own.rank("rating", Context.of(features), **more)]


def test_the_shipped_policy_ranks_by_what_it_declares(
    synced: tuple[SyncedDevice, Switches],
) -> None:
    """Ratings, in the evening what is chosen then, without what is hidden; and each reason says
    how far its signal gets."""
    made, _ = synced
    own = OnDevice(made)
    assert own.collections() == ("rating",)
    assert items(own) == ["thai", "korean", "italian", "polish"]
    assert items(own, "evening")[:2] == ["italian", "thai"]
    assert "swedish" not in items(own, items=["thai", "swedish"])
    told = explain("italian", own.rank("rating", Context("evening")))
    assert told is not None
    assert {(one.signal, one.context, one.reach) for one in told.reasons} == {
        ("evening", "evening", "stays on this device"),
        ("rating", None, "is shared by your devices, and may be counted in joint aggregates"),
    }


def test_with_the_purpose_off_nothing_is_ranked_by_the_profile(
    synced: tuple[SyncedDevice, Switches],
) -> None:
    """Off, paused or killed: the items stand in the order of their names, and in no cohort."""
    made, switches = synced
    own = OnDevice(made)
    assert own.cohort("palate") == "far-east"
    switches.on.discard("ranking")
    assert items(own, items=ITEMS) == list(ITEMS)
    assert own.cohort("palate") is None
    switches.on.add("ranking")
    switches.paused = True
    assert items(own, items=ITEMS) == list(ITEMS)
    switches.paused = False
    before = made.policy
    assert before is not None
    govern(
        made,
        replace(before, sequence=2, previous=before.hash, flags=(kill("purpose", "ranking"),)),
    )
    assert items(own, items=ITEMS) == list(ITEMS)


def test_a_governed_device_without_a_policy_does_nothing() -> None:
    """It is denied all: nothing to rank by, no cohort, no experiment, no feature."""
    made = device()
    made.pin_policy(bytes(range(32)))
    own = OnDevice(made)
    assert own.collections() == ()
    with pytest.raises(UserError, match="declares nothing"):
        own.rank("rating", Context())
    assert own.cohort("palate") is None
    assert own.experiments.rules == {}
    assert not own.features.is_on("home-cuisine-first")


def test_a_device_under_no_policy_ranks_what_it_has() -> None:
    """Any collection with ratings, scores or members; contexts and hidden sets are no
    collections of their own; scores decay as the app says."""
    made = device()
    now_ms = made.now_ms()
    for name, key in (("taste", "tea"), ("taste.at.evening", "soup")):
        made.core.add_score(name, key, 2, now_ms=now_ms)
    made.core.add_score("taste", "old", 3, now_ms=now_ms - 40 * 86_400_000)
    made.core.add_member("taste.hidden", "mud", now_ms=now_ms)
    made.core.put("ui", "theme", "dark", now_ms=now_ms)
    own = OnDevice(made, half_life_ms=10 * 86_400_000)
    assert own.collections() == ("taste",)
    ranked = [one.item for one in own.rank("taste", Context("evening"))]
    assert ranked == ["tea", "soup", "old"]
    assert own.cohort("palate") is None


# --- popularity ---


def popular(bundle: Bundle, name: str = "popular/cuisine-by-cohort") -> Task:
    """Liked cuisines by the shipped policy's cohorts."""
    rule = bundle.cohort("palate")
    assert rule is not None
    labels = joint_labels(rule, ITEMS)
    kind = Multihot(FIELD31, len(labels), 4, labels)
    law = Law(Mechanism.GAUSSIAN, 8_000)
    return task(name, kind=kind, noise=law, k_min=50, purpose="statistics")


def ended(made: Task, counts: dict[str, int], close_ms: int) -> Ended:
    """As a device keeps a verified result."""

    assert isinstance(made.kind, Multihot)
    told = [counts.get(label, 0) for label in made.kind.labels]
    shown = Shown(b"", manifest(made, close_ms - made.window_ms))
    return Ended(signed_task(made), made, shown, result_of(made, told, 3_000), (1, 2, 3), {})


COUNTS = {
    "far-east|*": 1_000, "far-east|thai": 800, "far-east|korean": 500, "far-east|italian": 100,
    "homely|*": 2_000, "homely|thai": 200, "homely|korean": 700, "homely|italian": 1_800,
}  # fmt: skip


def test_a_new_person_sees_what_is_popular_and_then_what_is_in_their_cohort() -> None:
    """Without any ratings by what is liked among people like nobody in particular; one rating
    of Thai food makes the cohort in which it is loved; and the reason names the result."""
    made, _ = governed()
    own, results = OnDevice(made), [ended(popular(shipped()), COUNTS, made.now_ms() - 1_000)]
    assert items(own, ended=results) == ["italian", "korean", "thai"]
    made.core.put("rating", "thai", 4, now_ms=made.now_ms())
    assert own.cohort("palate") == "far-east"
    ranked = own.rank("rating", Context(), ended=results)
    assert [one.item for one in ranked] == ["thai", "korean", "italian"]
    told = explain("korean", ranked)
    assert told is not None
    assert [(one.sort, one.signal) for one in told.reasons] == [
        ("popularity", "popular/cuisine-by-cohort")
    ]


def test_a_result_past_its_days_is_not_used() -> None:
    """The policy says for how long results count; and one of another task is no prior."""
    made, _ = governed()
    bundle = shipped()
    own = OnDevice(made)
    rule = bundle.task_for("popular/cuisine-by-cohort")
    assert rule is not None
    old_ms = made.now_ms() - rule.result_days * 86_400_000 - 1
    assert own.priors("rating", [ended(popular(bundle), COUNTS, old_ms)]) == {}
    other = popular(bundle, "popular/else")
    assert own.priors("rating", [ended(other, COUNTS, made.now_ms())]) == {}
    fresh = [ended(popular(bundle), COUNTS, made.now_ms())]
    assert own.priors("rating", fresh).keys() == set(ITEMS)
    assert own.priors("taste", fresh) == {}


def test_a_model_s_influences_move_items_too() -> None:
    """They are summands like all else: those of an item add up to its logit, by its share. The
    model sees no rating while the purpose is off."""
    made, switches = governed()
    own, model = OnDevice(made), trained(spec=replace(SPEC, items=CUISINES))
    for item, stars in (("thai", 5), ("korean", 4), ("polish", 1)):
        made.core.put("rating", item, stars, now_ms=made.now_ms())
    influences = own.influences(model)
    assert influences.keys() == set(CUISINES)
    state = PersonState.of(model.spec, made.core.list("rating"))
    for one in own.rank("rating", Context(), items=CUISINES, influences=influences):
        moved = sum(each.amount for each in one.contributions if each.influence is not None)
        logit = float(model.score([one.item], state)[0])
        wanted = Elsewhere().model_weight * logit
        assert moved == pytest.approx(max(-MODEL_MAX, min(MODEL_MAX, wanted)))
    assert any(len(each) > 1 for each in influences.values())
    switches.on.discard("ranking")
    assert all(len(each) == 1 for each in own.influences(model).values())


# --- tasks, experiments, features ---


def test_tasks_of_cohorts_and_experiments_are_answered_by_what_they_name(
    synced: tuple[SyncedDevice, Switches],
) -> None:
    """While a task is answered only its signals can be read, and that is enough for the cohort
    and what is liked; an experiment is answered once it was shown."""
    made, switches = synced
    own, measures = OnDevice(made), Measures()
    own.register(measures)
    assert own.reads(popular(shipped())) == "rating"
    assert own.reads(task("demo/mean-rating/v2")) == "demo/mean-rating"
    assert OnDevice(device()).reads(popular(shipped())) == "popular/cuisine-by-cohort"
    measuring = Measuring(made.core, {})
    measuring.set_policy(POLICY)
    measuring.governed = lambda: made.policy
    now_ms = made.now_ms()
    asked = popular(shipped())
    with measuring.reading(asked):
        assert measures.of(asked, made.core, now_ms=now_ms) == [
            "far-east|*", "far-east|thai", "far-east|korean",
        ]  # fmt: skip
        with pytest.raises(SignalRefused):
            made.core.get("about", "region")
    switches.on.discard("statistics")
    assert measures.of(asked, made.core, now_ms=now_ms) is None
    rule = own.experiments.rule("home-first")
    kind = Experiment(FIELD61, 2, rule.variants, 1, 5)
    law = Law(Mechanism.GAUSSIAN, 2_000_000)
    trial = task(rule.task, kind=kind, kappa=1, noise=law, purpose="experiments", k_min=50)
    assert measures.of(trial, made.core, now_ms=now_ms) is None
    shown = own.experiments.expose("home-first", now_ms=now_ms)
    own.experiments.outcome("home-first", 4, now_ms=now_ms)
    with measuring.reading(trial):
        said = measures.of(trial, made.core, now_ms=now_ms)
    assert said == {"variant": shown, "value": 4}


def test_an_experiment_stops_with_its_purpose_its_task_or_its_own_kill() -> None:
    """Each of them leaves the account with the first variant, uncounted."""
    bundle = shipped()
    for stop in (
        kill("purpose", "experiments"),
        kill("task", "ab/home-first"),
        kill("feature", "home-first"),
        kill("signal", "rating"),
    ):
        made, _ = governed(replace(bundle, flags=(stop,)))
        assert not OnDevice(made).experiments.takes_part("home-first")
    made, switches = governed()
    assert OnDevice(made).experiments.takes_part("home-first")
    switches.on.discard("experiments")
    assert not OnDevice(made).experiments.takes_part("home-first")


def test_features_of_the_shipped_policy_follow_share_and_cohort() -> None:
    """About a quarter of accounts have one that is on for a quarter; the other is only for who
    likes the far east, and there for half."""
    quarter, evenings = 0, {"thai": 0, "italian": 0}
    for number in range(48):
        made, _ = governed(seed=f"account {number}")
        own = OnDevice(made)
        quarter += own.features.is_on("home-cuisine-first")
        for item in evenings:
            for other in evenings:
                made.core.put("rating", other, 5 if other == item else 1, now_ms=made.now_ms())
            evenings[item] += own.features.is_on("mild-evenings")
    assert 4 <= quarter <= 22
    assert evenings["italian"] == 0
    assert 13 <= evenings["thai"] <= 35
