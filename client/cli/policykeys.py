"""`rookery policy keygen` and `key`."""

from __future__ import annotations

import argparse

from client.cli import newkey
from client.cli.output import Output
from client.cli.policysession import load_key

_TEXT = """\
{file} is the key of a publisher of policies: whoever has it decides what is recorded and who may \
call what. Keep it offline, and a copy.

public key  {public}
audit log   {id}

The service takes it from its setting `policy_keys`, a party from its own; devices pin it
(`rookery device trust --policy {public}`)."""


async def keygen(arguments: argparse.Namespace, out: Output) -> int:
    """Makes a key file; never over one."""
    return newkey.make(arguments, out, _TEXT)


async def show(arguments: argparse.Namespace, out: Output) -> int:
    """The public half."""
    return newkey.show(load_key(arguments.file), out)
