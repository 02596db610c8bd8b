"""The policy bundle: one form, signed by the pinned publisher, sound as a whole or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings, strategies as st

from crypto import canonical
from crypto.errors import FormatError, SignatureError
from crypto.policy import FIRST, Bundle, decode, document, flags, open_
from crypto.policy.access import Access, Grant, Role
from crypto.policy.cohorts import CohortRule, Comparison, Op, When
from crypto.policy.flags import Flag
from crypto.policy.generalise import Bucket, Day, Round, TopK
from crypto.policy.signals import Reach, Signal, check_apart
from crypto.policy.tasks import KINDS
from crypto.policy.values import (
    Boolean,
    Choices,
    Delta,
    Members,
    Number,
    Text,
    Values,
    Vector,
    Whole,
)
from crypto.primitives import hash_
from mpc import kinds
from mpc.keys import PublisherKey
from tests.policy_samples import MICRO, PUBLISHER_SEED, bundle, signal

PUBLISHER = PublisherKey(PUBLISHER_SEED)
SAMPLE = bundle()


def plain() -> Any:
    """The sample's map, to be changed."""
    return cbor2.loads(SAMPLE.encoded)


def rule_of(change: Callable[[Any], object]) -> str:
    """The rule by which the sample is refused once its map was changed."""
    said = plain()
    change(said)
    with pytest.raises(FormatError) as caught:
        decode(cbor2.dumps(said, canonical=True))
    return caught.value.rule


def test_a_bundle_comes_back_byte_for_byte() -> None:
    """Decoded it is the same bundle; encoded again, the same bytes and the same hash."""
    again = decode(SAMPLE.encoded)
    assert again == SAMPLE
    assert again.encoded == SAMPLE.encoded
    assert again.hash == hash_(b"pss1/policy", SAMPLE.encoded)
    assert open_(SAMPLE.encoded, SAMPLE.sign(PUBLISHER), PUBLISHER.public) == SAMPLE


@settings(deadline=None)
@given(st.integers(0, len(SAMPLE.encoded) - 1), st.integers(0, 7))
def test_any_flipped_bit_is_refused(at: int, bit: int) -> None:
    """One bit of the document flipped, and the signature no longer holds."""
    bad = bytearray(SAMPLE.encoded)
    bad[at] ^= 1 << bit
    with pytest.raises(SignatureError):
        open_(bytes(bad), SAMPLE.sign(PUBLISHER), PUBLISHER.public)


@settings(deadline=None)
@given(st.integers(0, len(SAMPLE.encoded) - 1), st.integers(0, 255))
def test_what_is_read_is_what_was_written(at: int, byte: int) -> None:
    """Whatever a byte becomes: refused by a rule, or a bundle with exactly these bytes."""
    bad = bytearray(SAMPLE.encoded)
    bad[at] = byte
    try:
        read = decode(bytes(bad))
    except FormatError:
        return
    assert read.encoded == bytes(bad)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_other_bytes_are_refused_by_a_rule(data: bytes) -> None:
    """Whatever comes, nothing but FormatError comes out."""
    with pytest.raises(FormatError):
        decode(data)


JUNK = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**63), 2**63), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(deadline=None)
@given(st.data())
def test_a_value_of_any_type_in_any_place_is_refused_by_a_rule(data: st.DataObject) -> None:
    """A field of a wrong type is a FormatError, never a TypeError, wherever it stands."""
    said = plain()
    where: Any = said
    while True:
        steps = sorted(where) if isinstance(where, dict) else list(range(len(where)))
        step = data.draw(st.sampled_from(steps))
        deeper = where[step]
        if isinstance(deeper, dict | list) and deeper and data.draw(st.integers(0, 4)):
            where = deeper
            continue
        where[step] = data.draw(JUNK)
        break
    try:
        raw = canonical.encode(said, depth=document.DEPTH)
        read = decode(raw)
    except FormatError:
        return
    assert read.encoded == raw


