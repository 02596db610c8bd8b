"""Sharing a vector out, and putting it together again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from crypto import shares
from crypto.errors import FormatError, ShareError
from crypto.field import FIELD31, FIELD61, Array, Field
from crypto.shares import ELEMENTS, SEED, Share

SIZES = [(3, 1), (4, 1), (5, 1), (5, 2), (7, 3), (16, 7)]
fields = st.sampled_from([FIELD31, FIELD61])


def randomness(seed: int) -> Callable[[int], bytes]:
    """A stream that is the same in each run."""
    state = hashlib.shake_256(seed.to_bytes(8, "big"))
    used = 0

    def rand(size: int) -> bytes:
        nonlocal used
        used += size
        return state.digest(used)[-size:]

    return rand


def vector(field: Field, length: int) -> Array:
    """Something with edges in it."""
    values = np.arange(length, dtype=np.uint64)
    values[::3] = field.p - 1 - values[::3]
    return values


def whole(field: Field, given: list[Share], length: int) -> dict[int, Array]:
    """What the parties hold."""
    return {share.party: share.elements(field, length) for share in given}


@given(fields, st.sampled_from(SIZES), st.integers(1, 30), st.integers(0, 1 << 128))
def test_any_t_plus_one_shares_are_the_vector(
    field: Field, sizes: tuple[int, int], length: int, offset: int
) -> None:
    """Whichever parties come, and in whichever order."""
    m, t = sizes
    values = vector(field, length)
    given = shares.split(field, values, m, t, randomness(length), offset)
    held = whole(field, given, length)
    assert list(held) == list(range(1, m + 1))
    assert not shares.off_line(field, held, t).any()
    for some in list(combinations(held, t + 1))[:40]:
        opened = shares.reconstruct(field, {party: held[party] for party in some}, t)
        assert opened.tolist() == values.tolist()
    assert shares.reconstruct(field, held, t).tolist() == values.tolist()


@pytest.mark.parametrize(("m", "t"), SIZES)
def test_exactly_t_shares_are_seeds_and_they_go_round(m: int, t: int) -> None:
    """32 bytes each, and over m offsets every party gets t of them."""
    got = [0] * (m + 1)
    for offset in range(m):
        given = shares.split(FIELD31, vector(FIELD31, 9), m, t, randomness(1), offset)
        seeds = [share for share in given if share.form == SEED]
        assert [share.party for share in seeds] == list(shares.seeded(m, t, offset))
        assert [len(share.payload) for share in seeds] == [32] * t
        assert {len(share.payload) for share in given if share.form == ELEMENTS} == {36}
        for share in seeds:
            got[share.party] += 1
    assert got == [0] + [t] * m


@given(fields, st.lists(st.integers(0, 1000), min_size=2, max_size=2), st.integers(0, 2))
def test_sums_of_shares_are_shares_of_sums(field: Field, pair: list[int], offset: int) -> None:
    """What the whole of the aggregate rests on."""
    held = []
    for number in pair:
        values = field.encode([number, -number])
        given = shares.split(field, values, 3, 1, randomness(number), offset)
        held.append(whole(field, given, 2))
    total = {party: field.add(held[0][party], held[1][party]) for party in (1, 2, 3)}
    opened = field.decode(shares.reconstruct(field, total, 1)).tolist()
    assert opened == [sum(pair), -sum(pair)]


@pytest.mark.parametrize("field", [FIELD31, FIELD61], ids=lambda field: f"{field.bits}")
def test_shares_are_what_their_polynomial_gives(field: Field) -> None:
    """By Python's integers, from the values at 0 and at the seeds."""
    m, t, length = 5, 2, 4
    values = vector(field, length)
    given = shares.split(field, values, m, t, randomness(3), offset=3)
    held = {share.party: share.elements(field, length).tolist() for share in given}
    points = {0: values.tolist()} | {x: held[x] for x in shares.seeded(m, t, 3)}
    for party in held:
        weights = field.lagrange(list(points), party)
        for at in range(length):
            terms = [w * points[x][at] for w, x in zip(weights, points, strict=True)]
            assert held[party][at] == sum(terms) % field.p


def test_few_shares_say_nothing() -> None:
    """One vector's t shares with a seed are another's too: any vector fits any t shares."""
    first = shares.split(FIELD31, vector(FIELD31, 5), 3, 1, randomness(1), offset=1)
    second = shares.split(FIELD31, FIELD31.neg(vector(FIELD31, 5)), 3, 1, randomness(1), offset=1)
    assert first[1] == second[1]
    assert first[0] != second[0]
    with pytest.raises(FormatError, match=r"\[few\]"):
        shares.reconstruct(FIELD31, whole(FIELD31, first[:1], 5), 1)


@pytest.mark.parametrize(
    ("m", "t", "named"), [(3, 1, 0), (4, 1, 1), (5, 1, 1), (5, 2, 1), (7, 2, 2)]
)
def test_a_wrong_share_is_found_and_named_where_it_can_be(m: int, t: int, named: int) -> None:
    """One element of one share is enough; with fewer others it is only refused."""
    given = shares.split(FIELD61, vector(FIELD61, 6), m, t, randomness(2))
    for liars in combinations(range(1, m + 1), max(named, 1)):
        held = whole(FIELD61, given, 6)
        for liar in liars:
            held[liar][liar % 6] ^= np.uint64(1)
        with pytest.raises(ShareError, match=r"\[inconsistent\]") as refused:
            shares.reconstruct(FIELD61, held, t)
        assert refused.value.parties == (liars if named else ())


def test_a_share_out_of_form_is_refused() -> None:
    """A seed or row of wrong size, an element equal to p, a form that doesn't exist."""
    wrong = [
        (Share(1, SEED, bytes(31)), "length"),
        (Share(1, SEED, bytes(33)), "length"),
        (Share(1, ELEMENTS, bytes(15)), "length"),
        (Share(1, ELEMENTS, bytes(32)), "length"),
        (Share(1, ELEMENTS, bytes(12) + FIELD31.p.to_bytes(4, "little")), "range"),
        (Share(1, 2, bytes(16)), "form"),
    ]
    for share, rule in wrong:
        with pytest.raises(FormatError) as refused:
            share.elements(FIELD31, 4)
        assert refused.value.rule == rule


@pytest.mark.parametrize(("m", "t"), [(2, 1), (3, 0), (4, 2), (5, 3), (3, -1), (17, 1), (0, 0)])
def test_a_set_of_parties_that_could_not_check_is_refused(m: int, t: int) -> None:
    """2t + 1 of them at least."""
    with pytest.raises(FormatError, match=r"\[parties\]"):
        shares.split(FIELD31, vector(FIELD31, 3), m, t, randomness(1))


def test_only_rows_of_elements_are_shared() -> None:
    """Not p itself, no matrix, and not nothing."""
    for odd in ([FIELD31.p], [], [[1]]):
        with pytest.raises(FormatError, match=r"\[range\]"):
            shares.split(FIELD31, np.array(odd, np.uint64), 3, 1, randomness(1))


def test_a_share_does_not_show_itself() -> None:
    """A repr has the party and form, nothing that it holds."""
    share = Share(2, SEED, b"\xab" * 32)
    assert repr(share) == "Share(party=2, form=1)"
