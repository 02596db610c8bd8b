"""The model of tastes: its bytes, what it says, and what it says that is made of."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from client.intelligence.model import BIAS, UNIT, WEIGHT_MAX, Model, PersonState, Predictor, chances
from client.intelligence.model_spec import ModelSpec
from client.intelligence.quantise import Int8Model
from crypto.errors import FormatError
from tests.model_samples import ITEMS, SPEC, another, people


def trained(seed: int = 0, spec: ModelSpec = SPEC, spread: float = 1.0) -> Model:
    """Some parameters."""
    rng = np.random.default_rng(seed)
    weights = np.clip(rng.normal(0, spread, spec.size) * UNIT, -WEIGHT_MAX, WEIGHT_MAX)
    velocity = rng.integers(-UNIT, UNIT, spec.size)
    return Model(spec, 7, weights.astype(np.int64), velocity.astype(np.int64))


def by_hand(model: Model, item: str, state: PersonState) -> float:
    """The formula of the model's docstring, in floats."""
    spec, place = model.spec, model.spec.places[item]
    weights = model.weights / UNIT
    count = len(spec.items)
    factors = weights[count + 1 :].reshape(count, spec.rank)
    others = [
        (at, rating - spec.centre_tenths / 10)
        for at, rating in zip(state.places, state.ratings, strict=True)
        if at != place
    ]
    given = len(others) + spec.shrink
    person = sum((x * factors[at] for at, x in others), np.zeros(spec.rank))
    lenient = 3 * weights[count] * sum(x for _, x in others) / given
    return float(weights[place] + lenient + factors[place] @ person / math.sqrt(given))


@pytest.mark.parametrize("make", [lambda model: model, Int8Model.of])
def test_a_score_is_the_formula_and_the_sum_of_its_influences(make: Any) -> None:
    """For items that the person rated and others alike, the own rating left out."""
    model = trained()
    predictor: Predictor = make(model)
    [state] = people(1, "score")
    scores = predictor.score(ITEMS, state)
    for item, score in zip(ITEMS, scores, strict=True):
        influences = predictor.influences(item, state)
        assert math.fsum(one.amount for one in influences) == pytest.approx(score, abs=1e-9)
        assert f"rating/{item}" not in {one.feature for one in influences}
        if predictor is model:
            assert score == pytest.approx(by_hand(model, item, state), abs=1e-9)


def test_somebody_who_rated_nothing_is_told_what_holds_for_everybody() -> None:
    """The biases alone."""
    model, nobody = trained(), PersonState.of(SPEC, {})
    assert model.score(ITEMS, nobody) == pytest.approx(model.biases / UNIT)
    [only] = model.influences(ITEMS[0], nobody)
    assert only.feature == BIAS


def test_a_state_is_out_of_ratings_that_the_model_knows() -> None:
    """Other items, other types and ratings out of range are left out; its repr says none."""
    state = PersonState.of(
        SPEC, {ITEMS[3]: 5, ITEMS[1]: 2, "elsewhere": 4, ITEMS[5]: 9, ITEMS[6]: True, ITEMS[7]: "5"}
    )
    assert (state.places.tolist(), state.ratings.tolist()) == ([1, 3], [2, 5])
    assert repr(state) == "PersonState(2 ratings, content hidden)"


def test_an_unknown_item_is_refused() -> None:
    """Rather than given some score."""
    with pytest.raises(FormatError, match="knows no such item"):
        trained().score(["elsewhere"], people(1, 0)[0])


def test_models_start_the_same_everywhere() -> None:
    """Out of the specification alone; another one starts elsewhere."""
    assert Model.genesis(SPEC).hash == Model.genesis(ModelSpec.decode(SPEC.encoded)).hash
    assert Model.genesis(SPEC).hash.hex() == GENESIS
    assert (Model.genesis(another()).weights != Model.genesis(SPEC).weights).any()
    assert np.abs(Model.genesis(SPEC).factors).max() <= 0.35 * UNIT


GENESIS = "cd471b906e8b0e2c97c3171395cd4e29b78f1a27eb84cabeff145b0c67f2fd57"
"""Of `SPEC`: a change of it is another format, and needs another version."""