def test_another_key_or_other_bytes_are_no_publisher_s() -> None:
    """A bundle of another publisher is refused, and so is a signature of another document."""
    other = PublisherKey(b"\x52" * 32)
    for data, sig in (
        (SAMPLE.encoded, SAMPLE.sign(other)),
        (SAMPLE.encoded, bundle(title="Another").sign(PUBLISHER)),
        (SAMPLE.encoded, PUBLISHER.sign(b"pss1/task-sig", SAMPLE.encoded)),
    ):
        with pytest.raises(SignatureError):
            open_(data, sig, PUBLISHER.public)


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("policy-version", lambda b: b.update(version=2)),
        ("policy-fields", lambda b: b.pop("flags")),
        ("policy-fields", lambda b: b.update(extra=1)),
        ("policy-fields", lambda b: b["signals"][0].update(extra=1)),
        ("policy-fields", lambda b: b["signals"].append("age")),
        ("policy-range", lambda b: b.update(sequence=0)),
        ("policy-previous", lambda b: b.update(sequence=2)),
        ("policy-previous", lambda b: b.update(previous="11" * 32)),
        ("policy-hex", lambda b: b.update(previous="00" * 31)),
        ("policy-hex", lambda b: b.update(assessment="AA" * 32)),
        ("policy-text", lambda b: b.update(title="")),
        ("policy-text", lambda b: b["purposes"][0].update(text="line\nbreak")),
        ("policy-twice", lambda b: b["purposes"].append(b["purposes"][0])),
        ("policy-twice", lambda b: b["access"]["grants"].append(b["access"]["grants"][0])),
        ("policy-count", lambda b: b.update(flags=[dict(b["flags"][0], name=f"f/{n}")
                                                   for n in range(257)])),
        ("policy-type", lambda b: b["purposes"][0].update(intrusive=1)),
        ("policy-word", lambda b: b["signals"][0].update(reach="everybody")),
        ("policy-word", lambda b: b["signals"][0]["values"].update(type="blob")),
        ("policy-range", lambda b: b["signals"][0]["values"].update(low=121)),
        ("policy-range", lambda b: b["signals"][0].update(retention_days=0)),
        ("policy-order", lambda b: b["signals"][0]["generalise"][0].update(edges_micro=[2, 1])),
        ("policy-reserved", lambda b: b["signals"][0].update(collection=".rookery/x")),
        ("name", lambda b: b["signals"][0].update(collection="Big Letters")),
        ("purpose-unknown", lambda b: b["signals"][0].update(purposes=["nothing"])),
        ("purpose-unknown", lambda b: b["tasks"][0].update(purpose="nothing")),
        ("purpose-unknown", lambda b: b["access"]["grants"][0].update(purposes=["nothing"])),
        ("signal-unknown", lambda b: b["tasks"][0].update(signals=["nothing"])),
        ("signal-purpose", lambda b: b["tasks"][0].update(purpose="advice", signals=["taste"])
         or b["signals"][7].update(purposes=["statistics"])),
        ("task-reach", lambda b: b["signals"][6].update(reach="sync")),
        ("task-period", lambda b: b["tasks"][0].update(period_days=3)),
        ("task-period", lambda b: b["tasks"][0].update(micro_rho_a_period=MICRO)),
        ("task-version", lambda b: b["tasks"][0].update(source="app/region/v2")),
        ("task-retention", lambda b: b["tasks"][0].update(result_days=366)),
        ("task-cohort", lambda b: b["tasks"][1].update(cohort="region")),
        ("cohort-unknown", lambda b: b["tasks"][0].update(cohort="nothing")),
        ("signal-unknown", lambda b: b["flags"][0].update(about=["signal", "nothing"])),
        ("flag-kill", lambda b: b["flags"][0].update(percent=50)),
        ("flag-cohort", lambda b: b["flags"][2].update(cohort=["region", "west"])),
        ("task-unknown", lambda b: b["experiments"][0].update(task="ab/nothing")),
        ("experiment-task", lambda b: b["experiments"][0].update(task="app/region")),
        ("access-role", lambda b: b["access"]["grants"][0].update(role="nobody")),
        ("access-method", lambda b: b["access"]["grants"][0].update(method="/other.v1.Sync/*")),
        ("access-identity", lambda b: b["access"]["roles"][1].update(
            identities=["spiffe://*/ns/read"])),
        ("policy-hex", lambda b: b["access"]["roles"][0].update(keys=["61" * 31])),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_its_rule(rule: str, change: Callable[[Any], object]) -> None:
    """Form, bounds and references: each has a rule of its own."""
    assert rule_of(change) == rule


def test_true_is_not_one() -> None:
    """A truth where a number belongs changes the bytes, and is refused."""
    assert rule_of(lambda b: b["flags"][1].update(percent=True)) == "policy-range"
    assert rule_of(lambda b: b.update(version=True)) == "cbor-form"


def test_a_message_says_where_and_repeats_nothing() -> None:
    """The entry is told by its number: what came from outside is not said again."""
    said = plain()
    said["signals"][2]["retention_days"] = 99_999
    said["signals"][2]["name"] = "secret-name"
    with pytest.raises(FormatError) as caught:
        decode(cbor2.dumps(said, canonical=True))
    assert caught.value.message == (
        "signals, number 3: retention_days must be a whole number from 1 to 3660"
    )


