"""The gate of a governed device: what the policy does not declare, or stops, is not recorded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from client.errors import ClientError
from client.gate import SignalRefused, Ungoverned
from client.governed.gate import RULES, PolicyGate
from client.pages.privacy import known
from client.profile import part_of
from client.snapshot import take
from client.values import Part, Value, encode
from crypto.op import Verb
from crypto.policy import Bundle
from crypto.policy.flags import Flag
from crypto.policy.generalise import DAY_MS, TopK
from crypto.policy.values import Delta, Members
from tests.client_worlds import Phone, Service, first_phone, pair, settle
from tests.governed_devices import payloads, stored, told
from tests.policy_samples import MICRO, bundle, signal


@dataclass
class Person:
    """What somebody agreed to."""

    granted: set[str] = field(default_factory=lambda: {"advice", "statistics"})
    paused: bool = False

    def allows(self, purpose: str) -> bool:
        return purpose in self.granted


@dataclass
class Governed:
    """A phone under a policy that can be changed at any time."""

    phone: Phone
    policy: Bundle | None = field(default_factory=bundle)
    person: Person = field(default_factory=Person)

    def __post_init__(self) -> None:
        self.reload()

    def reload(self) -> None:
        self.phone.reload()
        self.phone.device.govern(PolicyGate(lambda: self.policy, self.person))

    def write(self, kind: str, collection: str, key: str, value: Any = 1) -> None:
        """As an app does, and stored."""
        device, now_ms = self.phone.device, self.phone.now_ms
        try:
            match kind:
                case "setting":
                    device.put(collection, key, value, now_ms=now_ms)
                case "score":
                    device.add_score(collection, key, value, now_ms=now_ms)
                case _:
                    device.add_member(collection, key, now_ms=now_ms)
        finally:
            self.phone.store()


@pytest.fixture
def one() -> Governed:
    return Governed(first_phone(Service()))


def kill(subject: str, name: str) -> dict[str, Any]:
    return {"flags": (Flag("stop", "kill", (subject, name), True, 100, None),)}


REFUSALS: dict[str, tuple[dict[str, Any], tuple[str, str, str, Any]]] = {
    "no-policy": ({"policy": None}, ("setting", "app", "spicy", True)),
    "undeclared": ({}, ("setting", "app", "height", 180)),
    "kind": ({}, ("score", "app", "spicy", 1)),
    "killed": ({"policy": bundle(**kill("signal", "spicy"))}, ("setting", "app", "spicy", True)),
    "paused": ({"person": Person(paused=True)}, ("setting", "app", "spicy", True)),
    "purpose-off": ({"person": Person(set())}, ("setting", "app", "spicy", True)),
    "range": ({}, ("setting", "app", "spicy", "very")),
    "full": (
        {"policy": bundle(signals=(signal("saved", Members(1), keys=("soup", "cake")),),
                          tasks=(), flags=(), cohorts=(), experiments=())},
        ("set", "app", "cake", True),
    ),
}  # fmt: skip


def test_every_rule_of_the_gate_is_tested() -> None:
    """A rule that is added must be shown to refuse."""
    assert tuple(REFUSALS) == RULES


@pytest.mark.parametrize("rule", REFUSALS)
def test_what_a_rule_refuses_leaves_nothing_and_says_what_to_do(one: Governed, rule: str) -> None:
    """Nothing in the vault, in no op, and no value in the message."""
    changes, write = REFUSALS[rule]
    for name, value in changes.items():
        setattr(one, name, value)
    one.reload()
    if rule == "full":
        one.write("set", "app", "soup")
    before = dict(one.phone.rows)
    with pytest.raises(SignalRefused) as refusal:
        one.write(*write)
    assert refusal.value.rule == rule
    assert f"(rule {rule})" in str(refusal.value)
    assert ":" in str(refusal.value), "it says what to do"
    assert "very" not in str(refusal.value)
    assert one.phone.rows == before


def test_the_first_rule_that_is_missed_is_the_one_that_is_told(one: Governed) -> None:
    """What is undeclared is told so, whatever else stands against it."""
    one.person = Person(set(), paused=True)
    one.reload()
    for rule, write in (
        ("undeclared", ("setting", "app", "height", 180)),
        ("kind", ("score", "app", "spicy", 1)),
        ("paused", ("setting", "app", "spicy", "very")),
    ):
        with pytest.raises(SignalRefused) as refusal:
            one.write(*write)
        assert refusal.value.rule == rule


def test_a_kill_of_every_purpose_stops_a_signal_and_of_one_of_two_does_not(one: Governed) -> None:
    """A signal is recorded as long as anything that it is for goes on."""
    one.policy = bundle(**kill("purpose", "advice"))
    with pytest.raises(SignalRefused, match="rule killed"):
        one.write("setting", "app", "spicy", True)
    one.write("setting", "app", "region", "north")
    one.person.granted = {"advice"}
    with pytest.raises(SignalRefused, match="rule purpose-off"):
        one.write("setting", "app", "region", "south")


def test_a_newer_policy_counts_at_once(one: Governed) -> None:
    """What is killed is recorded again with the first policy that no longer kills it."""
    one.policy = bundle(**kill("signal", "spicy"))
    with pytest.raises(SignalRefused):
        one.write("setting", "app", "spicy", True)
    one.policy = bundle(flags=())
    one.write("setting", "app", "spicy", True)
    assert one.phone.device.get("app", "spicy") is True


EXACT_MS = 1_788_123_456_789


@pytest.mark.parametrize(
    ("key", "exact", "coarse"),
    [
        ("age", 37, 18),
        ("distance", 12.345678, 12.5),
        ("opened", EXACT_MS, EXACT_MS - EXACT_MS % DAY_MS),
    ],
)
def test_only_the_coarse_value_is_ever_stored_or_sent(
    one: Governed, key: str, exact: Value, coarse: Value
) -> None:
    """The exact one is in no row of the vault and in no op, not even as a time of writing."""
    other = Governed(pair(one.phone, "b"))
    one.phone.now_ms = EXACT_MS
    one.write("setting", "app", key, exact)
    one.phone.now_ms += 7  # the device notes for itself when it syncs
    settle(one.phone, other.phone)
    for phone in (one.phone, other.phone):
        assert phone.device.get("app", key) == coarse
        values = [row.value for row in payloads(phone) if row.key == key.encode()]
        assert values == [encode(coarse)] * len(values)
        assert values
        for trace in (encode(exact), str(exact).encode(), repr(exact).encode()):
            # one byte, as a small number is, stands in other things too
            assert len(trace) < 3 or trace not in stored(phone)
        if key == "opened":
            assert EXACT_MS.to_bytes(8, "big") not in stored(phone)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("age", 200),  # whose bucket would be that of 65
        ("age", -1),  # that of 0
        ("distance", 50.2),  # rounds to 50.0
        ("distance", -0.2),
        ("opened", 4_000_000_000_001),  # on the last day that is in the range
        ("age", 18.0),  # no whole number
    ],
)
def test_what_an_app_gives_must_be_in_the_range_before_it_is_made_coarse(
    one: Governed, key: str, value: Value
) -> None:
    """Making coarse hides no value that the policy does not declare; the ends are in it."""
    before = dict(one.phone.rows)
    with pytest.raises(SignalRefused, match="rule range"):
        one.write("setting", "app", key, value)
    assert one.phone.rows == before
    for end, coarse in (("age", 120), 65), (("distance", 50.0), 50.0):
        one.write("setting", "app", *end)
        assert one.phone.device.get("app", end[0]) == coarse


def test_the_search_for_exact_values_finds_one_that_was_not_made_coarse(one: Governed) -> None:
    """So that finding nothing means something."""
    one.policy = bundle(signals=tuple(
        replace(row, generalise=()) if row.name == "distance" else row
        for row in bundle().signals
    ))  # fmt: skip
    one.write("setting", "app", "distance", 12.345678)
    one.phone.sync()
    assert encode(12.345678) in stored(one.phone)


def test_what_the_policy_does_not_declare_shows_to_no_app(one: Governed) -> None:
    """Another device wrote it, one under no policy: it syncs, and reads as absent; the person is
    shown it all the same, and removing it is never refused."""
    other = pair(one.phone, "other")
    other.device.put("app", "height", 180, now_ms=other.now_ms)
    other.device.put("app", "spicy", True, now_ms=other.now_ms)
    other.device.add_member("secrets", "a", now_ms=other.now_ms)
    other.device.add_score("moods", "b", 1, now_ms=other.now_ms)
    other.store()
    settle(other, one.phone)
    device, now_ms = one.phone.device, one.phone.now_ms

    def to_an_app() -> tuple[object, ...]:
        names = (device.get("app", "height"), device.members("secrets"), device.list("app"))
        scores = (device.score("moods", "b", now_ms=now_ms), device.scores("moods", now_ms=now_ms))
        return (*names, *scores, device.collections(), len(take(device, now_ms=now_ms)))

    assert to_an_app() == (None, frozenset(), {"spicy": True}, 0, {}, ("app",), 1)
    assert device.get("app", "height", undeclared=True) == 180
    everything = take(device, now_ms=now_ms, undeclared=True).values()
    assert {item.name for item in everything} == {
        "app/height", "app/spicy", "secrets/a", "moods/b",
    }  # fmt: skip
    rest = known.groups(device, one.policy, {}, now_ms=now_ms)[-1]
    assert rest.name == known.UNDECLARED
    assert {row.key for row in rest.held} == {"height", "a", "b"}
    device.remove("app", "height", now_ms=now_ms)
    assert device.get("app", "height", undeclared=True) is None
    one.policy = None
    assert to_an_app() == (None, frozenset(), {}, 0, {}, (), 0)
    device.govern(Ungoverned())
    assert device.collections() == ("app", "moods", "secrets")


def test_of_scores_only_the_largest_few_stay(one: Governed) -> None:
    """Putting one too many tombstones the smallest, on all devices."""
    other = Governed(pair(one.phone, "b"))
    for at in range(5):
        one.write("score", "taste", f"dish{at}", 1 - at / 10)
    settle(one.phone, other.phone)
    one.write("score", "taste", "newest", 0.1)
    settle(one.phone, other.phone)
    kept = {"dish0", "dish1", "dish2", "dish3", "newest"}
    for phone in (one.phone, other.phone):
        assert set(phone.device.scores("taste", now_ms=phone.now_ms)) == kept
    said = {row.verb for row in payloads(other.phone) if row.key == b"dish4#0"}
    assert said == {Verb.PUT, Verb.TOMBSTONE}


def test_a_score_does_not_grow_beyond_its_cap(one: Governed) -> None:
    """Neither up nor down; and what several devices added counts together."""
    one.policy = bundle(signals=(
        signal("taste", Delta(-3 * MICRO, 3 * MICRO, 4 * MICRO), collection="taste", keys=("*",)),
    ), tasks=(), flags=(), cohorts=(), experiments=())  # fmt: skip
    other = Governed(pair(one.phone, "b"), policy=one.policy)
    for who in (one, other, one):
        who.write("score", "taste", "soup", 3)
        settle(one.phone, other.phone)
    assert other.phone.device.score("taste", "soup", now_ms=0) == 4
    for _ in range(4):
        other.write("score", "taste", "soup", -3)
    assert other.phone.device.score("taste", "soup", now_ms=0) == -4


def test_the_half_life_is_the_policy_s(one: Governed) -> None:
    """Whatever an app asks for, on writing and on reading."""
    one.write("score", "taste", "soup", 1)
    later = one.phone.now_ms + 30 * DAY_MS
    assert one.phone.device.score("taste", "soup", now_ms=later) == 0.5
    assert one.phone.device.score("taste", "soup", now_ms=later, half_life_ms=1) == 0.5


def test_a_signal_of_the_device_is_in_no_op(one: Governed) -> None:
    """It shows here, and nowhere else."""
    other = Governed(pair(one.phone, "b"))
    one.write("setting", "app", "note", "moonlit heron")
    settle(one.phone, other.phone)
    assert one.phone.device.get("app", "note") == "moonlit heron"
    assert other.phone.device.get("app", "note") is None
    assert not any(name.key == "note" for name in (*told(one.phone), *told(other.phone)))
    assert b"moonlit heron" not in stored(other.phone)


# -- whatever an app does -------------------------------------------------------------------

_NAMES = st.sampled_from(
    [(row.collection, key) for row in bundle().signals for key in row.keys if key != "*"]
    + [("taste", f"dish{at}") for at in range(7)]
    + [("app", "height"), ("elsewhere", "spicy"), ("saved", "stone")]
)
_VALUES = st.one_of(
    st.integers(-200, 200), st.integers(-(1 << 63), 1 << 63), st.floats(-60, 60), st.floats(),
    st.booleans(), st.sampled_from(["north", "south", "east"]), st.text(max_size=200), st.none(),
    st.lists(st.floats(-2, 2), min_size=7, max_size=9), st.binary(max_size=4),
)  # fmt: skip
_WRITES = st.lists(
    st.tuples(st.sampled_from(["setting", "score", "set"]), _NAMES, _VALUES), max_size=30
)


@settings(max_examples=60, deadline=None)
@given(writes=_WRITES)
def test_whatever_is_written_what_is_stored_is_what_the_policy_declares(
    writes: list[tuple[str, tuple[str, str], Any]],
) -> None:
    """Undeclared names are in no row and no op; every value is coarse and in range."""
    one = Governed(first_phone(Service()))
    policy = bundle()
    for kind, (collection, key), value in writes:
        try:
            one.write(kind, collection, key, value)
        except (ClientError, TypeError):
            continue
    one.phone.sync()
    one.reload()
    core, device = one.phone.device._core, one.phone.device
    here = {name for name, _ in (*core.local.values(), *core.local.scores())}
    for name in told(one.phone) | here:
        if name.collection.startswith("."):
            continue
        part = part_of(name.key)
        declared = policy.signal_at(name.collection, part[0] if part else name.key)
        assert declared is not None
        is_score = part is not None or core.local.score(name) is not None
        assert (declared.kind == "score") == is_score
        assert (name in here) == (declared.reach == "device")
    for declared in policy.signals:
        if declared.kind == "score":
            totals = device.scores(declared.collection, now_ms=one.phone.now_ms)
            assert len(totals) <= 5
            assert all(declared.values.admits_total(total) for total in totals.values())  # type: ignore[union-attr]
        elif declared.kind == "setting":
            for key in declared.keys:
                held = device.get(declared.collection, key)
                assert held is None or declared.values.admits(held)
                assert declared.generalised(held) == held


def test_what_the_property_relies_on_is_in_the_policy() -> None:
    """The sample has a signal that stays here, one of each kind, and `top_k` of five."""
    signals = bundle().signals
    assert {row.kind for row in signals} == {"setting", "score", "set"}
    assert any(row.reach == "device" for row in signals)
    assert [row.generalise for row in signals if row.kind == "score"] == [(TopK(5),)]
    assert Part(1, 2).encode()
