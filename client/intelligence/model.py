"""The model of who likes what: its parameters, its bytes, and what it says of one person.

The logit that a person likes item j, given ratings x_i (less the centre) of n other items:

    b_j + 3 a sum(x_i) / (n + c) + <p_j, sum(x_i p_i)> / sqrt(n + c)

with c = `spec.shrink`. The item's own rating, if there is one, is left out. It is a sum over a
person's ratings, so what each of them adds can be told. Parameters are whole multiples of 2^-16
and all sums are of whole numbers: a model says the same on every machine, to the last bit but
for the final division.

Bytes: "PSL1" | spec hash[32] | u32 step | i32 parameters | i32 velocity, both of `spec.size`;
parameters in the order biases, lenience, factors by item.
"""

from __future__ import annotations

import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from client.intelligence.model_spec import FRACTION_BITS, ModelSpec
from client.intelligence.ranking import Influence
from crypto import labels
from crypto.errors import FormatError
from crypto.primitives import hash_, keystream

MAGIC: Final = b"PSL1"
LENIENCE_REACH: Final = 3
"""The lenience's feature is a mean of ratings, which is small: so many times."""
UNIT: Final = 1 << FRACTION_BITS
WEIGHT_MAX: Final = 16 * UNIT
"""No parameter is larger: e^16 to one is certainty, and sums stay below 2^63."""
BIAS: Final = "everybody"
"""The influence that is no rating of the person's."""
STEP_MAX: Final = (1 << 32) - 1
_HEAD: Final = struct.Struct(">4s32sI")

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PersonState:
    """One person's ratings of a model's items. It never leaves the device."""

    places: Ints
    """Which items, ascending; shape (n,)."""
    ratings: Ints
    """Their ratings; shape (n,)."""

    @classmethod
    def of(cls, spec: ModelSpec, ratings: Mapping[str, object]) -> Self:
        """Out of a profile's settings. What is no rating of an item of the model is left out."""
        known = sorted(
            (spec.places[item], value)
            for item, value in ratings.items()
            if item in spec.places and type(value) is int and spec.low <= value <= spec.high
        )
        table = np.array(known, np.int64).reshape(-1, 2)
        return cls(table[:, 0], table[:, 1])

    def kept(self, mask: NDArray[np.bool_]) -> PersonState:
        """The ratings where `mask`, of shape (n,), is true."""
        return PersonState(self.places[mask], self.ratings[mask])

    def tenths(self, spec: ModelSpec) -> Ints:
        """Ratings less the centre, in tenths."""
        return 10 * self.ratings - spec.centre_tenths

    def __len__(self) -> int:
        return self.places.size

    def __repr__(self) -> str:
        return f"PersonState({len(self)} ratings, content hidden)"


class Predictor(ABC):
    """What says of a person how they like an item, in whole numbers."""

    spec: ModelSpec

    @property
    @abstractmethod
    def biases(self) -> Ints:
        """In 2^-16; shape (items,)."""

    @property
    @abstractmethod
    def lenience(self) -> int:
        """In 2^-16."""

    @property
    @abstractmethod
    def factors(self) -> NDArray[Any]:
        """Whole numbers; shape (items, rank). Row i counts `scales[i]` times."""

    @property
    @abstractmethod
    def scales(self) -> Ints:
        """In 2^-16; shape (items,)."""

    def score(self, items: Sequence[str], state: PersonState) -> Floats:
        """The logit of each item, shape (len(items),); FormatError `item` for an unknown one."""
        wanted = self._places(items)
        x, factors, scales = state.tenths(self.spec), self.factors, self.scales
        person = (x * scales[state.places]) @ factors[state.places].astype(np.int64)
        own = np.zeros(len(self.spec.items), np.int64)
        own[state.places] = x
        rated = np.zeros(len(self.spec.items), np.int64)
        rated[state.places] = 1
        rows = factors[wanted].astype(np.int64)
        others = person - (own * scales)[wanted, None] * rows
        dots = scales[wanted] * (rows * others).sum(axis=1)
        counts = len(state) - rated[wanted]
        sums = x.sum() - own[wanted]
        return self._logits(self.biases[wanted], sums, dots, counts)

    def _logits(self, biases: Ints, sums: Ints, dots: Ints, counts: Ints) -> Floats:
        given = counts + float(self.spec.shrink)
        lenient = self._lenient * sums / given
        logits: Floats = biases / UNIT + lenient + dots / (10 * UNIT**2) / np.sqrt(given)
        return logits

    @property
    def _lenient(self) -> float:
        return LENIENCE_REACH * self.lenience / (10 * UNIT)

    def influences(self, item: str, state: PersonState) -> tuple[Influence, ...]:
        """What the logit is the sum of: what holds for everybody, and each rating by its signal."""
        [place] = self._places([item])
        others = state.kept(state.places != place)
        x, factors, scales = others.tenths(self.spec), self.factors, self.scales
        row = factors[place].astype(np.int64)
        products = scales[place] * scales[others.places] * (factors[others.places] @ row)
        given = len(others) + float(self.spec.shrink)
        amounts = self._lenient * x / given + x * products / (10 * UNIT**2) / math.sqrt(given)
        return (
            Influence(BIAS, float(self.biases[place]) / UNIT),
            *(
                Influence(f"{self.spec.collection}/{self.spec.items[at]}", float(amount))
                for at, amount in zip(others.places, amounts, strict=True)
            ),
        )

    def _places(self, items: Sequence[str]) -> Ints:
        try:
            return np.array([self.spec.places[item] for item in items], np.int64)
        except KeyError:
            raise FormatError(
                "item", "the model knows no such item: see its specification"
            ) from None