@pytest.mark.parametrize(
    ("one", "two", "apart"),
    [
        (("a",), ("b",), True),
        (("a", "b"), ("b", "c"), False),
        (("*",), ("b",), False),
        (("b",), ("*",), False),
        (("*",), ("*",), False),
        (("*",), ("b/c",), True),
    ],
)
def test_no_name_is_two_signals(one: tuple[str, ...], two: tuple[str, ...], apart: bool) -> None:
    """Keys of one collection must be told apart; `*` stands for one segment."""
    pair = tuple(
        signal(name, Boolean(), collection="c", keys=keys)
        for name, keys in (("first", one), ("second", two))
    )
    if apart:
        bundle(signals=(*SAMPLE.signals, *pair))
        return
    with pytest.raises(FormatError) as caught:
        bundle(signals=(*SAMPLE.signals, *pair))
    assert caught.value.rule == "signal-overlap"


KEYS = st.one_of(
    st.just(("*",)),
    st.lists(st.sampled_from(("a", "b", "c/d", "c/e")), min_size=1, unique=True).map(tuple),
)


@settings(deadline=None)
@given(st.lists(KEYS, max_size=5))
def test_signals_are_apart_if_no_name_is_covered_twice(many: list[tuple[str, ...]]) -> None:
    """Told by counting, for every name that there could be, the signals that cover it."""
    some = [
        signal(f"s{at}", Boolean(), collection="c", keys=keys) for at, keys in enumerate(many)
    ]  # fmt: skip
    covered = [
        sum(one.covers("c", key) for one in some) for key in ("a", "b", "c/d", "c/e", "else")
    ]
    if max(covered) <= 1:
        check_apart(some)
        return
    with pytest.raises(FormatError) as caught:
        check_apart(some)
    assert caught.value.rule == "signal-overlap"


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "score"},
        {"kind": "set"},
        {"half_life_days": 3},
        {"generalise": (TopK(3),)},
        {"generalise": (Round(500_000),)},
        {"generalise": (Bucket((0, 1)),)},
    ],
)
def test_a_signal_s_parts_must_suit_each_other(changes: dict[str, Any]) -> None:
    """Values, generalisers and half-life are those that its kind can have."""
    whole = signal("age", Whole(0, 120))
    with pytest.raises(FormatError):
        replace(whole, **changes)


def test_a_time_of_day_is_cut_off_whole_numbers_only() -> None:
    """`day` is for times in whole ms."""
    signal("at", Whole(0, 4_000_000_000_000), generalise=(Day(),))
    with pytest.raises(FormatError):
        signal("at", Number(0, MICRO), generalise=(Day(),))


@pytest.mark.parametrize(
    ("values", "inside", "outside"),
    [
        (Whole(-1, 3), [-1, 0, 3], [-2, 4, 1.0, True, "1", None]),
        (Number(0, 1_500_000), [0, 1, 1.5, 0.1], [-0.1, 1.500001, 1e300, True]),
        (Number(0, 100_000), [0.1], [0.100001, float("nan"), float("inf"), -float("inf")]),
        (Choices(("a", "b")), ["a"], ["c", "", 1, None, ["a"]]),
        (Boolean(), [True, False], [0, 1, "true", None]),
        (Text(3), ["", "abc"], ["abcd", 3, None]),
        (Vector(2, 0, MICRO), [[0, 1.0]], [[0], [0, 2], [0, True], (0, 1), "ab"]),
        (Delta(-MICRO, MICRO, 5 * MICRO), [-1, 0.5], [1.1, "1", None, True]),
        (Members(2), [True], [False, 1, None]),
    ],
)  # fmt: skip
def test_values_are_inside_or_not(values: Any, inside: list[Any], outside: list[Any]) -> None:
    """Bounds count as inside; a value of another type never is."""
    assert all(values.admits(one) for one in inside)
    assert not any(values.admits(one) for one in outside)


def test_the_total_of_a_score_has_a_cap() -> None:
    """On both sides of 0."""
    delta = Delta(-MICRO, MICRO, 5 * MICRO)
    assert delta.admits_total(5)
    assert delta.admits_total(-5.0)
    assert not delta.admits_total(5.000001)
    assert not delta.admits_total(-6)


