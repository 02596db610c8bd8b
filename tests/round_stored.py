"""A round that is put into a store past the service, with its task. A helper."""

from __future__ import annotations

from crypto import labels
from mpc.manifest import Manifest
from mpc.task import Task
from services.store.base import Store
from services.store.rounds import RoundRow, TaskRow
from tests.relay_worlds import GRACE_MS, PARTIES, PUBLISHER, signed_round, task


async def stored(store: Store, made: Manifest, of: Task | None = None) -> None:
    """The task and the round, as the relay would store them."""
    of = of or task()
    sig = PUBLISHER.as_publisher.sign(labels.TASK_SIG, of.encoded)
    await store.rounds.publish_task(
        TaskRow(of.task_id.encode(), of.spec_hash, PUBLISHER.public, of.encoded, sig)
    )
    await store.rounds.collect_round(
        RoundRow(
            made.round_id, made.spec_hash, made.encoded, tuple(signed_round(made).sigs),
            tuple(one.public for one in PARTIES), made.open_ms, made.close_ms,
            made.close_ms + GRACE_MS,
        )
    )  # fmt: skip
