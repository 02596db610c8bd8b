"""`rookery policy show`."""

from __future__ import annotations

import argparse

from client.cli import policypage
from client.cli.output import OK, Output
from client.policykit import bundlefile, diagram


async def show(arguments: argparse.Namespace, out: Output) -> int:
    """A compiled policy: who signed it is shown, and whether that is the right one is not known
    here."""
    file = bundlefile.read(arguments.file)
    if arguments.mermaid:
        drawn = diagram.draw(file.bundle)
        out.result({"mermaid": drawn}, drawn.rstrip("\n"))
    else:
        out.result(policypage.as_data(file), policypage.as_text(file))
    return OK
