"""What makes a report valid, as data: affine forms of the shared vector, and equations in them.

Decides nothing about who checks or how it is masked. All of it is polynomial in the elements
of the vector, of degree 2 at most, so it is evaluated alike on plain vectors and on one
party's shares: the result is then a share of the residue, of degree 2t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from crypto.field import Array, Field

Index = NDArray[np.intp]
Term = tuple[int, int]
"""(position in the shared vector, coefficient)"""
_LOW = (1 << 32) - 1
_ONE = np.ones(1, np.uint64)


@dataclass(frozen=True, slots=True)
class Form:
    """`constant + sum of coefficient * s[position]`, with at least one term."""

    terms: Sequence[Term]
    constant: int = 0


def total(start: int, stop: int, constant: int = 0) -> Form:
    """The sum of a run of positions."""
    return Form([(at, 1) for at in range(start, stop)], constant)


def element(at: int, coefficient: int = 1) -> Form:
    """One element of the vector, times a coefficient."""
    return Form([(at, coefficient)])


class Forms:
    """Forms that are evaluated together: arrays instead of lists of terms."""

    __slots__ = ("_coefficients", "_constants", "_field", "_index", "_starts", "count")

    def __init__(self, field: Field, forms: Sequence[Form]) -> None:
        terms = list(chain.from_iterable(form.terms for form in forms))
        index = np.array([at for at, _ in terms], np.intp)
        sizes = np.array([len(form.terms) for form in forms], np.intp)
        self.count = len(forms)
        self._field = field
        self._index = _run(index)
        self._starts = np.cumsum(sizes) - sizes
        factors = [factor for _, factor in terms]
        plain = all(factor == 1 for factor in factors)
        self._coefficients = None if plain else field.encode(factors)
        self._constants = field.encode([form.constant for form in forms])

    def of(self, vectors: Array, reports: int = 1) -> Array:
        """(n, L) to (n, forms), where each row is the sum of so many reports.

        Made of shares, the results are shares of the same degree.
        """
        taken = vectors[:, self._index]
        if self._coefficients is not None:
            taken = self._field.mul(taken, self._coefficients)
        constants = self._field.scale(self._constants, reports)
        return self._field.add(segment_sums(self._field, taken, self._starts), constants)


def _run(index: Index) -> Index | slice:
    """The positions as a slice where they follow each other, which numpy needn't copy."""
    if index.size and np.array_equal(index, np.arange(index[0], index[0] + index.size)):
        return slice(int(index[0]), int(index[0]) + index.size)
    return index


def segment_sums(field: Field, values: Array, starts: Index) -> Array:
    """(n, k) to (n, segments): field sums of columns from each start up to the next."""
    if field.bits == 31:
        return field.reduce(_runs(values, starts))
    # 61 bits leave room for 8 terms only, so the halves are summed apart.
    low = field.reduce(_runs(np.bitwise_and(values, _LOW), starts))
    high = field.reduce(_runs(np.right_shift(values, 32), starts))
    return field.add(low, field.scale(high, 1 << 32))


def _runs(values: Array, starts: Index) -> Array:
    sums: Array = np.add.reduceat(values, starts, axis=1)
    return sums


@dataclass(frozen=True, slots=True)
class Equation:
    """`sum of left * right over its products, plus linear, is 0`."""

    linear: Form
    products: Sequence[tuple[Form, Form]] = ()


class Equations:
    """All that a valid report satisfies: its first `bits` elements are 0 or 1, and the rest.

    `count` residues come out for each report, all 0 in the field if and only if it is valid.
    A verifier takes their product with random r; it is 0 for an invalid one with
    probability 1/p.
    """

    __slots__ = (
        "_ends",
        "_field",
        "_forms",
        "_left",
        "_right",
        "_starts",
        "_with",
        "bits",
        "count",
    )

    def __init__(self, field: Field, bits: int, equations: Sequence[Equation] = ()) -> None:
        forms = [equation.linear for equation in equations]
        left: list[int] = []
        right: list[int] = []
        starts: list[int] = []
        for equation in equations:
            if equation.products:
                starts.append(len(left))
            for one, other in equation.products:
                left.append(len(forms))
                forms.append(one)
                right.append(len(forms) - 1 if other is one else len(forms))
                if other is not one:
                    forms.append(other)
        self.bits = bits
        self.count = bits + len(equations)
        self._ends = len(equations)
        self._field = field
        self._forms = Forms(field, forms) if forms else None
        self._left = np.array(left, np.intp)
        self._right = np.array(right, np.intp)
        self._starts = np.array(starts, np.intp)
        self._with = np.array([at for at, one in enumerate(equations) if one.products], np.intp)

    def residues(self, vectors: Array) -> Array:
        """(n, L) elements to (n, count) residues: those of the bits, then those of `rest`.

        Some times as large as what comes in: give it as many rows as the cache holds.
        """
        bits = vectors[:, : self.bits]
        of_bits = self._field.mul(bits, self._field.sub(bits, _ONE))
        return np.concatenate([of_bits, self.rest(vectors)], axis=1)

    def rest(self, vectors: Array) -> Array:
        """(n, L) elements to (n, count - bits) residues of the equations beyond the bits'."""
        if self._forms is None:
            return np.empty((len(vectors), 0), np.uint64)
        field = self._field
        values = self._forms.of(vectors)
        residues = values[:, : self._ends]
        if self._with.size:
            products = field.mul(values[:, self._left], values[:, self._right])
            sums = segment_sums(field, products, self._starts)
            residues[:, self._with] = field.add(residues[:, self._with], sums)
        return residues
