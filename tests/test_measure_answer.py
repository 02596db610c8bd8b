"""One report of an account for a round, paid for before it leaves, the same after every crash."""

from __future__ import annotations

from typing import Any

import pytest

from client import views
from client.measure.core import KEPT_MS, Standing
from client.measure.errors import Ineligible
from client.measure.policy import DAY_MS
from client.measure.records import LEDGERS, ROUNDS, Shown, conflicting
from client.profile import Name
from client.values import Value
from client.views import AGGREGATION_KEY
from crypto.contribution import nullifier, parse_header
from mpc.budget import DeviceLedger
from mpc.manifest import Manifest
from mpc.task import Caps, Task
from tests.client_worlds import pair
from tests.measure_worlds import (
    POLICY,
    Meter,
    meter,
    meters,
    published,
    rule_of,
    together,
)
from tests.relay_worlds import GRACE_MS, PARTIES, PUBLISHER, WINDOW_MS, manifest, task


def now_open(made: Task, one: Meter, seed: object = 0) -> Manifest:
    """A round that is open by the device's clock."""
    return manifest(made, one.now_ms - 1_000, seed)


def wait(one: Meter, ms: int) -> None:
    """Its clock goes on."""
    one.phone.now_ms += ms


def conflicts_of(one: Meter) -> int:
    """How many pairs of rounds its person is warned of."""
    return one.phone.alarms.count("round-conflict")


def rounds(made: Task, one: Meter, count: int) -> list[Manifest]:
    """Rounds of different windows that all happen to be open: the second begins within one
    millisecond of the first's end, and so on."""
    first = one.now_ms - 1_000
    return [manifest(made, first + at * made.window_ms, at) for at in range(count)]


# --- paying ---


def test_the_ledger_has_the_entry_in_the_write_that_has_the_bytes() -> None:
    """Nothing is returned to be sent whose cost is not in the same changes."""
    one, made = meter(), task()
    offer = one.look(made, now_open(made, one))
    given = one.measuring.answer(offer, 3, now_ms=one.now_ms, rand=one.phone.rand)
    changes = one.measuring.take_changes()
    kinds = {name.removeprefix("shell/measure/").partition(":")[0] for name in changes}
    assert kinds == {"ledger", "round", "sent", "task"}
    assert one.measuring.ledger.micro_rho == made.cost_micro_rho
    [stored] = [row for name, row in changes.items() if "ledger:" in name]
    assert stored is not None
    assert DeviceLedger.from_bytes(stored) == one.measuring.ledger
    # In the same write of the shell: the device's own changes, with the record for the others.
    record = one.device.get(LEDGERS, one.device.identity.device_id.hex())
    assert record == stored
    assert given.header


def test_a_budget_that_is_spent_is_named_and_never_comes_back() -> None:
    """The period's, and it is there again in the next one; the task's own; all time's."""
    one, made = meter(), task()
    cost = made.cost_micro_rho
    one.measuring.set_policy(POLICY.with_limits(period_micro_rho=2 * cost))
    for number in range(3):
        one.phone.now_ms += made.window_ms
        round_ = now_open(made, one, number)
        if number < 2:
            one.answer(made, round_, 1)
            one.measuring.settle(round_.digest, Standing.MISSED)
    with pytest.raises(Ineligible, match="all tasks in the present period 0 are left") as caught:
        one.answer(made, round_, 1)
    assert rule_of(caught.value) == "budget"
    one.reload()
    assert one.refusal(made, round_) == "budget"
    one.phone.now_ms += 30 * DAY_MS
    assert one.refusal(made, now_open(made, one, "later")) == "-"
    one.measuring.set_policy(POLICY.with_limits(all_time_micro_rho=3 * cost - 1))
    with pytest.raises(Ineligible, match="for all time"):
        one.answer(made, now_open(made, one, "later"), 1)
    tight = task("tight", caps=Caps(cost, DAY_MS, cost))
    one.measuring.set_policy(POLICY)
    one.answer(tight, now_open(tight, one), 1)
    one.phone.now_ms += 2 * DAY_MS
    with pytest.raises(Ineligible, match="all rounds of this task"):
        one.answer(tight, now_open(tight, one), 1)


