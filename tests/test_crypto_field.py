"""The fields against Python's integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, strategies as st

from crypto.errors import FormatError
from crypto.field import FIELD31, FIELD61, Array, Field
from crypto.primitives import aead_seal

FIELDS = [FIELD31, FIELD61]
fields = st.sampled_from(FIELDS)


def edges(field: Field) -> list[int]:
    """Where carries and reductions happen."""
    p = field.p
    near = (0, 1, 2, p // 2 - 1, p // 2, p // 2 + 1, p - 2, p - 1)
    return [*near, *(x % p for x in ((1 << 32) - 1, 1 << 32, 1 << 29, (1 << 60) + 1))]


def elements(field: Field) -> st.SearchStrategy[int]:
    """Uniform ones and edges."""
    return st.one_of(st.integers(0, field.p - 1), st.sampled_from(edges(field)))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Field, list[int], list[int]]:
    """A field and two rows of one length."""
    field = draw(fields)
    size = draw(st.integers(1, 20))
    row = st.lists(elements(field), min_size=size, max_size=size)
    return field, draw(row), draw(row)


def array(values: list[int]) -> Array:
    """Elements as they are."""
    return np.array(values, np.uint64)


@given(pairs())
def test_arithmetic_is_that_of_the_integers_modulo_p(
    case: tuple[Field, list[int], list[int]],
) -> None:
    """Sum, difference, negation, product, dot product and total."""
    field, a, b = case
    p = field.p
    x, y = array(a), array(b)
    both = list(zip(a, b, strict=True))
    assert field.add(x, y).tolist() == [(u + v) % p for u, v in both]
    assert field.sub(x, y).tolist() == [(u - v) % p for u, v in both]
    assert field.mul(x, y).tolist() == [u * v % p for u, v in both]
    assert field.neg(x).tolist() == [-u % p for u in a]
    assert field.scale(x, b[0] - p).tolist() == [u * b[0] % p for u in a]
    assert int(field.dot(x, y)) == sum(u * v for u, v in both) % p
    assert int(field.sum(x)) == sum(a) % p


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field.bits}")
def test_every_pair_of_edges_multiplies(field: Field) -> None:
    """Where a carry could be lost, in a grid of all pairs; nothing warns of overflow."""
    at = array(edges(field))
    grid = field.mul(at[:, None], at[None, :])
    assert grid.tolist() == [[u * v % field.p for v in edges(field)] for u in edges(field)]
    assert field.mul(at[-1], at[-1]) == pow(edges(field)[-1], 2, field.p)


@given(fields, st.integers(0, (1 << 64) - 1))
def test_any_word_is_reduced(field: Field, word: int) -> None:
    """All 64 bits."""
    assert int(field.reduce(np.array([word], np.uint64))[0]) == word % field.p


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field.bits}")
def test_sums_of_many_large_elements_are_exact(field: Field) -> None:
    """A hundred thousand rows of p - 1, along each axis, and in the stored width."""
    rows = np.full((100_000, 3), field.p - 1, field.word)
    assert field.sum(rows.astype(np.uint64)).tolist() == [-100_000 % field.p] * 3
    assert field.sum(rows.astype(np.uint64), axis=1)[0] == field.p - 3


@given(fields, st.data())
def test_an_inverse_and_interpolation_are_exact(field: Field, data: st.DataObject) -> None:
    """x * 1/x is 1; a polynomial's value anywhere comes out of as many points as it needs."""
    x = data.draw(st.integers(1, field.p - 1))
    assert x * field.inverse(x) % field.p == 1
    xs = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=7, unique=True))
    coefficients = data.draw(st.lists(elements(field), min_size=len(xs), max_size=len(xs)))
    at = data.draw(st.integers(0, 40))

    def f(x: int) -> int:
        terms = [c * pow(x, k, field.p) for k, c in enumerate(coefficients)]
        return sum(terms) % field.p

    weights = field.lagrange(xs, at)
    assert sum(w * f(x) for w, x in zip(weights, xs, strict=True)) % field.p == f(at)


