"""Many reports at once: cheats are dropped by reason, and the sum over the rest is exact."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from crypto.contribution import (
    Contribution,
    Header,
    PartyBox,
    Shape,
    encode_header,
    encode_share,
    make,
    nullifier,
    parse_header,
)
from crypto.errors import CryptoError, FormatError
from crypto.field import FIELD31, FIELD61, Array, Field
from crypto.ids import ReportId
from crypto.primitives import seal
from crypto.shares import ELEMENTS, SEED, Share, at_zero, combine, off_line, reconstruct, split
from mpc import batch, oracle
from mpc.batch import Challenge
from mpc.kinds import Histogram, Kind, Sum, Vector
from tests.mpc_kind_cases import Case, cases
from tests.test_mpc_cheats import cheats

ROUND = b"\1" * 32
COIN = b"\2" * 32
SIZES = [(3, 1), (4, 1), (5, 1), (5, 2)]
SECRET_KEYS = [bytes([party]) * 32 for party in range(1, 17)]


def kappa(field: Field) -> int:
    """Repetitions that give some 2^-60."""
    return 2 if field.bits == 31 else 1


@dataclass(frozen=True)
class Outcome:
    """What the parties opened between them."""

    sums: list[int]
    verdict: batch.Verdict
    dropped: Counter[str]


class Round:
    """All devices and parties of one round, in one process and with nothing masked."""

    def __init__(self, kind: Kind, m: int = 3, t: int = 1, seed: int = 1) -> None:
        self.kind, self.m, self.t = kind, m, t
        self.shape = Shape(round_digest=ROUND, m=m, t=t, field=kind.field, length=kind.length)
        self.parties = [PartyBox(at + 1, SECRET_KEYS[at]) for at in range(m)]
        self.uploads: list[Contribution] = []
        self._random = random.Random(seed)

    def rand(self, size: int) -> bytes:
        """The same in each run."""
        return self._random.randbytes(size)

    def vote(self, vector: Array) -> Contribution:
        """An upload in form, of any vector: a true report or a lie about its content."""
        upload = make(
            self.shape,
            vector,
            box_keys=[party.public for party in self.parties],
            aggregation_key=self.rand(32),
            rand=self.rand,
        )
        self.uploads.append(upload)
        return upload

    def craft(self, change: Callable[[Header, list[Share]], Iterable[tuple[Shape, Share]]]) -> None:
        """An upload of a device that seals what it likes, beginning with true shares of 0."""
        report_id = ReportId(self.rand(16))
        raw = encode_header(self.m, ROUND, report_id, nullifier(self.rand(32), ROUND))
        header = parse_header(raw)
        offset = int.from_bytes(report_id, "big") % self.m
        zeros = np.zeros(self.kind.length, np.uint64)
        shares = split(self.kind.field, zeros, self.m, self.t, self.rand, offset)
        sealed = zip(self.parties, change(header, shares), strict=True)
        boxes = [
            seal(party.public, encode_share(shape, header, share))
            for party, (shape, share) in sealed
        ]
        self.uploads.append(Contribution(raw, tuple(boxes)))

    def outcome(self) -> Outcome:
        """Ingest, intersection, check, verdict and sum, as the parties do them."""
        held: list[dict[ReportId, Share]] = [{} for _ in self.parties]
        dropped: Counter[str] = Counter()
        for upload in self.uploads:
            rules = set()
            for party, box, mine in zip(self.parties, upload.boxes, held, strict=True):
                try:
                    header, share = party.open(self.shape, upload.header, box)
                    mine[header.report_id] = share
                except CryptoError as error:
                    rules.add(error.rule)
            dropped.update(rules)
        ids = [one for one in held[0] if all(one in mine for mine in held)]
        field, length, equations = self.kind.field, self.kind.length, self.kind.equations
        challenge = Challenge.of(
            field, COIN, length=length, equations=equations, kappa=kappa(field)
        )
        rows = {
            at: batch.expand(field, length, [mine[one] for one in ids])
            for at, mine in enumerate(held, 1)
        }
        checks = {at: challenge.check(own) for at, own in rows.items()}
        d = {at: check[0] for at, check in checks.items()}
        consistent: NDArray[np.bool_] = ~np.any(off_line(field, d, self.t), axis=1)
        q = {at: check[1][consistent] for at, check in checks.items()}
        zero: NDArray[np.bool_] = np.all(at_zero(field, q, 2 * self.t) == 0, axis=1)
        verdict = batch.verdict(consistent, zero)
        nothing = np.zeros(length, np.uint64)
        sums = {at: batch.add_valid(field, nothing, own, verdict.valid) for at, own in rows.items()}
        count = int(verdict.valid.sum())
        opened = self.kind.project(reconstruct(field, sums, self.t), count)
        return Outcome(field.decode(opened).tolist(), verdict, dropped)


@settings(max_examples=60, deadline=None)
@given(
    cases(),
    st.sampled_from(SIZES),
    st.integers(1, 9),
    st.randoms(use_true_random=False),
)
def test_honest_reports_of_every_kind_add_up_to_the_truth(
    case: Case, sizes: tuple[int, int], n: int, rand: random.Random
) -> None:
    """Through boxes, seeds, checks and sums, with any number of parties, in either field."""
    kind, draw = case
    world = Round(kind, *sizes, seed=rand.randrange(1 << 30))
    values: list[Any] = [draw(rand) for _ in range(n)]
    for value in values:
        world.vote(kind.encode(value))
    outcome = world.outcome()
    assert outcome.dropped == {}
    assert outcome.verdict.valid.all()
    assert outcome.sums == list(oracle.aggregate(kind, values).sums)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("row", cheats(), ids=lambda row: row[0])
def test_a_cheat_is_dropped_and_the_rest_is_exact(
    row: tuple[str, Kind, list[int]], sizes: tuple[int, int]
) -> None:
    """Two ones, weight 5, out of range, over the norm: for every kind, among honest reports."""
    _, kind, vector = row
    world = Round(kind, *sizes)
    honest = honest_values(kind)
    for value in honest:
        world.vote(kind.encode(value))
    world.vote(kind.field.encode(vector))
    for value in honest:
        world.vote(kind.encode(value))
    outcome = world.outcome()
    assert (outcome.verdict.inconsistent, outcome.verdict.invalid) == (0, 1)
    assert np.flatnonzero(~outcome.verdict.valid).tolist() == [len(honest)]
    assert outcome.sums == list(oracle.aggregate(kind, honest * 2).sums)


def honest_values(kind: Kind) -> list[Any]:
    """A few that the kind allows, unlike each other."""
    match kind.name:
        case "count":
            return [True, False, True]
        case "histogram":
            return [0, 1, 1]
        case "multihot":
            return [[0], [], [1, 3]]
        case "sum" | "mean":
            return [1, 5, 4]
        case "vector":
            return [[1, -1], [0, 2], [0, 0]]
        case "experiment":
            return [(0, -2), (1, 2), (1, 1)]
        case _:
            return [0, 4, 7]


def off_by(world: Round, party: int, at: int, by: int) -> None:
    """A report whose shares are off one polynomial at one party, in one element."""

    def change(header: Header, shares: list[Share]) -> Iterable[tuple[Shape, Share]]:
        for share in shares:
            if share.party == party:
                elements = share.elements(world.kind.field, world.kind.length)
                elements[at] = (int(elements[at]) + by) % world.kind.field.p
                form = world.shape.form(header.report_id, party)
                payload = world.kind.field.to_bytes(elements)
                yield world.shape, Share(party, form, payload)
            else:
                yield world.shape, share

    world.craft(change)


@pytest.mark.parametrize("field", [FIELD31, FIELD61], ids=lambda field: f"{field.bits}")
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_shares_that_do_not_belong_together_are_found(field: Field, sizes: tuple[int, int]) -> None:
    """One element of one party's share is off, wherever and by however little."""
    kind = Histogram(field, 5, ())
    world = Round(kind, *sizes)
    world.vote(kind.encode(2))
    bad = 0
    for party in range(1, world.m + 1):
        for at in range(5):
            before = len(world.uploads)
            off_by(world, party, at, by=1 if at % 2 else field.p - 1)
            if world.shape.form(parse_header(world.uploads[before].header).report_id, party):
                world.uploads.pop()  # a seed can't be off: it is what the others are measured by
            else:
                bad += 1
    world.vote(kind.encode(4))
    outcome = world.outcome()
    assert bad > world.m
    assert (outcome.verdict.inconsistent, outcome.verdict.invalid) == (bad, 0)
    assert outcome.sums == [0, 0, 1, 0, 1]


