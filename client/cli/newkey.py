"""A new key without an account: `keygen` of `rookery task`, `policy` and `operator`."""

from __future__ import annotations

import argparse
import secrets

from client import keyfile
from client.cli.output import OK, Output
from client.errors import UserError
from mpc.keys import PublisherKey


def make(arguments: argparse.Namespace, out: Output, text: str) -> int:
    """Makes the file `--out`; never over one. `text` has places for `file` and `public`."""
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
        text.format(file=arguments.out, public=public),
    )
    return OK


def show(key: PublisherKey, out: Output) -> int:
    """Its public half."""
    public = key.public.hex()
    out.result({"public_key": public}, public)
    return OK
