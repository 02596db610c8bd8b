"""The gate before every write of an app, and values that never leave the device."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pytest

from client import reserved, writing
from client.device import Device
from client.errors import BadName
from client.gate import Admitted, Gate, Held, Kind, SignalRefused, Ungoverned
from client.profile import Name
from client.resetting import RESET
from client.values import Value
from client.views import AGGREGATION_KEY
from tests.client_worlds import Phone, Service, first_phone, pair, settle
from tests.governed_devices import payloads, stored, told

HERE = "here"
MARK = "moonlit-heron"


class Strict(Ungoverned):
    """Refuses the collection `no`, keeps `here` on the device and at most two keys of `few`."""

    def admit(self, kind: Kind, collection: str, key: str, value: Value, now_ms: int) -> Admitted:
        if collection == "no":
            raise SignalRefused("undeclared", "undeclared: declare it")
        return Admitted(value, now_ms, stays_here=collection == HERE)

    def stays_here(self, collection: str, key: str) -> bool:
        return collection == HERE

    def limits(self, kind: Kind, collection: str) -> bool:
        return collection == "few"

    def surplus(
        self, kind: Kind, collection: str, held: Mapping[str, Held], *, put: str | None = None
    ) -> Collection[str]:
        order = sorted(held, key=lambda key: (key == put, *held[key]), reverse=True)
        return order[2:]


def governed(phone: Phone) -> Phone:
    phone.device.govern(Strict())
    return phone


@pytest.fixture
def a() -> Phone:
    return governed(first_phone(Service()))


WRITES: dict[str, Callable[[Device, str, int], None]] = {
    "put": lambda device, collection, now: device.put(collection, "k", MARK, now_ms=now),
    "add_member": lambda device, collection, now: device.add_member(collection, MARK, now_ms=now),
    "add_score": lambda device, collection, now: device.add_score(collection, "k", 1, now_ms=now),
}
"""Every way in which an app records something."""
OTHERS = frozenset({
    # the library's own records, which no app can name
    "put_reserved",
    # removing is always allowed
    "remove", "remove_member", "remove_score",
    # reading
    "get", "list", "members", "score", "scores", "shares", "collections", "tag",
    "is_here", "written_ms", "stored",
    "reading",
    # removing everything, and putting back what passes the gate (tests/test_consent_devices.py)
    "reset", "follow_reset", "undo_reset",
    # life of the device: none of them takes a value of the app
    "create", "join", "load", "govern", "expire", "take_changes", "alarm", "dismiss", "next_step",
    "next_push", "build_add", "submit_add", "rotate", "check_in", "reidentify", "make_again",
    # outcomes of calls
    "on_account_created", "on_create_refused", "on_chain", "on_chain_seq", "on_appended",
    "on_append_refused", "on_page", "on_pushed", "on_push_refused", "on_generation_changed",
    "on_receipt", "on_server_key", "on_server_key_refused", "on_account_gone", "on_poke",
    "on_policy_alarm",
})  # fmt: skip


def test_every_public_method_of_a_device_is_known_to_write_or_not_to() -> None:
    """A method that is added must be put through the gate, or said here to need none."""
    public = {name for name, _ in inspect.getmembers(Device, callable) if name[0] != "_"}
    assert public == WRITES.keys() | OTHERS


@pytest.mark.parametrize("write", WRITES)
def test_what_is_refused_leaves_nothing_behind(a: Phone, write: str) -> None:
    """No row, no edit, no op."""
    before = dict(a.rows)
    with pytest.raises(SignalRefused) as refused:
        WRITES[write](a.device, "no", a.now_ms)
    assert refused.value.rule == "undeclared"
    a.store()
    assert a.rows == before
    assert not any(name.collection == "no" for name in told(a))


@pytest.mark.parametrize("write", WRITES)
def test_a_write_of_the_library_s_own_names_is_refused_whatever_the_gate_says(
    a: Phone, write: str
) -> None:
    """The gate is asked about names of apps only."""
    with pytest.raises(BadName):
        WRITES[write](a.device, ".rookery", a.now_ms)


def test_the_library_s_way_around_the_gate_writes_no_name_of_an_app(a: Phone) -> None:
    """Neither sets nor removes it; nor a collection that an app makes up with a dot, nor the
    account's secret."""
    made_up = (".free", ".rookery", ".rookery/reset", ".rookery/else", ".rookery/consent/more")
    names = [Name(one, "theme") for one in ("ui", *made_up)]
    names += [AGGREGATION_KEY, Name(".rookery/consent", "A"), Name(".rookery/consent", "")]
    before = told(a)
    for name in names:
        for value in (MARK, None):
            with pytest.raises(BadName):
                a.device.put_reserved(name, value, now_ms=a.now_ms)
    assert told(a) == before


