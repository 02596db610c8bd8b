"""A device in federated learning: which model it follows, what it answers, what judges say."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest

from client.errors import RowsError
from client.intelligence import federated, federated_metrics as metrics
from client.intelligence.federated import Part, advance
from client.intelligence.federated_device import Learner
from client.intelligence.federated_follow import is_behind
from client.intelligence.model import Model, PersonState
from client.measure.errors import Ineligible
from client.measure.values import Measures
from crypto.errors import FormatError
from mpc.task import Task
from tests.measure_worlds import Meter, meter
from tests.model_samples import ITEMS, SPEC, another, people, rand
from tests.test_model_training import TERMS, result

GENESIS = Model.genesis(SPEC)


def training(model: Model, number: int) -> Task:
    """The task that trains this model."""
    return federated.task(model, Part.TRAIN, number, TERMS)


def judging(model: Model, number: int = 1) -> Task:
    """The task that asks how good it is."""
    return federated.task(model, Part.JUDGE, number, TERMS)


def sums(number: int) -> list[int]:
    """Of a round."""
    return [number] * SPEC.size


def learner(rows: dict[str, bytes] | None = None) -> Learner:
    """A device's."""
    return Learner(SPEC, rows or {}, rand=rand("learner"))


def kept(one: Learner) -> dict[str, bytes]:
    """What its vault holds then."""
    return {name: row for name, row in one.take_changes().items() if row is not None}


def chain(steps: int) -> tuple[list[Model], list[Task]]:
    """Models each made of the one before, and the tasks that train them."""
    models = [GENESIS]
    for step in range(steps):
        models.append(advance(models[-1], sums(step + 1), 20))
    return models, [training(model, at + 1) for at, model in enumerate(models)]


def test_a_device_follows_results_from_the_start_to_the_newest_model() -> None:
    """Each result leads to the model that the next task names; the last to one that none names
    yet. A restart loses nothing."""
    models, tasks = chain(3)
    one = learner()
    for step in range(3):
        assert one.due(tasks) == [tasks[step]]
        ended = [(tasks[step], result(sums(step + 1), 20))]
        assert one.follow(ended, tasks[: step + 2])
    assert (one.settled.hash, one.model.hash) == (models[3].hash, models[3].hash)
    assert not one.follow([(tasks[3], result(sums(9), 20))], tasks)
    last = advance(models[3], sums(9), 20)
    again = learner(kept(one))
    for found in (one, again):
        assert (found.settled.hash, found.model.hash) == (models[3].hash, last.hash)


def test_of_two_results_of_one_model_the_next_task_says_which_counts() -> None:
    """Devices that saw them in another order agree in the end."""
    first, second = training(GENESIS, 1), training(GENESIS, 2)
    results = [(first, result(sums(1), 20)), (second, result(sums(2), 20))]
    one = learner()
    assert not one.follow(results[:1], [first, second])
    assert one.model.hash == advance(GENESIS, sums(1), 20).hash
    chosen = advance(GENESIS, sums(2), 20)
    tasks = [first, second, training(chosen, 3)]
    assert one.due(tasks) == [first, second]
    assert one.follow(results, tasks)
    assert one.model.hash == one.settled.hash == chosen.hash


def test_a_device_is_behind_if_what_is_trained_is_not_what_it_came_from() -> None:
    """A task that judges the newest model is as good as one that trains it."""
    models, tasks = chain(3)
    one = learner()
    assert not is_behind(one, [])
    assert not is_behind(one, tasks[:1])
    assert is_behind(one, tasks[:2])
    assert is_behind(one, tasks)
    one.adopt(models[2].encoded, tasks)
    assert not is_behind(one, tasks[:3])
    assert is_behind(one, tasks)
    assert not is_behind(one, [*tasks[:2], judging(models[2])])
    assert not is_behind(one, [*tasks[:3], judging(models[0])])


def test_versions_are_followed_by_number() -> None:
    """v10 after v9, not after v1."""
    tasks = [training(GENESIS, number) for number in (10, 9, 1)]
    assert [one.task_id for one in learner().due(tasks)] == [f"fl/taste/v{at}" for at in (1, 9, 10)]


