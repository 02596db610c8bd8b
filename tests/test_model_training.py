"""Training on the device: the gradient, what an update is bounded by, the server's step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client.intelligence import federated
from client.intelligence.federated import Part, Terms, advance
from client.intelligence.model import UNIT, WEIGHT_MAX, Model, PersonState
from client.intelligence.train import (
    Examples,
    clipped,
    contexts,
    descend,
    gradient,
    rounded,
    updates,
)
from crypto.errors import FormatError
from crypto.field import FIELD61
from mpc import kinds, privacy
from mpc.result import Counted, RoundResult, Sums, Undecided
from mpc.task import Caps, decode
from tests.model_samples import ITEMS, SPEC, people, rand

TERMS = Terms(
    purpose="personalisation", micro_rho=50_000, window_ms=60_000, k_min=10,
    caps=Caps(1_000_000, 86_400_000, 10_000_000), expires_ms=1 << 50,
)  # fmt: skip


def loss(model: Model, some: list[PersonState]) -> float:
    """Mean log loss over all ratings, each predicted from the person's others."""
    total, count = 0.0, 0
    for state in some:
        logits = model.score([ITEMS[at] for at in state.places], state)
        liked = state.ratings >= SPEC.like
        total += float((np.logaddexp(0, logits) - liked * logits).sum())
        count += len(state)
    return total / count


def result(sums: list[int], valid: int) -> RoundResult:
    """A round's."""
    return RoundResult(Counted(valid, 0, 0, ({}, {}, {})), (1, 2, 3), True, Sums(tuple(sums)))


def test_the_gradient_is_that_of_the_log_loss_of_what_the_model_says() -> None:
    """By differences of the model's own scores, in every parameter."""
    [state] = people(1, "gradient")
    rng = np.random.default_rng(1)
    weights = rng.normal(0, 0.5, SPEC.size)
    examples = Examples.of(SPEC, [state])
    got = gradient(SPEC, weights[None, :], examples, examples.rated)[0]
    far = 1 / 64
    for at in range(SPEC.size):
        sides = []
        for sign in (1, -1):
            moved = weights.copy()
            moved[at] += sign * far
            model = Model(
                SPEC, 0, np.round(moved * UNIT).astype(np.int64), np.zeros(SPEC.size, np.int64)
            )
            sides.append(loss(model, [state]) * len(state))
        assert got[at] == pytest.approx((sides[0] - sides[1]) / (2 * far), abs=0.01)


def test_people_train_apart() -> None:
    """A device computes for its person what a simulation computes for many."""
    some, model = people(3, "apart"), Model.genesis(SPEC)
    together = descend(
        whole_context(model), Examples.of(SPEC, some), rand=lambda count: bytes(count)
    )
    for at, state in enumerate(some):
        alone = descend(
            whole_context(model), Examples.of(SPEC, [state]), rand=lambda count: bytes(count)
        )
        assert alone[0] == pytest.approx(together[at])


def whole_context(model: Model) -> Model:
    """One whose training uses all other ratings, whatever the randomness is."""
    return Model.genesis(replace(model.spec, context_permille=1000))


def test_a_context_is_of_rated_items_and_has_its_least_share() -> None:
    """What was not rated is in none."""
    examples = Examples.of(SPEC, people(200, "contexts"))
    context = contexts(SPEC, examples, rand("contexts"))
    assert ((context == 1) | (context == 0)).all()
    assert not (context > examples.rated).any()
    share = context.sum() / examples.rated.sum()
    assert 0.6 < share < 0.7  # uniform from 0.3 to 1


def test_an_update_fits_its_kind_whatever_was_rated() -> None:
    """Also where clipping and rounding have most to do."""
    wild = replace(SPEC, local_rate_milli=10_000, clip_milli=50)
    kind = kinds.make(federated.params(wild, Part.TRAIN), FIELD61)
    made = updates(Model.genesis(wild), Examples.of(wild, people(50, "fit", wild)), rand=rand(1))
    lengths = (made**2).sum(1)
    for update in made:
        kind.encode(update.tolist())  # or it raises
    assert lengths.max() <= wild.update_norm**2
    assert lengths.min() > 0.8 * wild.update_norm**2


def test_rounding_keeps_the_mean_and_the_length() -> None:
    """Up or down by chance; too long a vector is never given out."""
    units = np.full((4000, SPEC.size), 0.25)
    assert rounded(SPEC, units, rand=rand(2)).mean() == pytest.approx(0.25, abs=0.01)
    # All of `update_norm` in one place: any rounding up elsewhere would be too long.
    edge = np.full((50, SPEC.size), 0.5)
    edge[:, 0] = SPEC.update_norm
    made = rounded(SPEC, edge, rand=rand(3))
    assert ((made**2).sum(1) <= SPEC.update_norm**2).all()
    assert (made[:, 0] == SPEC.update_norm).all()


