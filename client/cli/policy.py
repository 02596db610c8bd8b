"""`rookery policy`: its commands and their options, and nothing that running them needs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from client.cli import options

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All commands."""
    add = _Adder(parser.add_subparsers(required=True, metavar="COMMAND"))
    keygen = add("keygen", "policykeys:keygen", "make a key that signs policies and calls")
    keygen.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="where to keep it; a new file"
    )
    key = add("key", "policykeys:show", "show the public half of a key")
    key.add_argument("file", type=Path, metavar="FILE", help="made by `keygen`")
    _add_check(add("check", "policycheck:check", "judge a folder, and what it changes"))
    _add_diff(add("diff", "policycheck:diff", "list what is new or wider, and what that needs"))
    _add_build(add("build", "policybuild:build", "compile and sign a folder"))
    _add_show(add("show", "policyshow:show", "show a compiled policy"))
    publish = add("publish", "policypublish:publish", "make a policy the one in force")
    publish.add_argument("file", type=Path, metavar="FILE", help="written by `build`")
    publish.add_argument(
        "--key", type=Path, metavar="FILE", help="your key, made by `rookery policy keygen`"
    )
    options.add_service_options(publish, "the service")


class _Adder:
    """Adds commands with what all of them have."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def __call__(self, name: str, run: str, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = self._commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + "."
        )
        made.add_argument("--json", action="store_true", help="one JSON object")
        made.set_defaults(run=run)
        return made


_UNMET = "ends with 7 while something that is new or wider has nothing written in assessment.yaml"


def _add_check(check: argparse.ArgumentParser) -> None:
    check.epilog = f"Every use is compared with --against: {_UNMET}."
    check.add_argument("folder", type=Path, metavar="DIR", help="the policy in YAML")
    check.add_argument(
        "--against", type=Path, metavar="FILE|DIR", help="what is in force: compiled, or a folder"
    )
    check.add_argument(
        "--diagram", type=Path, metavar="FILE", help="write the data-flow diagram there (Mermaid)"
    )


def _add_diff(diff: argparse.ArgumentParser) -> None:
    diff.epilog = f"It {_UNMET}."
    diff.add_argument("old", type=Path, metavar="OLD", help="compiled, or a folder")
    diff.add_argument("new", type=Path, metavar="NEW", help="compiled, or a folder")
    diff.add_argument(
        "--assessment", type=Path, metavar="FILE",
        help="what is written about NEW, which a compiled policy holds the hash of alone",
    )  # fmt: skip


def _add_build(build: argparse.ArgumentParser) -> None:
    build.add_argument("folder", type=Path, metavar="DIR", help="the policy in YAML")
    build.add_argument(
        "--previous", metavar="FILE|HASH",
        help="the policy in force, compiled: what is new or wider is judged, and the number is one"
        " more; or its hash, with --sequence: then nothing is judged. Without it this is the first",
    )  # fmt: skip
    build.add_argument("--sequence", type=int, metavar="N", help="its number")
    build.add_argument(
        "--issued-ms", type=int, metavar="MS", help="when, in ms since 1970 (now)"
    )  # fmt: skip
    signing = build.add_mutually_exclusive_group(required=True)
    signing.add_argument("--key", type=Path, metavar="FILE", help="the publisher's key")
    signing.add_argument(
        "--unsigned", action="store_true", help="to compare with; nobody obeys it"
    )  # fmt: skip
    build.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help="where to; a new file"
    )  # fmt: skip
    build.add_argument("--force", action="store_true", help="overwrite what is there")


def _add_show(show: argparse.ArgumentParser) -> None:
    show.add_argument("file", type=Path, metavar="FILE", help="written by `build`")
    show.add_argument(
        "--mermaid", action="store_true", help="the data-flow diagram, and nothing else"
    )