def test_a_signal_is_found_by_the_names_of_a_record() -> None:
    """By collection and key, and by kind if one is asked for; nothing else is declared."""
    assert SAMPLE.signal_for("score", "taste", "soup") == SAMPLE.signal("taste")
    assert SAMPLE.signal_for("setting", "taste", "soup") is None
    assert SAMPLE.signal_at("taste", "soup/hot") is None
    assert SAMPLE.signal_at("saved", "soup") == SAMPLE.signal("saved")
    assert SAMPLE.signal_at("saved", "stew") is None
    assert SAMPLE.signal_at("elsewhere", "soup") is None


def test_a_task_keeps_to_its_rule() -> None:
    """Declared, for this purpose, of this kind, with as many people and as much noise."""
    fit: dict[str, Any] = {
        "purpose": "statistics", "kind": "histogram", "k_min": 50, "micro_rho": 100_000,
    }  # fmt: skip
    assert SAMPLE.check_task("app/region/v7", **fit) == SAMPLE.task_for("app/region")

    def refused(task_id: str = "app/region", among: Bundle = SAMPLE, **changes: Any) -> str:
        with pytest.raises(FormatError) as caught:
            among.check_task(task_id, **fit | changes)
        return caught.value.rule

    assert refused("app/other") == "task-undeclared"
    assert refused("app/region/v1/v2") == "task-undeclared"
    assert refused(purpose="advice") == "task-purpose"
    assert refused(kind="sum") == "task-kind"
    assert refused(k_min=49) == "task-k-min"
    assert refused(micro_rho=100_001) == "task-noise"
    # A task without noise costs nothing by the book: it is no quieter way out.
    assert refused(micro_rho=0) == "task-noise"
    for about in (("task", "app/region"), ("purpose", "statistics"), ("signal", "region")):
        killed = bundle(flags=(Flag("stop", "kill", about, True, 100, None),))
        assert refused(among=killed) == "task-killed"


def test_kinds_of_tasks_are_those_that_can_be_computed() -> None:
    """The list here, which may not import it, is that of `mpc.kinds`."""
    assert set(KINDS) == set(kinds.KINDS)


def test_a_kill_that_is_on_is_on_for_all() -> None:
    """One that is off stops nothing; one that is on stops what it is about and nothing else."""
    assert not SAMPLE.killed("signal", "region")
    killed = bundle(flags=(replace(SAMPLE.flags[0], on=True),))
    assert killed.killed("signal", "region")
    assert not killed.killed("signal", "taste")
    assert not killed.killed("purpose", "region")


SECRETS = st.binary(min_size=32, max_size=32)


@settings(deadline=None)
@given(SECRETS, st.integers(0, 100), st.integers(0, 100))
def test_who_has_a_feature_keeps_it_when_the_percentage_grows(
    secret: bytes, one: int, other: int
) -> None:
    """For no secret is a feature on at a percentage and off at a larger one."""
    flag = Flag("f", "feature", ("feature", "f"), True, 0, None)
    few, many = sorted((one, other))
    on_at_few = flags.is_on(replace(flag, percent=few), secret, {})
    assert not on_at_few or flags.is_on(replace(flag, percent=many), secret, {})
    assert not flags.is_on(replace(flag, percent=0), secret, {})
    assert flags.is_on(replace(flag, percent=100), secret, {})


def test_a_percentage_is_that_of_the_accounts() -> None:
    """Of 4,000 accounts about a quarter have what 25 percent have; another flag has others."""
    secrets = [hash_(b"test", n.to_bytes(2, "big")) for n in range(4_000)]
    one, two = (Flag(name, "feature", ("feature", "f"), True, 25, None) for name in "ab")
    chosen = [{s for s in secrets if flags.is_on(flag, s, {})} for flag in (one, two)]
    # Five standard deviations of a binomial of 4,000 and 0.25 are 137.
    assert all(abs(len(some) - 1_000) < 137 for some in chosen)
    assert abs(len(chosen[0] & chosen[1]) - 250) < 80


def test_a_feature_is_for_its_cohort_and_not_while_killed() -> None:
    """Other labels, no label, an undeclared flag or a killed feature: it is off."""
    secret = b"\1" * 32
    assert SAMPLE.allows_flag("north", secret=secret, cohorts={"region": "north"})
    assert not SAMPLE.allows_flag("north", secret=secret, cohorts={"region": "south"})
    assert not SAMPLE.allows_flag("north", secret=secret, cohorts={})
    assert not SAMPLE.allows_flag("nothing", secret=secret, cohorts={})
    assert not SAMPLE.allows_flag("stop-region", secret=secret, cohorts={})
    kill = Flag("stop", "kill", ("feature", "winter"), True, 100, None)
    killed = bundle(flags=(*SAMPLE.flags, kill))
    assert not killed.allows_flag("north", secret=secret, cohorts={"region": "north"})


