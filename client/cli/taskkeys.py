"""`rookery task keygen` and `key`."""

from __future__ import annotations

import argparse

from client.cli import newkey
from client.cli.output import Output
from client.cli.tasksession import load_key

_TEXT = """\
{file} is the key of a publisher or analyst: whoever has it acts in your name. Keep a copy.

public key  {public}
audit log   {id}

The service takes it from its setting `publishers` (or `analysts`, to read only), a party from
its own `publishers`; devices pin a publisher by it."""


async def keygen(arguments: argparse.Namespace, out: Output) -> int:
    """Makes a key file; never over one."""
    return newkey.make(arguments, out, _TEXT)


async def show(arguments: argparse.Namespace, out: Output) -> int:
    """The public half."""
    return newkey.show(load_key(arguments.file), out)
