"""A device that joins late and starts from a checkpoint judges what it is given all the same."""

from __future__ import annotations

import pytest

from client import bootstrap, upkeep
from client.values import Part
from crypto.heads import Head
from crypto.ids import OpHash
from crypto.op import SealedOp
from tests.client_worlds import Phone, Service, first_phone, pair, settle
from tests.crafted_ops import crafted


@pytest.fixture
def a() -> Phone:
    return first_phone(Service())


@pytest.fixture(autouse=True)
def small_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "CHECKPOINT_OPS", 5)


def put(phone: Phone, key: str, value: str) -> None:
    phone.device.put("ui", key, value, now_ms=phone.now_ms)
    phone.store()


def writing(a: Phone) -> Phone:
    """Another phone whose first ops are superseded."""
    b = pair(a, "b")
    for number in range(4):
        put(b, "two", f"v{number}")
        b.sync()
    settle(a, b)
    return b


def covered(a: Phone, sealed: SealedOp) -> None:
    """The op is at the service, and the history below a checkpoint that covers it is gone."""
    a.service.push((sealed.raw,), sealed.header.device_id)
    a.poke()
    marks = len(a.marks)
    for number in range(12):
        put(a, "one", f"v{number}")
        a.sync()
    a.poke()
    assert len(a.marks) > marks
    a.service.trim(a.marks[-1])


def names(phone: Phone) -> list[tuple[str, str]]:
    return sorted((name.collection, name.key) for name, _ in phone.device._core.profile)


@pytest.mark.parametrize(
    ("collection", "key", "value", "rule"),
    [
        (b"\xff\xfe", b"zzz", b"\x63bad", "name"),
        (b"UI SPACE!", b"zzz", b"\x63bad", "name"),
        (b"ui", b"one#0", Part(99.0, 1).encode(), "part"),
    ],
)
def test_what_others_set_aside_a_late_device_sets_aside_too(
    a: Phone, collection: bytes, key: bytes, value: bytes, rule: str
) -> None:
    """A checkpoint vouches for what is held, not for its content: names and score parts are
    checked, and the op is told and stays aside after a restart."""
    b = writing(a)
    covered(a, crafted(b, collection, key, value))
    assert a.alarms == [rule]
    c = pair(a, "c")
    for _ in range(2):
        assert c.alarms == [rule]
        assert names(c) == names(a)
        assert c.device.list("ui") == a.device.list("ui") != {}
        c.reload()
    assert all(c.device._core.state.logs[index].base for index in (0, 1))


def test_a_late_device_sets_a_lamport_far_ahead_aside(a: Phone) -> None:
    """C7 holds for what a checkpoint covers: nobody jumps the count of all edits."""
    b = writing(a)
    far = a.device._core.state.lamport_max + 5000
    a.device._core.state.lamport_hint = far  # as if it had been misled when it joined
    sealed = crafted(b, b"ui", b"far", b"\x63bad", lamport=far)
    a.service.lamport_max = far
    covered(a, sealed)
    a.service.lamport_max = 20
    c = pair(a, "c")
    assert "lamport" in c.alarms
    assert c.device.get("ui", "far") is None


def test_a_checkpoint_counts_up_to_a_later_cut(a: Phone) -> None:
    """What a removed device wrote past its cut is no base for anybody, whoever vouches for it."""
    b = writing(a)
    a.device.rotate([b.device.identity.device_id])
    settle(a)
    core = a.device._core
    cut = core.state.chain.devices[1].cut
    assert cut is not None
    beyond = Head(1, cut.seq + 1, OpHash(bytes(32)))
    before = Head(1, cut.seq - 1, OpHash(bytes(32)))
    assert bootstrap._base(core, beyond) == (cut.seq, cut.op_hash)
    assert bootstrap._base(core, before) == (before.seq, before.op_hash)
