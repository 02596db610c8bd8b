"""What is popular, coming back to devices: read of verified results only, and believed as far as
its noise lets it be."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from statistics import fmean, pstdev
from typing import Any

import pytest
from hypothesis import given, strategies as st

from bench import blend as trials
from client.demo.ratings import synthesise
from client.intelligence import blend
from client.intelligence.blend import LOCATION, Popular, newest, priors, read
from client.intelligence.cohorts import joint_labels
from client.measure.errors import Ineligible
from client.measure.results import Ended, Results
from crypto.field import FIELD31
from mpc import result as results
from mpc.kinds import Histogram, Multihot
from mpc.noise import Law, Mechanism
from mpc.result import Counted
from mpc.tail_params import AsTheyAre, Tail, Threshold
from mpc.task import Task
from tests.intelligence_worlds import ITEMS, POPULAR, STYLE
from tests.measure_worlds import Meter, meter, signed_task
from tests.relay_worlds import GRACE_MS, WINDOW_MS, manifest, task
from tests.test_measure_results import relayed

LABELS = joint_labels(STYLE, ITEMS)
MULTIHOT = Multihot(FIELD31, len(LABELS), 3, LABELS)


def popular_task(name: str = POPULAR, kind: Any = MULTIHOT, tail: Tail | None = None) -> Task:
    """Items by cohort."""
    law = Law(Mechanism.GAUSSIAN, 8_000)
    return task(name, kind=kind, noise=law, k_min=20, tail=tail or AsTheyAre())


def sums(counts: dict[str, int]) -> list[int]:
    """By label."""
    return [counts.get(label, 0) for label in LABELS]


def result_of(made: Task, told: list[int], reports: int = 100) -> results.RoundResult:
    """A result of that many reports."""
    counted = Counted(reports, 0, 0, ({}, {}, {}))
    return results.make(made, told, counted, noise_of=(1, 2, 3), checked=True)


TOLD = {"coast|*": 60, "coast|lao": 40, "coast|thai": -3, "other|*": 40, "other|thai": 25}


def test_a_result_is_read_by_cohort_and_item() -> None:
    """Sizes, counts (below zero too, where noise took them) and the noise in each of them."""
    made = popular_task()
    told = read(made, result_of(made, sums(TOLD)), STYLE)
    assert told is not None
    assert (told.reports, told.source, told.items) == (100, POPULAR, ITEMS)
    assert (told.sizes["coast"], told.sizes["other"], told.sizes["new"]) == (60, 40, 0)
    assert told.counts["coast"] == {"georgian": 0, "lao": 40, "thai": -3}
    assert told.variance == float(Fraction(8) ** 2 * 3 / 2)


def test_a_histogram_of_favourites_has_its_sizes_from_its_items() -> None:
    """Who says one item says no cohort beside it."""
    made = popular_task(kind=Histogram(FIELD31, len(LABELS), LABELS))
    told = read(made, result_of(made, sums({"coast|lao": 40, "coast|thai": 20})), STYLE)
    assert told is not None
    assert told.sizes["coast"] == 60


OTHERS = [
    popular_task(f"{POPULAR}/v2"),
    popular_task(tail=Threshold(5)),
    popular_task(kind=Multihot(FIELD31, len(LABELS), 3, ())),
    popular_task(kind=Multihot(FIELD31, len(LABELS), 3, LABELS[::-1])),
]


@pytest.mark.parametrize("made", OTHERS, ids=["version", "tail", "no-labels", "order"])
def test_what_is_not_by_the_rule_is_not_read(made: Task) -> None:
    """Another version of the rule, bins that are kept back, other labels."""
    assert read(made, result_of(made, sums(TOLD)), STYLE) is None


# --- as far as noise lets it be believed ---


def of(counts: list[float], *, variance: float = 0.0, reports: int = 10_000) -> Popular:
    """One cohort of everybody, and an empty one."""
    items = {f"item-{at:02d}": count for at, count in enumerate(counts)}
    nobody = dict.fromkeys(items, 0.0)
    sizes = {"all": float(reports), "none": 0.0}
    return Popular(reports, sizes, {"all": items, "none": nobody}, variance, "popular/x")


SHARES = [100.0 * one for one in (5, 9, 20, 31, 44, 60)]


def means(popular: Popular, cohort: str | None = None) -> list[float]:
    """Of the priors, by item."""
    found = priors(popular, cohort)
    return [found[item].mean for item in sorted(found)]


def test_without_noise_the_order_is_that_of_the_counts() -> None:
    """Popular items stand above the average one, and about as far apart as items do."""
    found = means(of(SHARES))
    assert found == sorted(found)
    assert fmean(found) == pytest.approx(LOCATION, abs=1e-3)
    assert pstdev(found) == pytest.approx(blend.SPREAD, rel=0.05)


def test_the_more_noise_the_nearer_to_the_average() -> None:
    """Noise draws each item towards the middle, never beyond, and all noise says nothing."""
    spreads = [
        pstdev(means(of(SHARES, variance=sigma**2))) for sigma in (0, 300, 800, 1_300, 5_000)
    ]
    assert spreads[0] > spreads[1] > spreads[2] > spreads[3]
    assert spreads[-1] == 0
    assert means(of(SHARES, variance=5_000**2)) == [pytest.approx(LOCATION)] * len(SHARES)


def test_a_prior_weighs_less_if_it_is_less_sure() -> None:
    """Units of evidence that it is worth go down with noise, and are never more than what
    people's differences leave."""
    sure, unsure = (
        fmean(one.weight for one in priors(of(SHARES, variance=v), None).values())
        for v in (0, 700**2)
    )
    assert 0 < unsure < sure <= blend.UNIT_VARIANCE / blend.PEOPLE_VARIANCE


