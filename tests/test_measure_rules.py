"""What a device answers to: each rule by itself, on real tasks and signatures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from client.errors import UserError
from client.measure.policy import DAY_MS, Panel, Policy
from client.rounds import SignedTask
from crypto.field import FIELD31
from mpc.kinds import Count, Histogram
from mpc.noise import Law, Mechanism
from mpc.task import Caps, Task
from tests.measure_worlds import PANEL, POLICY, Meter, meter, published, signed_task
from tests.relay_worlds import (
    PARTIES,
    PUBLISHER,
    RIVAL,
    STRANGER,
    WINDOW_MS,
    manifest,
    task,
)


def open_round(made: Task, one: Meter, seed: object = 0, **changes: Any) -> Any:
    """A round that is open by the device's clock."""
    return manifest(made, one.now_ms - 1_000, seed, **changes)


@pytest.fixture
def one() -> Meter:
    """A device that trusts the publisher and the parties, and allows the purpose."""
    return meter()


def test_a_round_that_misses_no_rule_is_answered(one: Meter) -> None:
    """The others of this file each miss one."""
    made = task()
    assert one.refusal(made, open_round(made, one)) == "-"


def test_a_task_is_answered_only_if_a_pinned_publisher_signed_its_bytes(one: Meter) -> None:
    """An unknown key, whatever the service says; a known one over other bytes; other form."""
    made = task()
    round_ = open_round(made, one)
    good = signed_task(made)
    for signed, rule in (
        (signed_task(made, RIVAL), "publisher"),
        (replace(signed_task(made, RIVAL), publisher=PUBLISHER.public), "signature"),
        (replace(good, sig=bytes(64)), "signature"),
        (replace(good, sig=b""), "signature"),
        (replace(good, body=b"", sig=b""), "length"),
        (SignedTask(signed_task(task("other")).body, good.sig, good.publisher), "signature"),
        (signed_task(task(noise=None)), "noise-none"),
    ):
        assert one.refusal(made, round_, task=signed) == rule


def test_a_task_that_expired_is_not_answered(one: Meter) -> None:
    """By the device's own clock, before anything of a round is asked."""
    made = task(expires_ms=one.now_ms)
    assert one.refusal(made, open_round(made, one)) == "task-expired"


def test_parties_must_be_pinned_and_as_many_must_be_needed_to_look(one: Meter) -> None:
    """Other parties, another order, fewer signatures; a panel that wants more than t + 1."""
    made = task()
    round_ = open_round(made, one)
    three = round_.parties
    strange = replace(round_, parties=(*three[:2], replace(three[2], ik_pk=STRANGER.public)))
    swapped = replace(round_, parties=(three[1], three[0], three[2]))
    for other, by in (
        (strange, (*PARTIES[:2], STRANGER)),
        (swapped, (PARTIES[1], PARTIES[0], PARTIES[2])),
    ):
        assert one.refusal(made, other, round=published(other, by)) == "party-set"
    forged = published(round_, (*PARTIES[:2], STRANGER))
    assert one.refusal(made, round_, round=forged) == "signature"
    assert one.refusal(made, round_, round=published(round_)[:-64]) == "length"
    five = task("five", m=5)
    assert one.refusal(five, round_) == "panel"
    keys = tuple(bytes([number]) * 32 for number in range(5))
    one.measuring.set_policy(POLICY.with_panel(Panel(keys, 2)))
    assert one.refusal(five, round_) == "panel"
    one.measuring.set_policy(POLICY.with_panel(Panel(keys, 1)))
    one.measuring.judge_task(signed_task(five), one.consent, now_ms=one.now_ms)


def test_a_round_of_another_task_or_window_is_not_answered(one: Meter) -> None:
    """What the task says of its rounds is checked again by every device."""
    made = task()
    good = open_round(made, one)
    for round_, rule in (
        (open_round(task("other"), one), "round-task"),
        (replace(good, close_ms=good.close_ms + 1), "round-window"),
        (replace(good, k_min=made.k_min + 1), "round-k-min"),
    ):
        assert one.refusal(made, round_) == rule


def test_an_old_manifest_that_is_shown_again_is_not_answered(one: Meter) -> None:
    """Signed by everybody, but its window is over by the device's own clock; nor one to come."""
    made = task()
    old = manifest(made, one.now_ms - WINDOW_MS)
    assert one.refusal(made, old) == "window-closed"
    assert one.refusal(made, manifest(made, one.now_ms + 1)) == "window-early"
    assert (
        one.refusal(made, replace(old, open_ms=old.open_ms + 1, close_ms=old.close_ms + 1)) == "-"
    )


