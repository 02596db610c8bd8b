"""Ledgers of budget: no order of entries passes a cap, and a stored one is read back whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

import cbor2
import pytest
from hypothesis import example, given, settings, strategies as st

from crypto.errors import CryptoError, FormatError
from mpc.budget import (
    TASKS_MAX,
    Cap,
    Charge,
    DeviceCaps,
    DeviceLedger,
    OpenedBefore,
    Opening,
    OverBudget,
    PartyLedger,
)

DAY_MS = 86_400_000
TASKS = [bytes([n]) * 32 for n in range(3)]
HOUR_MS = 3_600_000
CAPS = DeviceCaps(
    task=70, task_period=40, period=60, all_time=150, task_period_ms=8 * HOUR_MS, period_ms=DAY_MS
)
END_MS = 1 << 50
Ledger = TypeVar("Ledger", DeviceLedger, PartyLedger)
entries = st.tuples(
    st.sampled_from(TASKS),
    st.integers(1, 45),
    st.integers(0, 12),
    st.integers(-2 * DAY_MS, 3 * DAY_MS),
)


def outcome(enter: Callable[[], Ledger]) -> Ledger | CryptoError:
    """The new ledger or the refusal."""
    try:
        return enter()
    except CryptoError as refusal:
        return refusal


def digest(number: int) -> bytes:
    """Some round's."""
    return bytes([number, 255]) * 16


def reload(ledger: DeviceLedger) -> DeviceLedger:
    """What is read back after it was stored."""
    again = DeviceLedger.from_bytes(ledger.to_bytes())
    assert again == ledger
    assert again.to_bytes() == ledger.to_bytes()
    return again


