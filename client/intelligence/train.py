"""Training on the device: a few steps on one's own ratings, and what of them is given away.

Each step hides a random part of the ratings and predicts every rating from those that are left
without itself. What the steps changed is scaled down to a length that all updates keep to, and
rounded at random to whole numbers: the value of a `vector` contribution.

All arrays have a first axis of people. A device has one; a simulation has many, by the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from client.intelligence.model import (
    LENIENCE_REACH,
    UNIT,
    Floats,
    Ints,
    Model,
    PersonState,
    chances,
)
from client.intelligence.model_spec import ModelSpec
from mpc.draw import Rand

ROUNDINGS_MAX: Final = 4
"""So often an update is rounded anew that rounding made too long; then it is rounded down."""


@dataclass(frozen=True, eq=False)
class Examples:
    """What some people rated."""

    x: Floats
    """Ratings less the centre, 0 where there is none; shape (people, items)."""
    rated: Floats
    """1 or 0; shape (people, items)."""
    liked: Floats
    """1 or 0; shape (people, items)."""

    @classmethod
    def of(cls, spec: ModelSpec, states: Sequence[PersonState]) -> Self:
        """Of these people, in their order."""
        x, rated, liked = (np.zeros((len(states), len(spec.items))) for _ in range(3))
        for person, state in enumerate(states):
            x[person, state.places] = state.tenths(spec) / 10
            rated[person, state.places] = 1
            liked[person, state.places] = state.ratings >= spec.like
        return cls(x, rated, liked)

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return f"Examples({len(self)} people, content hidden)"


def gradient(
    spec: ModelSpec, weights: Floats, examples: Examples, context: Floats
) -> Floats:  # fmt: skip
    """Of each person's log loss over all that they rated, shape (people, size).

    `weights` has shape (people, size), or (1, size) for everybody's; `context` is 1 for ratings
    that others are predicted from, shape (people, items).
    """
    people, count = examples.x.shape
    biases, lenience = weights[:, :count], weights[:, count : count + 1]
    factors = weights[:, count + 1 :].reshape(-1, count, spec.rank)
    x = examples.x * context
    given = context.sum(1, keepdims=True) - context + spec.shrink
    part = 1 / np.sqrt(given)
    lenient = LENIENCE_REACH * (x.sum(1, keepdims=True) - x) / given
    persons = (x[:, :, None] * factors).sum(1, keepdims=True) - x[:, :, None] * factors
    persons *= part[:, :, None]
    logits = biases + lenience * lenient + (factors * persons).sum(2)
    errors = (chances(logits) - examples.liked) * examples.rated
    found = np.empty((people, spec.size))
    found[:, :count] = errors
    found[:, count] = (errors * lenient).sum(1)
    # A factor is in its own item's prediction, and in those that its rating is a context of.
    back = (errors * part)[:, :, None] * factors
    others = back.sum(1, keepdims=True) - back
    of_factors = errors[:, :, None] * persons + x[:, :, None] * others
    found[:, count + 1 :] = of_factors.reshape(people, -1)
    return found


def contexts(spec: ModelSpec, examples: Examples, rand: Rand) -> Floats:
    """A random part of each person's ratings, its share random too; shape (people, items)."""
    people, count = examples.x.shape
    least = spec.context_permille / 1000
    drawn = _uniform((people, count + 1), rand)
    share = least + (1 - least) * drawn[:, count:]
    context: Floats = examples.rated * (drawn[:, :count] < share)
    return context


def descend(model: Model, examples: Examples, *, rand: Rand) -> Floats:
    """What the steps of each person change, in parameters; shape (people, size)."""
    spec = model.spec
    start = model.weights[None, :] / UNIT
    weights = np.repeat(start, len(examples), axis=0)
    for _ in range(spec.local_steps):
        context = contexts(spec, examples, rand)
        weights -= spec.local_rate_milli / 1000 * gradient(spec, weights, examples, context)
    changes: Floats = weights - start
    return changes


def clipped(spec: ModelSpec, changes: Floats) -> Floats:
    """In an update's units, and nobody's longer than `spec.update_reach`."""
    units = changes * (spec.update_norm * 1000 / spec.clip_milli)
    length = np.linalg.norm(units, axis=1, keepdims=True)
    short: Floats = units * np.minimum(1, spec.update_reach / np.maximum(length, 1e-9))
    return short


def rounded(spec: ModelSpec, units: Floats, *, rand: Rand) -> Ints:
    """To whole numbers, up or down by chance, so that the mean is right; `spec.update_norm` is
    kept to. Shape (people, size)."""
    down = np.floor(units)
    whole = np.zeros(units.shape, np.int64)
    left = np.arange(len(units))
    for _ in range(ROUNDINGS_MAX):
        if not left.size:
            return whole
        up = _uniform((left.size, spec.size), rand) < (units - down)[left]
        whole[left] = (down[left] + up).astype(np.int64)
        left = left[(whole[left] ** 2).sum(1) > spec.update_norm**2]
    whole[left] = np.trunc(units[left]).astype(np.int64)
    return whole


def updates(model: Model, examples: Examples, *, rand: Rand) -> Ints:
    """What each person contributes, shape (people, size): a value of the kind that
    `federated.training_kind` gives."""
    changes = descend(model, examples, rand=rand)
    return rounded(model.spec, clipped(model.spec, changes), rand=rand)


def _uniform(shape: tuple[int, int], rand: Rand) -> NDArray[np.float64]:
    """From 0 to below 1, in steps of 2^-32."""
    words = np.frombuffer(rand(4 * shape[0] * shape[1]), "<u4")
    return words.reshape(shape) / float(1 << 32)
