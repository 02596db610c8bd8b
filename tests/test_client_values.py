"""Typed values and the rules of the profile's map."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given, strategies as st

from client.errors import BadValue
from client.profile import Entry, Name, Order, Profile
from client.values import Part, Value, decay, decode, encode
from crypto.ids import DeviceId

_leaves = (
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.text() | st.binary()
    | st.floats(allow_nan=False, allow_infinity=False)
)  # fmt: skip
_values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(_values)
def test_values_survive_and_have_one_encoding(value: Value) -> None:
    """decode(encode(x)) is x, with its type."""
    again = decode(encode(value))
    assert again == value
    assert type(again) is type(value)
    assert encode(again) == encode(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**64, object(), {1: 2}, (1,), {"a": {1}}])
def test_other_values_are_refused(value: object) -> None:
    """Nothing without a deterministic form."""
    with pytest.raises(BadValue):
        encode(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    ["", "1801", "190001", "a2616201616101", "5f4161ff", "01ff", "c001", "f97e00",
     "fb3ff0000000000000", "9fff", "a1f500", "f7", "61ff", "d81c00", "3bffffffffffffffffff"],
)  # fmt: skip
def test_other_encodings_are_refused(data: str) -> None:
    """Longer forms, unsorted keys, indefinite lengths, tags, NaN, trailing bytes."""
    with pytest.raises(BadValue):
        decode(bytes.fromhex(data))


@given(st.binary(max_size=40))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    """Nothing else comes out of the decoder."""
    with contextlib.suppress(BadValue):
        assert encode(decode(data)) == data


def test_nesting_is_bounded() -> None:
    """Sixteen levels."""
    deep: Value = 1
    for _ in range(16):
        deep = [deep]
    with pytest.raises(BadValue):
        encode(deep)


def test_a_part_is_a_total_and_a_time() -> None:
    """`[total, changed_ms]`, and nothing else is one."""
    assert Part.decode(Part(2.5, 7).encode()) == Part(2.5, 7)
    for other in ([1], [1, 2, 3], ["1", 2], [1, -1], [True, 1], 5):
        assert Part.decode(encode(other)) is None  # type: ignore[arg-type]


def test_decay_halves_and_never_grows() -> None:
    """Time backwards counts as no time."""
    assert decay(8, 10, 10) == 4
    assert decay(8, -10, 10) == 8
    assert decay(8, 10**9, None) == 8


def _entry(lamport: int, epoch: int, who: int, value: bytes | None, index: int = 0) -> Entry:
    return Entry(Order(lamport, epoch, DeviceId(bytes((who,)) * 16)), index, value, 0)


def test_lamport_then_epoch_then_device_decide() -> None:
    """A record that is published again under a newer epoch beats its older copy."""
    profile, name = Profile(), Name("ui", "x")
    for entry in (_entry(1, 1, 9, b"1"), _entry(1, 2, 1, b"2"), _entry(1, 2, 2, b"3")):
        profile.merge(name, entry)
    profile.merge(name, _entry(1, 1, 10, b"old"))
    found = profile.find(name)
    assert found is not None
    assert found.value == b"3"


def test_nobody_raises_another_devices_part() -> None:
    """A copy of what its device wrote is fine; a newer one, or another value, is not."""
    profile, name = Profile(), Name("s", "x#1")
    assert profile.merge(name, _entry(5, 1, 1, b"v", index=1))
    assert profile.merge(name, _entry(5, 2, 2, b"v", index=0))
    assert not profile.merge(name, _entry(5, 2, 3, b"w", index=0))
    assert not profile.merge(name, _entry(6, 2, 2, b"w", index=0))


def test_stale_names_are_those_of_older_epochs() -> None:
    """What a rotation has to publish again."""
    profile = Profile()
    profile.set_epoch(1)
    profile.merge(Name("ui", "x"), _entry(1, 1, 1, b"v"))
    profile.merge(Name("ui", "y"), _entry(2, 1, 1, None))
    profile.set_epoch(2)
    assert list(profile.stale) == [Name("ui", "x"), Name("ui", "y")]
    profile.merge(Name("ui", "x"), _entry(1, 2, 1, b"v"))
    assert list(profile.stale) == [Name("ui", "y")]
    assert "v'" not in repr(profile.find(Name("ui", "x")))
