"""Many rows times a few fixed columns, exactly, by numpy's product of floats.

Elements are cut into limbs so short that every sum of products is an integer below 2^53,
which is exact in any order of adding. Work is done in buffers that stay in a core's cache:
temporary arrays of that size cost more than what is computed in them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto.field import Array, Field, Words

_BLOCK_ELEMENTS = 1 << 14
"""Elements that are worked on at once."""


class Columns:
    """(L, k) elements, cut up once for any number of rows of L."""

    __slots__ = ("_bits", "_count", "_field", "_k", "_right", "_span")

    def __init__(self, field: Field, columns: Array) -> None:
        self._field, self._k = field, columns.shape[1]
        self._bits, self._count = (16, 2) if field.bits == 31 else (21, 3)
        # So many products of two limbs add up to less than 2^53.
        self._span = 1 << (53 - 2 * self._bits)
        mask = (1 << self._bits) - 1
        limbs = [columns >> self._bits * at & mask for at in range(self._count)]
        self._right: NDArray[np.float64] = np.concatenate(limbs, axis=1).astype(np.float64)

    def dot(self, rows: Words) -> Array:
        """(n, L), in either width, to (n, k): each row's inner product with each column."""
        return self._over(rows, squares=False)

    def dot_squares(self, rows: Words) -> Array:
        """The same of the squares of the rows' elements."""
        return self._over(rows, squares=True)

    def _over(self, rows: Words, *, squares: bool) -> Array:
        n, length = rows.shape
        step = max(1, _BLOCK_ELEMENTS // max(1, length))
        # Sums over as many spans as a row has stay below 2^64.
        sums = np.zeros((self._count, n, self._right.shape[1]), np.uint64)
        shape = (min(step, n), length)
        wide: NDArray[Any] = np.empty(shape, np.uint64 if squares else rows.dtype)
        limb, floats = np.empty_like(wide), np.empty(shape, np.float64)
        for start in range(0, n, step):
            block = rows[start : start + step]
            size = len(block)
            elements: NDArray[Any] = block
            if squares:
                elements = self._square(block, wide[:size], limb[:size])
            for at in range(self._count):
                self._cut(elements, at, limb[:size])
                np.copyto(floats[:size], limb[:size])
                self._multiply(floats[:size], sums[at, start : start + size])
        return self._joined(sums)

    def _square(
        self, block: Words, wide: NDArray[np.uint64], spare: NDArray[np.uint64]
    ) -> NDArray[np.uint64]:
        """Modulo p, and in no more bits than the limbs have together."""
        np.copyto(wide, block)
        if self._field.bits == 61:
            return self._field.mul(wide, wide)
        np.multiply(wide, wide, out=wide)
        np.right_shift(wide, 31, out=spare)
        np.bitwise_and(wide, self._field.p, out=wide)
        return np.add(wide, spare, out=wide)

    def _cut(self, elements: NDArray[Any], at: int, out: NDArray[Any]) -> None:
        """One limb of each element; the last one has what is left."""
        np.right_shift(elements, self._bits * at, out=out)
        if at < self._count - 1:
            np.bitwise_and(out, (1 << self._bits) - 1, out=out)

    def _multiply(self, limbs: NDArray[np.float64], total: NDArray[np.uint64]) -> None:
        if len(self._right) <= self._span:
            total[:] = limbs @ self._right
            return
        for at in range(0, len(self._right), self._span):
            part = limbs[:, at : at + self._span] @ self._right[at : at + self._span]
            total += part.astype(np.uint64)

    def _joined(self, sums: NDArray[np.uint64]) -> Array:
        total: Array = np.zeros((sums.shape[1], self._k), np.uint64)
        for left in range(self._count):
            for right in range(self._count):
                part = self._field.reduce(sums[left, :, right * self._k : (right + 1) * self._k])
                weight = 1 << self._bits * (left + right)
                total = self._field.add(total, self._field.scale(part, weight))
        return total
