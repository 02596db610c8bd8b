"""Running a vector file: which sections there are, what they print, how it ends."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from client.vectors import extra, negative, positive, scenario, sealed
from client.vectors.fields import Entry, Malformed
from client.vectors.report import EXIT_UNREADABLE, Report
from client.vectors.world import World

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

Section = Callable[[World, Report], None]
SECTIONS: tuple[tuple[tuple[str, ...], Section], ...] = (
    (("primitives",), positive.primitives),
    (("devices",), positive.devices),
    (("account_id",), positive.account_id),
    (("ek_commit", "epoch_keys"), positive.epochs),
    (("tags",), positive.tags),
    (("links",), positive.links),
    (("grants",), sealed.grants),
    (("ops",), sealed.ops),
    (("padding",), positive.paddings),
    (("request", "requests"), positive.requests),
    (("more",), extra.more),
    (("negatives",), negative.negatives),
    (("scenarios",), scenario.scenarios),
)
_NO_CASES = frozenset({"notes", "schema", "epoch_key"})


class UnreadableError(Exception):
    """The file can't be read, or is not a JSON object."""


def load(path: Path) -> Entry:
    """The file's JSON object."""
    try:
        value: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UnreadableError(f"{path}: not a JSON object")
    return value


def judge(file: Entry) -> Report:
    """Runs every section that is there; never raises for what is in the file."""
    report = Report()
    try:
        world = World(file)
    except Exception as error:  # noqa: BLE001 - a file must never end in a traceback
        report.fail("file", f"{type(error).__name__}: {error}")
        return report
    for keys, section in SECTIONS:
        try:
            section(world, report)
        except Malformed as error:
            report.fail("/".join(keys), str(error))
        except Exception as error:  # noqa: BLE001 - a file must never end in a traceback
            report.fail("/".join(keys), f"{type(error).__name__}: {error}")
    known = _NO_CASES.union(*(keys for keys, _ in SECTIONS))
    report.notes += [f"unknown section {name!r} is not checked" for name in file.keys() - known]
    report.notes.sort()
    if not report.passed and not report.failures:
        report.fail("file", "holds no case that this version knows")
    return report


def run(path: Path) -> Report:
    """Runs a file; UnreadableError if there is nothing to run."""
    return judge(load(path))


def run_file(path: Path, out: TextIO) -> int:
    """Prints every failure with its reason and lastly `N passed, N failed`.

    0 if nothing failed, 1 if something did, 2 if the file can't be read.
    """
    try:
        report = run(path)
    except UnreadableError as error:
        print(f"rookery vectors: {error}", file=out)
        return EXIT_UNREADABLE
    for line in report.lines:
        print(line, file=out)
    return report.exit_code


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Adds the command `vectors` to the `rookery` program."""
    parser = subparsers.add_parser("vectors", help="run a file of pss1 test vectors")
    parser.add_argument("file", type=Path, metavar="FILE")
    return parser


def run_cli(args: argparse.Namespace) -> int:
    """The command itself."""
    return run_file(args.file, sys.stdout)
