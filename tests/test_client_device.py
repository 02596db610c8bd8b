"""Devices of one account, against a model of the service."""

from __future__ import annotations

import pytest

from client.errors import BadName, BadValue, NoSuchDevice, NotAllowed
from client.steps import GetReceipt
from tests.client_worlds import Phone, Service, first_phone, pair, settle
from tests.judge_worlds import NOW_MS, seeded

DAY_MS = 86_400_000


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def a(service: Service) -> Phone:
    return first_phone(service)


def put(phone: Phone, key: str, value: str, collection: str = "ui") -> None:
    phone.device.put(collection, key, value, now_ms=phone.now_ms)
    phone.store()


def test_an_edit_shows_at_once_and_arrives(a: Phone) -> None:
    """Set on one device, read on the other."""
    b = pair(a, "b")
    put(a, "theme", "dark")
    assert a.device.get("ui", "theme") == "dark"
    assert b.device.get("ui", "theme") is None
    settle(a, b)
    assert b.device.get("ui", "theme") == "dark"
    assert a.alarms == b.alarms == []
    assert b.device.collections() == ("ui",)


def test_the_aggregation_key_is_the_same_on_all_devices(a: Phone) -> None:
    """K_agg is made with the account and synced like any record."""
    b = pair(a, "b")
    settle(a, b)
    assert a.device.aggregation_key == b.device.aggregation_key
    assert a.device.aggregation_key is not None


def test_a_recovery_key_is_added_when_the_account_is_made(service: Service) -> None:
    """Lost key, no recovery: the paper is a device of the account from the start."""
    a = first_phone(service, paper=seeded("paper", 20))
    assert [device.role.name for device in a.device.devices] == ["FULL", "RECOVERY"]
    assert "device-added" in [notice.rule for notice in a.device.notices]


def test_concurrent_increments_are_all_counted(a: Phone) -> None:
    """Each device writes its own part; the sum loses nothing."""
    b = pair(a, "b")
    for phone in (a, b):
        for _ in range(3):
            phone.device.add_score("cuisine", "thai", 2, now_ms=phone.now_ms)
    settle(a, b)
    assert a.device.scores("cuisine", now_ms=a.now_ms) == {"thai": 12}
    assert b.device.score("cuisine", "thai", now_ms=b.now_ms) == 12


def test_scores_decay_by_half_life(a: Phone) -> None:
    """After one half-life, half is left."""
    a.device.add_score("cuisine", "thai", 8, now_ms=a.now_ms, half_life_ms=DAY_MS)
    later = a.now_ms + DAY_MS
    assert a.device.score("cuisine", "thai", now_ms=later, half_life_ms=DAY_MS) == 4


def test_sets_and_removals(a: Phone) -> None:
    """A member is a key; taking it out is a tombstone that wins everywhere."""
    b = pair(a, "b")
    a.device.add_member("likes", "jazz", now_ms=a.now_ms)
    a.device.add_member("likes", "rock", now_ms=a.now_ms)
    settle(a, b)
    b.device.remove_member("likes", "rock", now_ms=b.now_ms)
    settle(a, b)
    assert a.device.members("likes") == {"jazz"}


def test_names_and_values_are_checked_before_anything_is_stored(a: Phone) -> None:
    """Bad names and values never become an op that others would refuse."""
    for collection, key in [("UI", "x"), (".rookery", "x"), ("ui", "x#1"), ("ui", "")]:
        with pytest.raises(BadName):
            a.device.put(collection, key, 1, now_ms=0)
    with pytest.raises(BadValue):
        a.device.put("ui", "x", float("nan"), now_ms=0)


def test_offline_edits_wait_unsigned_and_coalesce(a: Phone) -> None:
    """A hundred changes of one setting are one op."""
    a.poke()
    before = a.service.position
    for number in range(100):
        put(a, "volume", str(number))
    assert a.device.status.edits_waiting == 1
    a.sync()
    assert a.service.position == before + 1
    assert a.device.status.edits_waiting == 0


