"""`python -m bench.federated [RATINGS.csv]`: what a model learns of people whose ratings stay.

Everything a device and a publisher do is done by their own code: training, clipping, rounding,
the step that a result makes, 8 bits. Noise is drawn as three parties draw theirs (mpc/noise.py)
and added to the exact sum; the joint computation, which would give the same sum, is left out.
Seeded: a run gives the same figures on every machine but for the last digits of floats.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench import federated_people as population
from bench.federated_people import Population, Trial
from client.intelligence import federated
from client.intelligence.federated import Part, Terms, advance
from client.intelligence.model import UNIT, WEIGHT_MAX, Floats, Model, Predictor
from client.intelligence.model_spec import ModelSpec
from client.intelligence.quantise import Int8Model
from client.intelligence.train import Examples, contexts, descend, gradient, updates
from crypto.contribution import Shape, make
from crypto.primitives import box_public
from mpc import privacy
from mpc.draw import Rand
from mpc.noise import Law
from mpc.task import Caps

DELTA: Final = 1e-6
ROUNDS: Final[Mapping[float | None, int]] = {None: 40, 8.0: 20, 2.0: 12}
"""By epsilon. All rounds share the budget, so with less of it there are fewer of them."""
SEEDS: Final = 5
CENTRAL_STEPS: Final = 300
ALONE_STEPS: Final = 100
MORE: Final = 10
CENTRAL, FEDERATED = "central", "federated, no noise"
WITHIN: Final = 0.02
"""How far below central training the federated model's AUC may be, without noise."""
PARTIES, CORRUPT = 3, 1


def specification(items: tuple[str, ...]) -> ModelSpec:
    """The model that is tried: the defaults are what was chosen."""
    return ModelSpec("taste", "What you may like", "rating", items)


# -- ways to learn ----------------------------------------------------------------------


def rho_of(epsilon: float) -> int:
    """The most micro-rho that is (epsilon, DELTA)."""
    low, high = 1, privacy.RHO_MICRO_MAX
    while high - low > 1:
        middle = (low + high) // 2
        fits = privacy.epsilon_of(middle, DELTA) <= epsilon * privacy.MICRO
        low, high = (middle, high) if fits else (low, middle)
    return low


