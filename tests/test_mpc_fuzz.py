"""Corrupted bytes of joint aggregates: refused by a CryptoError or left out, and never counted.

A short slice runs with all tests, the long run by `make soak`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from crypto import canonical, contribution
from crypto.contribution import Contribution, PartyBox, encode_share, parse_header
from crypto.errors import CryptoError
from crypto.primitives import seal
from mpc import batch, manifest, oracle, result, task
from mpc.keys import PublisherKey
from tests.mpc_kind_cases import Case, cases
from tests.test_crypto_fuzz import refused_or_taken
from tests.test_mpc_batch import SIZES, Round
from tests.vectors import aggregates
from tests.vectors.aggregates import PUBLISHER_SEED, RoundOf
from tests.vectors.story import Row


@cache
def first_round() -> RoundOf:
    """A round of a histogram of three bins."""
    return aggregates.rounds()[0]


@cache
def rows() -> dict[str, list[Row]]:
    """What the vectors have, true things of every sort."""
    return aggregates.positives()


def true(part: str, *names: Any, at: int = 0) -> bytes:
    """Bytes of a row of a part."""
    value: Any = rows()[part][at]
    for name in names:
        value = value[name]
    return bytes.fromhex(value)


def open_task(data: bytes) -> object:
    """As a device does."""
    return task.open_(data, task_publisher())


def task_publisher() -> bytes:
    """Whom devices pin."""
    return PublisherKey(PUBLISHER_SEED).public


def open_round(data: bytes) -> object:
    """As a device does."""
    pinned = [party.ik_pk for party in first_round().manifest.parties]
    return manifest.open_(data, pinned, first_round().task)


def open_result(data: bytes) -> object:
    """With the true one's signatures, as an analyst does."""
    sigs = {int(at): bytes.fromhex(sig) for at, sig in rows()["results"][0]["sigs"].items()}
    return result.open_(data, sigs, first_round().manifest, first_round().task)


def box_of(party: int) -> PartyBox:
    """What a party opens its boxes with."""
    return PartyBox(party, first_round().box_keys[party - 1])


def open_box(party: int) -> Callable[[bytes], object]:
    """Of the first contribution, whose seed is the second party's."""
    header = true("contributions", "header")
    return lambda data: box_of(party).open(first_round().shape, header, data)


def open_under(party: int) -> Callable[[bytes], object]:
    """The first contribution's box, under another header."""
    box = true("contributions", "boxes", party - 1)
    return lambda data: box_of(party).open(first_round().shape, data, box)


PROTECTED: dict[str, tuple[Callable[[], bytes], Callable[[bytes], object]]] = {
    "task": (lambda: true("tasks", "published"), open_task),
    "round": (lambda: true("rounds", "published"), open_round),
    "result": (lambda: true("results", "result"), open_result),
    "box with elements": (lambda: true("contributions", "boxes", 0), lambda d: open_box(1)(d)),
    "box with a seed": (lambda: true("contributions", "boxes", 1), lambda d: open_box(2)(d)),
    "header": (lambda: true("contributions", "header"), lambda d: open_under(1)(d)),
}


