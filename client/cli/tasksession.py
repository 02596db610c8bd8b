"""What `rookery task` commands work with: a key from its file, a line to the service."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from client import keyfile
from client.analyst.panel import Panel, joined
from client.analyst.publisher import Publisher, explained
from client.backoff import Backoff
from client.cli import options
from client.errors import UserError
from client.keyfile import KeyFileError
from client.rounds import ListedTask, Rounds
from client.transport import Signer, Transport
from mpc.keys import PublisherKey

READERS = "analysts"
"""The service's setting for keys that only read."""
# Somebody waits in front of it.
PATIENCE = Backoff(first_ms=150, longest_ms=1_500, tries_max=4)


@dataclass(frozen=True, slots=True)
class Line:
    """The service as one key calls it."""

    key: PublisherKey
    transport: Transport
    rounds: Rounds
    publisher: Publisher


def load_key(path: Path | None) -> PublisherKey:
    """The key of a file; UserError."""
    if path is None:
        raise UserError(
            "--key says which key signs; who has none makes one by `rookery task keygen`"
        )
    try:
        return PublisherKey(keyfile.read(path))
    except KeyFileError as error:
        raise UserError(f"{error}: `rookery task keygen` makes key files") from None


@contextlib.asynccontextmanager
async def opened(arguments: argparse.Namespace) -> AsyncIterator[Line]:
    """The line that --key and the service's options mean."""
    key = load_key(arguments.key)
    transport = Transport(
        options.endpoint(arguments, None), backoff=PATIENCE, tracing=arguments.tracing
    )
    try:
        yield Line(
            key, transport, Rounds(transport, Signer(key)), Publisher(transport, key)
        )  # fmt: skip
    finally:
        await transport.close()


async def listed(line: Line) -> list[ListedTask]:
    """All tasks of the service, none of them verified."""

    async def read() -> list[ListedTask]:
        return [one async for one in line.rounds.tasks()]

    return await explained(read(), line.key.public, READERS)


def panel(arguments: argparse.Namespace) -> Panel:
    """Who is trusted, by the command line."""
    return joined(arguments.panel, arguments.party, getattr(arguments, "publisher", []))
