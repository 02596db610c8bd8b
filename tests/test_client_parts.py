"""Score parts from epoch 2 on: whose word counts does not depend on what arrives first."""

from __future__ import annotations

import itertools

import pytest

from client.profile import Entry, Name, Order, Profile
from client.values import Part
from crypto.ids import DeviceId
from tests.client_worlds import Phone, Service, first_phone, pair, settle
from tests.crafted_ops import crafted


def entry(index: int, lamport: int, epoch: int, value: bytes) -> Entry:
    return Entry(Order(lamport, epoch, DeviceId(bytes((index,)) * 16)), index, value, 0)


def test_a_part_is_what_its_device_wrote_in_whatever_order_it_comes() -> None:
    """Every order of an original, its copy and another one's writings gives one winner."""
    name = Name("ui", "one#0")
    entries = [
        entry(0, 5, 1, b"own"), entry(1, 5, 2, b"own"), entry(1, 30, 2, b"usurped"),
        entry(2, 7, 2, b"usurped too"), entry(2, 4, 2, b"old"),
    ]  # fmt: skip
    values = set()
    for order in itertools.permutations(entries):
        profile = Profile()
        profile.set_epoch(2)
        for row in order:
            profile.merge(name, row)
        held = profile.find(name)
        assert held is not None
        values.add(held.value)
    assert values == {b"own"}


@pytest.mark.parametrize("late", [False, True])
def test_a_part_that_another_device_wrote_is_told_and_put_right(late: bool) -> None:
    """Its own device writes it again, so that those who have no proof agree as well."""
    a: Phone = first_phone(Service())
    b = pair(a, "b")
    settle(a, b)
    a.device.rotate()
    settle(a, b)
    a.device.add_score("ui", "one", 5, now_ms=a.now_ms)
    a.store()
    settle(a, b)
    usurped = crafted(b, b"ui", b"one#0", Part(99.0, a.now_ms).encode(), lamport=30)
    a.service.push((usurped.raw,), b.device.identity.device_id)
    c = pair(a, "c", sync=False)
    if late:
        c.sync()
        assert c.device.score("ui", "one", now_ms=a.now_ms) in (0, 5)
    settle(a, c)
    assert "part" in a.alarms
    for phone in (a, c):
        for _ in range(2):
            assert phone.device.score("ui", "one", now_ms=a.now_ms) == 5
            phone.reload()
