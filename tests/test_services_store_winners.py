"""Every store: which op wins, which is taken, and when there is no room."""

from __future__ import annotations

import pytest

from crypto import op
from crypto.op import STUB_BYTES, Verb
from services.store.base import Limits, Store
from services.store.errors import (
    DeviceCut,
    DeviceForked,
    EpochStale,
    EpochUnknown,
    LamportAhead,
    OpGap,
    QuotaExceeded,
)
from tests.store_worlds import DAY_MS, NOW_MS, Client, Factory, stub_of

# --- winners and stubs ---


async def test_superseded_op_keeps_its_stub_in_its_place(store: Store) -> None:
    """The winner of a tag is whole; what it superseded stays as a verifiable stub."""
    client = await Client.create(store, devices=2)
    old, other, new = client.world.op(0), client.world.op(0, key="x"), client.world.op(1)
    await client.push(old, other)
    await client.push(new, by=1)
    assert await client.pull() == [old.stub, other.raw, new.raw]
    op.verify(op.parse_stub(old.stub), client.world.authors[0].identity.ik_pk)


async def test_op_that_arrives_too_late_is_kept_as_a_stub(store: Store) -> None:
    """An op below the winner loses, though it comes later."""
    client = await Client.create(store, devices=2)
    winner, loser = client.world.op(0, lamport=9), client.world.op(1, lamport=3)
    await client.push(winner)
    await client.push(loser, by=1)
    assert await client.pull() == [winner.raw, loser.stub]


async def test_equal_lamports_go_to_the_greater_device(store: Store) -> None:
    """Between equal lamports the device id decides, in either order of arrival."""
    for seed in range(4):
        client = await Client.create(store, seed, devices=2)
        ops = [client.world.op(by, lamport=5) for by in (0, 1)]
        winner = max(ops, key=lambda sealed: sealed.order)
        order = ops if seed % 2 else ops[::-1]
        for sealed in order:
            await client.push(sealed)
        assert set(await client.pull()) == {
            sealed.raw if sealed is winner else sealed.stub for sealed in ops
        }


async def test_of_equal_orders_the_first_stays(store: Store) -> None:
    """A device that uses a lamport twice for a tag keeps its first op, in one batch or two,
    and the log can be pushed verbatim elsewhere."""
    client = await Client.create(store)
    first, second, third = (client.world.op(lamport=5) for _ in range(3))
    await client.push(first, second)
    await client.push(third)
    assert await client.pull() == [first.raw, second.stub, third.stub]
    fourth = client.world.op(lamport=5)
    assert (await client.push(stub_of(fourth))).new_ops == 1


async def test_supersession_inside_one_batch(store: Store) -> None:
    """Several ops of one tag in one batch: the best stays whole, the rest are stubs."""
    client = await Client.create(store)
    await client.push(first := client.world.op())
    low, high, mid = (client.world.op(lamport=lamport) for lamport in (20, 40, 30))
    await client.push(low, high, mid)
    assert await client.pull() == [first.stub, low.stub, high.raw, mid.stub]


async def test_stub_needs_no_winner_and_never_is_one(store_factory: Factory) -> None:
    """A stub keeps its device's place and nothing else: not a tag, not a record."""
    store = await store_factory(limits=Limits(records_max=1))
    client = await Client.create(store, devices=2)
    ahead, old = client.world.op(0), client.world.op(1, lamport=1)
    assert (await client.push(stub_of(ahead))).new_ops == 1
    assert (await client.push(old)).new_ops == 1
    assert await client.pull() == [ahead.stub, old.raw]
    late = client.world.op(0, lamport=9)
    assert (await client.push(stub_of(late))).new_ops == 1
    assert await client.pull() == [ahead.stub, old.raw, late.stub]


