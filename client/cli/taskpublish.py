"""`rookery task publish`."""

from __future__ import annotations

import argparse

from client.analyst import draft, offer
from client.cli import tasksession
from client.cli.output import OK, Output, table
from client.cli.resultpage import paragraphs


async def publish(arguments: argparse.Namespace, out: Output) -> int:
    """Shows what the task costs; then publishes it, unless that was all."""
    task = draft.read(arguments.file)
    data = offer.as_data(task)
    page = "\n".join(
        [
            paragraphs(offer.sentences(task)),
            "",
            table(offer.HEAD, offer.rows(task), right=offer.RIGHT),
            "",
        ]
    )
    if arguments.dry_run:
        out.result(data | {"published": False}, f"{page}\nspec_hash  {task.spec_hash.hex()}")
        return OK
    if not out.as_json:
        out.result({}, page)
    async with tasksession.opened(arguments) as line:
        await line.publisher.publish(task)
    out.result(
        data | {"published": True, "publisher": line.key.public.hex()},
        f"Published.\nspec_hash  {task.spec_hash.hex()}\npublisher  {line.key.public.hex()}",
    )
    return OK
