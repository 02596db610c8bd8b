"""`rookery device rank`, `explain`, `experiment` and `features`: processes and a real service."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from client.policykit.folder import read
from crypto.policy import FIRST
from tests.cli_process import Home
from tests.governed_worlds import KEY, OPEN
from tests.policy_folders import SHIPPED
from tests.test_policy_processes import governed_process, publish


def items(home: Home, *more: str) -> list[str]:
    """Best first."""
    return [one["item"] for one in home.run("rank", *more, "--json").json["items"]]


def test_devices_of_an_account_rank_alike_and_say_why(first: Home, second: Home) -> None:
    """Ratings of one and likes of the other; each reason names who recorded it."""
    first.run("set", "taste/thai", "5", "--type", "int")
    first.run("set", "taste/sour", "1", "--type", "int")
    second.run("like", "taste/lao", "3")
    second.run("like", "taste.at.evening/soup", "2")
    for home in (first, second):
        assert items(home, "--context", "none") == ["lao", "thai", "sour"]
        assert items(home, "taste", "--context", "evening", "--top", "3") == ["lao", "soup", "thai"]
    told = first.run("explain", "taste/lao", "--context", "none", "--json", "--offline").json
    assert (told["place"], told["of"]) == (1, 3)
    [reason] = told["reasons"]
    assert reason["amount"] == pytest.approx(told["score"])
    assert (reason["sort"], reason["signal"], reason["devices"]) == ("score", "taste", [1])
    shown = second.run("explain", "thai", "--context", "none", "--offline").out
    assert "thai: place 2 of 3" in shown
    assert "your rating (taste)" in shown
    assert "by device #0, " in shown
    assert "is shared by your devices only" in shown
    first.run("add", "taste.hidden/thai")
    assert items(first, "--context", "none") == ["lao", "sour"]
    assert first.run("explain", "thai", "--json", code=3).json["error"] == "NOT_FOUND"
    assert items(first, "--item", "new", "--item", "sour", "--context", "none") == ["new", "sour"]


def test_bad_use_is_one_sentence(calm: Home) -> None:
    """Nothing to rank, several collections, unknown words, an experiment without a policy."""
    assert "rate one" in calm.run("rank", "--offline", code=1).err
    calm.run("like", "food/thai", "--offline")
    calm.run("like", "music/jazz", "--offline")
    assert "food, music" in calm.run("rank", "--offline", code=1).err
    assert "'noon'" in calm.run("rank", "food", "--context", "noon", "--offline", code=1).err
    assert "declares no experiment" in calm.run("experiment", "x", "--offline", code=1).err
    assert "of which experiment" in calm.run("experiment", "--expose", "--offline", code=1).err
    assert "declares no experiment" in calm.run("experiment", "--offline").out
    assert "under no policy" in calm.run("features", "--offline").out


async def test_a_governed_device_uses_what_was_agreed_to_and_nothing_else(tmp_path: Path) -> None:
    """What it recorded before is there and is not ranked by; the experiment shows its first
    variant and keeps nothing; features are the policy's. With consent all of it works, and a
    pause ends it."""
    shipped = read(SHIPPED).bundle(sequence=1, previous=FIRST, issued_ms=1_790_000_000_000)
    changes = {
        "access": OPEN,
        "flags": tuple(replace(one, percent=100) for one in shipped.flags),
        "experiments": tuple(replace(one, percent=100) for one in shipped.experiments),
    }
    with governed_process(tmp_path) as service:
        await publish(service, replace(shipped, **changes))  # type: ignore[arg-type]
        home = Home(tmp_path, "phone", service)
        home.run("init", "--no-recovery", service=True)
        home.run("set", "rating/thai", "5", "--type", "int")
        home.run("trust", "--policy", KEY.public.hex())
        two = ("--item", "korean", "--item", "thai")
        assert items(home, *two) == ["korean", "thai"]
        assert home.run("explain", "rating/thai", "--json", code=3).json["error"] == "NOT_FOUND"
        assert trial(home, "--expose", "--outcome", "4") == (False, False, "as-before", None)
        assert features(home) == {"home-cuisine-first": True, "mild-evenings": False}
        for purpose in ("ranking", "experiments"):
            home.run("consent", "grant", purpose, "--yes")
        assert items(home, *two) == ["thai", "korean"]
        assert features(home) == {"home-cuisine-first": True, "mild-evenings": True}
        told = home.run("explain", "rating/thai").out
        assert "may be counted in joint aggregates" in told
        counted, is_in, variant, outcome = trial(home, "--expose", "--outcome", "4")
        assert (counted, is_in, outcome) == (True, True, 4)
        assert variant in ("as-before", "home-first")
        assert trial(home, "--outcome", "-1") == (True, True, variant, 3)
        home.run("pause")
        assert items(home, *two) == ["korean", "thai"]
        assert trial(home, "--outcome", "1")[:2] == (False, False)


def trial(home: Home, *more: str) -> tuple[bool, bool, str, int | None]:
    """Whether it was counted and is in, the variant, the outcome so far."""
    told = home.run("experiment", "home-first", *more, "--json").json
    [row] = told["experiments"]
    return told["counted"], row["takes_part"], row["variant"], row["outcome"]


def features(home: Home) -> dict[str, bool]:
    """Which are on."""
    found: dict[str, bool] = home.run("features", "--json").json["features"]
    return found
