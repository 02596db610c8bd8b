"""What a device had sent and what counts no more because of a fork: it says it again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.device import Device
from services.store.base import Limits
from tests.client_worlds import Phone, Service, first_phone, pair, settle
from tests.judge_worlds import NOW_MS, SeededRand
from tests.real_worlds import RealPhone, RealService, as_service
from tests.test_client_healing import put

DAY_MS = 86_400_000


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealService]:
    service = RealService(tmp_path, Limits(records_max=500, grace_ms=30 * DAY_MS))
    yield service
    service.close()


@pytest.fixture
def a(real: RealService) -> Phone:
    rand = SeededRand("make a")
    device = Device.create(recovery_secret=None, now_ms=NOW_MS, rand=rand)
    phone = RealPhone(device, as_service(real), "a")
    phone.sync()
    return phone


def copied(phone: Phone, seed: str) -> Phone:
    """The same rows on another machine."""
    clone = type(phone)(Device.load(dict(phone.rows)), phone.service, seed)
    clone.rows = dict(phone.rows)
    return clone


def add(phone: Phone, key: str, amount: float) -> None:
    phone.device.add_score("s", key, amount, now_ms=phone.now_ms, half_life_ms=DAY_MS)
    phone.store()


def score(phone: Phone, key: str) -> float:
    return phone.device.score("s", key, now_ms=phone.now_ms)


def become_new(*phones: Phone) -> None:
    """Who was found to be copied takes a new identity."""
    for phone in phones:
        if phone.device.status.cloned:
            phone.device.reidentify(now_ms=phone.now_ms, rand=phone.rand)
            phone.store()
    settle(*phones)


@pytest.mark.parametrize("restart", [False, True])
def test_a_fork_of_ones_own_loses_none_of_what_was_acknowledged(
    real: RealService, a: Phone, restart: bool
) -> None:
    """The service comes back from a backup, and a copy of the device writes there first: all
    that the device had sent after the backup counts no more, and is said again."""
    b = pair(a, "b")
    put(a, "base", "old")
    put(a, "theirs", "by a")
    add(a, "x", 10)
    settle(a, b)
    backup, clone = real.backup(), copied(a, "clone")
    put(a, "k2", "v2")
    a.device.remove("ui", "base", now_ms=a.now_ms)
    put(a, "theirs", "by a again")
    add(a, "x", 3)
    add(a, "y", 7)
    a.sync()
    add(a, "x", 2)
    put(a, "k3", "v3")
    settle(a, b)
    put(b, "theirs", "by b")
    settle(b, a)
    assert a.device.status.edits_waiting == 0
    real.restore(backup)
    for number in range(8):
        put(clone, f"c{number}", "by the copy")
    put(clone, "k2", "by the copy")
    add(clone, "x", 100)
    clone.poke()
    add(a, "x", 1)
    put(a, "k3", "newer")
    if restart:
        a.reload()
    a.poke()
    assert a.device.status.cloned
    assert (score(a, "x"), score(a, "y")) == (16, 7)
    if restart:
        a.reload()
    become_new(a, b)
    become_new(a, b, clone)
    late = pair(b, "late")
    settle(a, b, clone, late)
    for phone in (a, b):
        ui = phone.device.list("ui")
        assert (ui.get("base"), ui["theirs"]) == (None, "by b")
        assert score(phone, "x") == 16
    for phone in (a, b, late):
        assert (phone.device.get("ui", "k2"), phone.device.get("ui", "k3")) == ("v2", "newer")
        assert score(phone, "y") == 7
    assert a.device.list("ui") == b.device.list("ui")


def test_a_fork_where_an_epoch_began_loses_no_score() -> None:
    """What the device published again under the new epoch counts no more, and of the old epoch
    nothing is left: what is said again is all of the score."""
    a = first_phone(Service())
    b = pair(a, "b")
    put(a, "k", "v")
    add(a, "x", 5)
    add(b, "x", 1)
    settle(a, b)
    a.device.rotate()
    while a.device.status.epoch == 1:
        assert a.step()
    clone, position = copied(a, "clone"), a.service.position
    settle(a, b)
    for _ in range(3):
        for phone in (a, b):
            phone.now_ms += 31 * DAY_MS
        settle(a, b)
    a.service.drop_epoch(1)
    assert 1 not in a.device._core.view.keys
    a.service.restore(position)
    put(clone, "c", "by the copy")
    clone.poke()
    settle(a, b)
    become_new(a, b)
    for phone in (a, b):
        assert (phone.device.get("ui", "k"), score(phone, "x")) == ("v", 6)


def test_a_fork_of_a_former_identity_is_made_good_under_the_new_one() -> None:
    """It shows further back than the one that cost the identity."""
    a = first_phone(Service())
    b = pair(a, "b")
    settle(a, b)
    oldest = copied(a, "oldest")
    put(a, "k1", "v1")
    add(a, "x", 5)
    settle(a, b)
    older, second = copied(a, "older"), a.service.position
    put(a, "k2", "v2")
    add(a, "x", 6)
    settle(a, b)
    a.service.restore(second)
    put(older, "by", "older")
    older.poke()
    settle(a, b)
    become_new(a, b)
    assert score(a, "x") == score(b, "x") == 11
    put(oldest, "by", "oldest")
    push = oldest.device.next_push(now_ms=oldest.now_ms, rand=oldest.rand)
    assert push is not None
    for phone in (a, b):
        phone.device.on_page(push.ops, phone.device.cursor, more=False, now_ms=phone.now_ms)
        phone.store()
    a.reload()
    settle(a, b)
    for phone in (a, b):
        assert score(phone, "x") == 11
        assert (phone.device.get("ui", "k1"), phone.device.get("ui", "k2")) == ("v1", "v2")
