"""What has had its time by the policy is removed, on every device, whatever their clocks say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from client.governed.expiry import UNDECLARED_MS
from client.governed.gate import PolicyGate
from client.profile import Name
from crypto.policy import Bundle
from crypto.policy.generalise import DAY_MS, TopK
from crypto.policy.signals import Reach
from crypto.policy.values import Choices, Text
from tests.client_worlds import Phone, Service, first_phone, pair, settle
from tests.governed_devices import told
from tests.policy_samples import bundle
from tests.test_governed_gate import Person

KEYS = ("spicy", "soup", "dish")
DAYS = 90
"""The retention of the sample's signals."""
POLICY = bundle()


class World:
    """Two governed devices, a service, and clocks that can be set apart."""

    def __init__(self) -> None:
        self.service = Service()
        self.a = first_phone(self.service)
        self.b = pair(self.a, "b")
        self.policy = POLICY
        self.start_ms = self.a.now_ms
        self.ahead_ms: dict[int, int] = {}
        self.govern()

    def govern(self) -> None:
        for phone in (self.a, self.b):
            phone.device.govern(PolicyGate(lambda: self.policy, Person()))

    def at_day(self, days: float) -> None:
        """All clocks, each as far ahead as it is."""
        self.service.now_ms = self.start_ms + round(days * DAY_MS)
        for phone in (self.a, self.b):
            phone.now_ms = self.service.now_ms + self.ahead_ms.get(id(phone), 0)

    def set_ahead(self, phone: Phone, days: float) -> None:
        self.ahead_ms[id(phone)] = round(days * DAY_MS)
        phone.now_ms = self.service.now_ms + self.ahead_ms[id(phone)]

    def sync(self, *phones: Phone) -> None:
        """As a governed device does: catch up, compare, remove what is over, send that."""
        for phone in phones or (self.a, self.b):
            phone.poke()
            phone.device.check_in()
            phone.sync()
            phone.device.expire(self.policy, now_ms=phone.now_ms)
            phone.store()
            phone.sync()

    def write(self, phone: Phone) -> None:
        """A setting, a member and a score."""
        now_ms = phone.now_ms
        phone.device.put("app", "spicy", True, now_ms=now_ms)
        phone.device.add_member("saved", "soup", now_ms=now_ms)
        phone.device.add_score("taste", "soup", 1, now_ms=now_ms)
        phone.store()

    def held(self, phone: Phone) -> tuple[object, ...]:
        """Whether the policy declares it or not."""
        device = phone.device
        scores = device.scores("taste", now_ms=self.service.now_ms, undeclared=True)
        is_spicy = device.get("app", "spicy", undeclared=True)
        return is_spicy, frozenset(device.list("saved", undeclared=True)), scores


NOTHING: tuple[object, ...] = (None, frozenset(), {})


@pytest.fixture
def world() -> World:
    return World()


def test_what_is_past_its_time_is_removed_from_every_device(world: World) -> None:
    """Not a day before, and by tombstones: a device that is added later gets none of it."""
    world.write(world.a)
    world.sync()
    world.sync()
    world.at_day(DAYS - 1)
    world.sync()
    assert world.held(world.b)[:2] == (True, {"soup"})
    world.at_day(DAYS)
    world.sync()
    world.sync()
    assert world.held(world.a) == world.held(world.b) == NOTHING
    late = pair(world.a, "late")
    late.sync()
    assert world.held(late) == NOTHING


def test_writing_again_begins_the_time_anew(world: World) -> None:
    """Retention counts from the last writing."""
    world.write(world.a)
    world.at_day(DAYS - 1)
    world.write(world.a)
    world.at_day(DAYS + 5)
    world.sync()
    assert world.held(world.a)[:2] == (True, {"soup"})


