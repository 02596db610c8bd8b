"""`rookery demo`: the whole of it on one screen."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from client.cli.output import FAILED, OK, Output
from client.demo import ratings, show
from client.demo.rounds import RoundsError
from client.demo.run import run as run_demo
from client.demo.stage import StageError

PEOPLE = 120
PEOPLE_MIN = 8
TOO_FEW = (
    f"the demo needs {PEOPLE_MIN} people at least: two of them leave, and a joint aggregate is over"
    " more than a few"
)
MUST_HOLD = (
    "all_devices_converged",
    "late_device_converged",
    "revoked_device_refused",
    "rotated_and_converged",
)
SIGMAS_MAX = 7.0
"""Noise alone goes so far once in 10^11 sums."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the demo."""
    parser.add_argument(
        "--ratings", type=Path, metavar="FILE",
        help="real ratings, CSV rows of person,region,item,rating; without it people are made up",
    )  # fmt: skip
    parser.add_argument(
        "--people", type=int, metavar="N",
        help=f"at most N people of the file, or N made up ({PEOPLE})",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="of made-up people (1)")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object at the end, the rest to stderr"
    )


async def run(arguments: argparse.Namespace, out: Output) -> int:
    """Runs it; fails if anything that it shows does not hold."""
    if arguments.people is not None and arguments.people < PEOPLE_MIN:
        out.failure("USAGE", TOO_FEW)
        return FAILED
    try:
        population = (
            ratings.load(arguments.ratings, arguments.people)
            if arguments.ratings
            else ratings.synthesise(arguments.people or PEOPLE, arguments.seed)
        )
        if len(population.people) < PEOPLE_MIN:
            raise ratings.RatingsError(TOO_FEW)
        console = show.console_on(sys.stderr if out.as_json else sys.stdout)
        report = await run_demo(population, seed=arguments.seed, console=console)
    except (ratings.RatingsError, RoundsError, StageError) as error:
        out.failure("DEMO", str(error))
        return FAILED
    if out.as_json:
        out.result(report, "")
    holds = (
        report["governance"]["holds"]
        and all(report[name] for name in MUST_HOLD)
        and all(
            round_["valid"] == round_["reports"] - round_["cheaters"]
            and round_["max_error_in_sigmas"] <= SIGMAS_MAX
            for round_ in report["aggregate"]["rounds"]
        )
    )
    return OK if holds and not report["plaintext_hits_in_store_and_logs"] else FAILED
