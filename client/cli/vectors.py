"""`rookery vectors FILE`: checks this implementation against a file of pss1 vectors."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from client.cli.output import OK, Output
from client.vectors.run import run_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file."""
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("file", type=Path, metavar="FILE")


async def run(arguments: argparse.Namespace, out: Output) -> int:
    """0 if every vector does what it says, 1 if one does not, 2 if there is nothing to run."""
    if not out.as_json:
        return run_file(arguments.file, sys.stdout)
    lines = io.StringIO()
    code = run_file(arguments.file, lines)
    out.result({"ok": code == OK, "report": lines.getvalue().splitlines()}, "")
    return code