@given(fields, st.data())
def test_signed_values_come_back(field: Field, data: st.DataObject) -> None:
    """Up to (p - 1) / 2 either way; one beyond is refused."""
    half = field.p // 2
    values = data.draw(st.lists(st.integers(-half, half), max_size=20))
    encoded = field.encode(values)
    assert encoded.dtype == np.uint64
    assert encoded.tolist() == [value % field.p for value in values]
    assert field.decode(encoded).tolist() == values
    assert field.encode(np.array(values, np.int64)).tolist() == encoded.tolist()


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field.bits}")
def test_values_that_do_not_fit_are_refused(field: Field) -> None:
    """Beyond the field, beyond 64 bits, and what is no integer."""
    for large in (field.p // 2 + 1, field.p, 1 << 63, 1 << 64, 1 << 200):
        for value in (large, -large):
            assert refusal(field.encode, [value]) == "range"
            assert refusal(field.encode, [0, value, -1]) == "range"
    for odd in ([0.5], ["1"], [None], np.array([1.0])):
        assert refusal(field.encode, odd) == "type"
    assert field.encode([]).tolist() == []


def test_there_are_two_fields() -> None:
    """31 and 61; zero has no inverse and points differ."""
    assert Field.of(31) is FIELD31
    assert Field.of(61) is FIELD61
    for bits in (0, 8, 30, 32, 64):
        assert refusal(Field.of, bits) == "field"
    assert refusal(FIELD31.inverse, FIELD31.p) == "range"
    assert refusal(FIELD31.lagrange, [1, 2, 1]) == "points"


@given(fields, st.data())
def test_elements_travel_as_little_endian_words(field: Field, data: st.DataObject) -> None:
    """4 or 8 bytes each, and only whole ones below p."""
    values = data.draw(st.lists(elements(field), max_size=20))
    sent = field.to_bytes(array(values))
    assert sent == b"".join(value.to_bytes(field.element_bytes, "little") for value in values)
    assert field.from_bytes(sent, len(values)).tolist() == values
    assert refusal(field.from_bytes, sent, len(values) + 1) == "length"
    assert refusal(field.from_bytes, sent + b"\0", len(values)) == "length"
    for large in (field.p, field.p + 1, (1 << 8 * field.element_bytes) - 1):
        wrong = sent + large.to_bytes(field.element_bytes, "little")
        assert refusal(field.from_bytes, wrong, len(values) + 1) == "range"


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field.bits}")
def test_a_seed_stands_for_the_keystream(field: Field) -> None:
    """XChaCha20 under nonce 0, as the AEAD of zeros shows it; many seeds at once alike."""
    seeds = [bytes([k]) * 32 for k in range(5)]
    for seed in seeds:
        stream = aead_seal(seed, bytes(24), b"", bytes(800))
        width = field.element_bytes
        words = [
            int.from_bytes(stream[at : at + width], "little") & field.p
            for at in range(0, 100 * width, width)
        ]
        assert field.prg(seed, 100).tolist() == words
        assert field.prg(seed, 7).tolist() == words[:7]
    rows = field.prg_rows(seeds, 100)
    assert rows.dtype == field.word
    assert rows.tolist() == [field.prg(seed, 100).tolist() for seed in seeds]
    assert field.prg(seeds[0], 0).tolist() == []
    assert refusal(field.prg, b"short", 1) == "length"


SKIPPING = (0x56B23).to_bytes(32, "big")
"""Its keystream has the one word that field 31 skips, at position 70."""


def test_the_one_word_that_is_no_element_is_skipped() -> None:
    """A found seed whose stream has it: those behind it move up, in bulk too."""
    words = np.frombuffer(aead_seal(SKIPPING, bytes(24), b"", bytes(4 * 5000)), "<u4", 5000)
    masked = words & FIELD31.p
    (at,) = np.flatnonzero(masked == FIELD31.p).tolist()
    expected = np.delete(masked, at)
    for count in (at, at + 1, at + 2, 4999):
        assert FIELD31.prg(SKIPPING, count).tolist() == expected[:count].tolist()
        rows = FIELD31.prg_rows([bytes(32), SKIPPING], count)
        assert rows[1].tolist() == expected[:count].tolist()
        assert rows[0].tolist() == FIELD31.prg(bytes(32), count).tolist()


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field.bits}")
def test_a_sampler_draws_again_for_what_it_skips(field: Field) -> None:
    """Uniform elements are the words of a stream, but for p, and no more is drawn than needed."""
    width = field.element_bytes
    drawn: list[int] = []
    words = iter([field.p, 5, (1 << 8 * width) - 1, field.p - 1, 9])

    def rand(size: int) -> bytes:
        drawn.append(size)
        return b"".join(next(words).to_bytes(width, "little") for _ in range(size // width))

    assert field.random(3, rand).tolist() == [5, field.p - 1, 9]
    assert drawn == [3 * width, 2 * width]


def refusal(action: Callable[..., object], *args: object) -> str:
    """The rule by which it is refused."""
    with pytest.raises(FormatError) as refused:
        action(*args)
    return refused.value.rule
