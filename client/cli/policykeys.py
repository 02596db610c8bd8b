"""`rookery policy keygen` and `key`."""

from __future__ import annotations

import argparse
import secrets

from client import keyfile
from client.cli.output import OK, Output
from client.cli.policysession import load_key
from client.errors import UserError
from mpc.keys import PublisherKey

_TEXT = """\
{file} is the key of a publisher of policies: whoever has it decides what is recorded and who may \
call what. Keep it offline, and a copy.

public key  {public}

The service takes it from its setting `policy_keys`, a party from its own; devices pin it
(`rookery device trust --policy {public}`)."""


async def keygen(arguments: argparse.Namespace, out: Output) -> int:
    """Makes a key file; never over one."""
    seed = secrets.token_bytes(keyfile.KEY_BYTES)
    try:
        keyfile.create(arguments.out, seed)
    except FileExistsError:
        raise UserError(
            f"{arguments.out} is there already and is not overwritten: choose another --out"
        ) from None
    public = PublisherKey(seed).public.hex()
    out.result(
        {"file": str(arguments.out), "public_key": public},
        _TEXT.format(file=arguments.out, public=public),
    )
    return OK


async def show(arguments: argparse.Namespace, out: Output) -> int:
    """The public half."""
    public = load_key(arguments.file).public.hex()
    out.result({"public_key": public}, public)
    return OK
