"""Rows times columns against Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from crypto.columns import Columns
from crypto.field import FIELD31, FIELD61, Field
from tests.test_crypto_field import elements, fields

FIELDS = [FIELD31, FIELD61]


@settings(deadline=None)
@given(st.data())
def test_rows_times_columns(data: st.DataObject) -> None:
    """Inner products of each row with each column, of elements and of their squares, in either
    width that rows are held in."""
    field = data.draw(fields)
    n, size, k = (data.draw(st.integers(1, top)) for top in (4, 40, 3))
    draw = st.lists(elements(field), min_size=size, max_size=size)
    rows = [data.draw(draw) for _ in range(n)]
    columns = [data.draw(draw) for _ in range(k)]
    made = Columns(field, np.array(columns, np.uint64).T)
    for width in (np.dtype(np.uint64), field.word):
        held = np.array(rows, width)
        got, squares = made.dot(held).tolist(), made.dot_squares(held).tolist()
        for row, values, squared in zip(rows, got, squares, strict=True):
            for column, value, square in zip(columns, values, squared, strict=True):
                exact = sum(u * v for u, v in zip(row, column, strict=True))
                assert value == exact % field.p
                exact = sum(u * u * v for u, v in zip(row, column, strict=True))
                assert square == exact % field.p


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field.bits}")
@pytest.mark.parametrize("size", [1, 2047, 2048, 2049, 5000, 70_000])
def test_the_largest_elements_do_not_overflow(field: Field, size: int) -> None:
    """(-1) * (-1) and its square, so often; nothing warns of a lost bit."""
    row = np.full((2, size), field.p - 1, field.word)
    columns = Columns(field, row.T.astype(np.uint64))
    assert columns.dot(row).tolist() == [[size % field.p] * 2] * 2
    assert columns.dot_squares(row).tolist() == [[-size % field.p] * 2] * 2


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field.bits}")
def test_many_rows_in_blocks_are_each_row_alone(field: Field) -> None:
    """The last block is shorter than the others; rows may be a part of longer ones."""
    draw = np.random.default_rng(3)
    whole = draw.integers(0, field.p, (1_000, 70), np.uint64).astype(field.word)
    rows = whole[:, :61]
    columns = Columns(field, draw.integers(0, field.p, (61, 2), np.uint64))
    alone = np.concatenate([columns.dot(row[None]) for row in rows])
    assert columns.dot(rows).tolist() == alone.tolist()
    alone = np.concatenate([columns.dot_squares(row[None]) for row in rows])
    assert columns.dot_squares(rows).tolist() == alone.tolist()


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field.bits}")
def test_nothing_times_something_is_nothing(field: Field) -> None:
    """No rows, and no elements."""
    columns = Columns(field, np.ones((5, 2), np.uint64))
    assert columns.dot(np.empty((0, 5), field.word)).shape == (0, 2)
    empty = Columns(field, np.ones((0, 2), np.uint64))
    assert empty.dot(np.empty((3, 0), field.word)).tolist() == [[0, 0]] * 3
