"""People and their ratings for `bench.federated`, and who of them a model is tried on.

Protocol. People, not ratings, are split: a fifth is held out, and of each of them a random half
of the ratings is given and the other half is to be predicted. Rates and clipping of the model
were chosen by held-out people of one half of the population (`tuning`); those of the published
figures are drawn from the other half.
"""

from __future__ import annotations

import csv
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from client.demo.ratings import slug
from client.intelligence.model import Floats, PersonState, Predictor
from client.intelligence.model_spec import ModelSpec

TESTED: Final = 0.2
"""So many of all people are held out."""
LOW, HIGH = 1, 5


@dataclass(frozen=True, slots=True)
class Population:
    """Everybody's ratings: item to 1..5."""

    source: str
    people: tuple[dict[str, int], ...]

    @property
    def items(self) -> tuple[str, ...]:
        """All that somebody rated, by name."""
        return tuple(sorted({item for ratings in self.people for item in ratings}))

    @property
    def ratings(self) -> int:
        """How many there are."""
        return sum(map(len, self.people))


def load(path: Path) -> Population:
    """A CSV with a header and rows of person, region, item, rating (1 to 5)."""
    people: dict[str, dict[str, int]] = {}
    with path.open(newline="", encoding="utf-8") as lines:
        for person, _, item, rating in list(csv.reader(lines))[1:]:
            people.setdefault(person, {})[slug(item)] = int(rating)
    return Population(path.name, tuple(people.values()))


def synthesise(count: int, *, items: int = 24, seed: int = 0) -> Population:
    """Where there is no file: tastes along two hidden directions, some items liked by most, some
    people kinder than others."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(0, 1, (count, 2)) @ rng.normal(0, 1, (2, items))
    liked = taste + rng.normal(0, 1, items) + rng.normal(0, 1, (count, 1))
    stars = np.clip(np.round(3.4 + 0.7 * liked + rng.normal(0, 0.6, liked.shape)), LOW, HIGH)
    people = []
    for row in stars.astype(int):
        rated = rng.choice(items, rng.integers(items // 3, items + 1), replace=False)
        people.append({f"item-{at:02}": int(row[at]) for at in sorted(rated)})
    return Population(f"synthetic, seed {seed}", tuple(people))


@dataclass(frozen=True)
class Trial:
    """Who trains, and what is predicted of whom."""

    spec: ModelSpec
    tested: tuple[int, ...]
    """The held-out people's numbers."""
    train: tuple[PersonState, ...]
    given: tuple[PersonState, ...]
    hidden: tuple[PersonState, ...]

    def liked(self) -> Floats:
        """What is to be predicted: 1 or 0, shape (ratings,)."""
        return np.concatenate([one.ratings >= self.spec.like for one in self.hidden]).astype(float)

    def logits(self, predictors: Sequence[Predictor]) -> Floats:
        """What is said of it: by one model, or by each person's own; shape (ratings,)."""
        many = predictors if len(predictors) > 1 else [predictors[0]] * len(self.given)
        return np.concatenate(
            [
                one.score([self.spec.items[at] for at in hidden.places], given)
                for one, given, hidden in zip(many, self.given, self.hidden, strict=True)
            ]
        )


def trial(population: Population, spec: ModelSpec, seed: int, *, tuning: bool = False) -> Trial:
    """One split. Who has rated too little to take part is left out of the training."""
    rng = random.Random(f"trial {seed}")
    half = [
        at
        for at in range(len(population.people))
        if (hashlib.sha256(b"half %d" % at).digest()[0] & 1 == 1) is tuning
    ]
    tested = rng.sample(half, min(len(half), round(TESTED * len(population.people))))
    states = [PersonState.of(spec, ratings) for ratings in population.people]
    held_out = set(tested)
    train = [
        state for at, state in enumerate(states) if at not in held_out and len(state) >= spec.least
    ]
    given, hidden = [], []
    for at in tested:
        state = states[at]
        shown = np.zeros(len(state), np.bool_)
        shown[rng.sample(range(len(state)), len(state) // 2)] = True
        given.append(state.kept(shown))
        hidden.append(state.kept(~shown))
    return Trial(spec, tuple(tested), tuple(train), tuple(given), tuple(hidden))


def auc(liked: Floats, logits: Floats) -> float:
    """How often what is liked has the larger logit than what is not; ties count half."""
    values, places, counts = np.unique(logits, return_inverse=True, return_counts=True)
    del values
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    ones = liked.sum()
    zeros = len(liked) - ones
    return float((ranks[liked == 1].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def log_loss(liked: Floats, logits: Floats) -> float:
    """In nats."""
    return float((np.logaddexp(0, logits) - liked * logits).mean())
