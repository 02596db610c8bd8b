"""Manifests: exact bytes, signed by every pinned party, a round of the task that they name."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from crypto import contribution
from crypto.errors import CryptoError, FormatError, SignatureError
from crypto.field import FIELD31
from crypto.primitives import hash_, verify
from crypto.shares import reconstruct
from mpc import manifest as manifests
from mpc.kinds import Histogram
from mpc.manifest import Manifest, Party
from mpc.task import Task
from tests.mpc_samples import box, manifest, party, pinned, signed, task

LAST_MS = task().expires_ms - 5
SHAPES = [(3, 1), (4, 1), (5, 1), (5, 2)]


def opened(data: bytes, keys: list[bytes] | None = None, of: Task | None = None) -> Manifest:
    """What a device makes of it."""
    return manifests.open_(data, pinned() if keys is None else keys, of or task())


def refused(data: bytes, keys: list[bytes] | None = None, of: Task | None = None) -> str:
    """The rule by which a device refuses it."""
    with pytest.raises(CryptoError) as caught:
        opened(data, keys, of)
    return caught.value.rule


def test_the_bytes_are_those_of_the_specification() -> None:
    """ "PSM1", suite, m, t, 0, ids, times, k_min, then both keys of each party: 76 + 64m."""
    of = task()
    made = manifest(of)
    expected = (
        b"PSM1" + bytes((1, 3, 1, 0)) + b"\x01" * 16 + of.spec_hash
        + made.open_ms.to_bytes(8, "big") + made.close_ms.to_bytes(8, "big")
        + of.k_min.to_bytes(4, "big")
        + b"".join(party(at).public + box(at).public for at in (1, 2, 3))
    )  # fmt: skip
    assert made.encoded == expected
    assert len(expected) == 76 + 3 * 64
    assert made.digest == hash_(b"pss1/round", expected)
    for at in (1, 2, 3):
        verify(party(at).public, b"pss1/round-sig", expected, made.sign(party(at)))


@pytest.mark.parametrize(("m", "t"), SHAPES)
def test_a_signed_manifest_comes_back(m: int, t: int) -> None:
    """For every (m, t): what all parties signed is opened to the same bytes and digest."""
    of = task(m=m, t=t)
    made = manifest(of)
    again = opened(signed(made), pinned(m), of)
    assert again == made
    assert again.encoded == made.encoded
    assert again.digest == made.digest
    assert again.box_keys() == tuple(box(at).public for at in range(1, m + 1))
    assert manifests.parse(made.encoded) == made


def test_what_is_encoded_for_a_round_opens_at_its_parties_and_no_other_round() -> None:
    """Kind, manifest and contribution meet: shares reconstruct the encoding, and neither the box
    keys of another round nor its digest will do."""
    of = task(kind=Histogram(FIELD31, 3, ()))
    made, other = manifest(of), manifest(of, round_id=b"\x02" * 16)
    value = of.kind.encode(2)
    sent = contribution.make(
        made.shape(of),
        value,
        box_keys=made.box_keys(),
        aggregation_key=b"\x05" * 32,
        rand=random.Random(3).randbytes,
    )
    vectors = {}
    for at in (1, 2, 3):
        _, share = box(at).open(made.shape(of), sent.header, sent.boxes[at - 1])
        vectors[at] = share.elements(of.field, of.kind.length)
        with pytest.raises(CryptoError, match="open"):
            box(at, round_no=2).open(made.shape(of), sent.header, sent.boxes[at - 1])
        with pytest.raises(CryptoError, match="round"):
            box(at).open(other.shape(of), sent.header, sent.boxes[at - 1])
    assert np.array_equal(reconstruct(of.field, vectors, of.t), value)


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_every_party_must_sign(missing: int) -> None:
    """A signature of another party, of nobody, or over another manifest does not stand in."""
    made = manifest(task())
    sigs = [made.sign(party(at)) for at in (1, 2, 3)]
    other = manifest(task(), round_id=b"\x02" * 16)
    for bad in (bytes(64), sigs[missing % 3], other.sign(party(missing))):
        put = [*sigs]
        put[missing - 1] = bad
        assert refused(made.encoded + b"".join(put)) == "signature"
        with pytest.raises(SignatureError):
            made.signed(put)
    assert refused(made.encoded + b"".join(sigs[:2])) == "length"
    with pytest.raises(FormatError, match="signatures"):
        made.signed(sigs[:2])


def test_only_the_pinned_parties_in_their_order() -> None:
    """Others, fewer, more, or the same in another order are refused, however well signed."""
    data = signed(manifest(task()))
    assert refused(data, [*pinned()[:2], party(4).public]) == "party-set"
    assert refused(data, [pinned()[1], pinned()[0], pinned()[2]]) == "party-set"
    assert refused(data, pinned()[:2]) == "length"
    assert refused(data, pinned(4)) == "length"
    assert refused(data, []) == "length"


def test_a_stranger_signs_no_round() -> None:
    """A key that is none of the parties' gets no signature out."""
    with pytest.raises(FormatError, match="party-set"):
        manifest(task()).sign(party(4))


