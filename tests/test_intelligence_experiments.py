"""Experiments on the device: the same variant everywhere, fairly drawn, and told by one report."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from client.device import Device
from client.errors import UserError
from client.intelligence import exposures
from client.intelligence.experiments import Experiments, assign
from client.intelligence.exposures import Exposure
from client.measure.errors import Ineligible
from crypto.errors import FormatError
from crypto.field import FIELD61
from crypto.policy.experiments import ExperimentRule
from crypto.policy.generalise import DAY_MS
from mpc.kinds import Experiment, Mean
from mpc.noise import Law, Mechanism
from mpc.task import Task
from tests.client_worlds import Service, first_phone, pair, settle
from tests.intelligence_worlds import HOME_FIRST, TRIAL
from tests.judge_worlds import NOW_MS
from tests.measure_worlds import meter, opened, summed
from tests.relay_worlds import manifest, task

ACCOUNTS = 4_000
RNG = random.Random("accounts")
SECRETS = [RNG.randbytes(32) for _ in range(ACCOUNTS)]


def rule(**changes: Any) -> ExperimentRule:
    """The experiment of these tests, changed."""
    return replace(HOME_FIRST, **changes)


def drawn(made: ExperimentRule) -> list[int | None]:
    """Of all accounts."""
    return [assign(secret, made) for secret in SECRETS]


@pytest.mark.parametrize("variants", [2, 3, 7])
def test_variants_are_drawn_evenly(variants: int) -> None:
    """The counts are within what chance does to fair draws (chi-square, far in its tail)."""
    made = drawn(rule(variants=tuple(f"v{at}" for at in range(variants))))
    expected = ACCOUNTS / variants
    square = sum((made.count(at) - expected) ** 2 / expected for at in range(variants))
    assert None not in made
    assert square < {2: 10.8, 3: 13.8, 7: 22.5}[variants]  # passed once in a thousand


def test_another_name_draws_everybody_anew() -> None:
    """Two experiments' variants have nothing to do with each other."""
    first, second = drawn(rule()), drawn(rule(name="another"))
    both = sum(one == other for one, other in zip(first, second, strict=True))
    assert abs(both / ACCOUNTS - 0.5) < 0.03


def test_a_larger_share_keeps_who_was_in() -> None:
    """From a tenth to a half: about as many as asked are in, nobody leaves or changes variant,
    and who is in has nothing to do with the variant."""
    tenth, half = drawn(rule(percent=10)), drawn(rule(percent=50))
    assert abs(sum(one is not None for one in tenth) / ACCOUNTS - 0.1) < 0.02
    assert abs(sum(one is not None for one in half) / ACCOUNTS - 0.5) < 0.03
    assert all(one in (None, other) for one, other in zip(tenth, half, strict=True))
    assert abs(half.count(1) / sum(one is not None for one in half) - 0.5) < 0.04
    assert drawn(rule(percent=0)) == [None] * ACCOUNTS


def test_a_secret_has_32_bytes() -> None:
    """A short one is refused: it could be guessed."""
    with pytest.raises(FormatError):
        assign(b"short", HOME_FIRST)


# --- on devices ---


class On:
    """A switch."""

    def __init__(self) -> None:
        self.on = True

    def __call__(self, _: ExperimentRule) -> bool:
        return self.on


def of(device: Device, *rules: ExperimentRule, switch: On | None = None) -> Experiments:
    """A device's experiments."""
    return Experiments(device, rules or (HOME_FIRST,), switch or On())


def test_all_devices_of_an_account_show_one_variant() -> None:
    """Of fifteen accounts, each with two devices: they agree, and not all accounts are alike."""
    seen = set()
    for number in range(15):
        first = first_phone(Service(f"service {number}"), seed=f"account {number}")
        second = pair(first, f"other {number}")
        settle(first, second)
        variants = {of(one.device).variant("home-first") for one in (first, second)}
        assert len(variants) == 1
        seen |= variants
    assert seen == set(HOME_FIRST.variants)


def test_outcomes_of_all_devices_are_one_account_s() -> None:
    """Each device that showed the variant adds its own; after a sync all see the sum."""
    first = first_phone(Service())
    second = pair(first, "b")
    settle(first, second)
    for phone, amount in ((first, 2), (second, 5)):
        one = of(phone.device)
        one.expose("home-first", now_ms=NOW_MS)
        assert one.outcome("home-first", amount, now_ms=NOW_MS + 1)
        assert one.outcome("home-first", 1, now_ms=NOW_MS + 2)
    settle(first, second)
    assert [of(phone.device).total("home-first") for phone in (first, second)] == [9, 9]


