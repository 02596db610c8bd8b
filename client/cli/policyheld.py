"""`rookery device policy`: the policy that a device is under, as it holds it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from client.cli import session
from client.cli.output import OK, Output
from client.cli.times import ago
from client.sync import SyncedDevice
from crypto.policy import Bundle

_FREE = "this device is under no policy: `rookery device trust --policy KEY` puts it under one"
_NONE = (
    "this device is under a policy and has none yet, so that nothing is recorded: sync it, or ask"
    " who runs the service whether one is published"
)


HINT = (
    "The service has a policy, and this device is not under it: `rookery device trust --policy KEY`"
    " puts it under one. KEY comes from who publishes it."
)


def is_left_out(synced: SyncedDevice) -> bool:
    """Whether the service spoke of a policy, and this device has pinned no key for one."""
    return not synced.governed and synced.transport.wire.policy_sequence > 0


async def policy(arguments: argparse.Namespace, out: Output) -> int:
    """Syncs, if the service can be reached, and shows what is in force then."""
    async with session.opened(arguments, patient=False) as synced:
        if synced.governed:
            await session.try_sync(synced, arguments, out)
        out.result(_data(synced), "\n".join(_lines(synced)))
    return OK


def _data(synced: SyncedDevice) -> dict[str, Any]:
    bundle = synced.policy
    data: dict[str, Any] = {
        "governed": synced.governed,
        "publishers": [key.hex() for key in synced.holding.keys],
        "sequence": synced.holding.sequence,
    }
    if bundle is None:
        return data
    return data | {
        "hash": bundle.hash.hex(),
        "title": bundle.title,
        "issued_ms": bundle.issued_ms,
        "signals": [one.name for one in bundle.signals],
        "purposes": [one.name for one in bundle.purposes],
        "tasks": [one.source for one in bundle.tasks],
        "stopped": [list(about) for about in _stopped(bundle)],
    }


def _stopped(bundle: Bundle) -> list[tuple[str, str]]:
    return [one.about for one in bundle.flags if one.kind == "kill" and one.on]


def _lines(synced: SyncedDevice) -> Iterator[str]:
    bundle = synced.policy
    if not synced.governed:
        yield _FREE
        return
    if bundle is None:
        yield _NONE
    else:
        yield f"policy {bundle.sequence}: {bundle.title}"
        yield f"  issued    {ago(bundle.issued_ms, synced.now_ms())}"
        yield f"  hash      {bundle.hash.hex()}"
        yield f"  signals   {', '.join(one.name for one in bundle.signals) or 'none'}"
        yield f"  tasks     {', '.join(one.source for one in bundle.tasks) or 'none'}"
        for subject, name in _stopped(bundle):
            yield f"  stopped   {subject} {name}"
        for purpose in bundle.purposes:
            yield f"  for       {purpose.name}: {purpose.text}"
    yield "publishers: a newer policy is taken from one of these, and never an older one"
    yield from (f"  {key.hex()}" for key in synced.holding.keys)