def test_devices_of_an_account_share_its_budget_as_far_as_they_know_of_each_other() -> None:
    """What the other one spent has no room here; so too after it was removed."""
    a, b = meters()
    made = task()
    tight = POLICY.with_limits(period_micro_rho=2 * made.cost_micro_rho)
    for one in (a, b):
        one.measuring.set_policy(tight)
    a.answer(made, now_open(made, a, 1), 1)
    other = task("other")
    b.answer(other, now_open(other, b, 2), 1)
    third = task("third")
    assert a.refusal(third, now_open(third, a, 3)) == "-"
    together(a, b)
    assert a.refusal(third, now_open(third, a, 3)) == "budget"
    a.device.rotate([b.device.identity.device_id])
    a.store()
    together(a)
    assert [row.active for row in a.device.devices] == [True, False]
    assert a.refusal(third, now_open(third, a, 3)) == "budget"


def test_a_device_that_becomes_another_one_pays_for_what_it_was() -> None:
    """Its old ledger stays in the profile under the old name and is counted once."""
    one, made = meter(), task()
    cost = made.cost_micro_rho
    one.answer(made, now_open(made, one, 1), 1)
    before = one.device.identity.device_id
    one.device.reidentify(now_ms=one.now_ms, rand=one.phone.rand)
    one.store()
    together(one)
    assert one.device.identity.device_id != before
    assert one.measuring.ledger == DeviceLedger()
    one.measuring.set_policy(POLICY.with_limits(all_time_micro_rho=2 * cost))
    other = task("other")
    one.answer(other, now_open(other, one, 2), 1)
    with pytest.raises(Ineligible, match="0 are left"):
        one.answer(task("third"), now_open(task("third"), one, 3), 1)


# --- once ---


def test_an_account_answers_once_whichever_device_it_is() -> None:
    """Once the other one knows; before that, both have one nullifier."""
    a, b = meters()
    made = task()
    round_ = now_open(made, a)
    first = a.answer(made, round_, 1)
    second = b.answer(made, round_, 2)
    headers = [parse_header(one.header) for one in (first, second)]
    assert headers[0].nullifier == headers[1].nullifier
    assert headers[0].report_id != headers[1].report_id
    again = task("again")
    later = now_open(again, a)
    a.answer(again, later, 1)
    assert a.refusal(again, later) == "contributed"
    together(a, b)
    assert b.refusal(again, later) == "contributed"


def test_nullifiers_of_two_rounds_have_nothing_in_common() -> None:
    """And they are the account's key's, as docs/aggregation.md, 5, gives them."""
    one, made = meter(), task()
    key = one.device.aggregation_key
    assert key is not None
    seen = set()
    for number in range(2):
        one.phone.now_ms += WINDOW_MS
        round_ = now_open(made, one, number)
        header = parse_header(one.answer(made, round_, 1).header)
        assert header.nullifier == nullifier(key, round_.digest)
        seen.add(header.nullifier)
    assert len(seen) == 2


def test_aggregation_keys_made_at_the_same_time_become_one() -> None:
    """Two devices that both write one agree on the winner, and use it from then on."""
    a, b = meters()
    for one, key in ((a, b"\1" * 32), (b, b"\2" * 32)):
        views.put(one.device._core, AGGREGATION_KEY, key, one.now_ms)
        one.store()
        assert one.device.aggregation_key == key
    together(a, b)
    made = task()
    round_ = now_open(made, a)
    given = [parse_header(one.answer(made, round_, 1).header) for one in (a, b)]
    assert a.device.aggregation_key == b.device.aggregation_key
    assert given[0].nullifier == given[1].nullifier


def test_without_the_accounts_secret_nothing_is_answered_and_nothing_paid() -> None:
    """A device that has just joined waits for its first sync."""
    a = meter()
    late = Meter(pair(a.phone, "late", sync=False))
    made = task()
    late.phone.device.on_chain(a.phone.service.items, lamport_max=0, more=False, now_ms=late.now_ms)
    assert late.device.aggregation_key is None
    offer = a.look(made, now_open(made, a))
    with pytest.raises(Ineligible) as caught:
        late.measuring.answer(offer, 1, now_ms=late.now_ms, rand=late.phone.rand)
    assert rule_of(caught.value) == "aggregation-key"
    assert late.measuring.ledger == DeviceLedger()


# --- one round for all devices ---


