"""A party's own arithmetic over many reports at once (docs/aggregation.md, 4; numpy only).

It opens boxes and expands their shares to rows, gives two numbers a report and repetition to
open jointly, and sums the rows that are found valid. It masks nothing and decides nothing by
itself: a D or Q that left here unmasked would tell of its report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crypto import labels
from crypto.columns import Columns
from crypto.contribution import Header, PartyBox, Shape
from crypto.errors import CryptoError, FormatError
from crypto.field import Array, Field, Words
from crypto.primitives import KEY_BYTES, need, prf
from crypto.shares import ELEMENTS, SEED, SEED_BYTES, Share

REPORTS_MIN, REPORTS_MAX = 1_000, 20_000
_BATCH_ELEMENTS = 1 << 22
_BLOCK_ELEMENTS = 1 << 16
"""Elements that are worked on at once: half a megabyte, which stays in a core's cache."""


def micro_batch_reports(length: int) -> int:
    """How many reports of that length to read, keep and check at a time."""
    return max(REPORTS_MIN, min(REPORTS_MAX, _BATCH_ELEMENTS // length))


class Equations(Protocol):
    """What a valid report satisfies (`mpc.kinds` says it for each kind): its first elements are
    bits, and the residues of further equations are 0, of degree 2 in the elements."""

    bits: int
    squared: NDArray[np.intp]
    """Which equations have products, by their place behind the bits."""

    @property
    def count(self) -> int:
        """Residues of a report, one for each bit and for each equation."""

    def products(self, vectors: Array) -> Array:
        """(n, L) to (n, len(squared)): the sums of products."""

    def linear(self, r: Array, length: int) -> tuple[Array, Array]:
        """(L, k) and (k): <r, residues(s)> less r times the bits' squares and the products."""


# Rows


@dataclass(frozen=True, slots=True)
class Opened:
    """What one party found in some boxes: a header and a row of each that is in form."""

    headers: list[Header]
    rows: Words
    """(n, L) in the stored width."""
    refused: Counter[str]
    """How many of the others, by the rule that they break."""


def open_boxes(box: PartyBox, shape: Shape, boxes: Iterable[tuple[bytes, bytes]]) -> Opened:
    """Of each (header, sealed), in their order. Nothing that a device sends raises."""
    found: list[tuple[Header, Share]] = []
    refused: Counter[str] = Counter()
    for header, sealed in boxes:
        try:
            found.append(box.unseal(shape, header, sealed))
        except CryptoError as error:
            refused[error.rule] += 1
    rows = _expand(shape.field, shape.length, [share for _, share in found])
    headers = [header for header, _ in found]
    # One look at all of them: seldom is there one to be found.
    if rows.size and int(rows.max()) >= shape.field.p:
        fits: NDArray[np.bool_] = np.all(rows < shape.field.p, axis=1)
        refused["range"] += len(rows) - int(fits.sum())
        headers = [header for header, fit in zip(headers, fits, strict=True) if fit]
        rows = rows[fits]
    return Opened(headers, rows, refused)


def expand(field: Field, length: int, shares: Sequence[Share]) -> Words:
    """(n, L) in the stored width, one row for each share, in their order.

    For shares of one round that were checked when they were opened; FormatError if one was not.
    """
    rows = _expand(field, length, shares)
    if rows.size and int(rows.max()) >= field.p:
        raise FormatError("range", "an element is not below the field's modulus")
    return rows


def _expand(field: Field, length: int, shares: Sequence[Share]) -> Words:
    rows: Words = np.empty((len(shares), length), field.word)
    for form in (ELEMENTS, SEED):
        at = [row for row, share in enumerate(shares) if share.form == form]
        payloads = [shares[row].payload for row in at]
        size = SEED_BYTES if form == SEED else length * field.element_bytes
        if any(len(payload) != size for payload in payloads):
            raise FormatError("length", f"a share of this form has {size} bytes")
        if not at:
            continue
        if form == SEED:
            rows[at] = field.prg_rows(payloads, length)
        else:
            elements: Words = np.frombuffer(b"".join(payloads), field.word)
            rows[at] = elements.reshape(len(at), length)
    if any(share.form not in (ELEMENTS, SEED) for share in shares):
        raise FormatError("form", "a share is elements or a seed")
    return rows


def rows_of(field: Field, length: int, data: bytes) -> Words:
    """(n, L) out of rows that were kept as bytes, read-only and without a copy; FormatError."""
    count, over = divmod(len(data), length * field.element_bytes)
    if over:
        raise FormatError("length", "the rows are not whole")
    return field.words(data, count * length).reshape(count, length)


def add_valid(field: Field, total: Array, rows: Words, valid: NDArray[np.bool_]) -> Array:
    """The running sum (L elements) with this micro-batch's valid rows in it."""
    return field.add(total, field.sum(rows[valid]))


# Checks


class Challenge:
    """What every report is multiplied by; nobody may know it before the set of them is fixed."""

    __slots__ = (
        "_constants", "_equations", "_field", "_linear", "_products", "_squares", "q", "r",
    )  # fmt: skip

    def __init__(self, field: Field, equations: Equations, q: Array, r: Array) -> None:
        self._field, self._equations = field, equations
        self.q, self.r = q, r
        """(L, kappa) and (count of residues, kappa)."""
        coefficients, self._constants = equations.linear(r, len(q))
        # D and what Q has of degree 1 in one go; what it has of degree 2 is added to that.
        self._linear = Columns(field, np.concatenate([q, coefficients], axis=1))
        self._squares = Columns(field, r[: equations.bits])
        self._products = Columns(field, r[equations.bits + equations.squared])

    @classmethod
    def of(
        cls, field: Field, coin: bytes, *, length: int, equations: Equations, kappa: int
    ) -> Challenge:
        """Independent q and r for each repetition, out of the round's joint coin of 32 bytes."""
        need("coin", coin, KEY_BYTES)
        if kappa < 1:
            raise FormatError("kappa", "a report is checked once at least")

        def matrix(label: bytes, rows: int) -> Array:
            elements = field.prg(prf(coin, label, b""), kappa * rows)
            return np.ascontiguousarray(elements.reshape(kappa, rows).T)

        q, r = matrix(labels.VERIFY_Q, length), matrix(labels.VERIFY_R, equations.count)
        return cls(field, equations, q, r)

    def check(self, rows: Words) -> tuple[Array, Array]:
        """(D, Q) of each row, both (n, kappa), as this party's shares of them.

        D = <q, s> lies on a polynomial of degree t if and only if the row's shares do, and
        Q = <r, residues(s)>, of degree 2t, is 0 if and only if the report is valid: each but
        for a chance of 1/p a repetition. Q means something only where D is in order.
        """
        field, kappa = self._field, self.q.shape[1]
        linear = self._linear.dot(rows)
        squares = self._squares.dot_squares(rows[:, : self._equations.bits])
        q = field.add(field.add(linear[:, kappa:], self._constants), squares)
        if self._equations.squared.size:
            q = field.add(q, self._of_products(rows))
        return linear[:, :kappa], q

    def _of_products(self, rows: Words) -> Array:
        result = np.empty((len(rows), self.q.shape[1]), np.uint64)
        step = max(1, _BLOCK_ELEMENTS // len(self.q))
        for start in range(0, len(rows), step):
            block = rows[start : start + step].astype(np.uint64)
            result[start : start + step] = self._products.dot(self._equations.products(block))
        return result


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which reports count, and how many don't for which reason."""

    valid: NDArray[np.bool_]
    inconsistent: int
    invalid: int


def verdict(consistent: NDArray[np.bool_], zero: NDArray[np.bool_]) -> Verdict:
    """From what was opened: whether each report's D lay on a polynomial, and, for those where
    it did and in their order, whether Q was 0."""
    valid = consistent.copy()
    valid[consistent] = zero
    return Verdict(valid, int((~consistent).sum()), int((~zero).sum()))
