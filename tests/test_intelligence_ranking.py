"""The recommender on the device: what moves an item, what may not, and that it always agrees."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, strategies as st

from client.device import Device
from client.errors import UserError
from client.gate import Kind
from client.intelligence import facts as facts_
from client.intelligence.context import FEATURES, Context
from client.intelligence.explain import explain
from client.intelligence.facts import Facts
from client.intelligence.ranking import Elsewhere, Influence, Prior, Ranked, rank
from client.intelligence.recipe import STRENGTH_MAX, Recipe, Term, at_context
from client.intelligence.uses import Unrestricted, Use, Uses
from client.origins import Origin
from tests.client_worlds import Phone, Service, first_phone, pair, settle
from tests.judge_worlds import NOW_MS

DAY_MS = 86_400_000
RECIPE = Recipe.of("taste")


def phone(seed: str = "a") -> Phone:
    """One device of its own account."""
    return first_phone(Service(), seed=seed)


def look(
    device: Device,
    *,
    now_ms: int = NOW_MS,
    uses: Uses | None = None,
    context: Context | None = None,
    elsewhere: Elsewhere | None = None,
) -> list[Ranked]:
    """A ranking by the common recipe."""
    features = (context or Context()).features
    taken = facts_.take(device, RECIPE, uses or Unrestricted(), features=features, now_ms=now_ms)
    return rank(taken, RECIPE, elsewhere=elsewhere or Elsewhere())


def order(ranking: list[Ranked]) -> list[str]:
    """The items, best first."""
    return [one.item for one in ranking]


def test_ratings_scores_and_membership_move_an_item_as_they_should() -> None:
    """Liked before untouched before disliked; a set's member goes up; a hidden one is out."""
    device = phone().device
    device.put("taste", "thai", 5, now_ms=NOW_MS)
    device.put("taste", "plain", 3, now_ms=NOW_MS)
    device.put("taste", "sour", 1, now_ms=NOW_MS)
    device.add_score("taste", "lao", 6, now_ms=NOW_MS)
    device.add_member("taste", "peruvian", now_ms=NOW_MS)
    device.put("taste", "secret", 5, now_ms=NOW_MS)
    device.add_member("taste.hidden", "secret", now_ms=NOW_MS)
    ranking = look(device)
    assert order(ranking) == ["lao", "peruvian", "thai", "plain", "sour"]
    assert ranking[0].score == pytest.approx(6 / 7)
    assert ranking[1].score == ranking[2].score == pytest.approx(1 / 2)
    assert ranking[3].score == 0
    assert ranking[4].score == pytest.approx(-1 / 2)


def test_what_was_liked_long_ago_gives_way_to_what_is_liked_now() -> None:
    """With the signal's half-life an old passion decays below a fresh interest."""
    device = phone().device
    device.add_score("taste", "old", 8, now_ms=NOW_MS)
    device.add_score("taste", "new", 2, now_ms=NOW_MS + 90 * DAY_MS)
    late = NOW_MS + 90 * DAY_MS
    assert order(look(device, now_ms=late)) == ["old", "new"]
    assert order(look(device, now_ms=late, uses=Unrestricted(30 * DAY_MS))) == ["new", "old"]


def test_a_context_counts_only_while_it_holds() -> None:
    """Soup is first in the evening, coffee in the morning, and neither without a context."""
    device = phone().device
    for item, feature in (("soup", "evening"), ("coffee", "morning")):
        device.add_score(at_context("taste", feature), item, 4, now_ms=NOW_MS)
    device.add_score("taste", "bread", 1, now_ms=NOW_MS)
    assert order(look(device, context=Context("evening")))[0] == "soup"
    assert order(look(device, context=Context("morning")))[0] == "coffee"
    assert order(look(device)) == ["bread"]


class Only:
    """A gate that lets some signals through."""

    def __init__(self, *open_: tuple[Kind, str]) -> None:
        self._open = open_

    def use_of(self, kind: Kind, collection: str, key: str) -> Use | None:
        """By kind and collection."""
        del key
        return Use(f"{collection}-{kind}") if (kind, collection) in self._open else None


@pytest.mark.parametrize(
    ("uses", "expected"),
    [
        (Only(), []),
        (Only(("setting", "taste")), ["thai"]),
        (Only(("score", "taste")), ["lao"]),
        (Only(("set", "taste")), ["peruvian"]),
        (Only(("score", "taste.at.evening")), ["soup"]),
    ],
)
def test_what_may_not_be_used_does_not_exist_for_a_ranking(uses: Only, expected: list[str]) -> None:
    """Each kind of signal is left out by itself, and nothing of it can be told from the result."""
    device = phone().device
    device.put("taste", "thai", 5, now_ms=NOW_MS)
    device.add_score("taste", "lao", 6, now_ms=NOW_MS)
    device.add_member("taste", "peruvian", now_ms=NOW_MS)
    device.add_score("taste.at.evening", "soup", 2, now_ms=NOW_MS)
    assert order(look(device, uses=uses, context=Context("evening"))) == expected


def test_devices_with_one_profile_agree_on_every_digit() -> None:
    """Three devices that recorded at the same time rank alike once they have synced."""
    first = phone()
    phones = [first, pair(first, "b"), pair(first, "c")]
    rng = random.Random("agree")
    for number, item in enumerate(("thai", "lao", "georgian", "polish") * 3):
        device = phones[number % 3].device
        device.add_score("taste", item, rng.uniform(-2, 4), now_ms=NOW_MS + number)
        device.put("taste", item, rng.randint(1, 5), now_ms=NOW_MS + number)
    settle(*phones)
    now_ms = NOW_MS + 5 * DAY_MS
    rankings = [
        [(one.item, one.score) for one in look(each.device, now_ms=now_ms)] for each in phones
    ]
    assert rankings[0] == rankings[1] == rankings[2]
    assert len(rankings[0]) == 4


