"""The population of the demo: ratings from a CSV file, or a seeded synthetic one."""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_COLUMNS = 4
_SLUG = re.compile(r"[^a-z0-9._/-]+")
_REGIONS = ("north-harbour", "lake-district", "old-town", "west-valley", "island-coast")
_DISSENT = 0.25
_CUISINES = (
    "ethiopian", "georgian", "italian", "japanese", "korean", "lebanese", "mexican", "moroccan",
    "peruvian", "polish", "spanish", "swedish", "thai", "turkish", "vietnamese",
)  # fmt: skip


class RatingsError(Exception):
    """The ratings file can't be used; the message names the line and what to do."""


@dataclass(frozen=True, slots=True)
class Person:
    """One person's ratings: item to 1..5, where each item is a name that records may have."""

    number: int
    region: str
    ratings: dict[str, int]


@dataclass(frozen=True, slots=True)
class Population:
    """Everybody, and where they come from."""

    people: tuple[Person, ...]
    source: str
    synthetic: bool

    @property
    def words(self) -> frozenset[str]:
        """Every name and every value that is a text: what must be found nowhere."""
        items = {item for person in self.people for item in person.ratings}
        return frozenset(items | {person.region for person in self.people})


def load(path: Path, most: int | None = None) -> Population:
    """A CSV with a header and rows of person, region, item, rating (1 to 5)."""
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            people = _read(csv.reader(lines), path, most)
    except OSError as error:
        raise RatingsError(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RatingsError(f"{path} is not UTF-8 text") from None
    if not people:
        raise RatingsError(f"{path} holds no ratings: it needs person,region,item,rating rows")
    return Population(tuple(people), str(path.name), synthetic=False)


def _read(rows: Iterable[list[str]], path: Path, most: int | None) -> list[Person]:
    people: dict[str, Person] = {}
    for number, row in enumerate(rows, start=1):
        if number == 1 and (not row or not row[-1].strip().isdigit()):
            continue
        if len(row) != _COLUMNS:
            raise RatingsError(
                f"{path}, line {number}: needs person,region,item,rating; it has {len(row)} fields"
            )
        who, region, item, rating = (field.strip() for field in row)
        if rating not in {"1", "2", "3", "4", "5"}:
            raise RatingsError(f"{path}, line {number}: a rating is 1 to 5")
        if who not in people:
            if most is not None and len(people) >= most:
                continue
            people[who] = Person(len(people) + 1, slug(region), {})
        people[who].ratings[slug(item)] = int(rating)
    return list(people.values())


def slug(text: str) -> str:
    """A name that a record may have: `[a-z0-9._/-]{1,128}`."""
    return _SLUG.sub("-", text.lower()).strip("-")[:128] or "none"


def synthesise(count: int, seed: int) -> Population:
    """A seeded population that looks like the real one: some regions, tastes that differ."""
    rng = random.Random(f"rookery demo {seed}")  # noqa: S311 - a repeatable population, no secret
    people = []
    for number in range(1, count + 1):
        region = rng.choice(_REGIONS)
        home = rng.randrange(1, 4)
        items = rng.sample(_CUISINES, rng.randint(6, len(_CUISINES)))
        ratings = {item: min(4, max(1, home + rng.randint(-1, 2))) for item in items}
        # What a region is known for is what many of its people like best.
        known_for = _CUISINES[3 * _REGIONS.index(region) + (rng.random() < _DISSENT)]
        ratings[known_for] = 5
        people.append(Person(number, region, ratings))
    return Population(tuple(people), f"synthetic, seed {seed}", synthetic=True)
