"""`rookery device contribute`, `rank` and `explain` with `--model`: processes, a real service."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from client.intelligence import federated, model_file
from client.intelligence.federated import Part
from client.intelligence.model import Model
from tests.cli_process import Home
from tests.relay_worlds import PARTIES, PUBLISHER, attached, manifest
from tests.served import AUDIENCE
from tests.service_process import ServiceProcess
from tests.test_cli_task_model import MODEL

MINE = MODEL.replace("rank = 2", "rank = 2\nleast = 3\njudges_permille = 0")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    """A service process with a publisher."""
    folder = tmp_path / "relay"
    folder.mkdir()
    with ServiceProcess(
        folder, ROOKERY_PUBLISHERS=PUBLISHER.public.hex(), ROOKERY_AUDIENCE=AUDIENCE
    ) as process:
        yield process


@pytest.fixture
def home(tmp_path: Path, service: ServiceProcess) -> Home:
    """A device that trusts the publisher, with three of four items rated."""
    made = Home(tmp_path, "phone", service)
    made.run("init", "--no-recovery", "--json", service=True)
    parties = [f"--party={party.public.hex()}" for party in PARTIES]
    made.run("trust", "--publisher", PUBLISHER.public.hex(), *parties)
    for item, stars in (("thai", 5), ("italian", 2), ("korean", 4)):
        made.run("set", f"rating/{item}", str(stars), "--type", "int")
    return made


async def test_a_device_trains_the_model_whose_file_it_is_given(
    home: Home, service: ServiceProcess, tmp_path: Path
) -> None:
    """For the purpose that its person allowed, once; without the file it has nothing to say."""
    path = tmp_path / "model.toml"
    path.write_text(MINE)
    file = model_file.read(path)
    async with attached(service) as relay:
        terms = replace(file.terms(now_ms=relay.now_ms), expires_ms=1 << 52)
        made = federated.task(Model.genesis(file.spec), Part.TRAIN, 1, terms)
        await relay.publish(made)
        round_ = manifest(made, relay.now_ms - 1_000, "model")
        await relay.collect(replace(round_, round_id=federated.round_id(made)))
    home.run("allow", "learning")
    [nothing] = home.run("contribute", "--json").json["reports"]
    assert nothing["outcome"] == "nothing"
    [given] = home.run("contribute", "--model", str(path), "--json").json["reports"]
    assert (given["task"], given["outcome"]) == ("fl/taste/v1", "contributed")
    [again] = home.run("contribute", "--model", str(path), "--json").json["reports"]
    assert again["outcome"] == "already"
    other = tmp_path / "other.toml"
    other.write_text(MINE.replace("rank = 2", "rank = 3"))
    second = Home(tmp_path, "second", service)
    second.run("init", "--no-recovery", "--json", service=True)
    second.run("allow", "learning")
    second.run("trust", "--publisher", PUBLISHER.public.hex(),
               *(f"--party={party.public.hex()}" for party in PARTIES))  # fmt: skip
    told = second.run("contribute", "--model", str(other), "--json")
    [refused] = told.json["reports"]
    assert (refused["outcome"], refused["rule"]) == ("refused", "model-kind")
    assert "is out of reach" in told.err


def test_a_model_ranks_what_was_not_rated_and_says_by_which_ratings(
    home: Home, tmp_path: Path
) -> None:
    """Also where the service can't be asked."""
    path = tmp_path / "model.toml"
    path.write_text(MINE)
    plain = home.run("rank", "rating", "--offline", "--context", "none", "--json").json["items"]
    assert {one["item"] for one in plain} == {"thai", "italian", "korean"}
    more = ("--model", str(path), "--context", "none", "--json")
    items = home.run("rank", "rating", "--offline", *more).json["items"]
    assert {one["item"] for one in items} == {"thai", "italian", "korean", "georgian"}
    told = home.run("explain", "rating/georgian", *more).json
    signals = {one["signal"] for one in told["reasons"]}
    assert {"rating/thai", "rating/italian", "rating/korean"} <= signals
    assert sum(one["amount"] for one in told["reasons"]) == pytest.approx(told["score"])


def test_a_file_that_is_no_model_is_one_sentence(home: Home, tmp_path: Path) -> None:
    """By name and with what to do."""
    path = tmp_path / "model.toml"
    path.write_text(MINE.replace("k_min = 2", ""))
    said = home.run("contribute", "--model", str(path), code=1)
    assert "rounds.k_min is missing: add it" in said.err