def test_two_devices_that_remove_the_same_at_once_agree(world: World) -> None:
    """Neither has seen the other's tombstone when it makes its own."""
    world.write(world.a)
    world.sync()
    world.at_day(DAYS)
    for phone in (world.a, world.b):
        phone.poke()
        phone.device.check_in()
        phone.sync()
    for phone in (world.a, world.b):
        phone.device.expire(world.policy, now_ms=phone.now_ms)
        phone.store()
    settle(world.a, world.b)
    assert world.held(world.a) == world.held(world.b) == NOTHING
    assert world.a.alarms == world.b.alarms == []


def test_a_device_that_slept_for_a_year_removes_what_is_over_when_it_wakes(world: World) -> None:
    """Its part of a score too, which no other device may remove and none has counted since."""
    world.write(world.b)
    world.sync()
    world.at_day(DAYS)
    world.sync(world.a)
    assert world.held(world.a) == NOTHING
    part = Name("taste", "soup#1")
    assert world.a.device._core.profile.find(part).value is not None  # type: ignore[union-attr]
    world.at_day(365)
    world.sync()
    world.sync()
    assert world.held(world.b) == NOTHING
    assert world.a.device._core.profile.find(part).value is None  # type: ignore[union-attr]
    assert world.a.alarms == world.b.alarms == []


def test_edits_of_a_year_without_a_network_are_over_before_they_count(world: World) -> None:
    """What waited for too long is sent as a tombstone, if at all."""
    world.write(world.b)
    world.at_day(365)
    world.sync(world.b)
    world.sync(world.b, world.a)
    assert world.held(world.a) == world.held(world.b) == NOTHING


def test_a_clock_that_is_ahead_removes_nothing_that_others_need(world: World) -> None:
    """The service's newest signed time bounds what a device takes for over."""
    world.write(world.a)
    world.sync()
    world.set_ahead(world.b, 1_000)
    world.at_day(1)
    world.sync()
    world.sync()
    assert world.held(world.a)[:2] == (True, {"soup"})


def test_a_service_that_is_ahead_removes_nothing_either(world: World) -> None:
    """Of the two times the earlier one counts."""
    world.write(world.a)
    world.sync()
    world.service.now_ms += 1_000 * DAY_MS
    world.sync()
    assert world.a.device.get("app", "spicy") is True


def test_what_a_clock_that_was_ahead_wrote_counts_from_when_it_was_seen(world: World) -> None:
    """It would stand for years otherwise; across a restart too."""
    world.set_ahead(world.a, 1_000)
    world.write(world.a)
    world.sync()
    world.sync()
    world.set_ahead(world.a, 0)
    for phone in (world.a, world.b):
        phone.reload()
    world.govern()
    world.at_day(DAYS - 1)
    world.sync()
    assert world.held(world.b)[:2] == (True, {"soup"})
    world.at_day(DAYS)
    world.sync()
    world.sync()
    assert world.held(world.a) == world.held(world.b) == NOTHING


def test_writing_again_with_a_clock_that_is_ahead_begins_anew_too(world: World) -> None:
    """What is seen first is a time of one writing, not of its name."""
    world.set_ahead(world.a, 1_000)
    world.write(world.a)
    world.sync()
    world.at_day(DAYS - 1)
    world.write(world.a)
    world.sync()
    world.at_day(DAYS + 5)
    world.sync()
    assert world.held(world.b)[:2] == (True, {"soup"})


def test_what_stays_on_the_device_is_removed_there(world: World) -> None:
    """Without any op."""
    world.a.device.put("app", "note", "moonlit heron", now_ms=world.a.now_ms)
    world.a.store()
    world.at_day(DAYS - 1)
    world.sync()
    assert world.a.device.get("app", "note") == "moonlit heron"
    world.at_day(DAYS)
    world.sync()
    assert world.a.device.get("app", "note") is None
    assert not any(name.key == "note" for name in told(world.a))
    assert not any("note" in name for name in world.a.rows)


def without(policy: Bundle, name: str) -> Bundle:
    signals = tuple(row for row in policy.signals if row.name != name)
    return replace(policy, signals=signals, tasks=(), cohorts=(), experiments=(), flags=())


