"""`rookery policy publish`."""

from __future__ import annotations

import argparse

from client.cli import options, policysession
from client.cli.output import OK, Output
from client.policykit import bundlefile, publish as publishing
from client.transport import Transport


async def publish(arguments: argparse.Namespace, out: Output) -> int:
    """Puts a compiled policy up; devices and parties have it within seconds."""
    key = policysession.load_key(arguments.key)
    file = bundlefile.read(arguments.file)
    transport = Transport(
        options.endpoint(arguments, None), backoff=policysession.PATIENCE, tracing=arguments.tracing
    )
    try:
        await publishing.publish(transport, key, file)
    finally:
        await transport.close()
    bundle = file.bundle
    out.result(
        {"published": True, "sequence": bundle.sequence, "hash": bundle.hash.hex()},
        f"Published: number {bundle.sequence} is in force.\nhash  {bundle.hash.hex()}",
    )
    return OK
