"""`rookery vectors FILE`: checks this implementation against a file of pss1 vectors."""

from __future__ import annotations

import argparse
from pathlib import Path

from client.cli.output import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file."""
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("file", type=Path, metavar="FILE")


async def run(arguments: argparse.Namespace, out: Output) -> int:
    """0 if every vector does what it says."""
    raise NotImplementedError