def test_a_page_size_of_one_loses_nothing(a: Phone) -> None:
    """Cursors order commits."""
    b = pair(a, "b", sync=False)
    b.page_limit = 1
    for number in range(5):
        put(a, f"k{number}", "v")
    a.sync()
    b.sync()
    assert b.device.list("ui") == {f"k{number}": "v" for number in range(5)}


def test_a_wrong_wall_clock_wedges_nothing(a: Phone) -> None:
    """Lamports order; a clock in the future only shows a wrong time."""
    b = pair(a, "b")
    a.now_ms += 10**12
    put(a, "theme", "dark")
    settle(a, b)
    put(b, "theme", "light")
    settle(a, b)
    assert a.device.get("ui", "theme") == "light"


def test_all_devices_announce_a_new_one(a: Phone) -> None:
    """Signal and WhatsApp QR phishing: a device that was added is told on every device."""
    b = pair(a, "b")
    c = pair(a, "c")
    settle(a, b, c)
    for phone in (a, b):
        added = [n.device_id for n in phone.device.notices if n.rule == "device-added"]
        assert c.device.identity.device_id in added
    assert [n.rule for n in c.device.notices] == []


def test_removed_device_keeps_nothing_and_is_told(a: Phone) -> None:
    """After a ROTATE it has no key, and its records stay."""
    b = pair(a, "b")
    put(b, "theme", "dark")
    settle(a, b)
    a.device.rotate([b.device.identity.device_id])
    settle(a)
    assert a.device.get("ui", "theme") == "dark"
    put(b, "theme", "light")
    b.poke()
    assert b.device.status.revoked
    assert "revoked" in b.alarms
    assert a.device.chain.epoch == 2
    with pytest.raises(NoSuchDevice):
        a.device.rotate([b.device.identity.device_id])
    with pytest.raises(NotAllowed):
        a.device.rotate([a.device.identity.device_id])


def test_rotation_publishes_everything_again_and_destroys_the_old_key(a: Phone) -> None:
    """Live records and tombstones move to the new epoch, a checkpoint closes it."""
    b = pair(a, "b")
    for number in range(5):
        put(a, f"k{number}", "v")
        b.device.add_score("cuisine", "thai", 1, now_ms=b.now_ms)
    a.device.remove("ui", "k0", now_ms=a.now_ms)
    settle(a, b)
    a.device.rotate()
    settle(a, b)
    assert a.marks
    for phone in (a, b):
        assert sorted(phone.device.list("ui")) == ["k1", "k2", "k3", "k4"]
        assert phone.device.score("cuisine", "thai", now_ms=phone.now_ms) == 5
        assert "ek:1" not in phone.rows
        assert "ek:2" in phone.rows
        assert phone.alarms == []
        phone.reload()
        assert sorted(phone.device.list("ui")) == ["k1", "k2", "k3", "k4"]
    assert len({phone.device.identity.box_pk for phone in (a, b)}
               & {device.box_pk for device in a.service.chain.devices}) == 2  # fmt: skip
    assert all(device.box_gen == 2 for device in a.service.chain.devices)


def test_edits_of_an_epoch_that_is_over_are_sealed_again(a: Phone) -> None:
    """EPOCH_STALE: the batch in flight goes back to edits, and nothing is lost."""
    b = pair(a, "b")
    settle(a, b)
    put(b, "theme", "dark")
    step = b.device.next_push(now_ms=b.now_ms, rand=b.rand)
    b.store()
    assert step is not None
    a.device.rotate()
    a.service.grace = False
    settle(a)
    b.sync()
    settle(a, b)
    assert a.device.get("ui", "theme") == "dark"
    assert a.alarms == b.alarms == []


def test_the_word_of_the_service_alone_unseals_nothing(a: Phone) -> None:
    """EPOCH_STALE without a newer chain: the same bytes stay in flight."""
    put(a, "theme", "dark")
    first = a.device.next_push(now_ms=a.now_ms, rand=a.rand)
    assert first is not None
    a.device.on_push_refused(first, "EPOCH_STALE", {}, now_ms=a.now_ms)
    a.device.on_chain([], lamport_max=0, more=False, now_ms=a.now_ms)
    step = a.device.next_step(now_ms=a.now_ms, rand=a.rand)
    assert isinstance(step, GetReceipt)
    a.step()
    again = a.device.next_push(now_ms=a.now_ms, rand=a.rand)
    assert again == first


