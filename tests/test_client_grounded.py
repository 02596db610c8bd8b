"""A service that refuses a batch, signs truly that it does not hold it, and takes it later."""

from __future__ import annotations

import pytest

from client.past import SETTLED_MAX
from crypto import op
from crypto.ids import DeviceId
from tests.client_worlds import Phone, Refused, Service, first_phone, pair, settle
from tests.test_client_doubt import HOUR_MS, honest, refusing, signed_by
from tests.test_client_healing import put
from tests.test_client_regain import become_new


@pytest.fixture
def a() -> Phone:
    phone = first_phone(Service())
    put(phone, "base", "v")
    phone.sync()
    return phone


def add(phone: Phone, amount: float) -> None:
    phone.device.add_score("s", "x", amount, now_ms=phone.now_ms)
    phone.store()


def score(phone: Phone) -> float:
    return phone.device.score("s", "x", now_ms=phone.now_ms)


def show(phone: Phone, ops: tuple[bytes, ...]) -> None:
    """The service delivers these."""
    phone.device.on_page(ops, phone.device.cursor, more=False, now_ms=phone.now_ms)
    phone.store()


@pytest.mark.parametrize("restart", [False, True])
def test_a_refused_batch_that_is_taken_later_is_committed(a: Phone, restart: bool) -> None:
    """It comes back before another one bears its numbers: it is what it was, and no copy's."""
    me = a.device.identity.device_id
    put(a, "k1", "v1")
    add(a, 5)
    pushes = refusing(a.service, "OP_INVALID")
    a.poke()
    add(a, 2)
    if restart:
        a.reload()
    honest(a.service)
    a.service.push(pushes[0], me)
    b = pair(a, "b")
    settle(a, b)
    assert a.device.identity.device_id == me
    assert not a.device.status.cloned
    assert set(a.alarms) == {"op-invalid", "refused-but-held"}
    a.now_ms += 2 * HOUR_MS
    settle(a, b)
    assert a.device.status.edits_waiting == 0
    for phone in (a, b):
        assert (phone.device.get("ui", "k1"), score(phone)) == ("v1", 7)
        assert not any(row.set_aside for row in phone.device.devices)
    [notice, *_] = [row for row in a.device.notices if row.rule == "refused-but-held"]
    assert notice.evidence[-1] in pushes[0]
    assert len(notice.evidence) == 2


def test_what_flies_gives_way_to_a_batch_that_is_taken_later(a: Phone) -> None:
    """Another batch bears the same numbers and is on its way: it is sealed anew behind."""
    b = pair(a, "b")
    settle(a, b)
    me = a.device.identity.device_id
    put(a, "k1", "v1")
    add(a, 5)
    pushes = refusing(a.service, "OP_INVALID")
    a.poke()
    add(a, 2)
    put(a, "k2", "v2")
    a.now_ms += 2 * HOUR_MS
    flying = a.device.next_push(now_ms=a.now_ms, rand=a.rand)
    a.store()
    assert flying is not None
    assert signed_by(a, [pushes[0]]).keys() & signed_by(a, [flying.ops]).keys()
    honest(a.service)
    a.service.push(pushes[0], me)
    settle(a, b)
    a.now_ms += 2 * HOUR_MS
    settle(a, b)
    assert a.device.identity.device_id == me
    for phone in (a, b):
        assert (phone.device.list("ui"), score(phone)) == (
            {"base": "v", "k1": "v1", "k2": "v2"}, 7,
        )  # fmt: skip
        assert not any(row.set_aside for row in phone.device.devices)


def refused_and_replaced(a: Phone, b: Phone) -> tuple[bytes, ...]:
    """The batch that the service refused, once others bear its numbers and are committed."""
    put(a, "k0", "v0")
    put(a, "k1", "v1")
    add(a, 5)
    pushes = refusing(a.service, "OP_INVALID")
    a.sync()
    honest(a.service)
    a.sync()
    put(a, "k2", "v2")
    add(a, 2)
    a.sync()
    settle(a, b)
    return pushes[0]


def safe_and_whole(*phones: Phone) -> None:
    """Everybody has everything, once."""
    for phone in phones:
        assert phone.device.list("ui") == {f"k{n}": f"v{n}" for n in range(3)} | {"base": "v"}
        assert score(phone) == 7