@pytest.mark.parametrize("what", PROTECTED)
def test_every_single_bit_is_protected(what: str) -> None:
    """Any one bit flipped in what is signed, sealed or bound makes it refused."""
    make, check = PROTECTED[what]
    data = bytearray(make())
    check(bytes(data))
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CryptoError):
            check(bytes(data))
        data[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("what", PROTECTED)
def test_every_truncation_is_refused(what: str) -> None:
    """Cut off anywhere, or longer by a byte."""
    make, check = PROTECTED[what]
    data = make()
    for size in range(len(data)):
        with pytest.raises(CryptoError):
            check(data[:size])
    with pytest.raises(CryptoError):
        check(data + b"\0")


@pytest.mark.parametrize("party", [1, 2])
def test_a_share_with_any_bit_flipped_is_refused_or_another_share(party: int) -> None:
    """What a device can seal itself: its head is fixed to the last bit, its payload is not."""
    shape, header = first_round().shape, parse_header(true("contributions", "header"))
    plain = bytearray(true("contributions", "shares", party - 1))
    share = contribution.parse_share(bytes(plain), shape, header, party)
    for bit in range(8 * len(plain)):
        plain[bit // 8] ^= 1 << bit % 8
        try:
            other = contribution.parse_share(bytes(plain), shape, header, party)
        except CryptoError:
            pass
        else:
            assert bit // 8 >= contribution.SHARE_HEAD_BYTES
            assert other != share
        plain[bit // 8] ^= 1 << bit % 8


UNSIGNED: dict[str, tuple[Callable[[], bytes], Callable[[bytes], object]]] = {
    "task": (lambda: true("tasks", "task"), task.decode),
    "manifest": (lambda: true("rounds", "manifest"), manifest.parse),
    "result": (
        lambda: true("results", "result"),
        lambda data: result.parse(data, first_round().task),
    ),
    "map": (lambda: true("tasks", "task", at=4), canonical.decode),
    "header": (lambda: true("contributions", "header"), parse_header),
    "share": (
        lambda: true("contributions", "shares", 0),
        lambda data: contribution.parse_share(
            data, first_round().shape, parse_header(true("contributions", "header")), 1
        ),
    ),
}


@pytest.mark.parametrize("what", UNSIGNED)
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=400))
@example(data=b"\xa0")
def test_noise_is_refused(what: str, data: bytes) -> None:
    """By a CryptoError and in no other way; but short bytes can be a map, in its one form."""
    if not refused_or_taken(lambda: UNSIGNED[what][1](data)):
        assert what == "map"
        assert canonical.encode(canonical.decode(data)) == data


def splice(
    make: Callable[[], bytes], check: Callable[[bytes], object], data: st.DataObject
) -> None:
    """Replaces, drops or repeats some bytes of a true thing; it is refused or taken."""
    raw = bytearray(make())
    at = data.draw(st.integers(0, len(raw) - 1))
    gone = data.draw(st.integers(0, 8))
    raw[at : at + gone] = data.draw(st.one_of(st.binary(max_size=12), st.just(bytes(raw[:9]))))
    refused_or_taken(lambda: check(bytes(raw)))


@pytest.mark.parametrize("what", UNSIGNED)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_what_is_spliced_is_refused_or_taken(what: str, data: st.DataObject) -> None:
    """Where no signature is in the way."""
    splice(*UNSIGNED[what], data)


# Reports in a round


SEEDS = st.integers(0, (1 << 64) - 1)
Corruption = Callable[[random.Random, Round, Contribution], Contribution]


def flipped(rng: random.Random, data: bytes) -> bytes:
    """One bit is another."""
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, data: bytes) -> bytes:
    """Shorter or longer by a few bytes."""
    return data[: -rng.randint(1, 9)] if rng.random() < 0.5 else data + rng.randbytes(3)


def with_box(rng: random.Random, given: Contribution, change: Callable[[bytes], bytes]) -> Any:
    """One of its boxes, changed."""
    boxes = list(given.boxes)
    at = rng.randrange(len(boxes))
    boxes[at] = change(boxes[at])
    return Contribution(given.header, tuple(boxes))


def resealed(rng: random.Random, world: Round, given: Contribution, change: Any) -> Contribution:
    """What is inside of a box is changed, and sealed properly."""
    boxes = list(given.boxes)
    party = world.parties[rng.randrange(world.m)]
    header, share = party.open(world.shape, given.header, boxes[party.party - 1])
    plain = change(encode_share(world.shape, header, share))
    boxes[party.party - 1] = seal(party.public, plain)
    return Contribution(given.header, tuple(boxes))


def swapped(rng: random.Random, given: Contribution) -> Contribution:
    """Two parties have each other's box."""
    boxes = list(given.boxes)
    one, other = rng.sample(range(len(boxes)), 2)
    boxes[one], boxes[other] = boxes[other], boxes[one]
    return Contribution(given.header, tuple(boxes))


