"""Every store: what goes once all have passed a checkpoint, and what stays."""

from __future__ import annotations

import asyncio

import pytest

from crypto.cert import Role
from crypto.op import STUB_BYTES, Verb
from services.store.base import Limits, Store
from services.store.errors import (
    DeviceForked,
)
from tests.store_worlds import DAY_MS, Client, Factory


async def checkpointed(store: Store, *, devices: int = 2) -> tuple[Client, int, list[bytes]]:
    """An account with 10 stubs, 5 winners and a checkpoint of all that; what it covers."""
    client = await Client.create(store, devices=devices)
    for number in range(15):
        await client.push(client.world.op(0, key=f"{number % 5}"))
    covers = await client.position()
    await client.push(client.world.op(0, verb=Verb.CHECKPOINT), checkpoint=0, covers=covers)
    return client, covers, await client.pull()


async def settled(client: Client) -> list[bytes]:
    """The log, once nothing more goes."""
    await client.store.sweep(now_ms=client.now_ms)
    before: list[bytes] = []
    while (log := await client.pull()) != before:
        before = log
        # Two writes behind it: trimming happens between them.
        for _ in range(2):
            await client.store.sweep(now_ms=client.now_ms)
    return log


async def test_stubs_go_when_all_have_passed_the_checkpoint(store: Store) -> None:
    """Not before, and then all of them; the winners and the checkpoint stay."""
    client, covers, log = await checkpointed(store, devices=3)
    await client.passed(covers, 0, 1)
    await client.passed(covers - 1, 2)
    assert await settled(client) == log, "one device still stands before it"
    await client.passed(covers, 2)
    assert await settled(client) == [raw for raw in log if len(raw) != STUB_BYTES]
    assert await client.position() == covers + 1


async def test_pages_after_trimming_lose_nothing(store: Store) -> None:
    """Every position that a client may hold goes on to exactly what comes after it."""
    client, covers, log = await checkpointed(store)
    await client.push(client.world.op(1, key="more"), client.world.op(1, key="0"))
    log = await client.pull()
    await client.passed(covers, 0, 1)
    trimmed = await settled(client)
    assert len(trimmed) < len(log)
    for ops_max in (1, 3, 100):
        for after in (*range(len(log) - 1), len(log)):  # Where a push ended.
            kept = [raw for raw in log[after:] if raw in trimmed]
            assert await client.pull(after, ops_max) == kept


async def test_push_whose_last_rows_were_trimmed_stays_whole(store: Store) -> None:
    """A page still ends where the push ended, and the next one begins behind it."""
    client = await Client.create(store)
    keep, lose = client.world.op(key="keep"), client.world.op(key="lose")
    await client.push(keep, lose)
    await client.push(over := client.world.op(key="lose"))
    await client.push(client.world.op(verb=Verb.CHECKPOINT), checkpoint=0, covers=3)
    await client.passed(3, 0)
    log = await settled(client)
    assert log[:2] == [keep.raw, over.raw]
    page = await client.page(0, 1)
    assert (list(page.ops), page.position) == ([keep.raw], 2)
    page = await client.page(2, 1)
    assert (list(page.ops), page.position) == ([over.raw], 3)


async def test_revoked_device_does_not_hold_trimming_up(store: Store) -> None:
    """A device that never came back no longer counts once it is revoked."""
    client, covers, log = await checkpointed(store)
    await client.passed(covers, 0)
    assert await settled(client) == log
    await client.rotate(revoke=[1])
    assert all(len(raw) != STUB_BYTES for raw in await settled(client))


async def test_recovery_key_does_not_hold_trimming_up(store: Store) -> None:
    """A role 2 device never pulls, so it is not waited for."""
    client, covers, _ = await checkpointed(store)
    await client.add(Role.RECOVERY)
    await client.passed(covers, 0, 1)
    assert all(len(raw) != STUB_BYTES for raw in await settled(client))


async def test_stub_made_after_what_the_checkpoint_covers_stays(store: Store) -> None:
    """Only what was superseded at or before `covers` goes."""
    client = await Client.create(store)
    gone, stays = client.world.op(), client.world.cover()
    await client.push(gone, stays)
    await client.push(over := client.world.op())
    checkpoint = client.world.op(verb=Verb.CHECKPOINT)
    await client.push(checkpoint, checkpoint=0, covers=3)
    await client.push(late := client.world.op())
    await client.passed(5, 0)
    assert await settled(client) == [stays.stub, over.stub, checkpoint.raw, late.raw]