@pytest.mark.parametrize("first", ["a", "b"])
def test_two_versions_by_the_services_doing_blame_the_service(a: Phone, first: str) -> None:
    """Both exist in the world, so the identity can't go on; the evidence names who did it, and
    nothing is lost."""
    b = pair(a, "b")
    settle(a, b)
    before = a.device.identity.device_id
    late = refused_and_replaced(a, b)
    assert a.device.identity.device_id == before
    for phone in (a, b) if first == "a" else (b, a):
        show(phone, late)
    assert not {"cloned", "fork"} & set(a.alarms)
    [notice] = [row for row in a.device.notices if row.rule == "refused-but-held"]
    receipt, kept, shown = notice.evidence
    assert len(receipt) > 100
    assert op.parse(kept).header.dev_seq == op.parse(shown).header.dev_seq
    assert shown == late[0]
    become_new(a, b)
    a.now_ms += 2 * HOUR_MS
    settle(a, b)
    assert a.device.identity.device_id != before
    assert len(a.device.devices) == 3
    safe_and_whole(a, b)
    for _ in range(3):
        show(a, late)
        become_new(a, b)
    assert len(a.device.devices) == 3
    put(a, "k2", "after")
    settle(a, b)
    assert b.device.get("ui", "k2") == "after"


def test_a_quota_that_is_claimed_makes_versions_that_blame_the_service(a: Phone) -> None:
    """One unsigned refusal and a true receipt give several numbers two versions each."""
    me, take = a.device.identity.device_id, a.service.push
    pushes: list[tuple[bytes, ...]] = []
    for number in range(4):
        put(a, f"q{number}", "v")

    def once(ops: tuple[bytes, ...], caller: DeviceId) -> None:
        pushes.append(ops)
        if len(pushes) == 1:
            raise Refused("QUOTA", limit="records_per_account")
        take(ops, caller)

    a.service.push = once  # type: ignore[method-assign]
    a.sync()
    assert 2 in map(len, signed_by(a, pushes).values())
    assert a.device.identity.device_id == me
    show(a, pushes[0])
    assert a.alarms == ["refused-but-held"]
    become_new(a)
    assert a.device.list("ui") == {"base": "v"} | {f"q{number}": "v" for number in range(4)}


def test_what_another_device_took_of_a_refused_batch_is_no_proof(a: Phone) -> None:
    """It names ops of ours beyond those in flight; they are those that we took back."""
    b = pair(a, "b")
    settle(a, b)
    me = a.device.identity.device_id
    for number in range(4):
        put(a, f"k{number}", "v")
    pushes = refusing(a.service, "OP_INVALID")
    a.poke()
    show(b, pushes[0])
    put(b, "seen", "v")
    b.sync()
    a.now_ms += 2 * HOUR_MS
    honest(a.service)
    refusing(a.service, "DEVICE_FORKED")
    put(a, "k0", "newer")
    a.device._core.held_back.clear()
    flying = a.device.next_push(now_ms=a.now_ms, rand=a.rand)
    assert flying is not None
    a.poke()
    assert not a.device.status.cloned
    assert a.device.identity.device_id == me
    assert "fork-unproven" in a.alarms
    show(a, pushes[0])
    assert not a.device.status.cloned


def test_what_was_taken_back_is_forgotten_in_the_end(a: Phone) -> None:
    """Of what stands below a place that the service signed otherwise only so much is kept."""
    past, journal = a.device._core.past, a.device._core.journal
    put(a, "k1", "v1")
    refusing(a.service, "OP_INVALID")
    a.poke()
    [(place, rows)] = list(past.grounded.items())
    [row] = rows.values()
    a.store()
    before = {name for name in a.rows if name.startswith("grounded:")}
    assert len(before) == 1
    past.settled(place[0], place[1], journal)
    assert past.grounded
    past.grounded |= {(place[0], seq): {row.op_hash: row} for seq in range(100, 100 + SETTLED_MAX)}
    past.settled(place[0], 99 + SETTLED_MAX, journal)
    assert place not in past.grounded
    assert len(past.grounded) == SETTLED_MAX
    a.store()
    assert not before & set(a.rows)