def test_a_device_covers_itself_weekly(a: Phone) -> None:
    """Silent and silenced differ: a sign of life at least every seven days."""
    b = pair(a, "b")
    settle(a, b)
    before = a.service.position
    a.now_ms += 6 * DAY_MS
    a.poke()
    assert a.service.position == before
    a.now_ms += 2 * DAY_MS
    a.poke()
    assert a.service.position == before + 1
    b.poke()
    seen = {row.device_id: row.last_seen_ms for row in b.device.devices}
    assert seen[a.device.identity.device_id] == a.now_ms


def test_a_clock_that_was_ahead_once_stops_no_upkeep(a: Phone) -> None:
    """One wall clock in 2035: covers go on, and old keys are destroyed after grace."""
    b = pair(a, "b")
    settle(a, b)
    now, ahead = a.now_ms, a.now_ms + 10 * 365 * DAY_MS
    a.now_ms = ahead
    a.device.rotate()
    put(a, "theme", "dark")
    a.poke()
    assert sorted(a.device._core.view.keys) == [1, 2]
    a.now_ms = now
    a.poke()
    me = a.device.identity.device_id
    assert next(row.last_seen_ms for row in a.device.devices if row.device_id == me) == now
    before = a.service.position
    a.now_ms += 8 * DAY_MS
    a.poke()
    assert a.service.position == before + 1
    a.now_ms += 31 * DAY_MS
    a.poke()
    assert sorted(a.device._core.view.keys) == [2]


def test_a_new_device_starts_from_a_checkpoint(a: Phone) -> None:
    """History before it is gone at the service: the state recomputes, and all is there."""
    b = pair(a, "b")
    for number in range(6):
        put(a, "theme", f"v{number}")
        put(b, f"k{number % 3}", f"w{number}")
        settle(a, b)
    a.device.rotate()
    settle(a, b)
    a.service.drop_epoch(1)
    a.service.trim(a.marks[-1])
    put(b, "theme", "late")
    settle(a, b)
    c = pair(a, "c")
    settle(a, b, c)
    assert c.device.list("ui") == a.device.list("ui")
    assert c.alarms == []
    c.reload()
    assert c.device.list("ui") == a.device.list("ui")
    put(c, "theme", "new")
    settle(a, b, c)
    assert a.device.get("ui", "theme") == "new"
    assert a.alarms == b.alarms == c.alarms == []


def test_a_service_that_drops_a_record_can_not_bootstrap_a_new_device(a: Phone) -> None:
    """One record left out of a trimmed history: the checkpoint's state does not recompute."""
    for number in range(6):
        put(a, f"k{number}", "v")
    a.device.rotate()
    settle(a)
    a.service.drop_epoch(1)
    victim = next(iter(a.service.winners[key] for key in a.service.winners if key[0] == 2))
    a.service.hide = lambda sealed: sealed.op_hash == victim.sealed.op_hash
    c = pair(a, "c", sync=False)
    for _ in range(20):
        c.step()
    assert c.alarms == ["bootstrap"]


def test_repr_shows_no_names_or_values(a: Phone) -> None:
    """No secret, name or value in reprs."""
    put(a, "theme", "mysecretvalue")
    text = repr(list(a.device._core.outbox.edits.values())) + repr(a.device)
    assert "mysecretvalue" not in text


def test_a_quiet_account_still_shows_signs_of_life(a: Phone) -> None:
    """In an account where nobody changes anything, weekly covers reach the other devices."""
    b = pair(a, "b")
    settle(a, b)
    for day in (8, 16, 24):
        a.now_ms = b.now_ms = NOW_MS + day * DAY_MS
        b.poke()
        a.poke()
        of_b = next(row for row in a.device.devices if row.index == 1)
        assert of_b.last_seen_ms == b.now_ms
