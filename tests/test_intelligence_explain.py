"""Explanations: who recorded what, when, and how far it gets, through devices that sync."""

from __future__ import annotations

import pytest

from client.intelligence import facts as facts_
from client.intelligence.explain import Explanation, by_signal, explain
from client.intelligence.ranking import Elsewhere, Influence, Prior, rank
from client.intelligence.recipe import Recipe
from client.intelligence.uses import REACHES, Unrestricted, Use
from client.origins import Origin
from tests.client_worlds import Phone, Service, first_phone, pair, settle
from tests.judge_worlds import NOW_MS

RECIPE = Recipe.of("taste")


def why(phone: Phone, item: str, elsewhere: Elsewhere | None = None) -> Explanation:
    """By the common recipe, with nothing restricted."""
    taken = facts_.take(phone.device, RECIPE, Unrestricted(), now_ms=NOW_MS)
    found = explain(item, rank(taken, RECIPE, elsewhere=elsewhere or Elsewhere()))
    assert found is not None
    return found


def test_each_reason_names_its_device_and_time() -> None:
    """A rating of one device and score shares of both, each with its own clock's time."""
    first = first_phone(Service())
    second = pair(first, "b")
    first.device.put("taste", "thai", 5, now_ms=NOW_MS + 1)
    first.device.add_score("taste", "thai", 2, now_ms=NOW_MS + 2)
    second.device.add_score("taste", "thai", 3, now_ms=NOW_MS + 3)
    settle(first, second)
    for phone in (first, second):
        reasons = why(phone, "thai").reasons
        assert [(one.sort, one.devices, one.at_ms) for one in reasons] == [
            ("score", (1,), NOW_MS + 3),
            ("score", (0,), NOW_MS + 2),
            ("setting", (0,), NOW_MS + 1),
        ]
        assert not any(one.waiting for one in reasons)
        assert by_signal(why(phone, "thai")) == {"taste": pytest.approx(6 / 7)}


def test_what_waits_here_is_said_to() -> None:
    """Until it is sent, an edit is this device's and waiting; then it is no more."""
    phone = first_phone(Service())
    phone.device.put("taste", "thai", 5, now_ms=NOW_MS + 7)
    [reason] = why(phone, "thai").reasons
    assert (reason.waiting, reason.devices, reason.at_ms) == (True, (0,), NOW_MS + 7)
    phone.poke()
    [reason] = why(phone, "thai").reasons
    assert (reason.waiting, reason.devices, reason.at_ms) == (False, (0,), NOW_MS + 7)


def test_a_change_of_keys_does_not_change_who_is_named() -> None:
    """After a rotation a record is a copy by who rotated, and of the old one only a stub is left:
    all that may have written it are named, with its own time. Who copied what they wrote
    themselves is named alone, and so is who writes anew."""
    first = first_phone(Service())
    second = pair(first, "b")
    first.device.put("taste", "lao", 4, now_ms=NOW_MS + 4)
    settle(first, second)
    second.device.put("taste", "thai", 5, now_ms=NOW_MS + 5)
    settle(first, second)
    first.device.rotate()
    settle(first, second)
    second.device.put("taste", "polish", 3, now_ms=NOW_MS + 6)
    settle(first, second)
    expected = {
        "lao": Origin((0,), NOW_MS + 4),
        "thai": Origin((0, 1), NOW_MS + 5),
        "polish": Origin((1,), NOW_MS + 6),
    }
    for phone in (first, second):
        origins = phone.device.origins
        assert {key: origins.setting("taste", key) for key in expected} == expected
    assert expected["thai"].device is None
    [reason] = why(first, "thai").reasons
    assert reason.devices == (0, 1)


def test_the_newest_writer_is_the_one_that_is_named() -> None:
    """Who overwrote a setting is its origin, on every device."""
    first = first_phone(Service())
    second = pair(first, "b")
    first.device.put("taste", "thai", 2, now_ms=NOW_MS + 1)
    settle(first, second)
    second.device.put("taste", "thai", 4, now_ms=NOW_MS + 2)
    settle(first, second)
    expected = Origin((1,), NOW_MS + 2)
    assert [one.device.origins.setting("taste", "thai") for one in (first, second)] == [
        expected
    ] * 2
    assert expected.device == 1


def test_what_is_not_from_the_profile_says_so() -> None:
    """Popularity names its result, and a model its feature; neither names a device."""
    phone = first_phone(Service())
    elsewhere = Elsewhere(
        {"thai": Prior(0.5, 3, "popular/cuisine-by-cohort")},
        {"thai": [Influence("evening", 0.8), Influence("bias", -0.2)]},
    )
    told = why(phone, "thai", elsewhere)
    assert {(one.sort, one.signal, one.devices) for one in told.reasons} == {
        ("popularity", "popular/cuisine-by-cohort", ()),
        ("model", "evening", ()),
        ("model", "bias", ()),
    }
    assert sum(one.amount for one in told.reasons) == pytest.approx(told.score)
    assert [one.data()["amount"] for one in told.reasons] == [one.amount for one in told.reasons]


@pytest.mark.parametrize("reach", sorted(REACHES))
def test_how_far_each_signal_gets_is_told(reach: str) -> None:
    """Stays, syncs, or may be counted: as its declaration says."""

    class Declared:
        def use_of(self, kind: str, collection: str, key: str) -> Use | None:
            return Use("food-likes", reach) if (kind, key) == ("score", "thai") else None

    phone = first_phone(Service())
    phone.device.add_score("taste", "thai", 1, now_ms=NOW_MS)
    taken = facts_.take(phone.device, RECIPE, Declared(), now_ms=NOW_MS)
    told = explain("thai", rank(taken, RECIPE))
    assert told is not None
    assert [(one.signal, one.reach) for one in told.reasons] == [("food-likes", REACHES[reach])]


def test_what_is_hidden_or_unknown_has_no_explanation() -> None:
    """There is no place to explain; and nothing of a value is in any repr."""
    phone = first_phone(Service())
    phone.device.put("taste", "thai", 5, now_ms=NOW_MS)
    phone.device.add_member("taste.hidden", "thai", now_ms=NOW_MS)
    taken = facts_.take(phone.device, RECIPE, Unrestricted(), now_ms=NOW_MS)
    ranking = rank(taken, RECIPE)
    assert explain("thai", ranking) is None
    assert explain("lao", ranking) is None
    phone.device.put("taste", "lao", 4, now_ms=NOW_MS)
    for secretive in (taken, ranking, why(phone, "lao"), why(phone, "lao").reasons):
        assert "lao" not in repr(secretive)
        assert "thai" not in repr(secretive)