def test_nothing_is_answered_without_consent(one: Meter) -> None:
    """Off unless allowed; of one purpose, not of others; and off again."""
    made, other = task(), task("other", purpose="product/research")
    assert one.refusal(other, open_round(other, one)) == "consent"
    one.consent.disallow("product", now_ms=one.now_ms)
    assert one.refusal(made, open_round(made, one)) == "consent"
    one.allow("product")
    assert one.refusal(made, open_round(made, one)) == "-"
    assert one.consent.allowed == ("product",)
    for bad in ("", "Product", "a" * 129, "a:b", "\ud800"):
        with pytest.raises(UserError, match="a purpose is"):
            one.consent.allow(bad, now_ms=one.now_ms)


def test_the_longest_purpose_can_be_allowed(one: Meter) -> None:
    """Every purpose that a task can have."""
    purpose = "p" * 128
    made = task(purpose=purpose)
    one.allow(purpose)
    assert one.refusal(made, open_round(made, one)) == "-"


def test_too_little_noise_for_what_the_kind_can_move_is_refused(one: Meter) -> None:
    """The same sigma hides a count and not a vote of one of many; the device says how much."""
    caps = Caps(10**9, DAY_MS, 10**9)
    law = Law(Mechanism.GAUSSIAN, 3_000)
    count = task("count", kind=Count(FIELD31), noise=law, caps=caps)
    bins = task("bins", kind=Histogram(FIELD31, 4, ()), noise=law, caps=caps)
    assert count.cost_micro_rho < 100_000 < bins.cost_micro_rho
    assert one.refusal(count, open_round(count, one)) == "-"
    assert one.refusal(bins, open_round(bins, one)) == "noise"
    wider = POLICY.with_limits(round_micro_rho=bins.cost_micro_rho)
    one.measuring.set_policy(wider)
    assert one.refusal(bins, open_round(bins, one, 1)) == "-"
    one.measuring.set_policy(POLICY.with_limits(round_micro_rho=0))
    assert one.refusal(count, open_round(count, one, 2)) == "noise"


def test_policy_survives_in_the_vault(one: Meter) -> None:
    """All of it, and it is not in the profile."""
    policy = POLICY.with_limits(period_days=7, all_time_micro_rho=5).with_publisher(b"\1" * 32)
    one.measuring.set_policy(policy)
    one.store()
    one.reload()
    assert one.measuring.policy == policy
    assert Policy.decode(policy.encode()) == policy


def test_what_is_trusted_no_more_goes_by_the_beginning_of_a_key() -> None:
    """A publisher, or every panel that has the party."""
    policy = POLICY.with_publisher(b"\1" * 32)
    assert policy.without(b"\1" * 4) == POLICY
    assert policy.without(PARTIES[2].public).panels == ()
    assert policy.without(PARTIES[2].public).publishers == policy.publishers


def test_the_same_again_changes_nothing_and_another_t_replaces_the_first() -> None:
    """A file of what to trust can be read twice."""
    assert POLICY.with_publisher(PUBLISHER.public).with_panel(PANEL) == POLICY
    five = tuple(bytes([number]) * 32 for number in range(5))
    wide = POLICY.with_panel(Panel(five, 2))
    assert wide.with_panel(Panel(five, 1)).panels == (PANEL, Panel(five, 1))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: p.with_publisher(b"short"), "64 hexadecimal"),
        (lambda p: p.with_panel(Panel((b"\1" * 32,) * 3, 1)), "one key"),
        (lambda p: p.with_panel(Panel((b"\1" * 31,) * 3, 1)), "64 hexadecimal"),
        (lambda p: p.with_panel(Panel(PANEL.parties, 2)), "fewer than half"),
        (lambda p: p.with_panel(Panel(PANEL.parties, 0)), "fewer than half"),
        (lambda p: p.with_panel(Panel(PANEL.parties[:2], 1)), "fewer than half"),
        (lambda p: p.without(b"\1" * 32), "no such key"),
        (lambda p: p.without(PUBLISHER.public[:3]), "8 digits"),
        (lambda p: p.with_limits(period_days=0), "--period-days is a number from 1"),
        (lambda p: p.with_limits(round_micro_rho=-1), "--round-micro-rho is a number from 0"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(change: Any, sentence: str) -> None:
    """In a sentence that says what would."""
    with pytest.raises(UserError, match=sentence):
        change(POLICY)


def test_a_policy_has_room_for_so_many() -> None:
    """It stays short."""
    policy = POLICY
    for number in range(63):
        policy = policy.with_publisher(bytes([number]) * 32)
        parties = tuple(bytes([number, at]) * 16 for at in range(3))
        policy = policy.with_panel(Panel(parties, 1))
    with pytest.raises(UserError, match="remove one first"):
        policy.with_publisher(b"\xff" * 32)
    with pytest.raises(UserError, match="remove one first"):
        policy.with_panel(Panel(PANEL.parties[::-1], 1))