def test_what_no_grant_lists_is_denied() -> None:
    """By role, method and purpose; a call without a purpose asks for none."""
    access = SAMPLE.access
    assert access.allows("device", "/rookery.v1.Sync/Push")
    assert access.allows("publisher", "/rookery.v1.Rounds/PublishTask", "statistics")
    assert not access.allows("publisher", "/rookery.v1.Rounds/PublishTask", "advice")
    assert not access.allows("publisher", "/rookery.v1.Rounds/CollectRound", "statistics")
    assert not access.allows("operator", "/rookery.v1.Sync/Push")
    assert not access.allows("device", "/rookery.v1.Syncing/Push")


def test_consent_is_to_words() -> None:
    """Another text or benefit is another hash; whether it is intrusive changes no word."""
    one = SAMPLE.purposes[0]
    assert one.text_hash != replace(one, text="Other words.").text_hash
    assert one.text_hash != replace(one, benefit="Other words.").text_hash
    assert one.text_hash == replace(one, intrusive=True).text_hash


NAMES = st.text("abcz09._-", min_size=1, max_size=12)


@st.composite
def signals(draw: st.DrawFn) -> Signal:
    """Any signal of the sample's purposes."""
    low, high = sorted(draw(st.tuples(*[st.integers(-(10**9), 10**9)] * 2)))
    some: list[Values] = [
        Whole(low, high), Number(low, high), Boolean(), Text(abs(low) % 4_000 + 1),
        Vector(abs(high) % 4_000 + 1, low, high), Delta(low, high, abs(low) + 1),
        Members(abs(low) % 10_000 + 1), Choices((str(low), "x")),
    ]  # fmt: skip
    return signal(
        draw(NAMES),
        draw(st.sampled_from(some)),
        collection="any/" + draw(NAMES),
        keys=draw(st.one_of(st.just(("*",)), st.lists(NAMES, min_size=1, unique=True).map(tuple))),
        reach=draw(st.sampled_from(Reach)),
        retention_days=draw(st.integers(1, 3_660)),
        text=draw(st.text(min_size=1, max_size=20).filter(str.isprintable)),
    )


@settings(deadline=None)
@given(
    st.lists(signals(), max_size=4, unique_by=(lambda one: one.name, lambda one: one.collection))
)
def test_every_sound_bundle_comes_back(some: list[Signal]) -> None:
    """Whatever signals there are: decode(encode) is the bundle again."""
    made = bundle(signals=tuple(some), tasks=(), flags=(), cohorts=(), experiments=())
    assert decode(made.encoded) == made


@pytest.mark.parametrize(
    ("comparison", "rule"),
    [
        (Comparison("nothing", Op.IS, "a"), "signal-unknown"),
        (Comparison("taste", Op.AT_LEAST, 1), "cohort-key"),
        (Comparison("age", Op.AT_LEAST, 1, "other"), "cohort-key"),
        (Comparison("age", Op.COUNT_AT_LEAST, 1), "cohort-key"),
        (Comparison("region", Op.IS, "west"), "cohort-value"),
        (Comparison("region", Op.IN, ("north", "west")), "cohort-value"),
        (Comparison("region", Op.AT_LEAST, 1), "cohort-value"),
        (Comparison("age", Op.IS, 121), "cohort-value"),
        (Comparison("age", Op.IS, True), "cohort-value"),
        (Comparison("spicy", Op.IS, "yes"), "cohort-value"),
        (Comparison("saved", Op.IS, False, "soup"), "cohort-value"),
        (Comparison("saved", Op.TOP_IN, ("soup",)), "cohort-value"),
    ],
)
def test_a_cohort_compares_what_there_can_be(comparison: Comparison, rule: str) -> None:
    """With a declared signal, a key of its, and a value that it could have."""
    wrong = CohortRule("wrong", 1, (When("a", True, (comparison,)),), "b")
    with pytest.raises(FormatError) as caught:
        bundle(cohorts=(*SAMPLE.cohorts, wrong))
    assert caught.value.rule == rule


def test_no_secret_is_in_a_bundle_s_form() -> None:
    """Roles hold public keys and identities; the first bundle has none before it."""
    assert SAMPLE.previous == FIRST
    assert Access((Role("operator", (), ("61" * 32,)),), SAMPLE.access.grants[:1]).as_map() == {
        "roles": [{"name": "operator", "identities": [], "keys": ["61" * 32]}],
        "grants": [Grant("device", "/rookery.v1.Sync/*", ("*",)).as_map()],
    }
