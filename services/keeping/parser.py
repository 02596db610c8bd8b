"""The commands that keep a service, as the command line has them. Imports nothing that is slow."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Protocol

_RUN = "services.keeping.command:"
_CHECK = "services.keeping.checkcommand:"
_KEYS = "services.keeping.keycommand:"
OVERLAP_DAYS = 7.0
Commands = argparse._SubParsersAction


class MakeCommand(Protocol):
    """Adds one command with what all commands take."""

    def __call__(
        self, commands: Commands[argparse.ArgumentParser], name: str, text: str, run: str, /
    ) -> argparse.ArgumentParser: ...


def stored(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The same, which takes the store of a service as `serve` does."""
    parser.add_argument("--database", metavar="FILE", help="the service's, as `serve` was given it")
    return parser


def add(commands: Commands[argparse.ArgumentParser], command: MakeCommand) -> None:
    """check, backup, restore, keys."""
    check = command(
        commands, "check", "judge settings, store, clock and keys; change nothing", _CHECK + "check"
    )
    stored(check)
    check.add_argument("--json", action="store_true", help="one JSON object a line")
    check.add_argument("--deep", action="store_true", help="read all of the database")
    check.add_argument("--peer", metavar="HOST:PORT", help="another server, to compare clocks with")
    check.add_argument("--peer-ca", metavar="FILE", type=Path, help="it speaks TLS, under this CA")
    backup = command(
        commands, "backup", "copy the database while the service runs", _RUN + "backup"
    )
    stored(backup)
    backup.add_argument("target", metavar="FILE", type=Path, help="a new file")
    restore = command(
        commands,
        "restore",
        "put a backup in the place of the database; clients give back what is missing",
        _RUN + "restore",
    )
    stored(restore)
    restore.add_argument("source", metavar="FILE", type=Path, help="what `backup` wrote")
    restore.add_argument(
        "--replace", action="store_true", help="set a database that stands there aside"
    )
    keys = commands.add_parser("keys", help="the service's own keys, and those it trusts")
    _add_keys(keys.add_subparsers(required=True, metavar="COMMAND"), command)


def _add_keys(commands: Commands[argparse.ArgumentParser], command: MakeCommand) -> None:
    stored(command(commands, "init", "make identity key and pepper (mode 0600)", "keys_init"))
    shown = command(commands, "list", "public halves, marks, ages and ends", _KEYS + "show")
    stored(shown)
    shown.add_argument("--json", action="store_true", help="one JSON object a line")
    make = command(commands, "make", "make one key that is not there (mode 0600)", _KEYS + "make")
    stored(make)
    make.add_argument("which", choices=("identity", "pepper", "wake"))
    rotate = command(
        commands,
        "rotate",
        "put a new key in force; a running service takes it up by itself",
        _KEYS + "rotate",
    )
    stored(rotate)
    rotate.add_argument("which", choices=("identity", "pepper"))
    rotate.add_argument(
        "--overlap-days",
        type=float,
        default=OVERLAP_DAYS,
        metavar="N",
        help="identity: so long do receipts by the old key count for clients that know the new"
        " one (default: %(default)g; 0 if the old one was stolen)",
    )
    retire = command(
        commands, "retire", "forget a key of before, once its overlap is over", _KEYS + "retire"
    )
    stored(retire)
    retire.add_argument("which", choices=("identity", "pepper"))
    retire.add_argument("key", metavar="ID", help="as `keys list` shows it; a start will do")
