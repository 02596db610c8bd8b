"""Contributions: their bytes, their sizes, and every way in which they are refused."""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Callable

import numpy as np
import pytest

from crypto import contribution, labels
from crypto.contribution import Contribution, Header, PartyBox, Shape, check_upload, parse_header
from crypto.errors import CryptoError, FormatError
from crypto.field import FIELD31, FIELD61, Array
from crypto.ids import Nullifier, ReportId
from crypto.primitives import hash_, prf, seal
from crypto.shares import ELEMENTS, SEED, Share, reconstruct

KEY = b"\x0a" * 32
SHAPE = Shape(round_digest=b"\1" * 32, m=3, t=1, field=FIELD31, length=16)
SHAPES = [
    dataclasses.replace(SHAPE, m=m, t=t, field=field)
    for m, t in ((3, 1), (4, 1), (5, 1), (5, 2))
    for field in (FIELD31, FIELD61)
]


def parties(m: int) -> list[PartyBox]:
    """Each with a key of its own."""
    return [PartyBox(party, bytes([party]) * 32) for party in range(1, m + 1)]


def one_hot(shape: Shape) -> Array:
    """A vote for the bin 3."""
    values = np.zeros(shape.length, np.uint64)
    values[3] = 1
    return values


def rand(first: int = 0) -> Callable[[int], bytes]:
    """Report ids whose seed goes to party `first` + 1; the rest as the system draws."""
    drawn = iter([first.to_bytes(16, "big")])
    return lambda size: next(drawn, None) or os.urandom(size)


def made(shape: Shape = SHAPE, first: int = 0, key: bytes = KEY) -> Contribution:
    """A true one."""
    keys = [party.public for party in parties(shape.m)]
    return contribution.make(
        shape, one_hot(shape), box_keys=keys, aggregation_key=key, rand=rand(first)
    )


def plain(shape: Shape = SHAPE, first: int = 0, party: int = 1) -> tuple[Header, bytes]:
    """Header and share of a true one, unsealed."""
    upload = made(shape, first)
    header, share = parties(shape.m)[party - 1].open(shape, upload.header, upload.boxes[party - 1])
    return header, contribution.encode_share(shape, header, share)


def refusal(action: Callable[..., object], *args: object) -> str:
    """The rule by which it is refused."""
    with pytest.raises(CryptoError) as refused:
        action(*args)
    return refused.value.rule


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.m},{s.t},{s.field.bits}")
def test_the_parties_hold_what_the_device_shared(shape: Shape) -> None:
    """All boxes open at their party, and the shares are the vector, whoever has the seeds."""
    for first in range(shape.m):
        upload = made(shape, first)
        opened = [
            party.open(shape, upload.header, box)
            for party, box in zip(parties(shape.m), upload.boxes, strict=True)
        ]
        assert {header for header, _ in opened} == {
            check_upload(shape, upload.header, upload.boxes)
        }
        held = {share.party: share.elements(shape.field, shape.length) for _, share in opened}
        assert reconstruct(shape.field, held, shape.t).tolist() == one_hot(shape).tolist()
        seeds = [share.party for _, share in opened if share.form == SEED]
        assert seeds == sorted(1 + (first + k) % shape.m for k in range(shape.t))


@pytest.mark.parametrize(("bins", "upload_bytes"), [(16, 530), (64, 914), (1024, 8594)])
def test_an_upload_has_the_size_that_was_promised(bins: int, upload_bytes: int) -> None:
    """A histogram at (3, 1) in field 31, to the byte, whoever has the seed."""
    shape = dataclasses.replace(SHAPE, length=bins)
    for first in range(3):
        assert made(shape, first).upload_bytes == upload_bytes