def test_clipping_keeps_the_direction() -> None:
    """A short update is only put into units."""
    changes = np.array([[0.001] * SPEC.size, [3.0] * SPEC.size])
    short, long = clipped(SPEC, changes)
    assert short == pytest.approx(changes[0] * SPEC.update_norm * 1000 / SPEC.clip_milli)
    assert np.linalg.norm(long) == pytest.approx(SPEC.update_reach)
    assert long == pytest.approx(np.full(SPEC.size, long[0]))


def test_the_next_model_is_a_step_with_momentum() -> None:
    """In whole numbers: the same bytes everywhere."""
    spec = replace(SPEC, clip_milli=1000, rate_milli=2000, momentum_milli=700)
    model = Model.genesis(spec)
    sums = [spec.update_norm * 10] + [0] * (spec.size - 1)  # a mean update of 1.0 in one place
    first = advance(model, sums, 10)
    assert (first.step, first.velocity[0]) == (1, UNIT)
    assert first.weights[0] - model.weights[0] == 2 * UNIT
    second = advance(first, [0] * spec.size, 10)
    assert second.velocity[0] == round(0.7 * UNIT)
    assert second.weights[0] - first.weights[0] == pytest.approx(1.4 * UNIT, abs=1)
    assert (second.weights[1:] == model.weights[1:]).all()


def test_noise_that_drowns_everything_leaves_a_model_that_can_be_computed() -> None:
    """Parameters stop at their bound."""
    wild = advance(Model.genesis(SPEC), [10**15, -(10**15)] * 18 + [0], 2)
    assert np.abs(wild.weights).max() == WEIGHT_MAX
    assert Model.decode(wild.encoded, SPEC).hash == wild.hash
    assert np.isfinite(wild.score(ITEMS, people(1, 4)[0])).all()


def test_rounds_of_updates_learn_who_likes_what() -> None:
    """Who likes some even dishes likes the others, which nobody told the model."""
    some, others = people(150, "train"), people(50, "test")
    examples, model = Examples.of(SPEC, some), Model.genesis(SPEC)
    before = loss(model, others)
    for number in range(12):
        made = updates(model, examples, rand=rand(number))
        model = advance(model, made.sum(0).tolist(), len(made))
    assert before > 0.6
    assert loss(model, others) < 0.3


def test_a_task_names_its_model_and_costs_what_it_may() -> None:
    """Its bounds are the specification's, its noise the least that the terms allow."""
    model = Model.genesis(SPEC)
    made = federated.task(model, Part.TRAIN, 3, TERMS)
    assert decode(made.encoded) == made
    assert made.task_id == "fl/taste/v3"
    assert federated.bound_to(made) == model.hash
    assert 0.99 * TERMS.micro_rho < made.cost_micro_rho <= TERMS.micro_rho
    assert privacy.epsilon_of(made.cost_micro_rho, 1e-6) < 2 * privacy.MICRO
    federated.check(made, model, Part.TRAIN)
    other = federated.task(model, Part.TRAIN, 4, TERMS)
    assert federated.round_id(other) != federated.round_id(made)


def test_a_round_that_may_cost_nothing_is_refused() -> None:
    """No noise is that much."""
    with pytest.raises(FormatError, match="1 micro-rho or more"):
        federated.task(Model.genesis(SPEC), Part.TRAIN, 1, replace(TERMS, micro_rho=0))


def test_what_is_trained_on_is_in_no_repr() -> None:
    """It ends up in logs."""
    assert repr(Examples.of(SPEC, people(3, "repr"))) == "Examples(3 people, content hidden)"


def test_a_task_that_is_not_of_this_model_is_refused() -> None:
    """By name, by bounds, by the model's hash; each says which."""
    model = Model.genesis(SPEC)
    made = federated.task(model, Part.TRAIN, 1, TERMS)
    narrow = kinds.make({**made.kind.params(), "bits": 9}, made.field)
    later = advance(model, [0] * SPEC.size, 2)
    for wrong, about, rule in (
        (replace(made, task_id="fl/other/v1"), model, "model-task"),
        (federated.task(model, Part.JUDGE, 1, TERMS), model, "model-task"),
        (replace(made, kind=narrow), model, "model-kind"),
        (replace(made, title="What you may like"), model, "model-unknown"),
        (made, later, "model-unknown"),
    ):
        with pytest.raises(FormatError) as refused:
            federated.check(wrong, about, Part.TRAIN)
        assert refused.value.rule == rule


def test_results_make_the_next_model_only_of_the_model_that_they_trained() -> None:
    """The same result twice, or one without sums, makes none."""
    model = Model.genesis(SPEC)
    made = federated.task(model, Part.TRAIN, 1, TERMS)
    later = federated.follow(model, made, result([5] * SPEC.size, 12))
    assert later.step == 1
    with pytest.raises(FormatError, match="about a model that this is not"):
        federated.follow(later, made, result([5] * SPEC.size, 12))
    for nothing in (replace(result([], 3), outcome=Undecided()), result([1], 3)):
        with pytest.raises(FormatError, match=r"no sums|sums over"):
            federated.follow(model, made, nothing)
