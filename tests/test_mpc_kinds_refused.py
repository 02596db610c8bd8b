"""Kinds: values and parameters that make no sense are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from crypto.errors import FormatError
from crypto.field import FIELD31
from mpc import kinds
from mpc.kinds import Count, Experiment, Histogram, Kind, Mean, Multihot, Quantile, Sum, Vector
from tests.mpc_kind_cases import Case, cases

BAD_VALUES: list[tuple[Kind, list[Any]]] = [
    (Count(FIELD31), [1, 0, None, "yes"]),
    (Histogram(FIELD31, 3, ()), [-1, 3, True, 1.0, None, [1]]),
    (Multihot(FIELD31, 4, 2, ()), [[0, 1, 2], [0, 0], [4], [-1], 1, [True], "01"]),
    (Sum(FIELD31, -3, 3), [-4, 4, 1.5, True, None]),
    (Mean(FIELD31, 1, 5, True), [0, 6, "3"]),
    (
        Vector(FIELD31, 2, 4, 50),
        [[7, 7], [8, 0], [-9, 0], [1], [1, 2, 3], [1.0, 2], 5, [[1, 2]], [1 << 70, 0],
         np.array([1.5, 2]), np.array([[1, 2]]), [True, 1]],
    ),
    (Experiment(FIELD31, 2, (), 1, 5), [(2, 3), (-1, 3), (0, 6), (0,), 3, (True, 3), (0, 3, 1)]),
    (Quantile(FIELD31, (0, 10, 20)), [-1, 20, 3.0, None]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "values"), BAD_VALUES, ids=lambda one: getattr(one, "name", ""))
def test_a_value_that_is_not_allowed_is_refused(kind: Kind, values: list[Any]) -> None:
    """FormatError `value`, which says what is allowed and not what was given."""
    for value in values:
        with pytest.raises(FormatError) as caught:
            kind.encode(value)
        assert caught.value.rule == "value"


def test_an_array_is_a_vector_too() -> None:
    """A numpy array of integers encodes like the list of its numbers."""
    kind = Vector(FIELD31, 3, 8, 10_000)
    assert np.array_equal(kind.encode(np.array([5, -7, 0], np.int8)), kind.encode([5, -7, 0]))


BAD_PARAMS: list[tuple[dict[str, Any], str]] = [
    ({"name": "median"}, "kind"),
    ({"name": 1}, "kind"),
    ({}, "kind"),
    ({"name": "count", "bins": 2}, "kind-params"),
    ({"name": "histogram", "bins": 3}, "kind-params"),
    ({"name": "histogram", "bins": 1, "labels": []}, "kind-params"),
    ({"name": "histogram", "bins": 4097, "labels": []}, "kind-params"),
    ({"name": "histogram", "bins": True, "labels": []}, "kind-params"),
    ({"name": "histogram", "bins": 2, "labels": ["a"]}, "labels"),
    ({"name": "histogram", "bins": 2, "labels": ["a", "a"]}, "labels"),
    ({"name": "histogram", "bins": 2, "labels": ["a", ""]}, "labels"),
    ({"name": "histogram", "bins": 2, "labels": ["a", "\n"]}, "labels"),
    ({"name": "histogram", "bins": 2, "labels": ["a", 2]}, "labels"),
    ({"name": "histogram", "bins": 2, "labels": "ab"}, "labels"),
    ({"name": "multihot", "bins": 3, "most": 4, "labels": []}, "kind-params"),
    ({"name": "multihot", "bins": 3, "most": 0, "labels": []}, "kind-params"),
    ({"name": "sum", "low": 5, "high": 5}, "bounds"),
    ({"name": "sum", "low": 0, "high": 1 << 60}, "bounds"),
    ({"name": "sum", "low": 0, "high": True}, "bounds"),
    ({"name": "mean", "low": 0, "high": 5, "variance": 1}, "kind-params"),
    ({"name": "vector", "size": 0, "bits": 4, "norm2_max": 1}, "kind-params"),
    ({"name": "vector", "size": 4096, "bits": 24, "norm2_max": 1}, "kind-length"),
    ({"name": "vector", "size": 1, "bits": 4, "norm2_max": 65}, "kind-params"),
    ({"name": "vector", "size": 512, "bits": 12, "norm2_max": 9}, "field"),
    ({"name": "experiment", "variants": 1, "labels": [], "low": 0, "high": 1}, "kind-params"),
    ({"name": "experiment", "variants": 2, "labels": [], "low": 0, "high": 1 << 20}, "field"),
    ({"name": "quantile", "edges": [1, 2]}, "edges"),
    ({"name": "quantile", "edges": [1, 3, 3]}, "edges"),
    ({"name": "quantile", "edges": 7}, "edges"),
    ({"name": "quantile", "edges": [1, 2, 3.0]}, "kind-params"),
]


@pytest.mark.parametrize(("params", "rule"), BAD_PARAMS)
def test_parameters_that_make_no_sense_are_refused(params: dict[str, Any], rule: str) -> None:
    """Each with the rule that it breaks."""
    with pytest.raises(FormatError) as caught:
        kinds.make(params, FIELD31)
    assert caught.value.rule == rule


@settings(max_examples=100, deadline=None)
@given(cases())
def test_parameters_come_back(case: Case) -> None:
    """`make` of `params` is the same kind."""
    kind, _ = case
    assert kinds.make(kind.params(), kind.field) == kind


def test_wrong_numbers_of_sums_are_refused() -> None:
    """A kind decodes exactly its d sums."""
    for kind, _ in BAD_VALUES:
        with pytest.raises(FormatError):
            kind.decode([0] * (kind.d + 1), 1)
