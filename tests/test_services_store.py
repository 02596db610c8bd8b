"""The store's story, told to every backend (docs/protocol.md, 5): accounts, chains, ops."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crypto import op
from crypto.cert import Role
from crypto.errors import ChainError, SignatureError
from crypto.ids import AccountId
from crypto.link import SignedLink
from crypto.op import STUB_BYTES, Verb
from services.store.base import Limits, Store
from services.store.errors import (
    AccountAbsent,
    ChainAhead,
    ChainConflict,
    DeviceCut,
    DeviceForked,
    EpochStale,
    EpochUnknown,
    LamportAhead,
    MailboxAbsent,
    MailboxTaken,
    OpGap,
    PayloadMissing,
    QuotaExceeded,
    StoreError,
)
from tests.store_worlds import BACKENDS, DAY_MS, NOW_MS, Client, Factory, opened, stub_of
from tests.worlds import World


@pytest.fixture(params=sorted(BACKENDS))
async def store_factory(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Factory]:
    """Opens stores of the backend under test."""
    async for factory in opened(request.param, tmp_path):
        yield factory


@pytest.fixture
async def store(store_factory: Factory) -> Store:
    """A fresh store with the usual limits."""
    return await store_factory()


# --- accounts ---


async def test_account_of_one_genesis_is_made_once(store: Store) -> None:
    """The same link makes the same account, and the second time says so."""
    world = World.create()
    assert await store.create_account(world.genesis, subject_row=None, now_ms=NOW_MS)
    assert not await store.create_account(world.genesis, subject_row=None, now_ms=NOW_MS)
    tip = await store.tip(world.account_id)
    assert tip is not None
    assert (tip.chain, tip.position, tip.lamport_max) == (world.chain, 0, 0)


async def test_unknown_account_has_no_tip_and_takes_nothing(store: Store) -> None:
    """An account that nobody made is absent for every call."""
    world = World.create()
    client = Client(store, world)
    assert await store.tip(world.account_id) is None
    assert await store.delete_account(world.account_id) is None
    with pytest.raises(AccountAbsent):
        await client.push(world.op())
    with pytest.raises(AccountAbsent):
        await client.page()
    with pytest.raises(AccountAbsent):
        await store.heads(world.account_id)


async def test_subject_has_a_bounded_number_of_accounts(store_factory: Factory) -> None:
    """Accounts of one subject are counted; deleting one makes room."""
    store = await store_factory(limits=Limits(accounts_per_subject_max=2))
    worlds = [World.create(seed) for seed in range(3)]
    for world in worlds[:2]:
        await store.create_account(world.genesis, subject_row=b"s" * 32, now_ms=NOW_MS)
    with pytest.raises(QuotaExceeded) as refused:
        await store.create_account(worlds[2].genesis, subject_row=b"s" * 32, now_ms=NOW_MS)
    assert (refused.value.limit, refused.value.maximum) == ("accounts_per_subject", 2)
    assert not await store.create_account(worlds[0].genesis, subject_row=b"s" * 32, now_ms=NOW_MS)
    assert await store.create_account(worlds[2].genesis, subject_row=b"t" * 32, now_ms=NOW_MS)
    await store.delete_account(worlds[2].account_id)
    await store.delete_account(worlds[0].account_id)
    assert await store.create_account(worlds[2].genesis, subject_row=b"s" * 32, now_ms=NOW_MS)


# --- chains ---


async def test_links_come_back_with_all_their_grants(store_factory: Factory) -> None:
    """Links are read in order, verbatim, with every grant, also after a restart."""
    store = await store_factory()
    client = await Client.create(store, devices=3)
    client.world.add(Role.RECOVERY)
    await client.send_link()
    client.world.rebox(by=1)
    await client.send_link()
    await client.rotate(revoke=[2])
    await store.close()
    store = await store_factory()
    links = await store.read_links(client.world.account_id, -1, links_max=100, bytes_max=1 << 20)
    assert [(row.link, set(row.grants)) for row in links] == [
        (upload.link, set(upload.grants)) for upload in client.world.uploads
    ]
    tip = await store.tip(client.world.account_id)
    assert tip is not None
    assert tip.chain == client.world.chain


async def test_links_are_read_in_parts(store: Store) -> None:
    """A page of links holds at least one, and the parts make the whole."""
    client = await Client.create(store, devices=4)
    seen: list[SignedLink] = []
    while rows := await store.read_links(
        client.world.account_id, len(seen) - 1, links_max=2, bytes_max=1
    ):
        assert len(rows) == 1
        seen += [row.link for row in rows]
    assert seen == [upload.link for upload in client.world.uploads]


async def test_same_link_again_changes_nothing(store: Store) -> None:
    """An equal link is answered with False, whether it is the newest or not."""
    client = await Client.create(store, devices=2)
    assert not await client.send_link()
    await client.add()
    for upload in client.world.uploads:
        assert not await store.append_link(
            client.world.account_id, upload.link, upload.grants, now_ms=NOW_MS
        )


async def test_another_link_at_a_taken_seq_conflicts(store: Store) -> None:
    """Of two links with one seq the first stands; the second learns where the chain is."""
    client = await Client.create(store)
    rival = client.world.fork()
    await client.add()
    upload = rival.add()
    with pytest.raises(ChainConflict) as refused:
        await store.append_link(rival.account_id, upload.link, upload.grants, now_ms=NOW_MS)
    assert refused.value.chain_seq == 1


async def test_link_beyond_the_next_is_ahead(store: Store) -> None:
    """A link that skips one is refused with the seq that the store holds."""
    client = await Client.create(store)
    client.world.add()
    upload = client.world.add()
    with pytest.raises(ChainAhead) as refused:
        await store.append_link(client.world.account_id, upload.link, upload.grants, now_ms=NOW_MS)
    assert refused.value.chain_seq == 0


async def test_link_without_its_grants_is_refused_whole(store: Store) -> None:
    """A missing grant or a forged signature leaves the chain as it was."""
    client = await Client.create(store)
    before = await store.tip(client.world.account_id)
    upload = client.world.add()
    with pytest.raises(ChainError):
        await store.append_link(client.world.account_id, upload.link, (), now_ms=NOW_MS)
    forged = SignedLink(upload.link.raw, bytes(64), upload.link.pop)
    with pytest.raises(SignatureError):
        await store.append_link(client.world.account_id, forged, upload.grants, now_ms=NOW_MS)
    assert await store.tip(client.world.account_id) == before
    assert await client.send_link()


async def test_device_cap_does_not_lock_out(store_factory: Factory) -> None:
    """At the cap of devices, and of links, a device can still be revoked."""
    store = await store_factory(limits=Limits(active_devices_max=2, chain_links_max=3))
    client = await Client.create(store, devices=2)
    world = client.world.fork()
    world.add()
    upload = world.uploads[-1]
    with pytest.raises(QuotaExceeded, match="active_devices is 2"):
        await store.append_link(world.account_id, upload.link, upload.grants, now_ms=NOW_MS)
    await client.rotate()
    plain = client.world.fork()
    upload = plain.rotate()
    with pytest.raises(QuotaExceeded, match="chain_links is 3"):
        await store.append_link(world.account_id, upload.link, upload.grants, now_ms=NOW_MS)
    await client.rotate(revoke=[1])
    tip = await store.tip(client.world.account_id)
    assert tip is not None
    assert len(tip.chain.active) == 1


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


async def test_supersession_inside_one_batch(store: Store) -> None:
    """Several ops of one tag in one batch: the best stays whole, the rest are stubs."""
    client = await Client.create(store)
    await client.push(first := client.world.op())
    low, high, mid = (client.world.op(lamport=lamport) for lamport in (20, 40, 30))
    await client.push(low, high, mid)
    assert await client.pull() == [first.stub, low.stub, high.raw, mid.stub]


async def test_stub_needs_the_op_that_superseded_it(store: Store) -> None:
    """A stub is taken with or after its winner, not without."""
    client = await Client.create(store, devices=2)
    old, new = client.world.op(0), client.world.op(1)
    with pytest.raises(PayloadMissing):
        await client.push(stub_of(old))
    assert (await client.push(stub_of(old), new)).new_ops == 2
    assert await client.pull() == [old.stub, new.raw]
    late = client.world.op(0, lamport=1)
    assert (await client.push(stub_of(late))).new_ops == 1
    with pytest.raises(PayloadMissing):
        await client.push(stub_of(client.world.op(0)))


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
    with pytest.raises(PayloadMissing):
        await client.push(stub_of(client.world.op(0)))


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


# --- deleting ---


async def test_deleting_answers_what_was_held(store: Store) -> None:
    """Deletion tells the chain and the heads for the receipt, once, and leaves nothing."""
    client = await Client.create(store, devices=3)
    await client.push(client.world.op(0), client.world.op(2, key="x"))
    held = await store.delete_account(client.world.account_id)
    assert held is not None
    chain, heads = held
    assert chain == client.world.chain
    assert list(heads) == [client.world.heads[0], client.world.heads[2]]
    assert await store.delete_account(client.world.account_id) is None
    assert await store.tip(client.world.account_id) is None
    with pytest.raises(AccountAbsent):
        await client.push(client.world.op())


async def test_deleted_account_can_be_made_again_empty(store: Store) -> None:
    """Its genesis link makes it anew; nothing comes back."""
    client = await Client.create(store)
    fresh = client.world.fork()
    await client.push(*client.world.ops(3))
    await store.delete_account(client.world.account_id)
    assert await store.create_account(client.world.genesis, subject_row=None, now_ms=NOW_MS)
    assert await client.pull() == []
    again = Client(store, fresh)
    assert (await again.push(fresh.op())).position == 1


async def test_deleting_one_account_spares_the_others(store: Store) -> None:
    """Accounts before and after it keep all of theirs."""
    clients = [await Client.create(store, seed, devices=2) for seed in range(3)]
    for client in clients:
        for _ in range(2):
            await client.push(*client.world.ops(4))
        await client.rotate()
    logs = [await client.pull() for client in clients]
    await store.delete_account(clients[1].world.account_id)
    for client, log in ((clients[0], logs[0]), (clients[2], logs[2])):
        assert await client.pull() == log
        assert (await client.push(*client.world.ops(2))).new_ops == 2


# --- pokes ---


async def test_changes_poke_and_refusals_do_not(store: Store) -> None:
    """Ops, links and deletion poke once they can be read; what changed nothing does not."""
    client = await Client.create(store)
    poked: list[AccountId] = []
    seen = asyncio.Event()

    def poke(account_id: AccountId) -> None:
        poked.append(account_id)
        seen.set()

    store.on_commit(poke)

    async def pokes() -> int:
        await asyncio.wait_for(seen.wait(), 10)
        seen.clear()
        count = len(poked)
        poked.clear()
        return count

    sealed = client.world.op()
    await client.push(sealed)
    assert await pokes() == 1
    await client.push(sealed)
    with pytest.raises(StoreError):
        await client.push(client.world.fork().op(lamport=1 << 40))
    await client.add()
    assert await pokes() == 1, "only the link's"
    await store.delete_account(client.world.account_id)
    assert await pokes() == 1


# --- mailboxes and nonces ---


async def test_mailbox_holds_three_messages_for_five_minutes(store: Store) -> None:
    """Message 1 makes it, others want it, equal bytes are fine, other bytes are not."""
    place = b"r" * 16
    with pytest.raises(MailboxAbsent):
        await store.post_message(place, 2, b"two", now_ms=NOW_MS)
    assert await store.fetch_message(place, 1, now_ms=NOW_MS) is None
    for number, body in ((1, b"one"), (2, b"two"), (3, b"three"), (2, b"two")):
        await store.post_message(place, number, body, now_ms=NOW_MS + number)
        assert await store.fetch_message(place, number, now_ms=NOW_MS + 10) == body
    with pytest.raises(MailboxTaken):
        await store.post_message(place, 2, b"else", now_ms=NOW_MS)
    over = NOW_MS + 300_001
    assert await store.fetch_message(place, 3, now_ms=over) is None
    with pytest.raises(MailboxAbsent):
        await store.post_message(place, 3, b"three", now_ms=over)
    await store.post_message(place, 1, b"anew", now_ms=over)
    assert await store.fetch_message(place, 2, now_ms=over) is None


async def test_number_of_mailboxes_is_bounded(store_factory: Factory) -> None:
    """Mailboxes that are over make room; those that aren't don't."""
    store = await store_factory(limits=Limits(pairing_mailboxes_max=2))
    for place in (b"a", b"b"):
        await store.post_message(place * 16, 1, b"one", now_ms=NOW_MS)
    with pytest.raises(QuotaExceeded, match="pairing_mailboxes"):
        await store.post_message(b"c" * 16, 1, b"one", now_ms=NOW_MS)
    await store.post_message(b"c" * 16, 1, b"one", now_ms=NOW_MS + 300_000)
    await store.sweep(now_ms=NOW_MS + 300_000)
    assert await store.fetch_message(b"c" * 16, 1, now_ms=NOW_MS + 300_000) == b"one"


async def test_nonce_is_good_once_in_300_seconds(store: Store) -> None:
    """A nonce used within 300 s is refused, to its account only."""
    accounts = [World.create(seed).account_id for seed in range(2)]
    rng = random.Random(1)
    nonces = [rng.randbytes(16) for _ in range(50)]
    for step, nonce in enumerate(nonces):
        assert await store.remember_nonce(accounts[0], nonce, now_ms=NOW_MS + step * 10_000)
    now_ms = NOW_MS + 49 * 10_000
    for nonce in nonces[-30:]:
        assert not await store.remember_nonce(accounts[0], nonce, now_ms=now_ms)
        assert await store.remember_nonce(accounts[1], nonce, now_ms=now_ms)
    late = now_ms + 600_000
    assert all([await store.remember_nonce(accounts[0], nonce, now_ms=late) for nonce in nonces])


# --- checkpoints and trimming ---


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
        for after in range(len(log) + 1):
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
    client, covers, _ = await checkpointed(store)
    await client.push(client.world.op(0, key="0"))
    await client.passed(covers + 2, 0, 1)
    log = await settled(client)
    assert sum(len(raw) == STUB_BYTES for raw in log) == 1


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