def _two(size: float, variance: float) -> Popular:
    """A cohort that likes what the others don't, of some size."""
    ours = {"a": 0.9 * size, "b": 0.5 * size, "c": 0.1 * size}
    theirs = {"a": 900.0, "b": 4_500.0, "c": 8_100.0}
    sizes, counts = {"ours": size, "theirs": 9_000.0}, {"ours": ours, "theirs": theirs}
    return Popular(9_000 + round(size), sizes, counts, variance, "popular/x")


def test_a_cohort_has_its_own_taste_if_it_can_be_seen() -> None:
    """A large one turns the order round; one that is lost in the noise, or unknown, counts as
    everybody."""
    ours = priors(_two(2_000, 100), "ours")
    assert ours["a"].mean > ours["b"].mean > ours["c"].mean
    everybody = priors(_two(2_000, 100), None)
    assert everybody["a"].mean < everybody["c"].mean
    small = _two(40, 100)
    assert priors(small, "ours") == priors(small, None)
    assert priors(small, "elsewhere") == priors(small, None)


def test_a_cohort_that_likes_more_of_everything_is_no_other_taste() -> None:
    """Twice the likes at the same proportions beside each other leave the order as it is."""
    eager = {"a": 300.0, "b": 500.0, "c": 700.0}
    calm = {"a": 1_000.0, "b": 3_000.0, "c": 5_000.0}
    both = Popular(
        11_000, {"eager": 1_000.0, "calm": 10_000.0}, {"eager": eager, "calm": calm}, 0, "x"
    )
    level = [one.mean for one in priors(both, "eager").values()]
    assert level == pytest.approx([one.mean for one in priors(both, None).values()], abs=0.02)


@given(
    st.lists(st.floats(-2_000, 12_000), min_size=1, max_size=8),
    st.floats(0, 1e7),
    st.integers(0, 10_000),
    st.sampled_from([None, "all", "none", "else"]),
)
def test_whatever_noise_makes_of_counts_a_prior_is_sound(
    counts: list[float], variance: float, reports: int, cohort: str | None
) -> None:
    """Between -1 and 1, and of a weight above 0 and below one unit."""
    for one in priors(of(counts, variance=variance, reports=reports), cohort).values():
        assert -1 <= one.mean <= 1
        assert 0 < one.weight < 1