TERMS = st.builds(
    Term,
    kind=st.sampled_from(["setting", "score", "set"]),
    collection=st.just("taste"),
    weight=st.floats(-3, 3),
)


@st.composite
def said(draw: st.DrawFn) -> facts_.Fact:
    """A fact whose units are within its strength, as `take` makes them."""
    term = draw(TERMS)
    most = abs(term.weight) if term.kind == "setting" else STRENGTH_MAX
    return facts_.Fact(term, Use("taste"), Origin((0,), 1), draw(st.floats(-1, 1)) * most)


ITEMS = st.sampled_from(["a", "b", "c", "d"])
PRIORS = st.dictionaries(
    ITEMS, st.builds(Prior, st.floats(-1, 1), st.floats(0.01, 20), st.just("r"))
)
MODEL = st.dictionaries(
    ITEMS, st.lists(st.builds(Influence, st.just("f"), st.floats(-50, 50)), max_size=4)
)


@given(st.dictionaries(ITEMS, st.lists(said(), max_size=5)), PRIORS, MODEL)
def test_contributions_add_up_to_the_score(
    known: dict[str, list[facts_.Fact]],
    priors: dict[str, Prior],
    influences: dict[str, list[Influence]],
) -> None:
    """Whatever the evidence, priors and influences: what an explanation names is all there is,
    and a score without a model stays between -1 and 1."""
    taken = Facts({item: tuple(each) for item, each in known.items()})
    ranking = rank(taken, RECIPE, items="abcd", elsewhere=Elsewhere(priors, influences))
    for one in ranking:
        explained = explain(one.item, ranking)
        assert explained is not None
        assert sum(reason.amount for reason in explained.reasons) == pytest.approx(one.score)
        model = sum(reason.amount for reason in explained.reasons if reason.sort == "model")
        assert abs(model) <= 1 + 1e-9
        assert abs(one.score - model) <= 1 + 1e-9


@given(st.permutations(["a", "b", "c", "d"]))
def test_ties_are_parted_by_name_whatever_the_order_they_came_in(items: list[str]) -> None:
    """Equal scores give the same order on all devices."""
    taken = Facts(dict.fromkeys(items, ()))
    assert order(rank(taken, RECIPE, items=items)) == ["a", "b", "c", "d"]


def test_evidence_outweighs_a_prior_as_it_grows() -> None:
    """A popular item that the person keeps avoiding falls below one that nobody knows."""
    device = phone().device
    popular = Elsewhere({"fish": Prior(0.8, 4, "r"), "okra": Prior(0.0, 4, "r")})
    places = []
    for day in range(8):
        places.append(order(look(device, elsewhere=popular)).index("fish"))
        device.add_score("taste", "fish", -1, now_ms=NOW_MS + day)
    assert places[0] == 0
    assert places[-1] == 1
    assert places == sorted(places)


def test_no_single_habit_counts_without_end() -> None:
    """A score beyond the most that counts moves an item no further."""
    device = phone().device
    device.add_score("taste", "tea", STRENGTH_MAX, now_ms=NOW_MS)
    before = look(device)[0].score
    device.add_score("taste", "tea", 100 * STRENGTH_MAX, now_ms=NOW_MS)
    assert look(device)[0].score == pytest.approx(before)


CALENDAR = [
    (0, 0, "night", "workday"),  # Thursday, 1 January 1970, 00:00
    (5 * 3_600_000, 0, "morning", "workday"),
    (11 * 3_600_000, 0, "afternoon", "workday"),
    (17 * 3_600_000, 0, "evening", "workday"),
    (22 * 3_600_000, 0, "night", "workday"),
    (2 * DAY_MS, 0, "night", "weekend"),  # Saturday
    (2 * DAY_MS, -60, "night", "workday"),  # still Friday, 23:00, further west
    (4 * DAY_MS - 1, 0, "night", "weekend"),
    (4 * DAY_MS, 0, "night", "workday"),
    (16 * 3_600_000, 120, "evening", "workday"),
]


@pytest.mark.parametrize(("now_ms", "offset", "part", "day"), CALENDAR)
def test_the_clock_on_the_wall_becomes_two_words(
    now_ms: int, offset: int, part: str, day: str
) -> None:
    """Part of the day and sort of day, by the person's own time."""
    assert Context.at(now_ms, utc_offset_minutes=offset).features == (part, day)


def test_a_context_is_of_known_words_one_of_each_sort() -> None:
    """Two of a sort, an unknown word, and an impossible offset are refused."""
    assert Context.of(["weekend", "evening"]) == Context("evening", "weekend")
    for words in (["noon"], ["evening", "night"], ["Weekend"]):
        with pytest.raises(UserError):
            Context.of(words)
    with pytest.raises(UserError):
        Context.at(0, utc_offset_minutes=1000)
    with pytest.raises(UserError):
        Context(app_state="evening")
    assert len(set(FEATURES)) == len(FEATURES)
    for one, other in itertools.combinations(FEATURES, 2):
        assert at_context("taste", one) != at_context("taste", other)