def test_what_is_no_result_of_this_model_leads_nowhere() -> None:
    """Another model's task, and a result of another size."""
    one = learner()
    strange = federated.task(Model.genesis(another()), Part.TRAIN, 1, TERMS)
    assert one.due([strange, judging(GENESIS)]) == []
    assert not one.follow([(strange, result(sums(1), 20))], [strange])
    assert not one.follow([(training(GENESIS, 1), result([1], 20))], [])
    assert one.model.hash == GENESIS.hash
    assert kept(one) == {}


def test_a_checkpoint_is_adopted_only_if_a_task_names_it_and_it_is_newer() -> None:
    """Where the bytes came from does not matter."""
    models, tasks = chain(5)
    one = learner()
    assert one.adopt(models[4].encoded, tasks[:5]).step == 4
    assert one.due(tasks) == [tasks[4]]
    assert learner(kept(one)).model.hash == models[4].hash
    forged = replace(models[5], weights=models[5].weights + 1)
    for data, rule in (
        (models[3].encoded, "model-old"),
        (models[4].encoded, "model-old"),
        (forged.encoded, "model-unknown"),
        (models[5].encoded[:-1], "model"),
    ):
        with pytest.raises(FormatError) as refused:
            one.adopt(data, tasks)
        assert refused.value.rule == rule


def test_rows_that_are_no_model_are_refused() -> None:
    """Rather than trained on."""
    one = learner()
    one.follow([(training(GENESIS, 1), result(sums(1), 20))], [])
    [name] = rows = kept(one)
    for wrong in (b"", rows[name][:-1], rows[name][:100]):
        with pytest.raises(RowsError):
            learner({name: wrong})


def account(judges: bool) -> Meter:
    """Somebody with ratings who has this part."""
    for number in count():
        one = meter(f"part {number}")
        if metrics.is_judge(SPEC, one.device.account_id) is judges:
            [state] = people(1, "account")
            for place, rating in zip(state.places.tolist(), state.ratings.tolist(), strict=True):
                one.put(f"rating/{ITEMS[place]}", rating)
            return one
    raise AssertionError


def said(one: Learner, task: Task, by: Meter) -> Any:
    """What a device says, asked as a participant asks."""
    measures = Measures()
    one.register(measures)
    assert measures.source(task) is None
    return measures.of(task, by.device, now_ms=by.now_ms)


def test_trainers_train_and_judges_judge() -> None:
    """What each says is a value of the task; to the other task they say nothing."""
    one, trainer, judge = learner(), account(judges=False), account(judges=True)
    train, ask = training(GENESIS, 1), judging(GENESIS)
    update, counts = said(one, train, trainer), said(one, ask, judge)
    train.kind.encode(update)  # or it raises
    ask.kind.encode(counts)
    assert np.abs(update).sum() > 0
    assert sum(counts) == len(one.state(judge.device)) // 2
    assert said(one, ask, trainer) is None
    assert said(one, train, judge) is None


def test_who_has_rated_too_little_says_nothing() -> None:
    """A model can't be trained on one or two ratings without others."""
    trainer = account(judges=False)
    picky = replace(SPEC, least=len(ITEMS) + 1)
    ask = federated.task(Model.genesis(picky), Part.TRAIN, 1, TERMS)
    assert said(Learner(picky, {}, rand=rand(0)), ask, trainer) is None


def test_a_task_about_a_model_that_is_not_here_is_refused_by_name() -> None:
    """A publisher can't have another model trained than the one that devices followed."""
    models, tasks = chain(2)
    one, trainer = learner(), account(judges=False)
    with pytest.raises(Ineligible) as refused:
        said(one, tasks[2], trainer)
    assert refused.value.rule == "model-unknown"
    one.follow([(tasks[0], result(sums(1), 20))], [])  # provisional: both are here
    for task in (training(GENESIS, 2), training(models[1], 3)):
        assert said(one, task, trainer) is not None
    wide = replace(tasks[0], kind=replace(tasks[0].kind, norm2_max=1 << 15))  # type: ignore[call-arg]
    with pytest.raises(Ineligible) as refused:
        said(learner(), wide, trainer)
    assert refused.value.rule == "model-kind"


