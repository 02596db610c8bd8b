"""A federated round: the task that asks for updates, and the next model that its result makes.

Nobody delivers a model. Everybody who has model k and the signed result of a round that trained
it computes model k + 1, in whole numbers and so to the same bytes (ADR 21). A task names the
model that it trains by its hash, at the end of its title, where the publisher's signature
covers it and people can read it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, isqrt
from typing import Final

import numpy as np

from client.intelligence.model import STEP_MAX, UNIT, WEIGHT_MAX, Ints, Model
from client.intelligence.model_spec import ModelSpec
from client.measure.values import source
from crypto import labels
from crypto.errors import FormatError
from crypto.field import FIELD61
from crypto.primitives import hash_
from mpc import kinds, privacy
from mpc.kinds import Kind, Vector
from mpc.noise import GAUSSIAN_SHARE_VARIANCE_MIN, MILLI, Law, Mechanism
from mpc.result import RoundResult, Sums
from mpc.tail_params import AsTheyAre
from mpc.task import KAPPA, Caps, Task

BINS: Final = 10
"""Of predicted probability, when models are judged."""
PAIRS_MAX: Final = 10
"""So many predictions a judge reports at most."""
_JUDGED_BITS: Final = 5
_BOUND: Final = re.compile(r" model ([0-9a-f]{64})\Z")
_ROUND_ID_BYTES: Final = 16


class Part(StrEnum):
    """What a task asks of a model's people."""

    TRAIN = "fl"
    JUDGE = "fl-judge"


def source_of(spec: ModelSpec, part: Part) -> str:
    """The name that a task has without its version: what a policy declares."""
    return f"{part}/{spec.name}"


def bound_to(task: Task) -> bytes | None:
    """The hash of the model that a task is about; None if it names none."""
    found = _BOUND.search(task.title)
    return bytes.fromhex(found[1]) if found else None


def part_of(spec: ModelSpec, task: Task) -> Part | None:
    """Which part of this model's training a task is; None: of another model, or none."""
    return next((part for part in Part if source(task) == source_of(spec, part)), None)


def round_id(task: Task) -> bytes:
    """16 bytes. A task about a model has one round, which all who know the task can name."""
    return hash_(labels.MODEL_ROUND, task.spec_hash, _ROUND_ID_BYTES)


def params(spec: ModelSpec, part: Part) -> dict[str, object]:
    """Of the kind `vector` that a task must be of."""
    if part is Part.TRAIN:
        size, bits, norm = spec.size, spec.update_bits, spec.update_norm
    else:
        size, bits, norm = 2 * BINS, _JUDGED_BITS, PAIRS_MAX
    return {"name": Vector.name, "size": size, "bits": bits, "norm2_max": norm**2}


def check(task: Task, model: Model, part: Part) -> None:
    """FormatError unless the task asks for this part of exactly this model."""
    if part_of(model.spec, task) is not part:
        raise FormatError("model-task", f"the task is not for {source_of(model.spec, part)}")
    if task.kind.params() != params(model.spec, part):
        raise FormatError("model-kind", "the task asks for more or less than the model's updates")
    if bound_to(task) != model.hash:
        raise FormatError(
            "model-unknown",
            "the task is about a model that this is not: follow the results of earlier rounds",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the publisher decides of a round."""

    purpose: str
    micro_rho: int
    """What a device spends on one round at most."""
    window_ms: int
    k_min: int
    caps: Caps
    expires_ms: int
    reports_max: int = 1_000_000
    grace_ms: int = 0
    m: int = 3
    t: int = 1


def task(model: Model, part: Part, number: int, terms: Terms) -> Task:
    """Version `number` of the task: the model's bounds, and the least noise that the terms allow.

    Numbers of one source ascend; a round that came to nothing is asked for again under the next.
    """
    wanted = params(model.spec, part)
    law = least_noise(kinds.make(wanted, FIELD61), terms.micro_rho, m=terms.m, t=terms.t)
    reach = law.reach(present=terms.t + 1, t=terms.t)
    field = kinds.smallest_field(wanted, terms.reports_max, reach)
    verb = "training" if part is Part.TRAIN else "quality"
    return Task(
        task_id=f"{source_of(model.spec, part)}/v{number}",
        title=f"{model.spec.title}: {verb}, model {model.hash.hex()}",
        purpose=terms.purpose,
        kind=kinds.make(wanted, field),
        kappa=KAPPA[field.bits][0],
        window_ms=terms.window_ms,
        grace_ms=terms.grace_ms,
        reports_max=terms.reports_max,
        k_min=terms.k_min,
        noise=law,
        caps=terms.caps,
        m=terms.m,
        t=terms.t,
        tail=AsTheyAre(),
        expires_ms=terms.expires_ms,
    )


def least_noise(kind: Kind, micro_rho: int, *, m: int, t: int) -> Law:
    """The least discrete Gaussian with which opening the kind's sums costs no more than so much;
    FormatError if there is none."""
    if micro_rho < 1:
        raise FormatError("noise", "a round costs 1 micro-rho or more")
    least = GAUSSIAN_SHARE_VARIANCE_MIN * (m - t) * MILLI**2
    asked = ceil(kind.l2_squared * privacy.MICRO * MILLI**2 / (2 * micro_rho))
    sigma_milli = isqrt(max(least, asked) - 1) + 1
    while True:
        law = Law(Mechanism.GAUSSIAN, sigma_milli)
        cost = privacy.cost(
            law, l1=kind.l1, l2_squared=kind.l2_squared, outputs=kind.d, parties=m, t=t
        )
        if cost <= micro_rho:
            return law
        # What several parties' shares are off one draw costs a little more.
        sigma_milli += 1 + sigma_milli // 10_000


def advance(model: Model, sums: Sequence[int], reports: int) -> Model:
    """The next model, out of the opened sums of so many updates. Whole numbers throughout.

    velocity = momentum * velocity + mean of the updates; weights += rate * velocity.
    """
    spec = model.spec
    if len(sums) != spec.size or reports < 1:
        raise FormatError("model-result", f"a result is {spec.size} sums over some reports")
    if model.step == STEP_MAX:
        raise FormatError("model-result", "the model has no more steps: make a new one")
    one = 1000 * spec.update_norm * reports
    velocity = [
        _within(_divided(spec.momentum_milli * old, 1000) + _divided(total, one))
        for old, total in zip(
            model.velocity.tolist(), (spec.clip_milli * UNIT * one for one in sums), strict=True
        )
    ]
    weights = [
        _within(old + _divided(spec.rate_milli * by, 1000))
        for old, by in zip(model.weights.tolist(), velocity, strict=True)
    ]
    return Model(spec, model.step + 1, _array(weights), _array(velocity))


def follow(model: Model, task: Task, result: RoundResult) -> Model:
    """The model after a round of training that has ended; FormatError if it was of another
    model, or of none. The result must have been verified."""
    check(task, model, Part.TRAIN)
    if not isinstance(result.outcome, Sums):
        raise FormatError("model-result", "the result holds no sums")
    return advance(model, result.outcome.sums, result.counted.valid)


def _divided(a: int, b: int) -> int:
    """The nearest whole number; of two the upper one."""
    return (2 * a + b) // (2 * b)


def _within(weight: int) -> int:
    return max(-WEIGHT_MAX, min(WEIGHT_MAX, weight))


def _array(numbers: Sequence[int]) -> Ints:
    return np.array(numbers, np.int64)