def law_of(spec: ModelSpec, epsilon: float, rounds: int) -> Law:
    """The noise of each of so many rounds, which cost a device epsilon together."""
    task = federated.task(Model.genesis(spec), Part.TRAIN, 1, terms(rho_of(epsilon) // rounds))
    assert task.noise is not None
    return task.noise


def terms(micro_rho: int) -> Terms:
    """Of a round."""
    caps = Caps(micro_rho, 86_400_000, micro_rho)
    return Terms(
        purpose="learning", micro_rho=micro_rho, window_ms=3_600_000, k_min=100, caps=caps,
        expires_ms=1 << 50, m=PARTIES, t=CORRUPT,
    )  # fmt: skip


def train_federated(
    trial: Trial, law: Law | None, rand: Rand, *, rounds: int, copies: int = 1
) -> Model:
    """Everybody takes part in every round. `copies` of everybody say what more people of the same
    tastes would do to the noise; they bring no knowledge that is not there."""
    model, examples = Model.genesis(trial.spec), Examples.of(trial.spec, trial.train)
    for _ in range(rounds):
        sums = copies * updates(model, examples, rand=rand).sum(axis=0)
        if law is not None:
            for _ in range(PARTIES):
                sums += law.share(trial.spec.size, present=PARTIES, t=CORRUPT, rand=rand)
        model = advance(model, sums.tolist(), copies * len(examples))
    return model


def train_central(trial: Trial, rand: Rand, *, steps: int = CENTRAL_STEPS) -> Model:
    """The same model where all ratings lie in one place: Adam (Kingma, Ba 2015) on everybody's
    loss, with a little weight decay on the factors."""
    spec = trial.spec
    examples = Examples.of(spec, trial.train)
    weights = Model.genesis(spec).weights / UNIT
    decay = np.zeros(spec.size)
    decay[len(spec.items) + 1 :] = 1e-4
    first, second = np.zeros(spec.size), np.zeros(spec.size)
    for step in range(1, steps + 1):
        context = contexts(spec, examples, rand)
        slope = gradient(spec, weights[None, :], examples, context).sum(0) / examples.rated.sum()
        slope += decay * weights
        first = 0.9 * first + 0.1 * slope
        second = 0.99 * second + 0.01 * slope**2
        by = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
        weights -= 0.03 * (1 - step / steps) * by
    return of_weights(spec, weights)


def train_alone(trial: Trial, rand: Rand) -> list[Model]:
    """Each held-out person for themselves, on what they have given, from where all models start."""
    alone = Model.genesis(replace(trial.spec, local_steps=ALONE_STEPS))
    changes = descend(alone, Examples.of(alone.spec, trial.given), rand=rand)
    return [of_weights(trial.spec, alone.weights / UNIT + row) for row in changes]


def own_mean(spec: ModelSpec) -> Model:
    """Says of each item how kind the person is: the start without its factors, nothing learned."""
    weights = Model.genesis(spec).weights / UNIT
    weights[len(spec.items) + 1 :] = 0
    return of_weights(spec, weights)


def of_weights(spec: ModelSpec, weights: Floats) -> Model:
    """A model out of floats."""
    whole = np.clip(np.round(weights * UNIT), -WEIGHT_MAX, WEIGHT_MAX).astype(np.int64)
    return Model(spec, 0, whole, np.zeros(spec.size, np.int64))


# -- figures ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to learn, and how many rounds it takes."""

    name: str
    rounds: int
    train: Callable[[Trial, Rand], Sequence[Predictor]]


def arms(spec: ModelSpec, rounds: Mapping[float | None, int]) -> Iterator[Arm]:
    """What is compared. What devices predict with is in 8 bits."""
    yield Arm(CENTRAL, 0, lambda trial, rand: [train_central(trial, rand)])
    for epsilon, count in rounds.items():
        yield joint(spec, epsilon, count)
    if 2.0 in rounds:
        yield joint(spec, 2.0, rounds[2.0], copies=MORE)
    yield Arm("local only", 0, train_alone)
    yield Arm("own mean", 0, lambda trial, rand: [own_mean(trial.spec)])


def joint(spec: ModelSpec, epsilon: float | None, rounds: int, *, copies: int = 1) -> Arm:
    """Federated, with so much noise that a device spends epsilon in all rounds."""
    law = None if epsilon is None else law_of(spec, epsilon, rounds)

    def train(trial: Trial, rand: Rand) -> Sequence[Predictor]:
        model = train_federated(trial, law, rand, rounds=rounds, copies=copies)
        return [Int8Model.of(model)]

    name = FEDERATED if epsilon is None else f"federated, epsilon {epsilon:g}"
    return Arm(name if copies == 1 else f"{name}, people x {copies}", rounds, train)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one arm, by seed."""

    rounds: int
    auc: tuple[float, ...]
    log_loss: tuple[float, ...]

    def row(self) -> dict[str, float]:
        """Means and standard deviations."""
        return {
            "auc": statistics.fmean(self.auc),
            "auc_sd": statistics.stdev(self.auc) if len(self.auc) > 1 else 0.0,
            "log_loss": statistics.fmean(self.log_loss),
            "log_loss_sd": statistics.stdev(self.log_loss) if len(self.log_loss) > 1 else 0.0,
            "rounds": self.rounds,
        }

    def __str__(self) -> str:
        return (
            "AUC {auc:.4f} ± {auc_sd:.4f}  log loss {log_loss:.4f} ± {log_loss_sd:.4f}"
            "  rounds {rounds}".format(**self.row())
        )


def compare(
    people: Population,
    *,
    seeds: int = SEEDS,
    rounds: Mapping[float | None, int] = ROUNDS,
    tuning: bool = False,
) -> dict[str, Figures]:
    """Each arm on the same splits."""
    spec = specification(people.items)
    trials = [population.trial(people, spec, seed, tuning=tuning) for seed in range(seeds)]
    found = {}
    for arm in arms(spec, rounds):
        aucs, losses = [], []
        for seed, one in enumerate(trials):
            rand = np.random.default_rng([seed, 7]).bytes
            liked, logits = one.liked(), one.logits(arm.train(one, rand))
            aucs.append(population.auc(liked, logits))
            losses.append(population.log_loss(liked, logits))
        found[arm.name] = Figures(arm.rounds, tuple(aucs), tuple(losses))
        print(f"{arm.name:34}  {found[arm.name]}", file=sys.stderr, flush=True)
    return found


def sizes_and_times(people: Population, spec: ModelSpec) -> dict[str, float]:
    """Bytes, and milliseconds of one device; the median of some people."""
    model = Model.genesis(spec)
    small = Int8Model.of(model)
    task = federated.task(model, Part.TRAIN, 1, terms(50_000))
    shape = Shape(
        round_digest=bytes(32), m=PARTIES, t=CORRUPT, field=task.field, length=task.kind.length
    )
    keys = [box_public(bytes([party]) * 32) for party in range(1, PARTIES + 1)]
    state = population.trial(people, spec, 0).train[0]
    examples = Examples.of(spec, [state])
    [update] = updates(model, examples, rand=os.urandom)

    def contribution() -> Any:
        return make(
            shape, task.kind.encode(update), box_keys=keys, aggregation_key=bytes(32),
            rand=os.urandom,
        )  # fmt: skip

    made = contribution()
    return {
        "parameters": spec.size,
        "model_bytes": len(model.encoded),
        "float32_bytes": 4 * spec.size,
        "int8_bytes": len(small.encoded),
        "update_bytes": math.ceil(spec.size * spec.update_bits / 8),
        "contribution_bytes": len(made.header) + sum(map(len, made.boxes)),
        "result_bytes": 4 * spec.size,
        "train_ms": _milliseconds(lambda: updates(model, examples, rand=os.urandom)),
        "contribute_ms": _milliseconds(contribution),
        "advance_ms": _milliseconds(lambda: advance(model, [1] * spec.size, 1000)),
        "rank_ms": _milliseconds(lambda: small.score(spec.items, state)),
    }


def _milliseconds(work: Callable[[], object], times: int = 30) -> float:
    took = []
    for _ in range(times):
        since = time.perf_counter()
        work()
        took.append(1000 * (time.perf_counter() - since))
    return statistics.median(took)


def main(arguments: list[str] | None = None) -> int:
    """0 if the federated model without noise is close enough to the central one."""
    parser = argparse.ArgumentParser(prog="python -m bench.federated", description=__doc__)
    parser.add_argument(
        "ratings", nargs="?", type=Path, default=os.environ.get("ROOKERY_RATINGS"),
        help="CSV: person,region,item,rating; else $ROOKERY_RATINGS, else made-up people",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--tuning", action="store_true", help="on the half that settings came from")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    given = parser.parse_args(arguments)
    people = population.load(given.ratings) if given.ratings else population.synthesise(1200)
    spec = specification(people.items)
    count = f"{people.ratings:,} ratings of {len(people.people):,} people"
    print(f"{people.source}: {count}, {len(people.items)} items", file=sys.stderr, flush=True)
    found = compare(people, seeds=given.seeds, tuning=given.tuning)
    device = sizes_and_times(people, spec)
    for name, value in device.items():
        print(f"{name:34}  {value:,.3g}", file=sys.stderr)
    behind = statistics.fmean(found[CENTRAL].auc) - statistics.fmean(found[FEDERATED].auc)
    reached = behind <= WITHIN
    mark = "reached" if reached else "MISSED"
    print(f"-> behind central by {behind:.4f} (at most {WITHIN}) {mark}", file=sys.stderr)
    if given.json:
        rows: Mapping[str, Any] = {name: one.row() for name, one in found.items()}
        print(json.dumps({"arms": rows, "device": device, "behind_central": behind}))
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