def test_the_shares_1_0_0_are_found() -> None:
    """Each bit is 0 or 1 at every party, the total looks right, and yet it is no sharing."""
    kind = Histogram(FIELD31, 3, ())
    rows = {
        party: np.array([[1, 0, 0], [1 if party == 1 else 0, 0, 0]], FIELD31.word)
        for party in (1, 2, 3)
    }
    challenge = Challenge.of(FIELD31, COIN, length=3, equations=kind.equations, kappa=2)
    d = {party: challenge.check(own)[0] for party, own in rows.items()}
    assert off_line(FIELD31, d, 1).any(axis=1).tolist() == [False, True]


def test_a_polynomial_of_too_high_a_degree_is_found() -> None:
    """Degree 2 at (3, 1): it opens to a valid report, and to another one of any two parties."""
    kind = Histogram(FIELD31, 2, ())
    truth, a, b = kind.encode(1), np.array([5, 6], np.uint64), np.array([7, 8], np.uint64)
    points = {0: truth, 1: a, 2: b}
    third = combine(FIELD31, {**points, 4: a}, [0, 1, 2, 4], 3)
    rows = {1: a[None], 2: b[None], 3: third[None]}
    challenge = Challenge.of(FIELD31, COIN, length=2, equations=kind.equations, kappa=1)
    d = {party: challenge.check(own)[0] for party, own in rows.items()}
    assert off_line(FIELD31, d, 1).all()


