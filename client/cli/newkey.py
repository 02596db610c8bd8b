"""A new key without an account: `keygen` of `rookery task`, `policy` and `operator`."""

from __future__ import annotations

import argparse
import secrets

from client import keyfile
from client.cli.output import OK, Output
from client.errors import UserError
from mpc.keys import PublisherKey


def make(arguments: argparse.Namespace, out: Output, text: str) -> int:
    """Makes the file `--out`; never over one. `text` has places for `file`, `public` and
    `id`."""
    seed = secrets.token_bytes(keyfile.KEY_BYTES)
    try:
        keyfile.create(arguments.out, seed)
    except FileExistsError:
        raise UserError(
            f"{arguments.out} is there already and is not overwritten: choose another --out"
        ) from None
    key = PublisherKey(seed)
    public = key.public.hex()
    out.result(
        {"file": str(arguments.out), "public_key": public, "audit_id": audit_id(key)},
        text.format(file=arguments.out, public=public, id=audit_id(key)),
    )
    return OK


def show(key: PublisherKey, out: Output) -> int:
    """Its public half; for people also its id, beside the output that scripts take."""
    public = key.public.hex()
    out.result({"public_key": public, "audit_id": audit_id(key)}, public)
    out.note(f"the audit log names it {audit_id(key)}")
    return OK


def audit_id(key: PublisherKey) -> str:
    """Who, as the audit log of a service names this key (docs/access.md)."""
    return f"key:{key.device_id.hex()}"