@settings(deadline=None)
@given(st.lists(entries, max_size=40), st.sets(st.integers(0, 39)))
@example(
    [(TASKS[0], 1, 0, -1), (TASKS[0], 1, 0, 1), (TASKS[0], 18, 2, -1), (TASKS[0], 23, 1, 1)],
    {2},
)
def test_device_never_passes_a_cap(
    attempts: list[tuple[bytes, int, int, int]], restarts: set[int]
) -> None:
    """In any order, with clocks that jump and restarts between, spending stays within each cap.

    The sums are kept here apart, from nothing but which entries were taken.
    """
    ledger, now_ms = DeviceLedger(), 20_000 * DAY_MS
    taken: list[tuple[int, int, bytes, int]] = []
    known: dict[bytes, Charge] = {}
    day, shift = 0, dict.fromkeys(TASKS, 0)
    for step, (task, micro_rho, number, passed_ms) in enumerate(attempts):
        now_ms += passed_ms
        if step in restarts:
            ledger = reload(ledger)
        before, charge = ledger, Charge(task, micro_rho, 30_000 * DAY_MS, END_MS)
        entered = outcome(
            lambda: before.enter(CAPS, digest(number), charge, now_ms=now_ms)  # noqa: B023
        )
        if isinstance(entered, OverBudget):
            assert entered.left < micro_rho == entered.wanted
            continue
        if isinstance(entered, CryptoError):
            assert known[digest(number)] != charge
            continue
        ledger = entered
        if known.setdefault(digest(number), charge) is charge:
            day = max(day, now_ms // DAY_MS)
            shift[task] = max(shift[task], now_ms // CAPS.task_period_ms)
            taken.append((day, shift[task], task, micro_rho))
        assert ledger.micro_rho == sum(cost_ for *_, cost_ in taken) <= CAPS.all_time
        for one in TASKS:
            assert sum(c for *_, t, c in taken if t == one) <= CAPS.task
            in_shift = (c for _, s, t, c in taken if (s, t) == (shift[one], one))
            assert sum(in_shift) <= CAPS.task_period
        assert sum(c for d, *_, c in taken if d == day) <= CAPS.period


@settings(deadline=None)
@given(st.lists(entries, max_size=30))
def test_device_refuses_only_what_does_not_fit(
    attempts: list[tuple[bytes, int, int, int]],
) -> None:
    """`left` says what fits: the least of the rooms and 1 is refused, and half of it is taken."""
    ledger, now_ms = DeviceLedger(), 20_000 * DAY_MS
    for step, (task, _, _, passed_ms) in enumerate(attempts):
        now_ms += abs(passed_ms)
        rooms = ledger.left(CAPS, task, now_ms=now_ms)
        least = min(rooms.values())
        with pytest.raises(OverBudget) as refusal:
            ledger.enter(CAPS, digest(step), Charge(task, least + 1, now_ms, END_MS), now_ms=now_ms)
        assert rooms[refusal.value.cap] == refusal.value.left == least
        part = (least + 1) // 2
        if part:
            charge = Charge(task, part, now_ms, END_MS)
            ledger = ledger.enter(CAPS, digest(step), charge, now_ms=now_ms)


@pytest.mark.parametrize(
    ("caps", "cap"),
    [
        (replace(CAPS, task=15), Cap.TASK),
        (replace(CAPS, task_period=15), Cap.TASK_PERIOD),
        (replace(CAPS, period=15), Cap.PERIOD),
        (replace(CAPS, all_time=15), Cap.GLOBAL),
    ],
)
def test_refusal_names_cap_task_and_rest(caps: DeviceCaps, cap: Cap) -> None:
    """A refusal says which cap, which task, what it costs and what is left."""
    ledger = DeviceLedger().enter(caps, digest(0), Charge(TASKS[1], 10, 9, END_MS), now_ms=1)
    with pytest.raises(OverBudget) as refusal:
        ledger.enter(caps, digest(1), Charge(TASKS[1], 6, 9, END_MS), now_ms=1)
    assert (refusal.value.cap, refusal.value.task, refusal.value.left) == (cap, TASKS[1], 5)
    assert f"task {TASKS[1].hex()} costs 6 micro-rho and the {cap} cap has 5" in str(refusal.value)


def test_retry_costs_nothing_and_nothing_comes_back() -> None:
    """The same entry again leaves the ledger as it is; another cost for the round is refused."""
    charge = Charge(TASKS[0], 30, 5, END_MS)
    ledger = DeviceLedger().enter(CAPS, digest(0), charge, now_ms=1)
    assert reload(ledger).enter(CAPS, digest(0), charge, now_ms=2) == ledger
    with pytest.raises(FormatError, match="another task or cost"):
        ledger.enter(CAPS, digest(0), charge._replace(micro_rho=1), now_ms=2)
    soon = ledger.enter(CAPS, digest(1), Charge(TASKS[1], 1, 9, END_MS), now_ms=5)
    assert list(soon.rounds) == [digest(0), digest(1)]
    later = ledger.enter(CAPS, digest(1), Charge(TASKS[0], 1, 9, END_MS), now_ms=6)
    assert list(later.rounds) == [digest(1)]
    assert later.micro_rho == 31


def test_clock_set_back_stays_in_its_period() -> None:
    """No room comes of setting the clock back, and a narrowed cap leaves nothing."""
    ledger = DeviceLedger().enter(
        CAPS, digest(0), Charge(TASKS[0], 40, 0, END_MS), now_ms=9 * DAY_MS
    )
    assert ledger.left(CAPS, TASKS[0], now_ms=2 * DAY_MS)[Cap.TASK_PERIOD] == 0
    assert ledger.left(CAPS, TASKS[0], now_ms=10 * DAY_MS - 1)[Cap.PERIOD] == 20
    assert ledger.left(CAPS, TASKS[0], now_ms=10 * DAY_MS)[Cap.PERIOD] == 60
    with pytest.raises(OverBudget, match="has 0 left"):
        ledger.enter(replace(CAPS, task=1), digest(1), Charge(TASKS[0], 1, 0, END_MS), now_ms=0)


def test_a_task_has_a_period_of_its_own() -> None:
    """Eight hours later there is room in the task's period and not in the device's."""
    ledger = DeviceLedger().enter(CAPS, digest(0), Charge(TASKS[0], 35, 0, END_MS), now_ms=DAY_MS)
    now_ms = DAY_MS + CAPS.task_period_ms
    assert ledger.left(CAPS, TASKS[0], now_ms=now_ms - 1)[Cap.TASK_PERIOD] == 5
    assert ledger.left(CAPS, TASKS[0], now_ms=now_ms)[Cap.TASK_PERIOD] == 40
    with pytest.raises(OverBudget) as refusal:
        ledger.enter(CAPS, digest(1), Charge(TASKS[0], 26, 0, END_MS), now_ms=now_ms)
    assert (refusal.value.cap, refusal.value.left) == (Cap.PERIOD, 25)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), entries), max_size=40))
