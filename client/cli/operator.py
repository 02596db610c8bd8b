"""`rookery operator`: its commands and their options, and nothing that running them needs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from client.cli import options

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All commands."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    keygen = _add(commands, "keygen", "operatorkeys:keygen", "make a key that signs calls")
    keygen.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="where to keep it; a new file"
    )
    _online(_add(commands, "health", "operatorviews:health", "show how the policy is kept to"))
    exposure = _add(
        commands, "exposure", "operatorviews:exposure", "show what is stored, and who may read it"
    )
    _online(exposure)
    exposure.add_argument(
        "--clear", action="store_true", help="only what is neither sealed, blinded nor a hash"
    )
    audit = _add(commands, "audit", "operatorviews:audit", "show the audit log, verified")
    _online(audit)
    _add_noted(audit)
    rounds = _add(commands, "rounds", "operatorviews:rounds", "show rounds, and what came of them")
    _online(rounds)
    rounds.add_argument("--max", type=int, default=32, metavar="N", help="so many (default: 32)")
    _add_pins(rounds)
    page = _add(
        commands, "page", "operatorviews:page", "see all of it in a browser on this machine"
    )
    _online(page)
    _add_noted(page)
    _add_pins(page)
    options.add_page_options(page)


def _add(commands: Commands, name: str, run: str, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + "."
    )
    made.add_argument("--json", action="store_true", help="one JSON object")
    made.set_defaults(run=run)
    return made


def _online(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key", type=Path, metavar="FILE",
        help="your key, made by `keygen`; the policy lists its public half for the role operator",
    )  # fmt: skip
    options.add_service_options(parser, "the service")


def _add_noted(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what the audit log is held against")
    group.add_argument(
        "--head", metavar="SEQ:HASH", help="a head that was noted earlier; it must be in the log"
    )
    group.add_argument(
        "--anchor", metavar="SEQ:HASH",
        help="where the log began when it was noted; it may begin there still",
    )  # fmt: skip
    group.add_argument(
        "--policy", metavar="KEY",
        help="the policy publisher's public key: the log may begin where its policy trims it",
    )  # fmt: skip


def _add_pins(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("whose results are taken; without these, whose they claim")
    group.add_argument(
        "--publisher", action="append", default=[], metavar="KEY", help="a publisher's public key"
    )
    group.add_argument(
        "--party", action="append", default=[], metavar="KEY",
        help="a party's identity key, for each one in the rounds' order",
    )  # fmt: skip
    group.add_argument(
        "--panel", type=Path, metavar="FILE",
        help="TOML: [[party]] tables with address and key, and publishers = [KEY, ...]",
    )  # fmt: skip
