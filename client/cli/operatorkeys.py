"""`rookery operator keygen`."""

from __future__ import annotations

import argparse

from client.cli import newkey
from client.cli.output import Output

_TEXT = """\
{file} is the key of an operator: whoever has it sees how the service keeps to its policy, and can \
change nothing.

public key  {public}
audit log   {id}

The policy lists it for the role operator, in access.yaml."""


async def keygen(arguments: argparse.Namespace, out: Output) -> int:
    """Makes a key file; never over one."""
    return newkey.make(arguments, out, _TEXT)
