"""How good a model is, as one more joint aggregate.

An account is by chance a trainer or a judge, for all versions of a model: nobody judges what
they helped to train. A judge predicts one half of their ratings from the other half, and reports
how many of the predictions fell into which tenth of probability, apart for what they like and
what they don't. Of everybody's sums that gives the area under the ROC curve, log loss, accuracy
and calibration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.intelligence.federated import BINS, PAIRS_MAX
from client.intelligence.model import Floats, PersonState, Predictor, chances
from client.intelligence.model_spec import ModelSpec
from crypto import labels
from crypto.errors import FormatError
from crypto.primitives import hash_

MIDDLES = (np.arange(BINS) + 0.5) / BINS
"""The probability that a bin stands for."""


def is_judge(spec: ModelSpec, account_id: bytes) -> bool:
    """Whether an account judges this model rather than train it."""
    return _draw(spec, account_id, b"") * 1000 < spec.judges_permille << 64


def _draw(spec: ModelSpec, account_id: bytes, what: bytes) -> int:
    """Uniform below 2^64: the same on all devices of an account, for all versions."""
    drawn = hash_(labels.MODEL_ROLE, spec.hash + account_id + what, 8)
    return int.from_bytes(drawn, "big")


def asked(spec: ModelSpec, account_id: bytes, state: PersonState) -> NDArray[np.bool_]:
    """Which ratings a judge predicts from the others: half of them, `PAIRS_MAX` at most, the same
    for all versions; shape (len(state),)."""
    order = sorted(
        range(len(state)),
        key=lambda at: _draw(spec, account_id, b"%d" % state.places[at]),
    )
    chosen = np.zeros(len(state), np.bool_)
    chosen[order[: min(len(state) // 2, PAIRS_MAX)]] = True
    return chosen


def judged(
    predictor: Predictor, state: PersonState, hidden: NDArray[np.bool_]
) -> list[int]:  # fmt: skip
    """How many of the hidden ratings were predicted into which bin: those that are not liked,
    then those that are. The value of a contribution, `2 * BINS` numbers."""
    spec, found = predictor.spec, state.kept(hidden)
    logits = predictor.score([spec.items[at] for at in found.places], state.kept(~hidden))
    return histogram(logits, found.ratings >= spec.like)


def histogram(logits: Floats, liked: NDArray[np.bool_]) -> list[int]:
    """The same out of predictions and what was true."""
    bins = np.minimum((chances(logits) * BINS).astype(np.int64), BINS - 1)
    counts: list[int] = np.bincount(bins + BINS * liked, minlength=2 * BINS).tolist()
    return counts


@dataclass(frozen=True, slots=True)
class Quality:
    """What noised sums say of a model. A sigma is the noise's alone, to first order; how far
    other people would judge otherwise is not in it."""

    pairs: float
    """Predictions that were judged."""
    auc: float
    auc_sigma: float
    log_loss: float
    """In nats, of predictions as their bins' middles."""
    log_loss_sigma: float
    accuracy: float
    prior_log_loss: float
    """Of one and the same prediction for everything: the share of what is liked."""
    calibration: tuple[float | None, ...]
    """By bin, the share that is liked; None where the noise leaves nothing."""


def quality(sums: Sequence[int], sigma: float) -> Quality:
    """Of the opened sums of `judged`, whose noise has this standard deviation."""
    if len(sums) != 2 * BINS:
        raise FormatError("model-result", f"judges' sums are {2 * BINS}")
    # A count below zero is noise alone.
    counts = np.maximum(np.array(sums, np.float64), 0)
    other, liked = counts[:BINS], counts[BINS:]
    if not other.sum() or not liked.sum():
        raise FormatError("model-result", "the noise leaves nothing to judge by: ask more judges")
    auc, auc_slopes = _auc(other, liked)
    losses = np.concatenate((-np.log1p(-MIDDLES), -np.log(MIDDLES)))
    total = counts.sum()
    log_loss = float(losses @ counts / total)
    share = liked.sum() / total
    rights = np.concatenate((MIDDLES < 0.5, MIDDLES >= 0.5))
    return Quality(
        pairs=float(total),
        auc=auc,
        auc_sigma=sigma * float(np.linalg.norm(auc_slopes)),
        log_loss=log_loss,
        log_loss_sigma=sigma * float(np.linalg.norm((losses - log_loss) / total)),
        accuracy=float(counts[rights].sum() / total),
        prior_log_loss=float(-share * math.log(share) - (1 - share) * math.log(1 - share)),
        calibration=tuple(
            None if not both else float(one / both)
            for one, both in zip(liked, other + liked, strict=True)
        ),
    )


def _auc(other: Floats, liked: Floats) -> tuple[float, Floats]:
    """How often what is liked is in a higher bin than what is not, half of the ties; and how far
    each count moves that."""
    below = np.cumsum(other) - other / 2
    above = liked.sum() - np.cumsum(liked) + liked / 2
    auc = float(liked @ below / (liked.sum() * other.sum()))
    slopes = np.concatenate((above / liked.sum() - auc, below / other.sum() - auc))
    weights = np.repeat([other.sum(), liked.sum()], BINS)
    return auc, slopes / weights