# --- verified ---


def _ended(one: Meter, kept: Results, made: Task, counts: dict[str, int], seed: int) -> Ended:
    round_ = manifest(made, one.now_ms - 1_000, seed)
    one.answer(made, round_, ["coast|*"])
    one.phone.now_ms += WINDOW_MS + GRACE_MS
    [shown] = [
        shown for shown in kept.due(now_ms=one.now_ms) if shown.manifest.digest == round_.digest
    ]
    said = result_of(made, sums(counts)).encode(made)
    with pytest.raises(Ineligible):
        kept.take(signed_task(made), shown, relayed(round_, said, (1,)))
    return kept.take(signed_task(made), shown, relayed(round_, said))


def test_popularity_is_the_newest_verified_result_of_the_task() -> None:
    """What parties of the round signed and this device verified; a later round replaces it, and
    one of another version of the rule does not."""
    one = meter("popular")
    kept = Results(one.measuring, one.phone.rows)
    assert newest(kept.ended.values(), POPULAR, STYLE) is None
    for seed, (name, size) in enumerate(((POPULAR, 30), (POPULAR, 50), (f"{POPULAR}/v2", 70))):
        _ended(one, kept, popular_task(name), {"coast|*": size}, seed)
    found = newest(kept.ended.values(), POPULAR, STYLE)
    assert found is not None
    assert found.sizes["coast"] == 50
    assert newest(kept.ended.values(), "popular/else", STYLE) is None
    later = newest(kept.ended.values(), POPULAR, replace(STYLE, version=2))
    assert later is not None
    assert later.sizes["coast"] == 70


# --- what it is worth ---

PEOPLE = sorted(synthesise(900, seed=3).people, key=lambda one: one.number)
COUNTED = PEOPLE[:600]
RANKED = [one for one in PEOPLE[600:] if len(one.ratings) >= 10][:120]
CUISINES = sorted({item for one in PEOPLE for item in one.ratings})


def test_a_new_person_gets_what_is_popular_and_own_ratings_take_over() -> None:
    """With nothing known the blend is popularity, far above chance; with some ratings it is
    better than popularity and than the ratings alone."""
    shown = trials.popular(trials.task(CUISINES, trials.RHO), COUNTED, CUISINES, "0")
    chance = {}
    for name, order in (
        ("popular", trials.by(shown, local=False, cohort=False)),
        ("own", trials.by(None)),
        ("both", trials.by(shown, cohort=False)),
    ):
        chance[name] = [trials.judge(order, RANKED, known)[1] for known in (0, 1, 4)]
    assert chance["both"][0] == chance["popular"][0] > 0.52
    assert chance["both"][1] > max(chance["popular"][1], chance["own"][1])
    assert chance["both"][2] > max(chance["popular"][2], chance["own"][2])
    assert chance["both"] == sorted(chance["both"])


def test_regard_to_the_noise_pays() -> None:
    """Over twenty loud rounds, cohorts of which the noise hides most: drawn towards everybody as
    the noise demands they rank better than taken at their word."""
    items = tuple(f"item-{at:02d}" for at in range(20))
    rng, gains = random.Random("regard"), []
    for _ in range(20):
        truth = {item: rng.uniform(0.05, 0.6) for item in items}
        sizes = {"a": 250.0, "b": 750.0}
        sigma = 40.0
        counts = {
            cohort: {item: truth[item] * size + rng.gauss(0, sigma) for item in items}
            for cohort, size in sizes.items()
        }
        loud = Popular(1_000, sizes, counts, sigma**2, "x")
        errors = []
        for one in (loud, replace(loud, variance=0.0)):
            found = priors(one, "a")
            middle = fmean(truth.values())
            spread = pstdev(truth.values())
            wanted = {i: LOCATION + blend.SPREAD * (truth[i] - middle) / spread for i in items}
            errors.append(fmean((found[i].mean - wanted[i]) ** 2 for i in items))
        gains.append(errors[1] - errors[0])
    assert fmean(gains) > 0
    assert sum(gain > 0 for gain in gains) >= 18