def test_devices_of_one_account_share_its_caps(
    attempts: list[tuple[int, tuple[bytes, int, int, int]]],
) -> None:
    """Three ledgers that know each other take together what one would."""
    ledgers, now_ms = [DeviceLedger()] * 3, 20_000 * DAY_MS
    for number, (at, (task, micro_rho, _, passed_ms)) in enumerate(attempts):
        now_ms += abs(passed_ms)
        others = [one for other, one in enumerate(ledgers) if other != at]
        rooms = ledgers[at].left(CAPS, task, now_ms=now_ms, others=others)
        charge = Charge(task, micro_rho, now_ms, END_MS)
        entered = outcome(
            partial(ledgers[at].enter, CAPS, digest(number), charge, now_ms=now_ms, others=others)
        )
        if isinstance(entered, OverBudget):
            assert max(0, rooms[entered.cap]) == entered.left < micro_rho
            continue
        assert isinstance(entered, DeviceLedger)
        ledgers[at] = entered
        assert min(rooms.values()) >= micro_rho
        assert sum(one.micro_rho for one in ledgers) <= CAPS.all_time
        for one in TASKS:
            spent = (ledger.tasks[one].micro_rho for ledger in ledgers if one in ledger.tasks)
            assert sum(spent) <= CAPS.task


def test_a_ledger_lets_go_of_tasks_that_have_expired_and_never_of_what_they_cost() -> None:
    """Only when there is no room for one more task; with none expired, one more is refused."""
    wide = DeviceCaps(
        task=10, task_period=10, period=1 << 40, all_time=1 << 40, task_period_ms=1, period_ms=1
    )
    hashes = [number.to_bytes(32, "big") for number in range(TASKS_MAX + 1)]
    ledger = DeviceLedger()
    for number, task in enumerate(hashes[:-1]):
        ledger = ledger.enter(wide, task, Charge(task, 10, 5, 100 + number), now_ms=1)
    last = hashes[-1]
    with pytest.raises(FormatError, match="wait until one ends"):
        ledger.enter(wide, last, Charge(last, 10, 5, END_MS), now_ms=100)
    later = reload(ledger.enter(wide, last, Charge(last, 10, 5, END_MS), now_ms=103))
    assert set(hashes) - set(later.tasks) == set(hashes[:3])
    assert later.micro_rho == 10 * len(hashes)
    assert len(later.to_bytes()) < 30_000


openings = st.tuples(
    st.sampled_from(TASKS), st.integers(0, 5), st.integers(0, 2), st.integers(1, 45)
)


@settings(deadline=None)
@given(st.lists(openings, max_size=40), st.sets(st.integers(0, 39)))
@example([(TASKS[0], 0, 0, 10), (TASKS[0], 0, 1, 10)], {1})
def test_party_opens_a_window_once_and_within_its_cap(
    attempts: list[tuple[bytes, int, int, int]], restarts: set[int]
) -> None:
    """In any order, with restarts between, a window has one round and a task keeps its cap."""
    ledger = PartyLedger()
    opened: dict[tuple[bytes, int], Opening] = {}
    for step, (task, window_ms, number, micro_rho) in enumerate(attempts):
        if step in restarts:
            again = PartyLedger.from_bytes(ledger.to_bytes())
            assert again == ledger
            ledger = again
        opening = Opening(digest(number), micro_rho)
        spent = sum(one.micro_rho for (task_, _), one in opened.items() if task_ == task)
        known = opened.get((task, window_ms))
        before = ledger
        entered = outcome(
            lambda: before.enter(task, window_ms, opening, cap_micro_rho=100)  # noqa: B023
        )
        if isinstance(entered, OpenedBefore):
            assert known not in (None, opening)
            assert (entered.task, entered.window_ms) == (task, window_ms)
            continue
        if isinstance(entered, OverBudget):
            assert known is None
            assert (entered.cap, entered.task) == (Cap.TASK, task)
            assert entered.left == 100 - spent < micro_rho
            continue
        assert isinstance(entered, PartyLedger)
        ledger = entered
        assert known in (None, opening)
        opened[task, window_ms] = opening
        assert ledger.spent(task) == sum(
            one.micro_rho for (task_, _), one in opened.items() if task_ == task
        )
        assert ledger.spent(task) <= 100


def stored_device() -> list[Any]:
    """The fields of a device's ledger with two entries."""
    ledger = DeviceLedger().enter(CAPS, digest(0), Charge(TASKS[0], 30, 5, END_MS), now_ms=1)
    ledger = ledger.enter(CAPS, digest(1), Charge(TASKS[1], 20, 5, END_MS), now_ms=1)
    fields: list[Any] = cbor2.loads(ledger.to_bytes())
    return fields


