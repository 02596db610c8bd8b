"""`rookery-server`: the command line of the service."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from services.audit import parser as audit
from services.keeping import parser as keeping

OK, FAILED, USAGE = 0, 1, 2
WAKE = "services.wake.command"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code."""
    arguments = _parser().parse_args(argv)
    # Before gRPC is imported, or it reports to standard error what we report ourselves.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Before numpy is: a party multiplies on its share of a machine, not on all its cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from services.config import ConfigError

    module, _, name = arguments.run.rpartition(":")
    commands = importlib.import_module(module or "services.commands")
    try:
        getattr(commands, name)(arguments)
    except commands.FORESEEN as error:
        print(f"rookery-server: {error}", file=sys.stderr)
        return USAGE if isinstance(error, ConfigError) else FAILED
    return OK


def _version() -> str:
    try:
        return metadata.version("rookery")
    except metadata.PackageNotFoundError:
        return "(a checkout that is not installed)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rookery-server",
        description="The sync service. It stores and forwards what it can't read.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = _command(commands, "serve", "run the service", "serve")
    serve.add_argument("--listen", metavar="HOST:PORT", help="port 0 takes a free one")
    serve.add_argument("--database", metavar="FILE")
    serve.add_argument("--audience", metavar="NAME")
    serve.add_argument(
        "--dev", action="store_true", help="make missing keys; for trying it out, not for use"
    )
    party = _command(commands, "party", "run one party of joint aggregates", "party")
    party.add_argument("--listen", metavar="HOST:PORT", help="port 0 takes a free one")
    party.add_argument("--database", metavar="FILE")
    party.add_argument(
        "--show-config", action="store_true", help="print every setting with its default, and end"
    )
    party.add_argument(
        "--init", action="store_true", help="make the identity key (mode 0600), and end"
    )
    party.add_argument(
        "--check", action="store_true", help="judge settings, key and store, and end"
    )
    gateway = _command(
        commands, "gateway", "run the push gateway that wakes sleeping phones", f"{WAKE}:gateway"
    )
    gateway.add_argument("--listen", metavar="HOST:PORT", help="port 0 takes a free one")
    gateway.add_argument(
        "--show-config", action="store_true", help="print every setting with its default, and end"
    )
    gateway.add_argument(
        "--init", action="store_true", help="make the key that opens handles (mode 0600), and end"
    )
    keeping.add(commands, _command)
    audit.add(commands, _command)
    health = _command(
        commands, "health", "ask a running process how it is", "services.probe:health"
    )
    health.add_argument(
        "address", nargs="?", metavar="HOST:PORT", help="default: the setting listen"
    )
    health.add_argument(
        "--service", default="", metavar="NAME", help="of the health service; default: the whole"
    )
    moving = _command(
        commands,
        "migrate-store",
        "move a store between SQLite and Redis while no service runs; goes on when run again",
        "services.moving.command:migrate_store",
    )
    for option, dest in (("--from", "source"), ("--to", "target")):
        moving.add_argument(
            option, dest=dest, required=True, metavar="URL|FILE",
            help="a path, or a URL as in redis_url",
        )  # fmt: skip
    moving.add_argument("--json", action="store_true", help="one JSON object a line")
    _command(commands, "config", "print every setting with its default", "show_config")
    keeping.stored(
        _command(
            commands,
            "new-generation",
            "after restoring a backup: clients compare and push again what is missing",
            "new_generation",
        )
    )
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    run: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.add_argument("--config", metavar="FILE", type=Path, help="TOML; see `config`")
    command.set_defaults(run=run)
    return command


if __name__ == "__main__":
    sys.exit(main())