def test_two_rounds_for_one_window_are_answered_by_no_device_and_told_to_the_person() -> None:
    """Each device was shown another one; as soon as they know of each other, both refuse."""
    a, b = meters()
    made = task()
    shown = [now_open(made, a, "x"), now_open(made, a, "y")]
    assert a.refusal(made, shown[0]) == "-"
    assert b.refusal(made, shown[1]) == "-"
    together(a, b)
    for one in (a, b):
        for round_ in shown:
            assert one.refusal(made, round_) == "round-conflict"
            assert conflicts_of(one) == 1
    [notice] = [row for row in a.device.notices if row.rule == "round-conflict"]
    assert set(notice.evidence) == {published(round_) for round_ in shown}
    a.phone.now_ms = shown[0].close_ms
    assert a.refusal(made, manifest(made, shown[0].close_ms, "next")) == "-"


def test_one_device_that_is_shown_two_rounds_answers_neither() -> None:
    """The first was in order when it came; what was stored of it is not sent any more."""
    one, made = meter(), task()
    first, second = now_open(made, one, "x"), now_open(made, one, "y")
    one.answer(made, first, 1)
    assert one.refusal(made, second) == "round-conflict"
    assert conflicts_of(one) == 1
    [waiting] = one.measuring.unsent()
    with pytest.raises(Ineligible, match="two different rounds"):
        one.measuring.send_again(waiting, one.consent, now_ms=one.now_ms)
    assert not one.measuring.unsent()
    assert one.measuring.answered[first.digest].standing is Standing.MISSED


def test_a_conflict_that_comes_to_light_later_is_still_told() -> None:
    """Both had answered before they could know."""
    a, b = meters()
    made = task()
    a.answer(made, now_open(made, a, "x"), 1)
    b.answer(made, now_open(made, b, "y"), 1)
    together(a, b)
    a.phone.now_ms += 10 * WINDOW_MS
    a.measuring.find_conflicts(now_ms=a.now_ms)
    a.measuring.find_conflicts(now_ms=a.now_ms)
    assert conflicts_of(a) == 1


def test_what_other_devices_say_of_rounds_counts_only_as_far_as_it_is_signed() -> None:
    """Garbage, a round that nobody signed, one of another task: none of it stops a device, and a
    device that was removed says nothing."""
    a, b = meters()
    made, other = task(), task("other")
    good, forged = now_open(made, a, "x"), now_open(made, a, "y")
    unsigned = forged.encoded + bytes(3 * 64)
    records: list[tuple[Task, Value]] = [
        (made, [b"", b"\0" * 76, unsigned, published(forged)[:-1], 7]),
        (other, [published(forged)]),
        (task("third"), "text"),
    ]
    for spec, value in records:
        name = Name(ROUNDS, f"{spec.spec_hash.hex()}/{b.device.identity.device_id.hex()}")
        b.device.put_reserved(name, value, now_ms=b.now_ms)
    b.device.put_reserved(Name(ROUNDS, "what"), [published(forged)], now_ms=b.now_ms)
    b.device.put_reserved(Name(LEDGERS, "what"), b"garbage", now_ms=b.now_ms)
    b.store()
    together(a, b)
    assert a.refusal(made, good) == "-"
    assert not a.phone.alarms
    b.look(made, good)
    name = Name(ROUNDS, f"{made.spec_hash.hex()}/{b.device.identity.device_id.hex()}")
    b.device.put_reserved(name, [published(forged)], now_ms=b.now_ms)
    b.store()
    together(a, b)
    assert a.refusal(made, good) == "round-conflict"
    a.device.rotate([b.device.identity.device_id])
    a.store()
    together(a)
    assert a.refusal(made, good) == "-"


def test_a_ledger_of_another_device_that_cannot_be_read_may_have_spent_anything() -> None:
    """Nothing is contributed then; of a device that was removed it is passed over."""
    a, b = meters()
    made = task()
    round_ = now_open(made, a, "x")
    name = Name(LEDGERS, b.device.identity.device_id.hex())
    b.device.put_reserved(name, b"of a later version", now_ms=b.now_ms)
    b.store()
    together(a, b)
    assert a.refusal(made, round_) == "budget"
    a.device.rotate([b.device.identity.device_id])
    a.store()
    together(a)
    assert a.refusal(made, round_) == "-"


def test_the_record_of_rounds_stays_short() -> None:
    """The open ones and a few before them; the newest are kept."""
    one = meter()
    made = task()
    for number in range(30):
        one.phone.now_ms += WINDOW_MS
        one.look(made, now_open(made, one, number))
    kept = one.measuring.records.shown(made.spec_hash).values()
    opens = sorted(row.manifest.open_ms for row in kept)
    assert len(opens) == 4
    assert opens[-1] == one.now_ms - 1_000


