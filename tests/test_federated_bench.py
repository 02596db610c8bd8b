"""A slice of `bench.federated` on made-up people: that the model learns, and what noise costs."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest

from bench import federated, federated_people as population
from bench.federated import CENTRAL, FEDERATED, WITHIN
from client.intelligence.quantise import Int8Model
from mpc import privacy

PEOPLE = population.synthesise(300)


def test_federated_training_is_as_good_as_central_and_noise_costs_what_it_costs() -> None:
    """Both find what their own ratings don't tell people; epsilon 8 leaves most of it. A gradient
    with its sign turned fails this, and so does a step that mixes parameters up."""
    found = {
        name: statistics.fmean(one.auc) for name, one in federated.compare(PEOPLE, seeds=1).items()
    }
    assert found[CENTRAL] > 0.86
    assert found[FEDERATED] > found[CENTRAL] - WITHIN
    assert found[FEDERATED] > found["federated, epsilon 8"] > 0.82
    assert found["federated, epsilon 8"] > found["federated, epsilon 2"] > 0.68
    for alone in ("local only", "own mean"):
        assert found[alone] < 0.68


def test_8_bits_cost_nothing_that_matters() -> None:
    """In the area under the curve, after some rounds."""
    spec = federated.specification(PEOPLE.items)
    trial = population.trial(PEOPLE, spec, 0)
    rand = np.random.default_rng(1).bytes
    model = federated.train_federated(trial, None, rand, rounds=8)
    liked = trial.liked()
    full, small = (
        population.auc(liked, trial.logits([one])) for one in (model, Int8Model.of(model))
    )
    assert full > 0.8
    assert abs(full - small) < 0.002


@pytest.mark.parametrize(("epsilon", "rounds"), [(8.0, 20), (2.0, 12)])
def test_all_rounds_together_cost_the_epsilon_that_is_said(epsilon: float, rounds: int) -> None:
    """By the ledger's own count."""
    spec = federated.specification(PEOPLE.items)
    law = federated.law_of(spec, epsilon, rounds)
    sensitivity = (2 * spec.update_norm) ** 2
    rho = rounds * privacy.cost(
        law, l1=1, l2_squared=sensitivity, outputs=spec.size, parties=3, t=1
    )
    spent = privacy.epsilon_of(rho, federated.DELTA) / privacy.MICRO
    assert 0.999 * epsilon < spent <= epsilon


def test_nobody_is_trained_on_and_predicted_and_no_setting_was_chosen_by_who_is() -> None:
    """Half of what the held-out people rated is given, the other half predicted."""
    spec = federated.specification(PEOPLE.items)
    trials = [population.trial(PEOPLE, spec, seed, tuning=seed > 4) for seed in range(10)]
    for trial in trials:
        assert len(trial.given) == 60
        assert len(trial.train) <= 240
        for given, hidden in zip(trial.given, trial.hidden, strict=True):
            assert not set(given.places.tolist()) & set(hidden.places.tolist())
            assert len(hidden) - 1 <= len(given) <= len(hidden)
    tested = [set(trial.tested) for trial in trials]
    assert not set[int]().union(*tested[:5]) & set[int]().union(*tested[5:])
    assert len(set[int]().union(*tested[:5])) > 100


def test_the_area_under_the_curve_counts_pairs() -> None:
    """Ties count half."""
    rng = np.random.default_rng(2)
    liked, logits = (rng.random(200) < 0.5).astype(float), rng.integers(0, 20, 200).astype(float)
    pairs = logits[liked == 1][:, None] - logits[liked == 0][None, :]
    assert population.auc(liked, logits) == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean())


def test_the_command_reads_a_file_and_says_whether_the_goal_is_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is the goal's."""
    rows = [
        f"{person},somewhere,{item},{rating}"
        for person, ratings in enumerate(population.synthesise(200, items=12).people)
        for item, rating in ratings.items()
    ]
    path = tmp_path / "ratings.csv"
    path.write_text("\n".join(["person,region,cuisine,rating", *rows]))
    status = federated.main([str(path), "--seeds", "1", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert (status == 0) is (said["behind_central"] <= WITHIN)
    assert said["device"]["parameters"] == 12 * 5 + 1
    assert said["device"]["int8_bytes"] < said["device"]["float32_bytes"]