def test_the_bytes_are_those_of_the_format() -> None:
    """Header and shares, read by hand."""
    upload = made(first=1)
    head = b"PSA1" + bytes((1, 1, 3, 0)) + b"\1" * 32 + (1).to_bytes(16, "big")
    assert upload.header == head + prf(KEY, labels.NULLIFIER, b"\1" * 32)
    bound = hash_(labels.REPORT, upload.header)
    for party in (1, 2, 3):
        header, data = plain(first=1, party=party)
        assert header.hash == bound
        is_seed = party == 2
        start = b"PSS1" + bytes((1, party, 3, 1)) + bound + bytes((is_seed, 31))
        assert data[:46] == start + struct.pack(">I", 16)
        assert len(data) == 46 + (32 if is_seed else 64)


def test_one_account_has_one_nullifier_in_a_round() -> None:
    """Whichever device sends it; another in each round and account."""
    first, again = parse_header(made().header), parse_header(made(first=1).header)
    assert first.nullifier == again.nullifier
    assert first.report_id != again.report_id
    other_round = dataclasses.replace(SHAPE, round_digest=b"\2" * 32)
    others = [made(other_round).header, made(key=b"\x0b" * 32).header]
    assert len({first.nullifier, *(parse_header(one).nullifier for one in others)}) == 3
    assert refusal(contribution.nullifier, b"short", bytes(32)) == "length"
    assert refusal(contribution.nullifier, KEY, b"short") == "length"