def test_conflicts_are_found_among_many_rounds() -> None:
    """Neighbours that only touch are none; a pair is named once."""
    one, made = meter(), task()
    rows = [Shown(published(row), row) for row in rounds(made, one, 5)]
    assert not conflicting(rows)
    between = manifest(made, rows[1].manifest.open_ms + 5, "between")
    pairs = conflicting([*rows, Shown(published(between), between)])
    digests = [{one.manifest.digest, other.manifest.digest} for one, other in pairs]
    assert digests == [
        {rows[1].manifest.digest, between.digest},
        {rows[2].manifest.digest, between.digest},
    ]


# --- crashes ---


def test_after_a_restart_the_same_bytes_are_sent_and_nothing_is_paid_again() -> None:
    """Only the stored rows remain."""
    one, made = meter(), task()
    given = one.answer(made, now_open(made, one), 5)
    one.reload()
    spent = one.measuring.ledger
    [waiting] = one.measuring.unsent()
    assert one.measuring.send_again(waiting, one.consent, now_ms=one.now_ms) == given
    assert one.measuring.ledger == spent
    assert spent.micro_rho == made.cost_micro_rho
    one.measuring.settle(waiting.digest, Standing.GIVEN)
    one.store()
    one.reload()
    assert not one.measuring.unsent()
    assert one.measuring.answered[waiting.digest].standing is Standing.GIVEN
    assert not [name for name in one.phone.rows if name.startswith("shell/measure/sent:")]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda one: one.consent.disallow("product", now_ms=one.now_ms), "consent"),
        (lambda one: one.measuring.set_policy(POLICY.without(PUBLISHER.public)), "publisher"),
        (lambda one: one.measuring.set_policy(POLICY.without(PARTIES[1].public)), "panel"),
        (lambda one: one.measuring.set_policy(POLICY.with_limits(round_micro_rho=1)), "noise"),
        (lambda one: wait(one, WINDOW_MS + GRACE_MS), "window-closed"),
    ],
)
def test_what_was_stored_is_not_sent_once_it_must_not_be(change: Any, rule: str) -> None:
    """Consent withdrawn, trust withdrawn, too late: the bytes are dropped, the cost stays."""
    one, made = meter(), task()
    one.answer(made, now_open(made, one), 5)
    change(one)
    [waiting] = one.measuring.unsent()
    with pytest.raises(Ineligible) as caught:
        one.measuring.send_again(waiting, one.consent, now_ms=one.now_ms)
    assert rule_of(caught.value) == rule
    one.store()
    one.reload()
    assert not one.measuring.unsent()
    assert one.measuring.ledger.micro_rho == made.cost_micro_rho


def test_stored_bytes_are_still_sent_in_the_grace() -> None:
    """The window is over, boxes that come late are taken."""
    one, made = meter(), task()
    round_ = now_open(made, one)
    given = one.answer(made, round_, 5)
    one.phone.now_ms = round_.close_ms + GRACE_MS - 1
    [waiting] = one.measuring.unsent()
    assert one.measuring.send_again(waiting, one.consent, now_ms=one.now_ms) == given


def test_rounds_that_were_over_long_ago_are_forgotten_with_their_tasks() -> None:
    """Of the ledger nothing is."""
    one, made = meter(), task()
    round_ = now_open(made, one)
    one.answer(made, round_, 5)
    one.measuring.settle(round_.digest, Standing.GIVEN)
    until = round_.close_ms + GRACE_MS + KEPT_MS
    one.measuring.prune(now_ms=until - 1)
    assert round_.digest in one.measuring.answered
    one.measuring.prune(now_ms=until)
    one.store()
    one.reload()
    assert not one.measuring.answered
    left = {name for name in one.phone.rows if name.startswith("shell/measure/")}
    assert {name.split("/")[2].partition(":")[0] for name in left} == {"ledger", "policy"}


def test_reprs_and_refusals_hold_no_value_and_no_secret() -> None:
    """Whatever is printed of a contribution or its maker."""
    one, made = meter(), task()
    given = one.answer(made, now_open(made, one), 5)
    key = one.device.aggregation_key
    assert key is not None
    text = repr([given, one.measuring.answered, one.measuring.policy])
    for secret in (key, *given.boxes):
        assert repr(secret)[2:40] not in text
        assert secret.hex() not in text
