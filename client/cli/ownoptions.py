"""The options of what a device makes of its own profile."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:

    class Adder(Protocol):
        """Adds a command of `rookery device`."""

        def __call__(
            self, name: str, run: str, text: str, *parents: argparse.ArgumentParser
        ) -> argparse.ArgumentParser:
            """Name, module and function, what it does."""
            ...


WORDS = "night|morning|afternoon|evening, workday|weekend, browsing|searching|returning"


def add_commands(add: Adder) -> None:
    """`rank`, `explain`, `experiment`, `features`."""
    asked = _asked()
    rank = add("rank", "own:rank", "rank a collection's items for this person", *asked)
    rank.add_argument(
        "collection", metavar="COLLECTION", nargs="?", help="may be left out if there is one only"
    )
    rank.add_argument(
        "--item", action="append", default=[], metavar="ITEM",
        help="rank these only, known or not (default: all that are known)",
    )  # fmt: skip
    rank.add_argument("--top", type=_count, metavar="N", help="show the first N")
    explain = add("explain", "own:explain", "say why an item is ranked where it is", *asked)
    explain.add_argument("name", metavar="[COLLECTION/]ITEM", help="as `rank` shows it")
    offline = _offline()
    experiment = add(
        "experiment", "owntrials:experiment", "show the experiments of the policy, or take part",
        offline,
    )  # fmt: skip
    experiment.add_argument("name", metavar="NAME", nargs="?", help="this one only")
    experiment.add_argument(
        "--expose", action="store_true", help="the variant is shown now: outcomes count from here"
    )
    experiment.add_argument("--outcome", type=int, metavar="N", help="add to what is measured")
    add("features", "owntrials:features", "show which features this account has", offline)


def _offline() -> argparse.ArgumentParser:
    offline = argparse.ArgumentParser(add_help=False)
    offline.add_argument("--offline", action="store_true", help="don't ask the service")
    return offline


def _asked() -> list[argparse.ArgumentParser]:
    """What `rank` and `explain` share."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--context", action="append", metavar="WORD",
        help=f"{WORDS}; may be given again; none: no context (default: by this machine's clock)",
    )  # fmt: skip
    parser.add_argument(
        "--purpose", metavar="PURPOSE", default="ranking",
        help="of a governed device: use what may be used for this purpose (default: ranking)",
    )  # fmt: skip
    parser.add_argument(
        "--model", type=Path, metavar="FILE", help="a shared model that knows its items, too"
    )
    parser.add_argument(
        "--half-life", type=_days, metavar="DAYS",
        help="of scores, on a device under no policy; a policy says it itself",
    )  # fmt: skip
    return [_offline(), parser]


def _days(text: str) -> float:
    days = float(text)
    if not 0 < days < 1e6:
        raise argparse.ArgumentTypeError("--half-life is more than 0, and less than 1,000,000")
    return days


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("--top is 1 or more")
    return count