async def test_stub_of_an_epoch_long_over_is_taken(store_factory: Factory) -> None:
    """What devices keep of old epochs is stubs: a store that lost them takes them back, or
    their authors could never go on."""
    store = await store_factory(limits=Limits(grace_ms=0))
    client = await Client.create(store)
    ops = []
    for _ in range(3):
        ops.append(client.world.op())
        await client.rotate()
    with pytest.raises(EpochStale):
        await client.push(ops[0])
    last = client.world.op()
    assert (await client.push(*map(stub_of, ops), last)).new_ops == 4
    assert await client.pull() == [*(sealed.stub for sealed in ops), last.raw]


async def test_log_moves_to_another_store(store_factory: Factory) -> None:
    """Links and ops of one store, pushed verbatim, make the same account in another."""
    first = await store_factory("first")
    client = await Client.create(first, devices=2)
    for number in range(12):
        await client.push(client.world.op(number % 2, key=f"{number % 5}"))
    log = await client.pull()
    second = await store_factory("second")
    moved = Client(second, client.world)
    await second.create_account(client.world.genesis, subject_row=None, now_ms=NOW_MS)
    await moved.send_link()
    await moved.push(*map(op.parse_any, log))
    assert await moved.pull() == log
    assert await second.heads(client.world.account_id) == await first.heads(client.world.account_id)


# --- epochs, cuts, lamports ---


async def test_epoch_before_is_taken_during_grace(store_factory: Factory) -> None:
    """After a ROTATE the epoch before is taken for as long as the grace lasts, older ones not."""
    store = await store_factory(limits=Limits(grace_ms=DAY_MS))
    client = await Client.create(store, devices=2)
    await client.rotate()
    client.now_ms += DAY_MS - 1
    await client.push(client.world.op(0, epoch=1), client.world.op(0, epoch=2))
    client.now_ms += 1
    with pytest.raises(EpochStale) as refused:
        await client.push(client.world.op(1, epoch=1))
    assert refused.value.epoch == 2


async def test_grace_is_for_the_epoch_before_only(store: Store) -> None:
    """Two epochs back is over, grace or not."""
    client = await Client.create(store)
    await client.rotate()
    await client.rotate()
    with pytest.raises(EpochStale):
        await client.push(client.world.fork().op(epoch=1))
    await client.push(client.world.op(epoch=2))


async def test_op_held_is_skipped_whatever_its_epoch(store_factory: Factory) -> None:
    """An answer that was lost before a ROTATE is given again after the grace."""
    store = await store_factory(limits=Limits(grace_ms=0))
    client = await Client.create(store)
    old = client.world.op()
    await client.push(old)
    await client.rotate()
    assert (await client.push(old)).new_ops == 0
    with pytest.raises(EpochStale):
        await client.push(client.world.fork().op(epoch=1))


async def test_epoch_that_the_chain_does_not_know(store: Store) -> None:
    """Ops of an epoch whose ROTATE has not arrived wait for it."""
    client = await Client.create(store)
    client.world.rotate()
    sealed = client.world.op()
    with pytest.raises(EpochUnknown):
        await client.push(sealed)
    await client.send_link()
    await client.push(sealed)


async def test_one_tag_has_a_winner_in_every_epoch(store: Store) -> None:
    """Ops of two epochs never supersede one another."""
    client = await Client.create(store)
    first = client.world.op()
    await client.push(first)
    await client.rotate()
    second = client.world.op()
    await client.push(second)
    assert await client.pull() == [first.raw, second.raw]


async def test_revoked_device_ends_at_its_cut(store: Store) -> None:
    """Up to the cut a revoked device's ops are taken, beyond it they are not."""
    client = await Client.create(store, devices=2)
    before = client.world.ops(2, by=1)
    client.world.rotate(revoke=[1])
    await client.send_link()
    assert (await client.push(*before)).new_ops == 2
    with pytest.raises(DeviceCut):
        await client.push(client.world.op(1, epoch=1))


async def test_op_at_the_cut_must_be_the_one_it_names(store: Store) -> None:
    """At the cut's own dev_seq another hash is refused."""
    client = await Client.create(store, devices=2)
    clone = client.world.fork()
    client.world.op(1)
    await client.rotate(revoke=[1])
    with pytest.raises(DeviceCut):
        await client.push(clone.op(1, key="other", epoch=1))