P = FIELD31.p.to_bytes(4, "little")
Payload = Callable[[bytes], bytes]
OUT_OF_FORM: dict[str, tuple[int, Payload, str]] = {
    "an element equal to p": (ELEMENTS, lambda data: P + data[4:], "range"),
    "an element missing": (ELEMENTS, lambda data: data[:-4], "length"),
    "an element too many": (ELEMENTS, lambda data: data + bytes(4), "length"),
    "a short seed": (SEED, lambda data: data[:16], "length"),
    "a long seed": (SEED, lambda data: data * 2, "length"),
}


@pytest.mark.parametrize("what", OUT_OF_FORM)
def test_a_share_out_of_form_leaves_the_report_out(what: str) -> None:
    """One party can't use it, so nobody does; the reason is counted."""
    form, payload, rule = OUT_OF_FORM[what]
    kind = Histogram(FIELD31, 4, ())
    world = Round(kind)
    world.vote(kind.encode(3))

    def change(_: Header, shares: list[Share]) -> Iterable[tuple[Shape, Share]]:
        changed = False
        for share in shares:
            if share.form == form and not changed:
                changed = True
                yield world.shape, Share(share.party, form, payload(share.payload))
            else:
                yield world.shape, share

    world.craft(change)
    world.vote(kind.encode(0))
    outcome = world.outcome()
    assert outcome.dropped == {rule: 1}
    assert outcome.verdict.valid.tolist() == [True, True]
    assert outcome.sums == [1, 0, 0, 1]


