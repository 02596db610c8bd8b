"""`rookery-server audit`, as the command line has it. Imports nothing that is slow."""

from __future__ import annotations

import argparse

from services.keeping.parser import Commands, MakeCommand, stored


def add(commands: Commands[argparse.ArgumentParser], command: MakeCommand) -> None:
    """audit."""
    audit = command(
        commands,
        "audit",
        "show the audit log, verify it, or show privacy health; beside a running service, too",
        "services.audit.command:audit",
    )
    stored(audit)
    audit.add_argument(
        "--verify", action="store_true", help="walk the chain of hashes; exit code 1 if it breaks"
    )
    audit.add_argument(
        "--head",
        metavar="HEAD",
        help="with --verify: a head that was noted earlier (SEQ:HASH) must be in the log",
    )
    audit.add_argument(
        "--anchor",
        metavar="ANCHOR",
        help="with --verify: an anchor that was noted earlier (SEQ:HASH); the log may begin there"
        " whatever the policy says",
    )
    audit.add_argument(
        "--health", action="store_true", help="show how well the store keeps to the policy instead"
    )
    audit.add_argument(
        "--after", type=int, default=0, metavar="SEQ", help="show entries behind this one only"
    )
    audit.add_argument("--json", action="store_true", help="one JSON object a line")
    canary = audit.add_argument_group(
        "the leak canary",
        "Runs a whole scenario with marked secrets on processes and stores of its own, and"
        " searches all that they stored, said and sent. Touches nothing that is configured.",
    )
    canary.add_argument(
        "--canary", action="store_true", help="run it; exit code 1 if anything is found"
    )
    canary.add_argument(
        "--store", choices=("sqlite", "redis"), default="sqlite", help="what the service stores in"
    )
    canary.add_argument(
        "--redis-server", default="redis-server", metavar="PROGRAM", help="for --store redis"
    )
    for who, what in (("service", "`rookery-server`"), ("device", "the devices' part")):
        canary.add_argument(
            f"--{who}-command", default="", metavar="COMMAND",
            help=f"another build to run as {what}: to see that what it leaks is found",
        )  # fmt: skip
