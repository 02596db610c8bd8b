"""The two prime fields of a contribution (aggregates, section 3), on numpy's uint64.

Both moduli are Mersenne primes, so reducing is a shift and an addition. Elements are
canonical, in [0, p), wherever they come in and go out; shapes broadcast as numpy's do.
Nothing here is constant-time in anything but its inputs' shapes, save that a sampler
tells by its time how many words it had to skip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crypto.errors import FormatError
from crypto.primitives import keystream

Array: TypeAlias = NDArray[np.uint64]
"""Canonical elements of a field."""
Words: TypeAlias = NDArray[np.uint32] | NDArray[np.uint64]
"""The same in the width that they are sent and stored in (`Field.word`)."""

_LOW = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Field:
    """The integers modulo 2^bits - 1, for bits 31 or 61."""

    bits: int

    def __post_init__(self) -> None:
        if self.bits not in (31, 61):
            raise FormatError("field", "there are fields of 31 and of 61 bits only")

    @staticmethod
    def of(bits: int) -> Field:
        """The field with that many bits; FormatError if there is none."""
        return FIELD31 if bits == 31 else FIELD61 if bits == 61 else Field(bits)

    @property
    def p(self) -> int:
        """The modulus."""
        return (1 << self.bits) - 1

    @property
    def element_bytes(self) -> int:
        """Bytes of an element on the wire and in a store: 4 or 8."""
        return 4 if self.bits == 31 else 8

    @property
    def word(self) -> np.dtype[Any]:
        """The little-endian word that holds an element on the wire and in a store."""
        return np.dtype("<u4") if self.bits == 31 else np.dtype("<u8")

    # Arithmetic

    def reduce(self, x: Array) -> Array:
        """Any uint64, brought into [0, p)."""
        p, bits = self.p, self.bits
        x = np.add(np.bitwise_and(x, p), np.right_shift(x, bits))
        if bits == 31:  # what is left has up to 34 bits
            x = np.add(np.bitwise_and(x, p), np.right_shift(x, bits))
        return self._once(x)

    def _once(self, x: Array) -> Array:
        # Below p the subtraction wraps round to something large, so the minimum picks.
        return np.minimum(x, np.subtract(x, self.p))

    def add(self, a: Array, b: Array) -> Array:
        """a + b."""
        return self._once(np.add(a, b))

    def sub(self, a: Array, b: Array) -> Array:
        """a - b."""
        return self._once(np.add(a, np.subtract(self.p, b)))

    def neg(self, a: Array) -> Array:
        """-a."""
        return self._once(np.subtract(self.p, a))

    def mul(self, a: Array, b: Array) -> Array:
        """a * b, element by element."""
        if self.bits == 31:
            return self.reduce(np.multiply(a, b))
        p = self.p
        a_low, a_high = np.bitwise_and(a, _LOW), np.right_shift(a, 32)
        b_low, b_high = np.bitwise_and(b, _LOW), np.right_shift(b, 32)
        low = a_low * b_low  # below 2^64
        middle = a_low * b_high + a_high * b_low  # below 2^62, of weight 2^32
        # 2^64 is 8 and 2^61 is 1; the terms together stay below 2^63.
        total = (low & p) + (low >> 61) + ((a_high * b_high) << 3)
        total += (middle >> 29) + ((middle & ((1 << 29) - 1)) << 32)
        return self.reduce(total)

    def scale(self, a: Array, factor: int) -> Array:
        """a times a Python integer of any size and sign."""
        return self.mul(a, np.uint64(factor % self.p))  # type: ignore[arg-type]

    def sum(self, a: Words, axis: int = 0) -> Array:
        """The sum along an axis, in either width, exact for up to 2^31 terms."""
        if self.bits == 31:
            return self.reduce(a.sum(axis=axis, dtype=np.uint64))
        low = np.bitwise_and(a, _LOW).sum(axis=axis, dtype=np.uint64)
        high = np.right_shift(a, 32).sum(axis=axis, dtype=np.uint64)
        return self.add(self.reduce(low), self.scale(self.reduce(high), 1 << 32))

    def dot(self, a: Array, b: Array) -> Array:
        """The sum of a * b over the last axis."""
        return self.sum(self.mul(a, b), axis=-1)

    def inverse(self, x: int) -> int:
        """1 / x; FormatError for zero."""
        if x % self.p == 0:
            raise FormatError("range", "zero has no inverse")
        return pow(x, -1, self.p)

    def lagrange(self, xs: Sequence[int], at: int = 0) -> list[int]:
        """Coefficients c with f(at) = sum c_i f(x_i) for every f of degree below len(xs)."""
        if len({x % self.p for x in xs}) != len(xs):
            raise FormatError("points", "the points of an interpolation must differ")
        result = []
        for x in xs:
            above = below = 1
            for other in xs:
                if other != x:
                    above = above * (at - other) % self.p
                    below = below * (x - other) % self.p
            result.append(above * self.inverse(below) % self.p)
        return result

    # Signed values

    def encode(self, values: Sequence[int] | NDArray[Any]) -> Array:
        """Signed integers as elements; FormatError if one is beyond +-(p - 1) / 2."""
        given = np.asarray(values)
        if given.size == 0:
            return np.zeros(given.shape, np.uint64)
        half = self.p // 2
        if given.dtype.kind not in "biu":
            # numpy makes a list that has an integer of more than 64 bits into something else.
            if isinstance(values, np.ndarray) or not all(isinstance(v, int) for v in values):
                raise FormatError("type", "values must be integers")
            raise FormatError("range", "a value does not fit the field")
        if given.max() > half or (given.dtype.kind == "i" and given.min() < -half):
            raise FormatError("range", "a value does not fit the field")
        signed = given.astype(np.int64)
        return np.where(signed < 0, signed + self.p, signed).astype(np.uint64)

    def decode(self, a: Array) -> NDArray[np.int64]:
        """Elements as signed integers, in [-(p - 1) / 2, (p - 1) / 2]."""
        signed = np.asarray(a).astype(np.int64)
        return np.where(signed > self.p // 2, signed - self.p, signed)

    # Bytes

    def to_bytes(self, a: Array) -> bytes:
        """Little-endian words of `element_bytes`."""
        return np.ascontiguousarray(a).astype(self.word).tobytes()

    def words(self, data: bytes, count: int) -> Words:
        """`count` elements in their stored width, read-only and without a copy.

        FormatError `length` for another number of bytes, `range` for one that is not below p.
        """
        if len(data) != count * self.element_bytes:
            raise FormatError("length", f"{count} elements take {count * self.element_bytes} bytes")
        words: Words = np.frombuffer(data, self.word, count)
        if count and int(words.max()) >= self.p:
            raise FormatError("range", "an element is not below the field's modulus")
        return words

    def from_bytes(self, data: bytes, count: int) -> Array:
        """What `to_bytes` wrote; FormatError as of `words`."""
        return self.words(data, count).astype(np.uint64)

    # Samplers

    def prg(self, seed: bytes, count: int) -> Array:
        """The `count` elements that a 32-byte seed stands for: one seed, one use."""
        return self._pick(lambda size: keystream(seed, size), count)

    def prg_rows(self, seeds: Sequence[bytes], count: int) -> Words:
        """`prg` of many seeds at once, one row each, in the stored width."""
        stream = b"".join(keystream(seed, count * self.element_bytes) for seed in seeds)
        words: Words = np.frombuffer(stream, self.word)
        rows: Words = np.bitwise_and(words, self.p).reshape(len(seeds), count)
        for row in np.flatnonzero((rows == self.p).any(axis=1)).tolist():
            rows[row] = self.prg(seeds[row], count)
        return rows

    def random(self, count: int, rand: Callable[[int], bytes]) -> Array:
        """`count` uniform elements out of `rand`, which must be a CSPRNG."""
        drawn = bytearray()

        def more(size: int) -> bytes:
            drawn.extend(rand(size - len(drawn)))
            return bytes(drawn)

        return self._pick(more, count)

    def _pick(self, stream: Callable[[int], bytes], count: int) -> Array:
        """The first `count` words of a stream below p; `stream(n)` gives its first n bytes."""
        wanted = count
        while True:
            data = stream(wanted * self.element_bytes)
            masked = np.frombuffer(data, self.word, wanted) & self.p
            taken: Array = masked[masked != self.p].astype(np.uint64)
            if taken.size >= count:
                return taken[:count]
            # Almost never: one word in 2^bits is skipped.
            wanted += count - int(taken.size)


FIELD31 = Field(31)
FIELD61 = Field(61)