def chances(logits: Floats) -> Floats:
    """Probabilities."""
    return np.asarray(0.5 + 0.5 * np.tanh(logits / 2))


@dataclass(frozen=True, eq=False)
class Model(Predictor):
    """A model after so many steps, and the velocity with which the next one starts."""

    spec: ModelSpec
    step: int
    weights: Ints
    """Shape (spec.size,)."""
    velocity: Ints
    """Shape (spec.size,)."""

    def __post_init__(self) -> None:
        if not 0 <= self.step <= STEP_MAX:
            raise FormatError("model", "a model's steps fit 32 bits")
        for one in (self.weights, self.velocity):
            if one.shape != (self.spec.size,) or np.abs(one).max() > WEIGHT_MAX:
                raise FormatError("model", "the parameters are not those of a model")

    @classmethod
    def genesis(cls, spec: ModelSpec) -> Self:
        """Where training starts, the same everywhere: factors out of the specification's hash."""
        count = len(spec.items)
        draws = np.frombuffer(
            keystream(hash_(labels.MODEL_GENESIS, spec.hash), 4 * count * spec.rank), "<u4"
        ).astype(np.int64)
        spread = spec.spread_milli * UNIT // 1000
        weights = np.zeros(spec.size, np.int64)
        weights[count] = spec.lenience_milli * UNIT // 1000
        weights[count + 1 :] = (draws * (2 * spread + 1) >> 32) - spread
        return cls(spec, 0, weights, np.zeros(spec.size, np.int64))

    @property
    def biases(self) -> Ints:
        return self.weights[: len(self.spec.items)]

    @property
    def lenience(self) -> int:
        return int(self.weights[len(self.spec.items)])

    @property
    def factors(self) -> Ints:
        return self.weights[len(self.spec.items) + 1 :].reshape(-1, self.spec.rank)

    @cached_property
    def scales(self) -> Ints:
        return np.ones(len(self.spec.items), np.int64)

    @cached_property
    def encoded(self) -> bytes:
        """The bytes that the model is named by."""
        numbers = np.concatenate((self.weights, self.velocity)).astype(">i4")
        return _HEAD.pack(MAGIC, self.spec.hash, self.step) + numbers.tobytes()

    @cached_property
    def hash(self) -> bytes:
        """32 bytes."""
        return hash_(labels.MODEL, self.encoded)

    @classmethod
    def decode(cls, data: bytes, spec: ModelSpec) -> Self:
        """What `encoded` gives; FormatError for anything else, and for another specification's."""
        if len(data) != _HEAD.size + 8 * spec.size:
            raise FormatError("model", "these bytes are no model of this specification")
        magic, spec_hash, step = _HEAD.unpack_from(data)
        if magic != MAGIC or spec_hash != spec.hash:
            raise FormatError("model", "these bytes are no model of this specification")
        numbers = np.frombuffer(data, ">i4", offset=_HEAD.size).astype(np.int64)
        return cls(spec, step, numbers[: spec.size], numbers[spec.size :])

    def __repr__(self) -> str:
        return f"Model({self.spec.name}, step {self.step}, {self.hash.hex()[:16]})"