async def test_checkpoint_stays_whole_until_a_newer_one_is_passed(store: Store) -> None:
    """Covers supersede the checkpoint's tag, but its payload is what a new device needs."""
    client, covers, log = await checkpointed(store)
    checkpoint = log[-1]
    await client.push(client.world.cover(0))
    assert checkpoint in await client.pull()
    await client.passed(covers, 0, 1)
    assert checkpoint in await settled(client)
    newer = client.world.op(0, verb=Verb.CHECKPOINT)
    after = client.world.cover(0)
    covers = await client.position()
    await client.push(newer, after, checkpoint=0, covers=covers)
    assert {checkpoint, newer.raw} <= set(await settled(client))
    await client.passed(covers, 0, 1)
    log = await settled(client)
    assert checkpoint not in log
    assert newer.raw in log


async def test_trimmed_op_pushed_again_is_known_and_its_fork_told(store: Store) -> None:
    """What was trimmed still is held for whoever sends it again, and for no clone."""
    client = await Client.create(store)
    clones = []
    old = []
    for _ in range(4):
        clones.append(client.world.fork())
        old.append(client.world.op())
    await client.push(*old)
    await client.push(client.world.op(verb=Verb.CHECKPOINT), checkpoint=0, covers=4)
    await client.passed(4, 0)
    assert len(await settled(client)) == 2
    assert (await client.push(*old)).new_ops == 0
    assert (await client.push(old[1])).new_ops == 0
    for clone in clones:
        with pytest.raises(DeviceForked):
            await client.push(clone.op(key="other"))


async def test_epoch_goes_once_its_grace_is_over_and_a_later_checkpoint_is_passed(
    store_factory: Factory,
) -> None:
    """Ops of an ended epoch stay until the grace is over, then they go whole."""
    store = await store_factory(limits=Limits(grace_ms=DAY_MS))
    client = await Client.create(store, devices=2)
    old = client.world.ops(5)
    await client.push(*old)
    await client.rotate()
    new = client.world.ops(5)
    await client.push(*new)
    covers = await client.position()
    late = client.world.op(1, key="late", epoch=1)
    await client.push(late, by=1)
    checkpoint = client.world.op(verb=Verb.CHECKPOINT)
    await client.push(checkpoint, checkpoint=0, covers=covers)
    await client.passed(covers, 0, 1)
    assert len(await settled(client)) == 12
    client.now_ms += DAY_MS
    log = [sealed.raw for sealed in (*new, late, checkpoint)]
    assert await settled(client) == log, "what came after `covers` may be needed yet"
    assert (await client.push(*old)).new_ops == 0
    again = client.world.op(verb=Verb.CHECKPOINT)
    await client.push(again, checkpoint=0, covers=covers + 2)
    await client.passed(covers + 2, 0, 1)
    log = await settled(client)
    assert late.raw not in log
    assert {sealed.raw for sealed in new} < set(log)


async def test_positions_survive_a_restart(store_factory: Factory) -> None:
    """What devices passed before the store was closed counts after it is opened."""
    store = await store_factory()
    client, covers, log = await checkpointed(store)
    await client.passed(covers, 0)
    await client.passed(covers - 1, 1)
    await store.close()
    client.store = await store_factory()
    assert await settled(client) == log
    await client.passed(covers, 1)
    assert len(await settled(client)) < len(log)


async def test_position_told_before_the_checkpoint_counts(store: Store) -> None:
    """A device that had everything when the checkpoint came has passed it."""
    client = await Client.create(store, devices=2)
    await client.push(client.world.op())
    await client.push(client.world.op())
    await client.passed(2, 0, 1)
    await client.push(client.world.op(verb=Verb.CHECKPOINT), checkpoint=0, covers=2)
    assert len(await settled(client)) == 2


async def test_many_checkpoints_keep_a_bounded_number_whole(store: Store) -> None:
    """A device that lags behind dozens of checkpoints neither pins them all nor loses any op."""
    client = await Client.create(store, devices=2)
    for number in range(40):
        await client.push(client.world.op(key=f"{number % 3}"))
        covers = await client.position()
        await client.push(client.world.op(verb=Verb.CHECKPOINT), checkpoint=0, covers=covers)
        await client.passed(covers, 0)
    log = await settled(client)
    assert len(log) == 80
    assert sum(len(raw) != STUB_BYTES for raw in log) <= 3 + 8
    await client.passed(79, 1)
    assert len(await settled(client)) < 10


async def test_trimming_happens_in_slices(store: Store) -> None:
    """Thousands of stubs go, while pushes are taken in between."""
    client = await Client.create(store)
    for _ in range(6):
        await client.push(*client.world.ops(100))
    await client.push(client.world.op(verb=Verb.CHECKPOINT), checkpoint=0, covers=600)
    await client.passed(600, 0)
    await asyncio.gather(*(client.push(client.world.op(key=f"new/{n}")) for n in range(20)))
    log = await settled(client)
    assert len(log) == 100 + 1 + 20
    assert all(len(raw) != STUB_BYTES for raw in log)
