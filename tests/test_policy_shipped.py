"""The shipped policy: it governs the demo as the demo is, and its matrix speaks of every method."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from client.demo import measures, people, ratings
from client.demo.measures import Catalogue
from client.demo.ratings import Person
from client.device import Device
from client.gate import SignalRefused
from client.governed.gate import PolicyGate
from client.intelligence.context import FEATURES
from client.intelligence.declared import recipe_for, recipe_of
from client.intelligence.federated import Part
from client.intelligence.ondevice import RANKING
from client.policykit import bundlefile, diagram, folder, methods, risks
from crypto.policy import FIRST, Bundle
from tests.policy_folders import BASELINE, ROOT, SHIPPED, Folder, rookery

SHIPPED_BUNDLE = folder.read(SHIPPED).bundle(sequence=1, previous=FIRST, issued_ms=1)
PURPOSES = ("ranking", "statistics", "learning", "experiments")
NOW_MS = 1_790_000_000_000


class Everything:
    """Somebody who agreed to all."""

    paused = False

    def allows(self, purpose: str) -> bool:
        """Whatever it is."""
        return purpose in PURPOSES


def governed(bundle: Bundle = SHIPPED_BUNDLE) -> Device:
    """A device under the shipped policy."""
    device = Device.create(recovery_secret=None, now_ms=NOW_MS, rand=secrets.token_bytes)
    device.govern(PolicyGate(lambda: bundle, Everything()))
    return device


def test_it_is_sound_and_nothing_in_it_is_unanswered() -> None:
    """What .ci/run asks: judged by itself, and against the committed baseline."""
    done = rookery("check", SHIPPED, "--against", BASELINE)
    assert done.code == 0, done
    assert bundlefile.read(BASELINE).publisher is None


def test_every_method_of_every_service_is_granted_and_nothing_else() -> None:
    """By its name, to somebody: what is new in the API is denied until somebody says to whom."""
    granted = {grant.method for grant in SHIPPED_BUNDLE.access.grants}
    assert granted == methods.every()


def test_the_methods_are_those_of_the_proto_files() -> None:
    """Every `rpc` of proto/rookery/v1, whatever module it was generated into."""
    written = set()
    for file in (ROOT / "proto" / "rookery" / "v1").glob("*.proto"):
        text = file.read_text()
        for service, body in re.findall(
            r"^service (\w+) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL
        ):
            written |= {f"/rookery.v1.{service}/{rpc}" for rpc in re.findall(r"rpc (\w+)\(", body)}
    assert written == methods.every()
    assert len(written) > 25


def test_who_may_do_what_is_as_the_protocol_says() -> None:
    """A device publishes no task, an analyst opens no round, nobody but a party reads boxes."""
    allows = SHIPPED_BUNDLE.access.allows
    rounds = "/rookery.v1.Rounds/"
    assert allows("device", rounds + "Contribute", "learning")
    assert not allows("device", rounds + "Contribute", "ranking")
    assert not allows("device", rounds + "PublishTask", "statistics")
    assert allows("publisher", rounds + "PublishTask", "statistics")
    assert not allows("publisher", rounds + "PublishTask", "ranking")
    assert not allows("analyst", rounds + "CollectRound", "statistics")
    boxes = "/rookery.v1.Parties/StreamBoxes"
    assert {grant.role for grant in SHIPPED_BUNDLE.access.grants if grant.method == boxes} == {
        "party"
    }
    assert not any(allows("operator", method) for method in methods.every() if "Sync" in method)


def record(device: Device, person: Person) -> None:
    """What the demo records on a person's devices."""
    device.put(people.ABOUT, people.REGION, person.region, now_ms=NOW_MS)
    for item, rating in person.ratings.items():
        people._rate(item, rating)(device, NOW_MS)


def test_the_demo_s_devices_can_be_governed_by_it() -> None:
    """All that its people record is declared, and stays exactly what it was."""
    population = ratings.synthesise(20, 7)
    for person in population.people:
        device = governed()
        record(device, person)
        assert device.list(people.RATINGS) == person.ratings
        assert device.get(people.ABOUT, people.REGION) == person.region
        rated = device.score(people.TASTE, people.RATED, now_ms=NOW_MS)
        assert rated == float(len(person.ratings))


@pytest.mark.parametrize(
    ("collection", "key", "value", "rule"),
    [
        ("rating", "thai", 6, "range"),
        ("rating", "thai", "good", "range"),
        ("rating", "klingon", 5, "undeclared"),
        ("about", "region", "elsewhere", "range"),
        ("about", "age", 40, "undeclared"),
        ("taste", "dishes-rated", 1, "kind"),
    ],
)
def test_what_it_does_not_declare_is_refused(
    collection: str, key: str, value: Any, rule: str
) -> None:
    """By the rule's name."""
    with pytest.raises(SignalRefused) as caught:
        governed().put(collection, key, value, now_ms=NOW_MS)
    assert caught.value.rule == rule