def test_what_is_declared_no_more_stands_until_an_error_could_be_put_right(world: World) -> None:
    """For thirty days, counted anew if it was declared again in between."""
    world.write(world.a)
    world.sync()
    world.policy = without(POLICY, "spicy")
    world.at_day(1)
    world.sync()
    days = UNDECLARED_MS // DAY_MS
    world.at_day(days)
    world.sync()
    assert world.held(world.a)[0] is True
    world.policy = POLICY
    world.sync()
    world.policy = without(POLICY, "spicy")
    world.at_day(days + 1)
    world.sync()
    assert world.held(world.a)[0] is True
    world.at_day(2 * days + 2)
    world.sync()
    world.sync()
    assert world.held(world.a)[:2] == world.held(world.b)[:2] == (None, {"soup"})


def test_what_may_sync_no_more_is_taken_out_of_the_account(world: World) -> None:
    """A signal whose reach was narrowed to the device."""
    world.write(world.a)
    world.sync()
    world.policy = replace(without(POLICY, ""), signals=tuple(
        replace(row, reach=Reach.DEVICE) if row.name == "spicy" else row
        for row in POLICY.signals
    ))  # fmt: skip
    world.sync()
    world.at_day(UNDECLARED_MS // DAY_MS + 1)
    world.sync()
    world.sync()
    assert world.held(world.b)[0] is None
    world.a.device.put("app", "spicy", False, now_ms=world.a.now_ms)
    assert world.held(world.a)[0] is False


def changed(policy: Bundle, name: str, **changes: Any) -> Bundle:
    """Where one signal is declared otherwise."""
    signals = tuple(replace(row, **changes) if row.name == name else row for row in policy.signals)
    return replace(policy, signals=signals)


def test_what_was_recorded_under_a_finer_policy_becomes_as_coarse_as_the_new_one(
    world: World,
) -> None:
    """On all devices, by one tombstone-free edit of the same age: its retention goes on."""
    world.policy = changed(POLICY, "distance", generalise=())
    world.govern()
    world.a.device.put("app", "distance", 12.345678, now_ms=world.a.now_ms)
    world.a.store()
    world.sync()
    world.policy = POLICY
    world.at_day(5)
    world.sync()
    world.sync()
    edits = len(world.a.pushes) + len(world.b.pushes)
    world.sync()
    assert len(world.a.pushes) + len(world.b.pushes) == edits, "it is done once"
    for phone in (world.a, world.b):
        assert phone.device.get("app", "distance") == 12.5
        assert phone.device._core.profile.find(Name("app", "distance")).wall_ms == world.start_ms  # type: ignore[union-attr]
    world.at_day(DAYS)
    world.sync()
    assert world.a.device.get("app", "distance") is None


def test_what_a_narrower_policy_does_not_admit_any_more_is_removed_later(world: World) -> None:
    """As what it does not declare: thirty days are left to put a policy right."""
    world.a.device.put("app", "region", "north", now_ms=world.a.now_ms)
    world.a.device.put("app", "note", "a long note", now_ms=world.a.now_ms)
    world.a.store()
    world.sync()
    world.policy = changed(changed(without(POLICY, ""), "region", values=Choices(("south",))),
                           "note", values=Text(3))  # fmt: skip
    world.sync()
    world.at_day(UNDECLARED_MS // DAY_MS - 1)
    world.sync()
    assert world.a.device.list("app") == {"region": "north", "note": "a long note"}
    world.at_day(UNDECLARED_MS // DAY_MS)
    world.sync()
    world.sync()
    assert world.a.device.list("app") == world.b.device.list("app") == {}


def test_the_part_of_a_removed_device_ends_with_the_epochs_that_it_stands_in(world: World) -> None:
    """Nobody may remove it, so that the first rotation after its time does not publish it again;
    until then every rotation does."""
    world.write(world.b)
    world.sync()
    b, a = world.b.device.identity.device_id, world.a
    part = Name("taste", "soup#1")
    a.device.rotate([b])
    world.sync(a)
    world.at_day(DAYS - 1)
    a.device.rotate()
    world.sync(a)
    assert a.device._core.profile.find(part).order.epoch == 3  # type: ignore[union-attr]
    world.at_day(DAYS + 1)
    world.sync(a)  # the service's signed time has to have come so far, too
    assert a.device.score("taste", "soup", now_ms=a.now_ms) == 0
    a.device.rotate()
    for days in (2, 40, 41):
        world.at_day(DAYS + days)
        world.sync(a)
    assert a.alarms == []
    a.reload()
    world.govern()
    world.service.drop_epoch(3)
    late = pair(a, "late")
    late.sync()
    for phone in (a, late):
        assert phone.device._core.profile.find(part) is None
        assert phone.alarms == []


def test_what_two_devices_brought_to_more_than_top_k_is_brought_back(world: World) -> None:
    """Each of them kept its own five."""
    for phone, dishes in ((world.a, "abcde"), (world.b, "vwxyz")):
        for size, dish in enumerate(dishes, start=1):
            phone.device.add_score("taste", dish, size / 10, now_ms=phone.now_ms)
        phone.store()
    for _ in range(3):
        world.sync()
    (most,) = [one.k for row in POLICY.signals for one in row.generalise if isinstance(one, TopK)]
    for phone in (world.a, world.b):
        scores = phone.device.scores("taste", now_ms=phone.now_ms)
        assert len(scores) == most
        assert scores.keys() >= {"e", "z"}


def test_a_device_that_never_heard_from_the_service_removes_nothing() -> None:
    """Its own clock alone decides nothing."""
    phone = first_phone(Service())
    phone.device.put("app", "spicy", True, now_ms=phone.now_ms)
    phone.device._core.last_receipt = b""
    phone.device.expire(POLICY, now_ms=phone.now_ms + 1_000 * DAY_MS)
    assert phone.device.get("app", "spicy") is True


# -- whatever the clocks and the order ------------------------------------------------------

_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 1), st.sampled_from(KEYS)),
        st.tuples(st.just("remove"), st.integers(0, 1), st.sampled_from(KEYS)),
        st.tuples(st.just("sync"), st.integers(0, 1), st.none()),
        st.tuples(st.just("later"), st.integers(0, 60), st.none()),
        st.tuples(st.just("ahead"), st.integers(0, 1), st.integers(-200, 400)),
        st.tuples(st.just("rotate"), st.integers(0, 1), st.none()),
        st.tuples(st.just("restart"), st.integers(0, 1), st.none()),
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None)
@given(steps=_STEPS)
def test_devices_agree_and_nothing_stands_past_its_time(steps: list[tuple[str, int, Any]]) -> None:
    """Writes, removals, rotations and restarts in any order, with clocks that are off by months:
    once all have synced they show the same, and after all retention is over, nothing."""
    world, days = World(), 0
    for step, who, what in steps:
        phone = (world.a, world.b)[who % 2]
        match step:
            case "write" if what == "dish":
                phone.device.add_score("taste", what, 0.5, now_ms=max(0, phone.now_ms))
            case "write" if what == "soup":
                phone.device.add_member("saved", what, now_ms=phone.now_ms)
            case "write":
                phone.device.put("app", what, True, now_ms=phone.now_ms)
            case "remove" if what != "dish":
                phone.device.remove("saved" if what == "soup" else "app", what, now_ms=phone.now_ms)
            case "sync":
                world.sync(phone)
            case "later":
                days += who
                world.at_day(days)
            case "ahead":
                world.set_ahead(phone, what)
            case "rotate":
                phone.device.rotate()
            case "restart":
                phone.store()
                phone.reload()
                world.govern()
        phone.store()
    for phone in (world.a, world.b):
        world.set_ahead(phone, 0)
    for _ in range(4):
        world.sync()
    assert world.held(world.a) == world.held(world.b)
    assert world.a.device.list("app") == world.b.device.list("app")
    world.at_day(days + DAYS + UNDECLARED_MS // DAY_MS)
    for _ in range(4):
        world.sync()
    assert world.held(world.a) == world.held(world.b) == NOTHING
    assert world.a.device.collections() == world.b.device.collections() == ()