@pytest.mark.parametrize(
    ("other", "rule"),
    [
        ({"spec_hash": bytes(32)}, "round-task"),
        ({"close_ms": 1_700_000_000_001}, "round-window"),
        ({"k_min": 99}, "round-k-min"),
        ({"k_min": 101}, "round-k-min"),
        (
            {"open_ms": 2 * 10**12 - 5, "close_ms": 2 * 10**12 - 5 + task().window_ms},
            "task-expired",
        ),
    ],
)
def test_the_round_must_be_the_tasks(other: dict[str, Any], rule: str) -> None:
    """Even if all parties signed it: task, window, k_min and expiry are the task's."""
    assert refused(signed(manifest(task(), **other))) == rule


def test_the_number_of_parties_must_be_the_tasks() -> None:
    """A task for (5, 2) is not computed at (5, 1)."""
    of = task(m=5, t=2)
    assert refused(signed(manifest(of, t=1)), pinned(5), of) == "round-parties"


def parties(*rows: tuple[bytes, bytes]) -> tuple[Party, ...]:
    """Parties by their two keys."""
    return tuple(Party(*row) for row in rows)


@pytest.mark.parametrize(
    ("other", "rule"),
    [
        ({"t": 0}, "parties"),
        ({"t": 2}, "parties"),
        ({"parties": ()}, "parties"),
        ({"close_ms": 1_700_000_000_000}, "window"),
        ({"open_ms": -1}, "range"),
        ({"k_min": 1 << 32}, "range"),
        ({"round_id": bytes(15)}, "length"),
        ({"spec_hash": bytes(31)}, "length"),
    ],
)
def test_what_makes_no_sense_is_no_manifest(other: dict[str, Any], rule: str) -> None:
    """Refused when it is made or, at the latest, encoded."""
    with pytest.raises(FormatError) as caught:
        _ = manifest(task(), **other).encoded
    assert caught.value.rule == rule


def test_every_key_of_a_round_is_another() -> None:
    """Two parties with one identity or one box key, and box keys of low order, are refused."""
    one, two, three = manifest(task()).parties
    for broken in (
        (one, two, Party(one.ik_pk, three.box_pk)),
        (one, two, Party(three.ik_pk, one.box_pk)),
        (one, two, Party(three.ik_pk, three.ik_pk)),
    ):
        with pytest.raises(FormatError, match="party-keys"):
            manifest(task(), parties=broken)
    with pytest.raises(FormatError, match="low-order"):
        manifest(task(), parties=(one, two, Party(three.ik_pk, bytes(32))))
    with pytest.raises(FormatError, match="length"):
        manifest(task(), parties=(one, two, Party(three.ik_pk[:31], three.box_pk)))


@settings(max_examples=100)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_byte_can_be_changed(at: int, by: int) -> None:
    """A signed manifest with any byte other is refused."""
    data = bytearray(signed(manifest(task())))
    data[at % len(data)] ^= by
    with pytest.raises(CryptoError):
        opened(bytes(data))


@given(st.binary(max_size=400))
def test_bytes_of_any_sort_are_a_format_error(data: bytes) -> None:
    """Nothing but FormatError comes out of what is no manifest."""
    for prefix in (b"", b"PSM1\x01\x03\x01\x00"):
        with pytest.raises(FormatError):
            manifests.parse(prefix + data[: 200 - len(prefix)])


@pytest.mark.parametrize("at", [3, 4, 7])
def test_magic_suite_and_the_zero_byte_are_checked(at: int) -> None:
    """There is no other suite, and what is reserved is zero."""
    data = bytearray(manifest(task()).encoded)
    data[at] ^= 2
    with pytest.raises(FormatError, match=r"\[manifest\]"):
        manifests.parse(bytes(data))


def test_two_manifests_for_one_window_conflict() -> None:
    """Those of one task that overlap and differ; the same one, the next window and another
    task's do not."""
    made = manifest(task())
    width = made.close_ms - made.open_ms
    assert not made.conflicts(replace(made))
    for other in (
        replace(made, round_id=b"\x02" * 16),
        replace(made, parties=made.parties[::-1]),
        replace(made, open_ms=made.open_ms + width - 1, close_ms=made.close_ms + width - 1),
    ):
        assert made.conflicts(other)
        assert other.conflicts(made)
    later = replace(made, open_ms=made.close_ms, close_ms=made.close_ms + width)
    assert not made.conflicts(later)
    assert not made.conflicts(manifest(task(title="Another"), round_id=b"\x02" * 16))


def test_a_device_contributes_while_the_window_is_open() -> None:
    """From the opening on, and not at the closing any more."""
    made = manifest(task())
    manifests.check_time(made, made.open_ms)
    manifests.check_time(made, made.close_ms - 1)
    with pytest.raises(FormatError, match="window-early"):
        manifests.check_time(made, made.open_ms - 1)
    with pytest.raises(FormatError, match="window-closed"):
        manifests.check_time(made, made.close_ms)