@pytest.mark.parametrize("count", [40, 120, 5_000])
def test_the_demo_s_tasks_are_declared(count: int) -> None:
    """With the noise and the bound that the demo gives them, for its purpose."""
    population = ratings.synthesise(40, 7)
    catalogue = Catalogue.of(population)
    for task in measures.tasks(catalogue, people=count, window_ms=1_000, now_ms=NOW_MS):
        rule = SHIPPED_BUNDLE.check_task(
            task.task_id, purpose=task.purpose, kind=task.kind.name,
            k_min=task.k_min, micro_rho=task.cost_micro_rho,
        )  # fmt: skip
        assert rule.source == task.task_id


def test_items_can_be_ranked_by_it() -> None:
    """Ratings, contexts and hidden ones are what a ranking reads; tasks read the ratings alone."""
    recipe = recipe_of(SHIPPED_BUNDLE, people.RATINGS)
    assert recipe is not None
    assert recipe.hidden == "rating.hidden"
    contexts = {term.when for term in recipe.terms} - {None}
    assert contexts == {"evening", "weekend"}
    assert contexts <= set(FEATURES)
    learning = {f"{part}/taste" for part in Part}
    for source in ("popular/cuisine-by-cohort", "ab/home-first", *learning):
        rule = SHIPPED_BUNDLE.task_for(source)
        assert rule is not None
        asked = recipe_for(SHIPPED_BUNDLE, rule.signals)
        assert asked is not None
        assert [(term.kind, term.collection) for term in asked.terms] == [("setting", "rating")]


def test_each_purpose_says_what_and_what_for_and_is_used() -> None:
    """Every purpose has a signal, and is one that the demo or the features use."""
    assert tuple(purpose.name for purpose in SHIPPED_BUNDLE.purposes) == PURPOSES
    assert {measures.PURPOSE, RANKING} <= set(PURPOSES)
    used = {purpose for one in SHIPPED_BUNDLE.signals for purpose in one.purposes}
    assert used == set(PURPOSES)


def test_what_the_page_shows_of_it_is_current() -> None:
    """Summary and diagram in docs/policy.md are what `check --diagram` makes of the folder as it
    is now; `make policy-page` writes them."""
    writer = ROOT / ".ci" / "policy_page.py"
    done = subprocess.run(
        [sys.executable, writer, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (ROOT / "docs" / "policy.md").read_text()
    assert diagram.draw(SHIPPED_BUNDLE) in page
    assert rookery("check", SHIPPED).out in page


def test_a_diagram_draws_all_that_is_declared() -> None:
    """A node for each signal, cohort and task, and an edge for each that a task reads."""
    drawn = diagram.draw(SHIPPED_BUNDLE)
    assert len(re.findall(r"^ +s\d+\[", drawn, re.MULTILINE)) == len(SHIPPED_BUNDLE.signals)
    assert len(re.findall(r"^ +t\d+\[", drawn, re.MULTILINE)) == len(SHIPPED_BUNDLE.tasks)
    assert len(re.findall(r"^ +c\d+\{", drawn, re.MULTILINE)) == len(SHIPPED_BUNDLE.cohorts)
    reads = sum(len(task.signals) for task in SHIPPED_BUNDLE.tasks)
    assert len(re.findall(r"-\.->\|\"shares", drawn)) == reads


def test_the_page_says_what_is_there() -> None:
    """docs/policy.md lists every rule of the assessment and every file of a folder."""
    page = (ROOT / "docs" / "policy.md").read_text()
    listed = set(re.findall(r"^\| `([a-z-]+)` \| (?:high|medium|low) \|", page, re.MULTILINE))
    assert listed == {rule.name for rule in risks.RULES}
    files = set(re.findall(r"^\| `([a-z]+\.yaml)`", page, re.MULTILINE))
    assert files == {*folder.NEEDED, *folder.OPTIONAL}


def test_the_page_s_example_of_a_change_is_what_is_found(tmp_path: Path) -> None:
    """Its finding is printed so, and its answer is one."""
    page = (ROOT / "docs" / "policy.md").read_text()
    copied = Folder.copied(tmp_path / "policy")
    copied.edit("signals", "evening", retention_days=120)
    found = rookery("check", copied.path, "--against", copied.in_force)
    assert found.code == 7
    block = found.out.split("\n\n")[1]
    assert block.startswith("longer-retention:evening:120")
    assert block in page
    [example] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    copied.write("assessment", example)
    assert rookery("check", copied.path, "--against", copied.in_force).code == 0