def test_every_reserved_collection_has_somebody_who_writes_it(a: Phone) -> None:
    """The list is those that modules of the library name, and no more."""
    root = Path(reserved.__file__).parent
    text = "".join(
        one.read_text() for one in root.rglob("*.py") if one.name != "reserved.py"
    )  # fmt: skip
    named = set(re.findall(r'"(\.rookery/[a-z]+)"', text))
    assert named == reserved.COLLECTIONS | {RESET.collection}
    for collection in reserved.COLLECTIONS:
        a.device.put_reserved(Name(collection, "k"), True, now_ms=a.now_ms)
        assert a.device.get(collection, "k") is True


def test_what_may_leave_the_device_no_more_comes_back_to_it_alone(a: Phone) -> None:
    """An undone reset puts back under the policy that there is by then."""
    core, name = a.device._core, Name(HERE, "k")
    kind, value = writing.admitted_back(core, name, MARK, 5)
    assert writing.put_back(core, kind, name, value, stays_here=False)
    total = core.gate.readmit("score", *name, 2, 5)
    assert writing.put_back_score(core, name, total, stays_here=False)
    a.store()
    assert a.device.get(HERE, "k") == MARK
    assert a.device.score(HERE, "k", now_ms=5) == 2
    assert not any(name.collection == HERE for name in told(a))


def test_what_stays_here_shows_here_and_survives_a_restart(a: Phone) -> None:
    """Settings, members and scores read as all others do."""
    for _ in range(2):
        for write in WRITES.values():
            write(a.device, HERE, a.now_ms)
        a.store()
        a.reload()
        governed(a)
    assert a.device.get(HERE, "k") == MARK
    assert a.device.list(HERE) == {"k": MARK, MARK: True}
    assert a.device.members(HERE) == {"k", MARK}
    assert a.device.score(HERE, "k", now_ms=a.now_ms) == 2
    assert a.device.scores(HERE, now_ms=a.now_ms) == {"k": 2}
    assert a.device.collections() == (HERE,)


def test_what_stays_here_is_in_no_op_whatever_happens_to_the_account(a: Phone) -> None:
    """Not by syncing, a new key, a new identity, a lost service, a new device, or removal."""
    b = governed(pair(a, "b"))
    for write in WRITES.values():
        write(a.device, HERE, a.now_ms)
    a.device.put("ui", "theme", "dark", now_ms=a.now_ms)
    a.store()
    settle(a, b)
    a.device.rotate()
    settle(a, b)
    a.service.restore(2)
    settle(a, b)
    a.device.reidentify(now_ms=a.now_ms, rand=a.rand)
    settle(a, b)
    a.device.remove(HERE, "k", now_ms=a.now_ms)
    a.device.remove(HERE, "never-there", now_ms=a.now_ms)
    a.device.remove_score(HERE, "k", now_ms=a.now_ms)
    a.store()
    settle(a, b)
    c = pair(a, "c")
    settle(a, b, c)
    assert a.device.members(HERE) == {MARK}
    assert Name("ui", "theme") in told(a), "the search finds what was sent"
    for phone in (a, b, c):
        assert not any(name.collection == HERE for name in told(phone))
        assert all(MARK.encode() not in (one.value or b"") for one in payloads(phone))
    for phone in (b, c):
        assert MARK.encode() not in stored(phone)
        assert phone.device.collections() == ("ui",)


def test_a_value_that_begins_to_sync_is_kept_here_no_longer(a: Phone) -> None:
    """There is one of it, and the newest one counts."""
    a.device.put(HERE, "k", "old", now_ms=a.now_ms)
    a.device.govern(Ungoverned())
    a.device.put(HERE, "k", "new", now_ms=a.now_ms)
    a.store()
    a.reload()
    assert a.device.get(HERE, "k") == "new"


def test_one_too_many_removes_another_one_by_a_tombstone(a: Phone) -> None:
    """The newest one always comes in; the smallest of the others goes, on all devices."""
    b = governed(pair(a, "b"))
    for size, key in enumerate(("small", "large", "newest"), start=1):
        a.device.put("few", key, size, now_ms=a.now_ms)
        a.device.add_score("few", key, size, now_ms=a.now_ms)
        a.device.add_member("few", f"m-{key}", now_ms=a.now_ms + size)
    a.store()
    settle(a, b)
    for phone in (a, b):
        assert set(phone.device.scores("few", now_ms=a.now_ms)) == {"large", "newest"}
        assert len(phone.device.list("few")) == 2


def test_a_refusal_tells_the_rule_and_no_value() -> None:
    """Neither does what was admitted show it."""
    error = SignalRefused("range", "range: it is out of range")
    assert (error.rule, str(error)) == ("range", "range: it is out of range")
    assert MARK not in repr(Admitted(MARK, 0))
    assert "77" not in repr(Held(77, 77))


def test_without_a_policy_everything_is_recorded_as_it_is() -> None:
    """The gate that a device has by default."""
    gate: Gate = Ungoverned()
    assert gate.admit("setting", "ui", "k", 1.25, 7) == Admitted(1.25, 7)
    assert gate.half_life_ms("ui", "k", 5) == 5
    assert not gate.limits("set", "ui")
    assert gate.surplus("set", "ui", {"k": Held(1, 1)}) == ()
    assert not gate.stays_here("ui", "k")
