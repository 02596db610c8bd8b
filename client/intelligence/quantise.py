"""A model in bytes of 8 bits: what a device downloads and predicts with.

Each item's factors, and all biases together, are whole numbers from -127 to 127 times a scale of
their own. So every parameter is off by half its row's scale at most, and what that makes of a
prediction is known beforehand (`error_bound`). Made out of a model by whole numbers alone:
everybody who has the model gets the same bytes.

Bytes: "PSQ1" | spec hash[32] | u32 step | i32 lenience | u16 scale of the biases | u16 scale an
item | i8 biases | i8 factors by item. Scales and lenience are in 2^-16.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from client.intelligence.model import (
    UNIT,
    WEIGHT_MAX,
    Floats,
    Ints,
    Model,
    PersonState,
    Predictor,
)
from client.intelligence.model_spec import ModelSpec
from crypto.errors import FormatError

MAGIC: Final = b"PSQ1"
MOST: Final = 127
SCALE_MAX: Final = -(-WEIGHT_MAX // MOST)
_HEAD: Final = struct.Struct(">4s32sIiH")

Bytes8 = NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Int8Model(Predictor):
    """What predicts on a device."""

    spec: ModelSpec
    step: int
    bias_scale: int
    levels: Bytes8
    """Biases; shape (items,)."""
    row_scales: Ints
    rows: Bytes8
    """Shape (items, rank)."""
    lenient: int

    @classmethod
    def of(cls, model: Model) -> Self:
        """The nearest one."""
        [bias_scale], levels = _quantised(model.biases[None, :])
        scales, rows = _quantised(model.factors)
        return cls(model.spec, model.step, int(bias_scale), levels[0], scales, rows, model.lenience)

    @property
    def biases(self) -> Ints:
        return self.levels.astype(np.int64) * self.bias_scale

    @property
    def lenience(self) -> int:
        return self.lenient

    @property
    def factors(self) -> Bytes8:
        return self.rows

    @property
    def scales(self) -> Ints:
        return self.row_scales

    @cached_property
    def encoded(self) -> bytes:
        """The bytes that are downloaded."""
        head = _HEAD.pack(MAGIC, self.spec.hash, self.step, self.lenient, self.bias_scale)
        scales = self.row_scales.astype(">u2").tobytes()
        return head + scales + self.levels.tobytes() + self.rows.tobytes()

    @classmethod
    def decode(cls, data: bytes, spec: ModelSpec) -> Self:
        """What `encoded` gives; FormatError for anything else, and for another specification's."""
        count = len(spec.items)
        if len(data) != _HEAD.size + count * (3 + spec.rank):
            raise FormatError("model", "these bytes are no model of this specification")
        magic, spec_hash, step, lenient, bias_scale = _HEAD.unpack_from(data)
        if magic != MAGIC or spec_hash != spec.hash:
            raise FormatError("model", "these bytes are no model of this specification")
        scales = np.frombuffer(data, ">u2", count, _HEAD.size).astype(np.int64)
        rest = np.frombuffer(data, np.int8, offset=_HEAD.size + 2 * count)
        sizes = (abs(lenient) <= WEIGHT_MAX, 1 <= bias_scale <= SCALE_MAX)
        if not all(sizes) or scales.min() < 1 or scales.max() > SCALE_MAX or rest.min() < -MOST:
            raise FormatError("model", "the parameters are not those of a model")
        rows = rest[count:].reshape(count, spec.rank)
        return cls(spec, step, bias_scale, rest[:count], scales, rows, lenient)

    def error_bound(self, state: PersonState) -> Floats:
        """How far each item's logit can be from that of the model that this was made of, at most;
        shape (items,)."""
        x = np.abs(state.tenths(self.spec)) / 10
        half = self.row_scales / (2 * UNIT)
        sizes = np.abs(self.rows).astype(np.int64) * (self.row_scales / UNIT)[:, None]
        mine, mine_half = sizes[state.places], half[state.places]
        # |<p, q> - <p', q'>| <= |p'| h_q + |q'| h_p + k h_p h_q, with |.| the sum of magnitudes.
        of_row = sizes.sum(axis=1)[:, None] * mine_half + half[:, None] * mine.sum(axis=1)
        pairs = of_row + self.spec.rank * half[:, None] * mine_half
        # Without the item's own rating the count is one less: the larger factor is taken.
        given = max(len(state) - 1, 0) + self.spec.shrink
        bound: Floats = self.bias_scale / (2 * UNIT) + pairs @ x / np.sqrt(given)
        return bound

    def __repr__(self) -> str:
        return f"Int8Model({self.spec.name}, step {self.step})"


def _quantised(rows: Ints) -> tuple[Ints, Bytes8]:
    """A scale a row, and whole numbers of magnitude `MOST` at most."""
    scales = np.maximum(1, -(-np.abs(rows).max(axis=1) // MOST))
    levels = (2 * rows + scales[:, None]) // (2 * scales[:, None])
    return scales, levels.astype(np.int8)
