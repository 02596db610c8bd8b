"""The demo's parts that need no service."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.table import Table

from client.demo import ratings, show, traces


def test_a_planted_word_is_found_in_every_form_that_it_could_leak_in(tmp_path: Path) -> None:
    """Raw, hex and base64 at any alignment are found; a clean file gives no hit."""
    import base64

    word = "west-south-central"
    for number, content in enumerate(
        (
            word.encode(),
            word.encode().hex().encode(),
            *(base64.b64encode(b"x" * shift + word.encode() + b"tail") for shift in range(3)),
        )
    ):
        leaky = tmp_path / f"leaky-{number}"
        leaky.write_bytes(b"\x00" * 50 + content + b"\x01" * 50)
        assert traces.search([leaky], [word], []).hits, number
    clean = tmp_path / "clean"
    clean.write_bytes(bytes(range(256)) * 100)
    assert not traces.search([clean], [word], []).hits


def test_a_short_value_is_found_as_a_whole_record(tmp_path: Path) -> None:
    """A one-byte value is looked for together with its name, as an op's plaintext holds it."""
    record = traces.record_pattern("rating", "cuba", b"\x05")
    leaky = tmp_path / "leaky"
    leaky.write_bytes(b"......" + record + b"......")
    assert traces.search([leaky], [], [record]).hits
    assert not traces.search([leaky], [], [traces.record_pattern("rating", "cuba", b"\x04")]).hits


def test_ratings_are_read_by_person(tmp_path: Path) -> None:
    """Rows of one person make one profile; names are put into the alphabet of records."""
    file = tmp_path / "ratings.csv"
    file.write_text(
        "person,region,item,rating\n7,New England,Ivory Coast,3\n7,New England,cuba,5\n9,x,cuba,1\n"
    )
    people = ratings.load(file).people
    assert [person.ratings for person in people] == [{"ivory-coast": 3, "cuba": 5}, {"cuba": 1}]
    assert people[0].region == "new-england"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("person,region,item,rating\n1,a,b\n", "line 2"),
        ("person,region,item,rating\n1,a,b,6\n", "1 to 5"),
        ("person,region,item,rating\n", "no ratings"),
    ],
)
def test_a_bad_ratings_file_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    """The message names the line and what a row must look like."""
    file = tmp_path / "bad.csv"
    file.write_text(text)
    with pytest.raises(ratings.RatingsError, match=says):
        ratings.load(file)


def test_the_synthetic_population_is_the_same_for_the_same_seed() -> None:
    """Seeded, and said to be synthetic."""
    assert ratings.synthesise(5, 1) == ratings.synthesise(5, 1)
    assert ratings.synthesise(5, 1) != ratings.synthesise(5, 2)
    assert ratings.synthesise(5, 1).synthetic


def test_lines_end_in_no_blanks_where_there_is_no_terminal() -> None:
    """A table pads its last column; a file gets none of that."""
    out = io.StringIO()
    table = Table("a", "b", title="short")
    table.add_row("1", "2  ")
    show.console_on(out).print(table, "said  \n  two", sep="\n")
    lines = out.getvalue().split("\n")
    assert [line for line in lines if line != line.rstrip()] == []
    assert "  two" in lines
