"""`rookery-server audit`, as the command line has it. Imports nothing that is slow."""

from __future__ import annotations

import argparse

from services.keeping.parser import Commands, MakeCommand


def add(commands: Commands[argparse.ArgumentParser], command: MakeCommand) -> None:
    """audit."""
    audit = command(
        commands,
        "audit",
        "show the audit log, verify it, or show privacy health; beside a running service, too",
        "services.audit.command:audit",
    )
    audit.add_argument(
        "--verify", action="store_true", help="walk the chain of hashes; exit code 1 if it breaks"
    )
    audit.add_argument(
        "--head",
        metavar="HEAD",
        help="with --verify: a head that was noted earlier (SEQ:HASH) must be in the log",
    )
    audit.add_argument(
        "--health", action="store_true", help="show how well the store keeps to the policy instead"
    )
    audit.add_argument(
        "--after", type=int, default=0, metavar="SEQ", help="show entries behind this one only"
    )
    audit.add_argument("--json", action="store_true", help="one JSON object a line")