def stored_party() -> list[Any]:
    """The fields of a party's ledger with one entry."""
    ledger = PartyLedger().enter(TASKS[0], 7, Opening(digest(0), 30), cap_micro_rho=50)
    fields: list[Any] = cbor2.loads(ledger.to_bytes())
    return fields


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: f.__setitem__(0, 2),
        lambda f: f.__setitem__(1, 49),
        lambda f: f.__setitem__(2, -1),
        lambda f: f.__setitem__(3, 1 << 63),
        lambda f: f.__setitem__(4, []),
        lambda f: f.__setitem__(3, 51),
        lambda f: f[4].__setitem__(b"short", [1, 0, 1, 9]),
        lambda f: f[4].__setitem__(TASKS[0], [30, 0, 30]),
        lambda f: f[4].__setitem__(TASKS[0], [30, 0, 31, 9]),
        lambda f: f[4].__setitem__(TASKS[0], [30, -1, 30, 9]),
        lambda f: f[4].__setitem__(TASKS[0], [30, 0, 30, -1]),
        lambda f: f[4].__setitem__(TASKS[0], [30.0, 0, 30, 9]),
        lambda f: f[5].__setitem__(digest(0), [TASKS[0], 0, 5, 9]),
        lambda f: f[5].__setitem__(digest(0), ["task", 30, 5, 9]),
        lambda f: f.append(0),
        lambda f: f.pop(),
    ],
)
def test_spoilt_device_ledger_is_refused(spoil: Callable[[list[Any]], None]) -> None:
    """What `to_bytes` can't have written is refused rather than taken for an empty ledger."""
    fields = stored_device()
    spoil(fields)
    with pytest.raises(FormatError):
        DeviceLedger.from_bytes(cbor2.dumps(fields, canonical=True))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: f.__setitem__(0, 0),
        lambda f: f.__setitem__(1, None),
        lambda f: f[1].__setitem__(TASKS[0], {}),
        lambda f: f[1].__setitem__(TASKS[0], {-1: [digest(0), 30]}),
        lambda f: f[1].__setitem__(TASKS[0], {"7": [digest(0), 30]}),
        lambda f: f[1][TASKS[0]].__setitem__(7, [digest(0)]),
        lambda f: f[1][TASKS[0]].__setitem__(7, [b"short", 30]),
        lambda f: f[1][TASKS[0]].__setitem__(7, [None, 30]),
        lambda f: f[1][TASKS[0]].__setitem__(7, [digest(0), True]),
    ],
)
def test_spoilt_party_ledger_is_refused(spoil: Callable[[list[Any]], None]) -> None:
    """The same holds for a party."""
    fields = stored_party()
    spoil(fields)
    with pytest.raises(FormatError):
        PartyLedger.from_bytes(cbor2.dumps(fields, canonical=True))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_garbage_is_no_ledger(data: bytes) -> None:
    """Any bytes are refused with FormatError; two encodings of one ledger are not both taken."""
    for ledger in (DeviceLedger, PartyLedger):
        with pytest.raises(FormatError):
            ledger.from_bytes(data)
    with pytest.raises(FormatError, match="of this version"):
        PartyLedger.from_bytes(PartyLedger().to_bytes() + b"\0")
    assert PartyLedger.from_bytes(PartyLedger().to_bytes()) == PartyLedger()


@pytest.mark.parametrize(
    "name", ["task", "task_period", "period", "all_time", "task_period_ms", "period_ms"]
)
def test_caps_are_whole_numbers(name: str) -> None:
    """A cap below zero, a float or a period of no length is refused."""
    for bad in (-1, 1.5, 1 << 63):
        with pytest.raises(FormatError):
            replace(CAPS, **{name: cast(int, bad)})


@pytest.mark.parametrize(
    "charge",
    [
        Charge(b"short", 1, 1, END_MS),
        Charge(TASKS[0], 0, 1, END_MS),
        Charge(TASKS[0], -5, 1, END_MS),
        Charge(TASKS[0], 1, -1, END_MS),
        Charge(TASKS[0], 1, 1, -1),
        Charge("x" * 32, 1, 1, END_MS),  # type: ignore[arg-type]
    ],
)
def test_entry_that_would_refund_or_name_nothing(charge: Charge) -> None:
    """An entry costs at least one micro-rho and names a task, so nothing can be taken back."""
    with pytest.raises(FormatError):
        DeviceLedger().enter(CAPS, digest(0), charge, now_ms=1)
    with pytest.raises(FormatError):
        DeviceLedger().enter(CAPS, b"round", Charge(TASKS[0], 1, 1, END_MS), now_ms=1)
    with pytest.raises(FormatError):
        PartyLedger().enter(TASKS[0], 1, Opening(digest(0), 0), cap_micro_rho=9)