def test_parts_are_dealt_by_the_specification_s_share() -> None:
    """And dealt anew for another model."""
    rng = random.Random("parts")
    accounts = [rng.randbytes(32) for _ in range(2000)]
    mine = [metrics.is_judge(SPEC, one) for one in accounts]
    other = [metrics.is_judge(another(), one) for one in accounts]
    assert 0.17 < sum(mine) / 2000 < 0.23
    assert 0.02 < sum(map(min, mine, other)) / 2000 < 0.06
    assert not any(metrics.is_judge(replace(SPEC, judges_permille=0), one) for one in accounts)


def test_a_judge_hides_half_of_the_ratings_and_the_same_for_every_version() -> None:
    """Ten at most, which is what bounds a report."""
    many = replace(SPEC, items=tuple(f"dish-{at}" for at in range(60)))
    state = PersonState.of(many, dict.fromkeys(many.items, 4))
    hidden = metrics.asked(many, b"a" * 32, state)
    assert hidden.sum() == federated.PAIRS_MAX
    assert (hidden == metrics.asked(many, b"a" * 32, state)).all()
    assert (hidden != metrics.asked(many, b"b" * 32, state)).any()
    few = state.kept(np.arange(60) < 7)
    assert metrics.asked(many, b"a" * 32, few).sum() == 3


def test_sums_of_judges_are_the_quality_of_the_model() -> None:
    """Against the same computed pair by pair: area, loss and accuracy of predictions that are
    rounded to the middle of their tenth."""
    rng = np.random.default_rng(5)
    liked = rng.random(3000) < 0.4
    logits = rng.normal(np.where(liked, 0.7, -0.7), 1)
    found = metrics.quality(metrics.histogram(logits, liked), 0.0)
    near = (np.floor(10 / (1 + np.exp(-logits))) + 0.5) / 10
    pairs = near[liked][:, None] - near[~liked][None, :]
    assert found.auc == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean())
    exact = logits[liked][:, None] > logits[~liked][None, :]
    assert found.auc == pytest.approx(exact.mean(), abs=0.01)
    loss = -np.log(np.where(liked, near, 1 - near)).mean()
    assert found.log_loss == pytest.approx(loss)
    assert found.accuracy == pytest.approx(((near > 0.5) == liked).mean())
    assert (found.pairs, found.auc_sigma, found.log_loss_sigma) == (3000, 0, 0)
    share = liked.mean()
    assert found.prior_log_loss == pytest.approx(
        -share * np.log(share) - (1 - share) * np.log(1 - share)
    )
    assert found.calibration[0] == pytest.approx(liked[near < 0.1].mean())


def test_what_noise_does_to_a_quality_is_what_its_sigma_says() -> None:
    """Over many draws."""
    rng = np.random.default_rng(6)
    liked = rng.random(5000) < 0.5
    counts = np.array(metrics.histogram(rng.normal(np.where(liked, 0.5, -0.5), 1), liked))
    sigma = 8.0
    truth = metrics.quality(counts.tolist(), sigma)
    drawn = [
        metrics.quality((counts + rng.normal(0, sigma, counts.size)).tolist(), sigma)
        for _ in range(400)
    ]
    assert np.std([one.auc for one in drawn]) == pytest.approx(truth.auc_sigma, rel=0.15)
    assert np.std([one.log_loss for one in drawn]) == pytest.approx(truth.log_loss_sigma, rel=0.15)


def test_noise_that_leaves_nothing_is_no_quality() -> None:
    """Nor are sums of another task."""
    for wrong in ([-3] * 2 * federated.BINS, [5] * federated.BINS + [-1] * federated.BINS, [1, 2]):
        with pytest.raises(FormatError):
            metrics.quality(wrong, 1.0)