async def test_device_cut_before_its_first_op(store: Store) -> None:
    """A cut at 0 takes nothing."""
    client = await Client.create(store, devices=2)
    await client.rotate(revoke=[1])
    with pytest.raises(DeviceCut):
        await client.push(client.world.op(1, epoch=1))


async def test_lamport_may_run_ahead_4096(store: Store) -> None:
    """4096 above the largest is taken, and counted on through a batch; one more is not."""
    client = await Client.create(store)
    await client.push(client.world.op(lamport=4096), client.world.op(key="x", lamport=8192))
    with pytest.raises(LamportAhead):
        await client.push(client.world.op(lamport=8192 + 4097))
    other = await Client.create(store, "other")
    with pytest.raises(LamportAhead):
        await other.push(other.world.op(lamport=4097))


async def test_order_of_judgement(store_factory: Factory) -> None:
    """Of several faults the first in the order of the interface is told."""
    store = await store_factory(limits=Limits(grace_ms=0))
    client = await Client.create(store, devices=2)
    await client.push(client.world.op(1))
    clone = client.world.fork()
    await client.push(client.world.op(1))
    await client.rotate(revoke=[1])
    far = 1 << 40
    with pytest.raises(DeviceForked):
        await client.push(clone.op(1, key="fork", epoch=1, lamport=far))
    skipped = client.world.fork()
    skipped.op(1, epoch=1)
    with pytest.raises(OpGap):
        await client.push(skipped.op(1, epoch=1, lamport=far))
    with pytest.raises(DeviceCut):
        await client.push(client.world.op(1, epoch=1, lamport=far))
    with pytest.raises(EpochStale):
        await client.push(client.world.fork().op(0, epoch=1, lamport=far))
    with pytest.raises(LamportAhead):
        await client.push(stub_of(client.world.fork().op(0, lamport=far)))


# --- quotas ---


async def test_full_account_can_still_do_what_frees_it(store_factory: Factory) -> None:
    """At the cap known tags are overwritten and deleted, covers written, devices revoked."""
    store = await store_factory(limits=Limits(records_max=3))
    client = await Client.create(store, devices=2)
    await client.push(*client.world.ops(3))
    with pytest.raises(QuotaExceeded) as refused:
        await client.push(client.world.fork().op(key="new"))
    assert (refused.value.limit, refused.value.maximum) == ("records_per_account", 3)
    await client.push(client.world.op(key="key/0"))
    await client.push(client.world.op(key="key/1", verb=Verb.TOMBSTONE))
    await client.push(client.world.cover(), client.world.cover())
    with pytest.raises(QuotaExceeded):
        await client.push(client.world.fork().op(key="new"))
    await client.rotate(revoke=[1])
    await client.push(*client.world.ops(3), client.world.cover())
    with pytest.raises(QuotaExceeded):
        await client.push(client.world.fork().op(key="new"))
    assert await store.delete_account(client.world.account_id) is not None


async def test_batch_across_the_cap_is_refused_whole(store_factory: Factory) -> None:
    """The tags that a batch adds are counted once each."""
    store = await store_factory(limits=Limits(records_max=3))
    client = await Client.create(store)
    clone = client.world.fork()
    with pytest.raises(QuotaExceeded):
        await client.push(*clone.ops(4))
    assert await client.pull() == []
    await client.push(*client.world.ops(3), *client.world.ops(3))
    assert sum(len(raw) == STUB_BYTES for raw in await client.pull()) == 3


async def test_count_of_records_survives_a_restart(store_factory: Factory) -> None:
    """The cap is the same after the store was opened again."""
    limits = Limits(records_max=3)
    store = await store_factory(limits=limits)
    client = await Client.create(store)
    await client.push(*client.world.ops(2), client.world.cover())
    await store.close()
    client.store = await store_factory(limits=limits)
    await client.push(client.world.op(key="third"))
    with pytest.raises(QuotaExceeded):
        await client.push(client.world.op(key="fourth"))
