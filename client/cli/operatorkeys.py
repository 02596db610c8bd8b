"""`rookery operator keygen`."""

from __future__ import annotations

import argparse
import secrets

from client import keyfile
from client.cli.output import OK, Output
from client.errors import UserError
from mpc.keys import PublisherKey

_TEXT = """\
{file} is the key of an operator: whoever has it sees how the service keeps to its policy, and can \
change nothing.

public key  {public}

The policy lists it for the role operator, in access.yaml."""


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
