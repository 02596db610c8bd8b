"""`rookery demo`: the whole of it on one screen. Not there yet."""

from __future__ import annotations

import argparse

from client.cli.output import FAILED, Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the demo."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


async def run(arguments: argparse.Namespace, out: Output) -> int:
    """Runs it."""
    del arguments
    out.failure("NO_DEMO", "the demo is not part of this version")
    return FAILED