@pytest.mark.parametrize("kind", [Model, Int8Model])
def test_bytes_are_read_as_they_were_written(kind: Any) -> None:
    """And only for their own specification."""
    made = trained() if kind is Model else Int8Model.of(trained())
    read = kind.decode(made.encoded, SPEC)
    assert read.encoded == made.encoded
    assert read.step == 7
    assert (read.score(ITEMS, people(1, 1)[0]) == made.score(ITEMS, people(1, 1)[0])).all()
    for wrong in (made.encoded[:-1], made.encoded + b"\0", b"XXXX" + made.encoded[4:], b""):
        with pytest.raises(FormatError, match="no model of this specification"):
            kind.decode(wrong, SPEC)
    with pytest.raises(FormatError, match="no model of this specification"):
        kind.decode(made.encoded, another())


def test_parameters_out_of_bounds_are_refused() -> None:
    """A model from elsewhere can't make a sum wrap."""
    model = trained()
    head = len(model.encoded) - 8 * SPEC.size
    huge = (WEIGHT_MAX + 1).to_bytes(4, "big")
    with pytest.raises(FormatError, match="not those of a model"):
        Model.decode(model.encoded[:head] + huge + model.encoded[head + 4 :], SPEC)
    small = Int8Model.of(model).encoded
    with pytest.raises(FormatError, match="not those of a model"):
        Int8Model.decode(small[:44] + b"\0\0" + small[46:], SPEC)
    with pytest.raises(FormatError, match="not those of a model"):
        Int8Model.decode(small[:48] + b"\xff\xff" + small[50:], SPEC)
    with pytest.raises(FormatError, match="not those of a model"):
        Int8Model.decode(small[:-1] + b"\x80", SPEC)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.001, 0.3, 1.0, 5.0]))
def test_8_bits_are_off_by_no_more_than_their_bound(seed: int, spread: float) -> None:
    """Each parameter by half its row's scale; each score by what that can make."""
    model = trained(seed, spread=spread)
    small = Int8Model.of(model)
    off = np.abs(small.rows * small.row_scales[:, None] - model.factors)
    assert (2 * off <= small.row_scales[:, None]).all()
    assert (2 * np.abs(small.biases - model.biases) <= small.bias_scale).all()
    [state] = people(1, seed)
    error = np.abs(small.score(ITEMS, state) - model.score(ITEMS, state))
    assert (error <= small.error_bound(state) + 1e-9).all()


def test_8_bits_take_a_fifth_of_the_bytes_and_change_no_chance_by_2_percent() -> None:
    """For parameters of the size that training gives, and the shape of the real model."""
    spec = replace(SPEC, items=tuple(f"dish-{at}" for at in range(40)), rank=4)
    model = trained(spec=spec, spread=0.4)
    small = Int8Model.of(model)
    assert len(small.encoded) == 46 + 40 * (2 + 1 + 4)
    assert len(model.encoded) == 40 + 8 * 201
    for state in people(20, "8 bits", spec):
        far = chances(small.score(spec.items, state)) - chances(model.score(spec.items, state))
        assert np.abs(far).max() < 0.02


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Taste"}, {"title": ""}, {"title": "a\nb"}, {"items": ()}, {"rank": 0},
        {"items": ("a", "a")}, {"items": ("A b",)}, {"like": 1}, {"like": 6},
        {"centre_tenths": 50}, {"local_steps": 1.0}, {"momentum_milli": 1000}, {"update_bits": 3},
        {"items": tuple(f"i{at}" for at in range(2000)), "rank": 4},
        {"items": tuple(f"i{at}" for at in range(800)), "rank": 4, "update_bits": 5},
    ],
)  # fmt: skip
def test_a_specification_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    """When it is made, so that none exists."""
    with pytest.raises(FormatError):
        replace(SPEC, **changes)


def test_a_specification_has_one_form() -> None:
    """And other bytes are none."""
    assert ModelSpec.decode(SPEC.encoded) == SPEC
    for wrong in (b"", b"\xa0", SPEC.encoded + b"\0", SPEC.encoded.replace(b"rank", b"rang")):
        with pytest.raises(FormatError):
            ModelSpec.decode(wrong)