@pytest.mark.parametrize("first", [0, 1], ids=["seed", "elements"])
def test_every_bit_of_header_and_box_is_protected(first: int) -> None:
    """One bit flipped anywhere is refused by the party, with an error of the family."""
    upload = made(first=first)
    party = parties(3)[0]
    whole = bytearray(upload.header + upload.boxes[0])
    for bit in range(8 * len(whole)):
        whole[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CryptoError):
            party.open(SHAPE, bytes(whole[:88]), bytes(whole[88:]))
        whole[bit // 8] ^= 1 << bit % 8
    party.open(SHAPE, bytes(whole[:88]), bytes(whole[88:]))


@pytest.mark.parametrize("first", [0, 1], ids=["seed", "elements"])
def test_every_bit_of_a_shares_head_is_checked(first: int) -> None:
    """Its maker can seal what it likes: 46 bytes have one true value each, and no bit is free."""
    header, data = plain(first=first)
    wrong = bytearray(data)
    for bit in range(8 * 46):
        wrong[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError):
            contribution.parse_share(bytes(wrong), SHAPE, header, 1)
        wrong[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("first", [0, 1], ids=["seed", "elements"])
def test_every_truncation_is_refused(first: int) -> None:
    """Cut off anywhere, or longer by a byte: header, share and box."""
    upload = made(first=first)
    header, data = plain(first=first)
    party = parties(3)[0]
    for size in (*range(88), 89):
        cut = (upload.header + b"\0")[:size]
        assert refusal(parse_header, cut) == "length"
        assert refusal(party.open, SHAPE, cut, upload.boxes[0]) == "length"
    for size in (*range(len(data)), len(data) + 1):
        cut = (data + b"\0")[:size]
        assert refusal(contribution.parse_share, cut, SHAPE, header, 1) == "length"
    box = upload.boxes[0]
    for size in (*range(len(box)), len(box) + 1):
        assert refusal(party.open, SHAPE, upload.header, (box + b"\0")[:size]) == "length"


def test_bytes_of_every_length_are_refused() -> None:
    """Zeros and ones from 0 to 300 bytes, as header, share and box."""
    header, _ = plain()
    upload = made()
    party = parties(3)[0]
    for size in range(300):
        for data in (bytes(size), b"\xff" * size):
            refusal(parse_header, data)
            refusal(contribution.parse_share, data, SHAPE, header, 1)
            refusal(party.open, SHAPE, upload.header, data)


HEADERS: dict[str, tuple[int, int, str]] = {
    "magic": (0, ord("X"), "header"),
    "suite": (4, 2, "header"),
    "mode of blind tokens": (5, 2, "mode"),
    "mode": (5, 0, "mode"),
    "too few parties": (6, 2, "parties"),
    "too many parties": (6, 17, "parties"),
    "reserved": (7, 1, "header"),
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_out_of_form_is_named(what: str) -> None:
    """By its rule."""
    at, value, rule = HEADERS[what]
    data = bytearray(made().header)
    data[at] = value
    assert refusal(parse_header, bytes(data)) == rule


Change = Callable[[bytes], bytes]


def put(at: int, value: bytes) -> Change:
    """Other bytes in one place."""
    return lambda data: data[:at] + value + data[at + len(value) :]


P = FIELD31.p.to_bytes(4, "little")
ELEMENT_CHEATS: dict[str, tuple[Change, str]] = {
    "magic": (put(0, b"PSA1"), "share"),
    "suite": (put(4, b"\2"), "share"),
    "another party's": (put(5, b"\2"), "party"),
    "m": (put(6, b"\4"), "parties"),
    "t": (put(7, b"\0"), "parties"),
    "another contribution's": (put(8, bytes(32)), "report"),
    "a seed where elements are due": (lambda data: put(40, b"\1")(data)[:46] + KEY, "form"),
    "unknown form": (put(40, b"\2"), "form"),
    "field 61": (put(41, b"\x3d"), "field"),
    "unknown field": (put(41, b"\0"), "field"),
    "another length": (put(42, struct.pack(">I", 17)), "elements"),
    "longer, and says so": (
        lambda data: put(42, struct.pack(">I", 17))(data) + bytes(4),
        "elements",
    ),
    "one element missing": (lambda data: data[:-4], "length"),
    "one element more": (lambda data: data + bytes(4), "length"),
    "an element equal to p, first": (put(46, P), "range"),
    "an element equal to p, last": (put(46 + 60, P), "range"),
    "an element above p": (put(46 + 20, b"\xff" * 4), "range"),
}
SEED_CHEATS: dict[str, tuple[Change, str]] = {
    "elements where a seed is due": (lambda data: put(40, b"\0")(data) + bytes(32), "form"),
    "a short seed": (lambda data: data[:-1], "length"),
    "a long seed": (lambda data: data + b"\0", "length"),
    "no seed": (lambda data: data[:46], "length"),
}


@pytest.mark.parametrize("what", ELEMENT_CHEATS)
def test_a_crafted_row_is_refused_by_its_rule(what: str) -> None:
    """What a malicious device would seal in place of elements."""
    change, rule = ELEMENT_CHEATS[what]
    header, data = plain(first=1)
    assert refusal(contribution.parse_share, change(data), SHAPE, header, 1) == rule
    assert contribution.parse_share(data, SHAPE, header, 1).form == ELEMENTS


@pytest.mark.parametrize("what", SEED_CHEATS)
def test_a_crafted_seed_is_refused_by_its_rule(what: str) -> None:
    """The same in place of a seed."""
    change, rule = SEED_CHEATS[what]
    header, data = plain(first=0)
    assert refusal(contribution.parse_share, change(data), SHAPE, header, 1) == rule
    assert contribution.parse_share(data, SHAPE, header, 1).form == SEED


def test_shares_do_not_move_between_contributions_rounds_and_parties() -> None:
    """Sealed under the true keys, each is refused where it does not belong."""
    one, other = made(first=1), made(first=4)
    first, second, third = parties(3)
    assert refusal(first.open, SHAPE, one.header, other.boxes[0]) == "report"
    assert refusal(first.open, SHAPE, one.header, one.boxes[2]) == "open"
    assert refusal(third.open, SHAPE, one.header, one.boxes[0]) == "open"
    later = dataclasses.replace(SHAPE, round_digest=b"\2" * 32)
    assert refusal(first.open, later, one.header, one.boxes[0]) == "round"
    four = dataclasses.replace(SHAPE, m=4)
    assert refusal(first.open, four, one.header, one.boxes[0]) == "parties"
    to_wrong_party = seal(third.public, plain(first=1, party=1)[1])
    assert refusal(third.open, SHAPE, one.header, to_wrong_party) in ("report", "party")
    stale = one.header[:56] + bytes(32)
    assert parse_header(stale).nullifier == Nullifier(bytes(32))
    assert refusal(first.open, SHAPE, stale, one.boxes[0]) == "report"
    assert second.open(SHAPE, one.header, one.boxes[1])[1].party == 2


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"field": FIELD61}, "length"),
        ({"length": 15}, "length"),
        ({"length": 17}, "length"),
        ({"round_digest": b"\2" * 32}, "round"),
        ({"m": 4}, "parties"),
    ],
    ids=lambda value: str(value),
)
def test_a_contribution_of_another_shape_is_refused_unopened(
    change: dict[str, object], rule: str
) -> None:
    """Field and length show in a box's size; a relay sees it as early as a party."""
    upload = made(dataclasses.replace(SHAPE, **change), first=1)  # type: ignore[arg-type]
    assert refusal(check_upload, SHAPE, upload.header, upload.boxes) == rule
    assert refusal(parties(3)[0].open, SHAPE, upload.header, upload.boxes[0]) == rule


