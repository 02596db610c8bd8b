"""Kinds that count: `count`, `histogram`, `multihot`, `quantile`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

import numpy as np

from crypto.errors import FormatError
from crypto.field import Array
from mpc.kinds.base import D_MAX, Kind, check_labels, param
from mpc.kinds.equations import Equation, Equations, Form, element, total
from mpc.kinds.ranges import LIMIT, Range
from mpc.kinds.results import Counts, Quantiles


@dataclass(frozen=True)
class _Bins(Kind):
    """The first `d` elements are 0 or 1, and each one's sum is opened."""

    @property
    def length(self) -> int:
        return self.d

    @property
    def output_max(self) -> int:
        return 1

    @property
    def equation_max(self) -> int:
        return self.d

    @property
    def l1(self) -> int:
        return 2

    @property
    def l2_squared(self) -> int:
        return self.l1  # every bin moves by one

    @cached_property
    def equations(self) -> Equations:
        """Exactly one bin is 1."""
        return Equations(self.field, self.d, [Equation(total(0, self.d, -1))])

    def _output_forms(self) -> Sequence[Form]:
        return [element(at) for at in range(self.d)]

    def _ones(self, bins: Sequence[int]) -> Array:
        row = np.zeros(self.length, np.uint64)
        row[list(bins)] = 1
        return row

    def decode(self, sums: Sequence[int], reports: int) -> Counts:
        """A count for each bin."""
        self._opened(sums, reports)
        return Counts(reports, tuple(sums))


@dataclass(frozen=True)
class Count(_Bins):
    """How many reports say yes. A value is a bool."""

    name: ClassVar[str] = "count"

    def _check(self) -> None:
        pass

    @property
    def d(self) -> int:
        return 1

    @property
    def l1(self) -> int:
        return 1

    @cached_property
    def equations(self) -> Equations:
        """A yes is 1, a no is 0."""
        return Equations(self.field, 1)

    def encode(self, value: object) -> Array:
        """One element."""
        if type(value) is not bool:
            raise FormatError("value", "the value must be true or false")
        return self._ones([0] if value else [])


@dataclass(frozen=True)
class Histogram(_Bins):
    """One of `bins`. A value is the bin's number."""

    name: ClassVar[str] = "histogram"
    bins: int
    labels: tuple[str, ...]

    def _check(self) -> None:
        param("bins", self.bins, 2, D_MAX)
        check_labels(self.labels, self.bins)

    @property
    def d(self) -> int:
        return self.bins

    def encode(self, value: object) -> Array:
        """A one in the bin's place."""
        return self._ones([bin_of(value, self.bins)])


@dataclass(frozen=True)
class Multihot(_Bins):
    """At most `most` of `bins`. A value is a collection of different bin numbers.

    Slack bits make up for what was not chosen, so that bins and slack are `most` together:
    the weights of the slack can't be more than `most`, and nothing is less than zero.
    """

    name: ClassVar[str] = "multihot"
    bins: int
    most: int
    labels: tuple[str, ...]

    def _check(self) -> None:
        param("bins", self.bins, 2, D_MAX)
        param("most", self.most, 1, self.bins)
        check_labels(self.labels, self.bins)

    @cached_property
    def _slack(self) -> Range:
        return Range(0, self.most)

    @property
    def d(self) -> int:
        return self.bins

    @property
    def length(self) -> int:
        return self.bins + self._slack.bits

    @property
    def equation_max(self) -> int:
        return self.bins + self.most

    @property
    def l1(self) -> int:
        return min(2 * self.most, self.bins)

    @cached_property
    def equations(self) -> Equations:
        """Chosen bins and slack are `most` together."""
        slack = [(self.bins + at, weight) for at, weight in enumerate(self._slack.weights)]
        both = Form([*((at, 1) for at in range(self.bins)), *slack], -self.most)
        return Equations(self.field, self.length, [Equation(both)])

    def encode(self, value: object) -> Array:
        """A one in each chosen place, then the slack."""
        if not isinstance(value, list | tuple | set | frozenset):
            raise FormatError("value", "the value must be a collection of bin numbers")
        chosen = [bin_of(one, self.bins) for one in value]
        if len(set(chosen)) != len(chosen):
            raise FormatError("value", "a bin can be chosen once only")
        if len(chosen) > self.most:
            raise FormatError("value", f"at most {self.most} bins can be chosen")
        row = self._ones(chosen)
        row[self.bins :] = self._slack.encode(self.most - len(chosen))
        return row


@dataclass(frozen=True)
class Quantile(_Bins):
    """A whole number by the bin that it falls in; quantiles are read off the counts.

    Bin j is `edges[j] <= x < edges[j + 1]`; the last edge itself is outside.
    """

    name: ClassVar[str] = "quantile"
    edges: tuple[int, ...]

    def _check(self) -> None:
        _check_edges(self.edges)

    @property
    def d(self) -> int:
        return len(self.edges) - 1

    def encode(self, value: object) -> Array:
        """A one in the bin that holds the number."""
        low, high = self.edges[0], self.edges[-1]
        if type(value) is not int or not low <= value < high:
            raise FormatError("value", f"the value must be a whole number from {low} to {high - 1}")
        return self._ones([bisect_right(self.edges, value) - 1])

    def decode(self, sums: Sequence[int], reports: int) -> Quantiles:
        """Counts between the edges."""
        self._opened(sums, reports)
        return Quantiles(reports, tuple(sums), self.edges)


def _check_edges(edges: object) -> None:
    if not isinstance(edges, tuple) or not 3 <= len(edges) <= D_MAX + 1:
        raise FormatError("edges", f"edges are a list of 3 to {D_MAX + 1} whole numbers")
    for edge in edges:
        param("an edge", edge, -LIMIT, LIMIT)
    if any(low >= high for low, high in pairwise(edges)):
        raise FormatError("edges", "each edge must be above the one before it")


def bin_of(value: object, bins: int) -> int:
    """The value, if it is a bin's number; FormatError otherwise."""
    if type(value) is not int or not 0 <= value < bins:
        raise FormatError("value", f"a bin's number is a whole number from 0 to {bins - 1}")
    return value
