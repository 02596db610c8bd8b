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

    __slots__ = ("_coefficients", "_constants", "_field", "_index", "_places", "_starts", "count")

    def __init__(self, field: Field, forms: Sequence[Form]) -> None:
        terms = list(chain.from_iterable(form.terms for form in forms))
        self._places = np.array([at for at, _ in terms], np.intp)
        sizes = np.array([len(form.terms) for form in forms], np.intp)
        self.count = len(forms)
        self._field = field
        self._index = _run(self._places)
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

    def combined(self, weights: Array, length: int) -> tuple[Array, Array]:
        """All forms as one for each column of `weights`, of shape (forms, k): coefficients
        (length, k) and constants (k) of what the forms, each times its weight, add up to."""
        field = self._field
        sizes = np.diff(self._starts, append=len(self._places))
        terms = np.repeat(weights, sizes, axis=0)
        if self._coefficients is not None:
            terms = field.mul(terms, self._coefficients[:, None])
        coefficients = np.zeros((length, weights.shape[1]), np.uint64)
        if len(terms):
            order = np.argsort(self._places, kind="stable")
            places, starts = np.unique(self._places[order], return_index=True)
            coefficients[places] = segment_sums(field, terms[order].T, starts).T
        return coefficients, field.sum(field.mul(weights, self._constants[:, None]))


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

    __slots__ = ("_factors", "_field", "_left", "_linear", "_right", "_starts", "bits", "squared")

    def __init__(self, field: Field, bits: int, equations: Sequence[Equation] = ()) -> None:
        factors: list[Form] = []
        left: list[int] = []
        right: list[int] = []
        starts: list[int] = []
        for equation in equations:
            if equation.products:
                starts.append(len(left))
            for one, other in equation.products:
                left.append(len(factors))
                factors.append(one)
                right.append(len(factors) - 1 if other is one else len(factors))
                if other is not one:
                    factors.append(other)
        self.bits = bits
        self.squared = np.array([at for at, one in enumerate(equations) if one.products], np.intp)
        """Which equations have products, by their place behind the bits."""
        self._field = field
        self._linear = Forms(field, [equation.linear for equation in equations])
        self._factors = Forms(field, factors)
        self._left = np.array(left, np.intp)
        self._right = np.array(right, np.intp)
        self._starts = np.array(starts, np.intp)

    @property
    def count(self) -> int:
        """Residues of a report."""
        return self.bits + self._linear.count

    def residues(self, vectors: Array) -> Array:
        """(n, L) elements to (n, count) residues: those of the bits, then those of `rest`.

        What is to be 0, plainly. `linear` and `products` are for who needs only a combination.
        """
        bits = vectors[:, : self.bits]
        of_bits = self._field.mul(bits, self._field.sub(bits, _ONE))
        return np.concatenate([of_bits, self.rest(vectors)], axis=1)

    def rest(self, vectors: Array) -> Array:
        """(n, L) elements to (n, count - bits) residues of the equations beyond the bits'."""
        if not self._linear.count:
            return np.empty((len(vectors), 0), np.uint64)
        residues = self._linear.of(vectors)
        if self.squared.size:
            with_products = self._field.add(residues[:, self.squared], self.products(vectors))
            residues[:, self.squared] = with_products
        return residues

    def products(self, vectors: Array) -> Array:
        """(n, L) elements to the sums of products of each equation that has some.

        Some times as large as what comes in: give it as many rows as the cache holds.
        """
        values = self._factors.of(vectors)
        products = self._field.mul(values[:, self._left], values[:, self._right])
        return segment_sums(self._field, products, self._starts)

    def linear(self, r: Array, length: int) -> tuple[Array, Array]:
        """Coefficients (length, k) and constants (k) of what <r, residues(s)> is, for each column
        of r, besides r times the bits' squares and r times `products`."""
        coefficients, constants = self._linear.combined(r[self.bits :], length)
        of_bits = self._field.sub(coefficients[: self.bits], r[: self.bits])
        coefficients[: self.bits] = of_bits
        return coefficients, constants