def test_what_was_not_shown_does_not_count() -> None:
    """An outcome before the exposure, or while the purpose is off, is not kept; showing the
    variant again loses nothing."""
    device, switch = first_phone(Service()).device, On()
    one = of(device, switch=switch)
    assert not one.outcome("home-first", 3, now_ms=NOW_MS)
    assert one.total("home-first") is None
    one.expose("home-first", now_ms=NOW_MS)
    assert one.outcome("home-first", 3, now_ms=NOW_MS)
    one.expose("home-first", now_ms=NOW_MS + 1)
    assert one.total("home-first") == 3
    switch.on = False
    assert not one.outcome("home-first", 4, now_ms=NOW_MS)
    assert one.total("home-first") is None
    assert one.variant("home-first") == "as-before"
    assert one.expose("home-first", now_ms=NOW_MS) == "as-before"
    switch.on = True
    assert one.total("home-first") == 3


def test_an_outcome_stays_in_the_range_that_the_policy_declares() -> None:
    """Of each device, and of all together: beyond it, adding adds nothing."""
    first = first_phone(Service())
    second = pair(first, "b")
    settle(first, second)
    made = rule(outcome_low=-2, outcome_high=5)
    for phone in (first, second):
        one = of(phone.device, made)
        one.expose("home-first", now_ms=NOW_MS)
        for _ in range(3):
            assert one.outcome("home-first", 4, now_ms=NOW_MS)
        [(_, kept)] = [row for row in exposures.records(phone.device) if row[1].outcome]
        assert kept.outcome == 5
    settle(first, second)
    assert of(first.device, made).total("home-first") == 5
    narrower = of(first.device, rule(outcome_high=3))
    assert narrower.total("home-first") == 3
    for _ in range(5):
        of(first.device, made).outcome("home-first", -5, now_ms=NOW_MS)
    assert exposures.own(first.device, "home-first") == Exposure(kept.variant, NOW_MS, -2)


def test_an_outcome_is_over_after_its_days() -> None:
    """From the exposure on: then it neither grows nor is told."""
    device = first_phone(Service()).device
    one = of(device, rule(days=2))
    one.expose("home-first", now_ms=NOW_MS)
    last_ms = NOW_MS + 2 * DAY_MS - 1
    assert one.outcome("home-first", 3, now_ms=last_ms)
    assert one.total("home-first", now_ms=last_ms) == 3
    assert not one.outcome("home-first", 3, now_ms=last_ms + 1)
    assert one.total("home-first", now_ms=last_ms + 1) is None
    assert one.measure(trial(), device, now_ms=last_ms) is not None
    assert one.measure(trial(), device, now_ms=last_ms + 1) is None


@pytest.mark.parametrize(
    "changes",
    [{"outcome_low": 1}, {"outcome_high": -1}, {"days": 0}, {"outcome_high": 1 << 41}],
    ids=str,
)
def test_bounds_that_make_no_sense_are_refused(changes: dict[str, int]) -> None:
    """Nothing has come of what was just shown: 0 is always in the range."""
    with pytest.raises(FormatError, match="whole number"):
        rule(**changes)


def test_usual_bounds_are_left_out_of_what_is_signed() -> None:
    """Other ones are in it, and read again."""
    assert rule().plain().keys().isdisjoint({"outcome_low", "outcome_high", "days"})
    made = rule(outcome_low=-1, outcome_high=9, days=30)
    assert made.plain()["days"] == 30
    assert ExperimentRule.of(made.plain()) == made


def test_without_consent_nothing_is_recorded() -> None:
    """Asking and showing leave no record behind: there is nothing to store."""
    device, switch = first_phone(Service()).device, On()
    switch.on = False
    device.take_changes()
    one = of(device, switch=switch)
    assert one.expose("home-first", now_ms=NOW_MS) == "as-before"
    assert not one.takes_part("home-first")
    assert not device.take_changes()


def test_who_is_not_in_sees_the_first_variant_uncounted() -> None:
    """At zero percent nobody is in, whatever they do."""
    one = of(first_phone(Service()).device, rule(percent=0))
    assert one.expose("home-first", now_ms=NOW_MS) == "as-before"
    assert not one.outcome("home-first", 1, now_ms=NOW_MS)


