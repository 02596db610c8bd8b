"""A small made-up world of tastes, for tests of the model. A helper."""

from __future__ import annotations

import random
from dataclasses import replace

from client.intelligence.model import PersonState
from client.intelligence.model_spec import ModelSpec
from mpc.draw import Rand

ITEMS = tuple(f"dish-{number:02}" for number in range(12))
SPEC = ModelSpec("taste", "What you may like", "rating", ITEMS, rank=2)


def rand(seed: object) -> Rand:
    """A seeded stream of bytes."""
    return random.Random(f"model {seed}").randbytes


def people(count: int, seed: object, spec: ModelSpec = SPEC) -> list[PersonState]:
    """Each likes the even dishes or the odd ones, and has rated most of them."""
    rng = random.Random(f"people {seed}")
    made = []
    for _ in range(count):
        side = rng.randrange(2)
        rated = rng.sample(range(len(spec.items)), rng.randint(7, len(spec.items)))
        made.append(
            PersonState.of(
                spec,
                {
                    spec.items[at]: rng.choice((4, 5) if at % 2 == side else (1, 2, 3))
                    for at in rated
                },
            )
        )
    return made


def another(spec: ModelSpec = SPEC) -> ModelSpec:
    """Not the same, and as large."""
    return replace(spec, name="another")
