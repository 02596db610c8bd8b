"""Every store: positions and pages, idempotence, forks and gaps (docs/protocol.md, 5)."""

from __future__ import annotations

import asyncio

import pytest

from crypto import op
from services.store.base import Store
from services.store.errors import (
    DeviceForked,
    OpGap,
)
from tests.store_worlds import Client, stub_of

# --- pages and positions ---


async def test_page_size_of_one_loses_nothing(store: Store) -> None:
    """Whatever the page size, the pages make the log, each push in one piece."""
    client = await Client.create(store, devices=2)
    pushes = [
        client.world.ops(size, by, keys=f"{size}/{by}") for size in (1, 3, 2) for by in (0, 1)
    ]
    for ops in pushes:
        await client.push(*ops)
    log = [sealed.raw for ops in pushes for sealed in ops]
    for ops_max in (1, 2, 3, 4, 100):
        assert await client.pull(ops_max=ops_max) == log
    ends = {0}
    for ops in pushes:
        ends.add(max(ends) + len(ops))
    page = await client.page(0, 3)
    assert len(page.ops) == 5, "stops at the end of the push that reaches the limit"
    assert {page.position} < ends
    assert page.more


async def test_page_holds_at_least_one_push(store: Store) -> None:
    """A push larger than the limit of bytes comes whole."""
    client = await Client.create(store)
    await client.push(*client.world.ops(5))
    await client.push(client.world.op(key="last"))
    page = await store.read_ops(client.world.account_id, 0, ops_max=1, bytes_max=1)
    assert (len(page.ops), page.position, page.more) == (5, 5, True)
    page = await store.read_ops(client.world.account_id, 5, ops_max=1, bytes_max=1)
    assert (len(page.ops), page.position, page.more) == (1, 6, False)


async def test_page_beyond_the_end_is_empty(store: Store) -> None:
    """Asking for more than there is answers nothing and stays where one was."""
    client = await Client.create(store)
    assert await client.page() == await client.page(0)
    await client.push(client.world.op())
    page = await client.page(1)
    assert (list(page.ops), page.position, page.more) == ([], 1, False)


async def test_positions_are_dense_and_in_the_order_of_commits(store: Store) -> None:
    """Hundreds of concurrent commits: every op has a position of its own, in commit order."""
    clients = [await Client.create(store, seed, devices=4) for seed in range(4)]
    answers: dict[int, list[tuple[int, int]]] = {seed: [] for seed in range(4)}

    async def device(seed: int, by: int) -> None:
        client = clients[seed]
        for number in range(20):
            ops = client.world.ops(1 + (number + by) % 3, by, keys=f"{by}/{number}")
            committed = await client.push(*ops, by=by)
            answers[seed].append((committed.position, committed.new_ops))

    await asyncio.gather(*(device(seed, by) for seed in range(4) for by in range(4)))
    for seed, client in enumerate(clients):
        end = 0
        for position, new_ops in sorted(answers[seed]):
            assert position == end + new_ops, "no gap and no tie"
            end = position
        assert len(await client.pull(ops_max=7)) == end == await client.position()
        positions = [position for position, _ in answers[seed]]
        assert positions == sorted(positions), "answered in the order of commits"


async def test_lamport_hint_follows_the_ops(store: Store) -> None:
    """The tip knows the largest lamport, not the newest."""
    client = await Client.create(store)
    await client.push(client.world.op(lamport=9), client.world.op(key="x", lamport=4))
    tip = await store.tip(client.world.account_id)
    assert tip is not None
    assert tip.lamport_max == 9


# --- idempotence, forks, gaps ---


async def test_push_again_is_skipped(store: Store) -> None:
    """Equal ops are held once; the rest of the batch is taken."""
    client = await Client.create(store)
    first, second, third = client.world.ops(3)
    assert (await client.push(first, second)).new_ops == 2
    again = await client.push(first, second)
    assert (again.new_ops, again.position) == (0, 2)
    assert (await client.push(first)).new_ops == 0
    more = await client.push(second, third)
    assert (more.new_ops, more.position) == (1, 3)
    assert await client.pull() == [first.raw, second.raw, third.raw]