def test_reports_of_another_length_field_or_round_are_left_out() -> None:
    """And shares of another contribution; all counted, and the rest is exact."""
    kind = Histogram(FIELD31, 4, ())
    world = Round(kind)
    one = world.vote(kind.encode(1))
    for other in (Histogram(FIELD31, 5, ()), Histogram(FIELD61, 4, ())):
        stranger = Round(other, seed=2)
        stranger.vote(other.encode(1))
        world.uploads += stranger.uploads
    elsewhere = Round(kind, seed=3)
    elsewhere.shape = Shape(round_digest=b"\3" * 32, m=3, t=1, field=FIELD31, length=4)
    world.uploads.append(elsewhere.vote(kind.encode(1)))
    # An id with the same bytes in another order puts the seed at the same party.
    other_id = ReportId(parse_header(one.header).report_id[::-1])
    header = encode_header(3, ROUND, other_id, nullifier(COIN, ROUND))
    world.uploads.append(Contribution(header, one.boxes))
    outcome = world.outcome()
    # A seed is as long whatever it expands to: at its party the head of the share tells.
    expected = {"length": 2, "elements": 1, "field": 1, "round": 1, "report": 1}
    assert outcome.dropped == expected
    assert outcome.sums == [0, 1, 0, 0]


@pytest.mark.parametrize("field", [FIELD31, FIELD61], ids=lambda field: f"{field.bits}")
def test_checks_are_the_equations_of_the_design(field: Field) -> None:
    """By Python's integers: D = <q, s> and, of a one-hot row, Q = <r, s(s-1)> + r0 (sum s - 1)."""
    kind = Histogram(field, 6, ())
    rows = np.arange(18).reshape(3, 6).astype(field.word)
    rows[2] = field.p - 1
    challenge = Challenge.of(field, COIN, length=6, equations=kind.equations, kappa=3)
    q, r = challenge.q.T.tolist(), challenge.r.T.tolist()
    d, z = challenge.check(rows)
    for n, row in enumerate(rows.tolist()):
        for k in range(3):
            terms = [x * s for x, s in zip(q[k], row, strict=True)]
            assert d[n, k] == sum(terms) % field.p
            bits = [x * s * (s - 1) for x, s in zip(r[k][:6], row, strict=True)]
            assert z[n, k] == (sum(bits) + r[k][6] * (sum(row) - 1)) % field.p


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(1, 3), st.integers(1, 40), st.randoms(use_true_random=False))
def test_checks_are_inner_products_with_what_is_to_be_zero(
    case: Case, repetitions: int, n: int, rand: random.Random
) -> None:
    """D = <q, s> and Q = <r, residues(s)> for every kind, on rows that are shares."""
    kind, _ = case
    field = kind.field
    challenge = Challenge.of(
        field, COIN, length=kind.length, equations=kind.equations, kappa=repetitions
    )
    rows = field.random(n * kind.length, rand.randbytes).reshape(n, kind.length)
    rows[-1] = field.p - 1
    d, q = challenge.check(rows.astype(field.word))
    residues = kind.equations.residues(rows)
    for k in range(repetitions):
        assert d[:, k].tolist() == field.dot(rows, challenge.q[:, k]).tolist()
        assert q[:, k].tolist() == field.dot(residues, challenge.r[:, k]).tolist()


def test_a_challenge_is_the_coins_alone_and_each_part_is_its_own() -> None:
    """The same for the same coin at every party; q, r and repetitions differ from each other."""
    kind = Sum(FIELD31, 0, 100)

    def of(coin: bytes, kappa: int = 2) -> Challenge:
        return Challenge.of(
            FIELD31, coin, length=kind.length, equations=kind.equations, kappa=kappa
        )

    assert of(COIN).q.tolist() == of(COIN).q.tolist()
    assert of(COIN).q.tolist() != of(b"\3" * 32).q.tolist()
    columns = [tuple(column[:5].tolist()) for part in (of(COIN).q, of(COIN).r) for column in part.T]
    assert len(set(columns)) == 4
    with pytest.raises(FormatError, match=r"\[length\]"):
        of(COIN[1:])
    with pytest.raises(FormatError, match=r"\[kappa\]"):
        of(COIN, 0)