def test_records_of_another_set_of_variants_do_not_count() -> None:
    """A rule that changed under its name does not mix what was shown before with what is now."""
    device = first_phone(Service()).device
    before = of(device)
    before.expose("home-first", now_ms=NOW_MS)
    before.outcome("home-first", 7, now_ms=NOW_MS)
    after = of(device, rule(variants=("x", "y")))
    assert after.total("home-first") is None
    after.expose("home-first", now_ms=NOW_MS)
    assert after.total("home-first") == 0


def test_records_go_with_their_experiment() -> None:
    """Those of one are forgotten, and on every device of the account."""
    first = first_phone(Service())
    second = pair(first, "b")
    settle(first, second)
    other = rule(name="other/one")
    for phone in (first, second):
        for name in ("home-first", "other/one"):
            both = of(phone.device, HOME_FIRST, other)
            both.expose(name, now_ms=NOW_MS)
            both.outcome(name, 1, now_ms=NOW_MS)
    settle(first, second)
    gone = exposures.forget(second.device, "home-first".__eq__, now_ms=NOW_MS)
    assert sorted(gone) == ["home-first/0", "home-first/1"]
    settle(first, second)
    both = of(first.device, HOME_FIRST, other)
    assert both.total("home-first") is None
    assert both.total("other/one") == 2
    assert exposures.forget(first.device, "home-first".__eq__, now_ms=NOW_MS) == []


def test_bad_use_is_told() -> None:
    """An unknown name, an outcome that is no whole number or beyond all bounds."""
    one = of(first_phone(Service()).device)
    with pytest.raises(UserError, match="no experiment"):
        one.variant("away-first")
    one.expose("home-first", now_ms=NOW_MS)
    wrong: list[Any] = [1.5, True, 101, -101]
    for amount in wrong:
        with pytest.raises(UserError, match="whole number"):
            one.outcome("home-first", amount, now_ms=NOW_MS)
    with pytest.raises(UserError, match="120 characters"):
        of(first_phone(Service()).device, rule(name="x" * 121)).expose("x" * 121, now_ms=NOW_MS)


# --- told ---


def trial(name: str = TRIAL, high: int = 20) -> Task:
    """Its task, with bounds and noise that stand in no device's way."""
    kind = Experiment(FIELD61, 2, HOME_FIRST.variants, 0, high)
    return task(name, kind=kind, kappa=1, noise=Law(Mechanism.GAUSSIAN, 2_000_000))


@pytest.mark.parametrize(("amount", "told"), [(6, 6), (-3, 0), (90, 20)])
def test_one_report_says_variant_and_outcome(amount: int, told: int) -> None:
    """What the parties together open is the variant's count, and the outcome in its bounds."""
    one = meter("trial")
    experiments = of(one.device)
    variant = experiments.expose("home-first", now_ms=one.now_ms)
    experiments.outcome("home-first", amount, now_ms=one.now_ms)
    made = trial()
    one.measures.register(made.task_id, experiments.measure)
    round_ = manifest(made, one.now_ms - 1_000)
    sums = summed(made, [opened(made, round_, one.answer(made, round_))])
    assert isinstance(made.kind, Experiment)
    groups = made.kind.decode(sums, 1)
    shown = HOME_FIRST.variants.index(variant)
    assert [int(group.count) for group in groups.groups] == [int(at == shown) for at in (0, 1)]
    assert groups.groups[shown].total == told


def test_a_task_that_is_not_its_own_is_not_answered() -> None:
    """Another task: nothing to say. Its own with other variants or of another kind: refused."""
    device = first_phone(Service()).device
    experiments = of(device)
    experiments.expose("home-first", now_ms=NOW_MS)
    assert experiments.measure(trial("ab/else"), device, now_ms=NOW_MS) is None
    said = experiments.measure(trial(f"{TRIAL}/v2"), device, now_ms=NOW_MS)
    assert said == {"variant": experiments.variant("home-first"), "value": 0}
    others = Experiment(FIELD61, 2, ("a", "b"), 0, 20)
    for kind in (others, Mean(FIELD61, 0, 20, False)):
        with pytest.raises(Ineligible) as refused:
            experiments.measure(replace(trial(), kind=kind), device, now_ms=NOW_MS)
        assert refused.value.rule == "experiment"
