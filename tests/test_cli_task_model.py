"""`rookery task model`: a publisher trains a model in rounds, with a key and a file."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.errors import UserError
from client.intelligence import federated, model_file
from client.intelligence.federated import BINS, Part
from client.intelligence.model import Model
from mpc import manifest as manifests, task as tasks
from mpc.result import RoundResult
from mpc.task import Task
from tests.analyst_samples import result as round_result
from tests.analyst_worlds import Counter, Desktop, counter
from tests.relay_worlds import FINISH, PARTIES, PUBLISHER, Relay, result

MODEL = """
name = "taste"
title = "What you may like"
collection = "rating"                 # settings that are whole numbers
items = ["thai", "italian", "georgian", "korean"]
rank = 2                              # what is not said has the defaults

[rounds]
purpose = "learning"
micro_rho = 50_000
window_ms = "1h"
k_min = 2
reports_max = 10_000
"""


@dataclass(slots=True)
class Scene:
    """A publisher with a model's file, and three parties."""

    relay: Relay
    publisher: Desktop
    parties: Sequence[Counter]

    async def model(self, *more: str, code: int = 0) -> Any:
        """One run, with all parties."""
        pins = [part for one in self.parties for part in ("--party", one.option)]
        done = await self.publisher.run("model", "model.toml", *more, *pins, "--json", code=code)
        return done.json

    async def finish(self, opened: Any, values: Sequence[Any]) -> tuple[Task, RoundResult]:
        """What the parties sign of these values, once the window is over."""
        held = await self.relay.round(PUBLISHER, bytes.fromhex(opened["round_id"]))
        task = tasks.decode(held.task.task)
        said = round_result(task, values, seed=1)
        with self.relay.later(task.window_ms + 1):
            round_ = manifests.parse(held.manifest)
            message = result(round_, said.encode(task), (1, 2, 3))
            await self.relay.call(PARTIES[0], FINISH, message)
        return task, said


@pytest.fixture
async def scene(relay: Relay, tmp_path: Path) -> AsyncIterator[Scene]:
    async with contextlib.AsyncExitStack() as stack:
        parties = [
            await stack.enter_async_context(counter(tmp_path, actor)) for actor in PARTIES
        ]  # fmt: skip
        (tmp_path / "model.toml").write_text(MODEL)
        yield Scene(relay, Desktop.of(tmp_path, relay.service, PUBLISHER.seed), parties)


async def test_a_model_is_trained_judged_and_kept_by_a_key_and_a_file(
    scene: Scene, tmp_path: Path
) -> None:
    """Nothing is stored beside them: each run finds the newest model by what is signed."""
    spec = model_file.read(tmp_path / "model.toml").spec
    genesis = Model.genesis(spec)
    shown = await scene.model("show")
    assert (shown["step"], shown["model"], shown["judged"]) == (0, genesis.hash.hex(), [])

    opened = await scene.model("train")
    assert (opened["task"], opened["model"]) == ("fl/taste/v1", genesis.hash.hex())
    assert 0.99 * 50_000 < opened["micro_rho"] <= 50_000
    task, said = await scene.finish(opened, [np.full(spec.size, at, np.int64) for at in (1, 2, 3)])
    assert federated.round_id(task).hex() == opened["round_id"]
    first = federated.follow(genesis, task, said)
    shown = await scene.model("show")
    assert (shown["step"], shown["model"]) == (1, first.hash.hex())

    # Judges speak of the newest model; what they said is shown with what noise leaves open.
    judging = await scene.model("judge")
    assert (judging["task"], judging["model"]) == ("fl-judge/taste/v1", first.hash.hex())
    counts = [0] * 2 * BINS
    counts[2], counts[BINS + 7] = 5, 4
    await scene.finish(judging, [counts] * 400)
    [judged] = (await scene.model("show"))["judged"]
    assert (judged["judges"], judged["model"]) == (400, first.hash.hex())
    assert judged["quality"]["auc"] > 0.8
    assert 0 < judged["quality"]["auc_sigma"] < 0.1

    again = await scene.model("train")
    assert (again["task"], again["step"]) == ("fl/taste/v2", 1)
    kept = await scene.model("checkpoint", "--out", "step1.model")
    assert kept["bytes"] == len((tmp_path / "step1.model").read_bytes()) == len(first.encoded)
    shown = await scene.model("show", "--checkpoint", "step1.model")
    assert shown["model"] == first.hash.hex()
    assert (
        "can't be written"
        in (await scene.model("checkpoint", "--out", "step1.model", code=1))["message"]
    )


async def test_a_checkpoint_that_no_task_names_is_refused(scene: Scene, tmp_path: Path) -> None:
    """Whoever made it."""
    spec = model_file.read(tmp_path / "model.toml").spec
    strange = federated.advance(Model.genesis(spec), [5] * spec.size, 3)
    (tmp_path / "strange.model").write_bytes(strange.encoded)
    said = await scene.model("show", "--checkpoint", "strange.model", code=1)
    assert "no task names this model" in said["message"]


async def test_a_party_that_is_down_is_named_and_the_next_run_asks_anew(
    scene: Scene, tmp_path: Path
) -> None:
    """The task without a round stays behind; versions go on."""
    whole, scene.parties = scene.parties, [*scene.parties[:2], Counter(PARTIES[2], "127.0.0.1:1")]
    failed = await scene.model("train", code=4)
    assert "party 3" in failed["message"]
    scene.parties = whole
    assert (await scene.model("train"))["task"] == "fl/taste/v2"


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (("rank = 2", "ranks = 2"), "there is no field ranks; did you mean rank?"),
        (("rank = 2", "rank = 0"), "rank must be a whole number from 1 to 32"),
        (('collection = "rating"', ""), "collection is missing: add it"),
        (("k_min = 2", ""), "rounds.k_min is missing: add it"),
        (("k_min = 2", 'k_min = "2"'), "rounds.k_min must be a whole number"),
        (('"1h"', '"an hour"'), "rounds.window_ms: a duration is"),
        (("[rounds]", "[round]"), "[rounds] is missing; add it"),
        (('["thai", "italian", "georgian", "korean"]', '"thai"'), "items is a list of names"),
        (('["thai",', '["Thai food",'), "model.toml: "),
        (("rank = 2", "rank ="), "is not TOML"),
    ],
)
def test_a_file_with_a_mistake_is_refused_with_what_to_do(
    tmp_path: Path, change: tuple[str, str], wanted: str
) -> None:
    """The field by its name."""
    path = tmp_path / "model.toml"
    path.write_text(MODEL.replace(*change))
    with pytest.raises(UserError) as refused:
        model_file.read(path)
    assert wanted in str(refused.value)


def test_terms_of_a_file_make_a_task_that_ends_with_its_round(tmp_path: Path) -> None:
    """Its caps are one round's cost."""
    path = tmp_path / "model.toml"
    path.write_text(MODEL)
    file = model_file.read(path)
    made = federated.task(
        Model.genesis(file.spec), Part.TRAIN, 1, file.terms(now_ms=1_000_000)
    )  # fmt: skip
    assert (made.window_ms, made.k_min, made.purpose) == (3_600_000, 2, "learning")
    assert made.expires_ms == 4_600_001
    assert made.caps.task_micro_rho == 50_000