@pytest.mark.parametrize("field", [FIELD31, FIELD61], ids=lambda field: f"{field.bits}")
def test_rows_are_what_each_share_expands_to(field: Field) -> None:
    """Seeds and elements mixed, in their order, in the stored width, and back from bytes."""
    rand = random.Random(4).randbytes
    shares = []
    for at in range(20):
        values = np.full(7, at, np.uint64)
        shares.append(split(field, values, 3, 1, rand, at)[at % 2])
    rows = batch.expand(field, 7, shares)
    assert {share.form for share in shares} == {ELEMENTS, SEED}
    assert rows.dtype == field.word
    assert rows.tolist() == [share.elements(field, 7).tolist() for share in shares]
    assert batch.rows_of(field, 7, rows.tobytes()).tolist() == rows.tolist()
    assert batch.expand(field, 7, []).shape == (0, 7)
    with pytest.raises(FormatError, match=r"\[length\]"):
        batch.rows_of(field, 7, rows.tobytes()[:-1])
    with pytest.raises(FormatError, match=r"\[range\]"):
        batch.rows_of(field, 7, b"\xff" * 7 * field.element_bytes)


@pytest.mark.parametrize(
    ("share", "rule"),
    [
        (Share(1, SEED, bytes(31)), "length"),
        (Share(1, ELEMENTS, bytes(24)), "length"),
        (Share(1, ELEMENTS, P * 7), "range"),
        (Share(1, 2, bytes(28)), "form"),
    ],
)
def test_a_share_that_nobody_checked_is_refused(share: Share, rule: str) -> None:
    """And does not shift the rows of others: two of wrong size that make up for each other."""
    with pytest.raises(FormatError) as refused:
        batch.expand(FIELD31, 7, [share, Share(1, ELEMENTS, bytes(28))])
    assert refused.value.rule == rule
    with pytest.raises(FormatError, match=r"\[length\]"):
        batch.expand(FIELD31, 7, [Share(1, 0, bytes(24)), Share(1, 0, bytes(32))])


def test_a_verdict_counts_each_report_once() -> None:
    """Q is opened only where D was in order, and its answers are put in their places."""
    seen = batch.verdict(np.array([True, False, True, True]), np.array([True, False, True]))
    assert seen.valid.tolist() == [True, False, False, True]
    assert (seen.inconsistent, seen.invalid) == (1, 1)
    none = batch.verdict(np.array([False]), np.zeros(0, np.bool_))
    assert (none.valid.tolist(), none.inconsistent, none.invalid) == ([False], 1, 0)


@pytest.mark.parametrize("field", [FIELD31, FIELD61], ids=lambda field: f"{field.bits}")
def test_sums_of_micro_batches_are_the_sum_of_all(field: Field) -> None:
    """Valid rows only, a batch without one too, and the field's ends."""
    draw = np.random.default_rng(5)
    total, exact = np.zeros(4, np.uint64), [0] * 4
    for n in (1000, 1, 37, 5):
        rows = draw.integers(field.p - 5, field.p, (n, 4)).astype(field.word)
        valid = draw.random(n) < 0.9 if n > 5 else np.zeros(n, np.bool_)
        total = batch.add_valid(field, total, rows, valid)
        kept = [row for row, is_valid in zip(rows.tolist(), valid, strict=True) if is_valid]
        exact = [before + sum(row[at] for row in kept) for at, before in enumerate(exact)]
    assert total.tolist() == [value % field.p for value in exact]


def test_a_micro_batch_is_sized_by_its_elements() -> None:
    """Between a thousand and twenty thousand reports."""
    assert batch.micro_batch_reports(1) == 20_000
    assert batch.micro_batch_reports(256) == 16_384
    assert batch.micro_batch_reports(1024) == 4_096
    assert batch.micro_batch_reports(1 << 16) == 1_000


@pytest.mark.parametrize("kind", [Histogram(FIELD31, 1024, ()), Vector(FIELD61, 128, 8, 1000)])
def test_checking_takes_little_more_memory_than_the_rows(kind: Kind) -> None:
    """However many rows there are, they are widened a block at a time."""
    rows = np.zeros((4_096, kind.length), kind.field.word)
    challenge = Challenge.of(
        kind.field, COIN, length=kind.length, equations=kind.equations, kappa=2
    )
    tracemalloc.start()
    challenge.check(rows)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 8 << 20 < rows.nbytes