def test_the_field_of_a_seed_is_checked_although_it_is_as_long() -> None:
    """32 bytes are 32 bytes: its head tells."""
    upload = made(dataclasses.replace(SHAPE, field=FIELD61), first=0)
    assert refusal(parties(3)[0].open, SHAPE, upload.header, upload.boxes[0]) == "field"
    upload = made(dataclasses.replace(SHAPE, m=5, t=2), first=0)
    shape = dataclasses.replace(SHAPE, m=5, t=1)
    assert refusal(parties(5)[0].open, shape, upload.header, upload.boxes[0]) == "parties"


def test_an_upload_has_a_box_for_each_party() -> None:
    """No more, no fewer, and each of the size that its form has."""
    upload = made()
    assert refusal(check_upload, SHAPE, upload.header, upload.boxes[:2]) == "parties"
    assert refusal(check_upload, SHAPE, upload.header, (*upload.boxes, b"")) == "parties"
    assert refusal(check_upload, SHAPE, upload.header, upload.boxes[::-1]) == "length"


def test_a_device_makes_nothing_that_a_round_would_refuse() -> None:
    """Another number of elements or of keys, an element that is none, keys of wrong size."""

    def attempt(values: Array, keys: list[bytes], key: bytes = KEY) -> str:
        return refusal(
            lambda: contribution.make(
                SHAPE, values, box_keys=keys, aggregation_key=key, rand=os.urandom
            )
        )

    keys = [party.public for party in parties(3)]
    values = one_hot(SHAPE)
    assert attempt(values[:-1], keys) == "elements"
    assert attempt(values.reshape(4, 4), keys) == "elements"
    assert attempt(values + np.uint64(FIELD31.p), keys) == "range"
    assert attempt(values, keys[:2]) == "parties"
    assert attempt(values, [*keys[:2], b"short"]) == "length"
    assert attempt(values, [*keys[:2], bytes(32)]) == "low-order"
    assert attempt(values, keys, b"short") == "length"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"round_digest": b""}, "length"),
        ({"t": 2}, "parties"),
        ({"m": 17}, "parties"),
        ({"length": 0}, "elements"),
        ({"length": 1 << 30}, "elements"),
    ],
)
def test_a_shape_that_no_round_has_is_refused(change: dict[str, object], rule: str) -> None:
    """Parties that could not check, or no elements."""
    assert refusal(lambda: dataclasses.replace(SHAPE, **change)) == rule  # type: ignore[arg-type]


def test_nothing_secret_shows() -> None:
    """reprs have no key, share or box in them; a party's has its public half."""
    party = parties(3)[0]
    assert repr(party) == f"PartyBox(party 1, public {party.public.hex()}, secret hidden)"
    assert "boxes" not in repr(made())
    header = parse_header(made(first=7).header)
    assert header.report_id == ReportId((7).to_bytes(16, "big"))
    assert header.nullifier.hex() not in repr(header)
    assert repr(Share(1, ELEMENTS, b"\7" * 8)) == "Share(party=1, form=0)"
    assert refusal(PartyBox, 1, b"short") == "length"