def other_payload(rng: random.Random, plain: bytes) -> bytes:
    """A share in form, or nearly: its head is right."""
    head = contribution.SHARE_HEAD_BYTES
    return plain[:head] + rng.randbytes(len(plain) - head)


CORRUPTIONS: list[Corruption] = [
    lambda rng, _, one: Contribution(flipped(rng, one.header), one.boxes),
    lambda rng, _, one: Contribution(cut(rng, one.header), one.boxes),
    lambda rng, _, one: with_box(rng, one, lambda box: flipped(rng, box)),
    lambda rng, _, one: with_box(rng, one, lambda box: cut(rng, box)),
    lambda rng, _, one: with_box(rng, one, lambda box: rng.randbytes(len(box))),
    lambda rng, _, one: swapped(rng, one),
    lambda rng, world, one: with_box(rng, one, lambda _: rng.choice(world.uploads[0].boxes)),
    lambda rng, world, one: resealed(rng, world, one, lambda plain: flipped(rng, plain)),
    lambda rng, world, one: resealed(rng, world, one, lambda plain: cut(rng, plain)),
    lambda rng, world, one: resealed(rng, world, one, lambda plain: other_payload(rng, plain)),
    lambda rng, world, one: resealed(rng, world, one, lambda plain: rng.randbytes(len(plain))),
]


def storm(case: Case, sizes: tuple[int, int], seed: int, reports: int) -> None:
    """Honest reports among corrupted ones and cheats: the sum is the honest ones' alone, and
    many boxes at once are what each is by itself."""
    (kind, draw), rng = case, random.Random(seed)
    world = Round(kind, *sizes, seed=rng.randrange(1 << 30))
    world.vote(kind.encode(draw(rng)))
    honest = [draw(rng) for _ in range(reports)]
    uploads = [world.vote(kind.encode(value)) for value in honest]
    for _ in range(2 * reports):
        spoiled = world.vote(kind.encode(draw(rng)))
        uploads.append(rng.choice(CORRUPTIONS)(rng, world, spoiled))
    # No encodings of anything, but for a chance of less than 2^-28.
    noise = [kind.field.random(kind.length, rng.randbytes) for _ in range(reports)]
    uploads += [world.vote(vector) for vector in noise]
    rng.shuffle(uploads)
    world.uploads = uploads
    outcome = world.outcome()
    assert outcome.sums == list(oracle.aggregate(kind, honest).sums)
    assert int(outcome.verdict.valid.sum()) == len(honest)
    for party in world.parties:
        check_many(world, party)


def check_many(world: Round, party: PartyBox) -> None:
    """`open_boxes` gives what `open` gives, box by box."""
    boxes = [(one.header, one.boxes[party.party - 1]) for one in world.uploads]
    headers, shares, refused = [], [], Counter[str]()
    for header, sealed in boxes:
        try:
            parsed, share = party.open(world.shape, header, sealed)
        except CryptoError as error:
            refused[error.rule] += 1
        else:
            headers.append(parsed)
            shares.append(share)
    field, length = world.kind.field, world.kind.length
    opened = batch.open_boxes(party, world.shape, boxes)
    assert opened.headers == headers
    assert opened.refused == refused
    assert opened.rows.tolist() == batch.expand(field, length, shares).tolist()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(), st.sampled_from(SIZES), SEEDS)
def test_only_honest_reports_count(case: Case, sizes: tuple[int, int], seed: int) -> None:
    """For every kind, with any number of parties."""
    storm(case, sizes, seed, 4)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(), st.sampled_from([*SIZES, (7, 3), (16, 7)]), SEEDS)
def test_thousands_of_storms_leave_the_honest_sum(
    case: Case, sizes: tuple[int, int], seed: int
) -> None:
    """As above, with fresh random examples each time."""
    storm(case, sizes, seed, 20)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", UNSIGNED)
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_thousands_of_splices_are_refused_or_taken(what: str, data: st.DataObject) -> None:
    """As above."""
    splice(*UNSIGNED[what], data)
