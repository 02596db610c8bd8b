"""The demo's policy: the shipped one, and what real ratings make of it; what is no leak of it."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from client.demo import measures, overseen, policy, ratings, traces
from client.demo.ratings import Person, Population, RatingsError
from client.policykit import bundlefile, folder
from crypto.policy import FIRST
from tests.policy_folders import SHIPPED

OPERATOR = bytes(range(32))
SYNTHETIC = ratings.synthesise(120, 1)


def population(regions: int, items: list[str], people: int = 60) -> Population:
    """People of so many regions who have rated everything."""
    made = tuple(
        Person(number, f"region-{number % regions}", dict.fromkeys(items, 3))
        for number in range(people)
    )
    return Population(made, "ratings.csv", synthetic=False)


def test_the_packaged_policy_is_the_shipped_one() -> None:
    """The wheel has no deploy/: `make policy-demo` writes its policy anew after it was changed."""
    packaged = bundlefile.read(policy.SHIPPED)
    assert packaged.publisher is None
    shipped = folder.read(SHIPPED).bundle(sequence=1, previous=FIRST, issued_ms=1)
    assert packaged.bundle == shipped


def test_made_up_people_are_governed_by_the_shipped_policy_as_it_is() -> None:
    """But for the time, and the operator's key, which is the run's own."""
    shipped = bundlefile.read(policy.SHIPPED).bundle
    made = policy.of(SYNTHETIC, OPERATOR)
    assert replace(made, issued_ms=1, access=shipped.access) == shipped
    assert made.access.grants == shipped.access.grants
    assert [one.keys for one in made.access.roles] == [(OPERATOR.hex(),)]


def test_real_ratings_bring_their_own_regions_and_items() -> None:
    """What they have is declared, no more; what spoke of others is gone, the rest stands."""
    made = policy.of(population(3, ["cuba", "ivory-coast"]), OPERATOR)
    region, rating = made.signal("region"), made.signal("rating")
    assert region is not None
    assert rating is not None
    assert region.values.admits("region-2")
    assert not region.values.admits("old-town")
    assert rating.keys == ("cuba", "ivory-coast")
    assert not made.cohorts
    assert {task.source for task in made.tasks} >= {
        measures.CUISINES, measures.RATING, measures.EXPERIMENT,
    }  # fmt: skip
    assert {flag.name for flag in made.flags} >= {"stop-region", "stop-learning"}


def test_very_many_items_are_any_item() -> None:
    """A policy lists so many keys; names with a slash can't be among more than that."""
    many = [f"dish-{number}" for number in range(300)]
    rating = policy.of(population(3, many), OPERATOR).signal("rating")
    assert rating is not None
    assert rating.covers("rating", "dish-299")
    with pytest.raises(RatingsError, match="slash"):
        policy.of(population(3, [*many, "a/b"]), OPERATOR)
    with pytest.raises(RatingsError, match="regions"):
        policy.of(population(200, ["cuba"], people=400), OPERATOR)


@pytest.mark.parametrize(("people", "least"), [(8, 4), (39, 19), (40, 20), (5_000, 20)])
def test_only_of_few_people_fewer_answers_are_enough(people: int, least: int) -> None:
    """The shipped policy asks for twenty."""
    made = policy.of(ratings.synthesise(people, 1), OPERATOR)
    rule = made.task_for(measures.RATING)
    assert rule is not None
    assert rule.k_min_at_least == least


def test_a_word_of_the_policy_is_no_trace_where_the_policy_stands(tmp_path: Path) -> None:
    """Whole, or cut in two by a page; the same word anywhere else is one."""
    document = policy.of(SYNTHETIC, OPERATOR).encoded
    at = document.index(b"west-valley")
    cut = at + len(b"west-valley")
    place = tmp_path / "service.db"
    for content in (document, document[:cut] + b"\x00" * 60, b"\x07" * 60 + document[at:]):
        place.write_bytes(b"head" + content)
        assert traces.search([place], ["west-valley"], []).hits
        assert not traces.search([place], ["west-valley"], [], [document]).hits
    for leak in (
        b"west-valley",
        b'{"region": "west-valley"}',
        document[at - 4 : cut] + b"12345678",
    ):
        place.write_bytes(b"\x00" * 50 + document + leak + b"\xff" * 50)
        assert len(traces.search([place], ["west-valley"], [], [document]).hits) == 1


def test_rows_of_an_account_are_found_in_every_table(tmp_path: Path) -> None:
    """By what names it, and by its number; other accounts' rows are not counted."""
    database = tmp_path / "some.db"
    connection = sqlite3.connect(database)
    connection.executescript(
        "CREATE TABLE account (account_n INTEGER PRIMARY KEY, account_id BLOB);"
        "CREATE TABLE run (account_n INTEGER, position INTEGER);"
        "CREATE TABLE box (box_id INTEGER PRIMARY KEY, data BLOB);"
        "INSERT INTO account VALUES (7, x'aabb'), (8, x'ccdd');"
        "INSERT INTO run VALUES (7, 1), (7, 2), (8, 3);"
        "INSERT INTO box VALUES (1, x'00aabb00'), (2, x'00ccdd00');"
    )
    connection.commit()
    connection.close()
    assert overseen.account_number(database, b"\xaa\xbb") == 7
    assert overseen.account_number(database, b"\xee") is None
    assert overseen.rows_naming(database, [b"\xaa\xbb"], 7) == 4
    assert overseen.rows_naming(database, [b"\xaa\xbb"]) == 2
    assert overseen.rows_naming(database, [b"\xee"], 9) == 0