async def test_superseded_op_pushed_again_is_still_known(store: Store) -> None:
    """An op that has become a stub is recognised, as an op and as a stub."""
    client = await Client.create(store)
    old, new = client.world.op(), client.world.op()
    await client.push(old)
    await client.push(new)
    assert (await client.push(old)).new_ops == 0
    assert (await client.push(stub_of(old), stub_of(new))).new_ops == 0


async def test_other_bytes_at_a_dev_seq_are_a_fork(store: Store) -> None:
    """A clone is told, wherever it left the device's chain, and nothing is overwritten."""
    client = await Client.create(store)
    clones = []
    ops = []
    for number in range(3):
        clones.append(client.world.fork())
        ops.append(client.world.op(key=f"{number}"))
    await client.push(*ops)
    for clone in clones:
        forked = clone.ops(4, keys="other")
        with pytest.raises(DeviceForked):
            await client.push(forked[0])
        with pytest.raises(DeviceForked):
            await client.push(*forked)
    assert await client.pull() == [sealed.raw for sealed in ops]


async def test_gap_names_the_head(store: Store) -> None:
    """A skipped dev_seq, or another prev, is refused with the head that the store holds."""
    client = await Client.create(store)
    first, _, third = client.world.ops(3)
    with pytest.raises(OpGap) as refused:
        await client.push(third)
    start = op.init_hash(client.world.account_id, client.world.authors[0].device_id)
    assert (refused.value.dev_seq, refused.value.op_hash) == (0, start)
    await client.push(first)
    with pytest.raises(OpGap) as refused:
        await client.push(third)
    assert (refused.value.dev_seq, refused.value.op_hash) == (1, first.op_hash)


async def test_other_prev_after_the_head_is_a_gap(store: Store) -> None:
    """The next dev_seq on top of another history does not fit the head."""
    client = await Client.create(store)
    clone = client.world.fork()
    await client.push(client.world.op())
    clone.op(key="unseen")
    with pytest.raises(OpGap):
        await client.push(clone.op())


async def test_refused_batch_leaves_nothing(store: Store) -> None:
    """A batch whose last op is refused commits none of the others."""
    client = await Client.create(store)
    good = client.world.ops(3)
    client.world.op(key="never sent")
    with pytest.raises(OpGap):
        await client.push(*good, client.world.op(key="late"))
    assert await client.pull() == []
    assert await client.position() == 0
    _, heads = await store.heads(client.world.account_id)
    assert list(heads) == []
    assert (await client.push(*good)).new_ops == 3


async def test_refused_request_disturbs_no_other(store: Store) -> None:
    """Requests that share a commit with refused ones are answered as if alone."""
    good = [await Client.create(store, f"good {seed}") for seed in range(20)]
    bad = [await Client.create(store, f"bad {seed}") for seed in range(20)]
    for client in bad:
        client.world.op(key="never sent")
    pushes = []
    for well, ill in zip(good, bad, strict=True):
        pushes += [well.push(*well.world.ops(3)), ill.push(ill.world.op())]
    results = await asyncio.gather(*pushes, return_exceptions=True)
    assert all(isinstance(result, OpGap) for result in results[1::2])
    for client in good:
        assert len(await client.pull()) == 3
    for client in bad:
        assert await client.pull() == []


async def test_cancelled_push_commits_whole_or_not_at_all(store: Store) -> None:
    """A caller that goes away leaves all of its batch or none of it."""
    client = await Client.create(store)
    ops = client.world.ops(5)
    task = asyncio.create_task(client.push(*ops))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await client.rotate()  # Behind it in the queue.
    assert len(await client.pull()) in (0, 5)
    assert (await client.push(*ops)).position == 5


async def test_others_upload_a_device_s_ops_again(store: Store) -> None:
    """Any device may bring the ops of another; they count as that device's."""
    client = await Client.create(store, devices=2)
    ops = [client.world.op(0), client.world.op(1, key="x"), client.world.op(0, key="y")]
    assert (await client.push(*ops, by=1)).new_ops == 3
    assert (await client.push(ops[0], ops[2], by=0)).new_ops == 0
    _, heads = await store.heads(client.world.account_id)
    assert [head for _, head in heads] == [client.world.heads[0], client.world.heads[1]]
