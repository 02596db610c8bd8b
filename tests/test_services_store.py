"""Every store: accounts, chains, deletion, mailboxes, nonces (docs/protocol.md, 5)."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from crypto.cert import Role
from crypto.errors import ChainError, CryptoError, SignatureError
from crypto.ids import AccountId
from crypto.link import SignedLink
from services.store.base import Limits, Store, StoredLink
from services.store.errors import (
    AccountAbsent,
    ChainAhead,
    ChainConflict,
    MailboxAbsent,
    MailboxTaken,
    QuotaExceeded,
    StoreError,
)
from tests.store_worlds import NOW_MS, Client, Factory, stub_of
from tests.worlds import World

# --- accounts ---


async def test_account_of_one_genesis_is_made_once(store: Store) -> None:
    """The same link makes the same account, and the second time says so."""
    world = World.create()
    assert await store.create_account(world.genesis, subject_row=None, now_ms=NOW_MS)
    assert not await store.create_account(world.genesis, subject_row=None, now_ms=NOW_MS)
    tip = await store.tip(world.account_id)
    assert tip is not None
    assert (tip.chain, tip.position, tip.lamport_max) == (world.chain, 0, 0)


async def test_account_is_made_again_with_its_whole_chain(store_factory: Factory) -> None:
    """After a lost store one call brings back every link with its grants, and every device
    is known; the devices' ops go on from there, whatever epoch they are of."""
    first = await store_factory("first")
    client = await Client.create(first, devices=2)
    sealed = client.world.op(1)
    await client.push(sealed, by=1)
    for _ in range(2):
        await client.rotate()
    links = await first.read_links(client.world.account_id, 0, links_max=9, bytes_max=1 << 20)
    second = await store_factory("second")
    again = Client(second, client.world)
    assert await again.make_again(links)
    assert not await again.make_again(links)
    assert not await again.make_again(links[:1])
    tip = await second.tip(client.world.account_id)
    assert tip is not None
    assert tip.chain == client.world.chain
    stored = await second.read_links(client.world.account_id, 0, links_max=9, bytes_max=1 << 20)
    assert stored == links
    assert (await again.push(stub_of(sealed), client.world.op(1), by=1)).new_ops == 2


async def test_longer_chain_goes_on_from_a_shorter_one(store_factory: Factory) -> None:
    """Devices that lagged may make the account again first: one that knows later links adds
    them, or it would be locked out by those who do not know it."""
    first = await store_factory("first")
    client = await Client.create(first, devices=3)
    await client.rotate(revoke=[1])
    links = await first.read_links(client.world.account_id, 0, links_max=9, bytes_max=1 << 20)
    second = await store_factory("second")
    again = Client(second, client.world)
    assert await again.make_again(links[:1])
    assert await again.make_again(links)
    tip = await second.tip(client.world.account_id)
    assert tip is not None
    assert tip.chain == client.world.chain
    assert list(
        await second.read_links(client.world.account_id, 0, links_max=9, bytes_max=1 << 20)
    ) == list(links)


async def test_account_is_made_again_whole_or_not_at_all(store_factory: Factory) -> None:
    """A skipped seq, missing grants, another device's link or too many devices: nothing of
    the chain is stored."""
    first = await store_factory("first")
    client = await Client.create(first, devices=3)
    links = await first.read_links(client.world.account_id, 0, links_max=9, bytes_max=1 << 20)
    second = await store_factory("second", limits=Limits(active_devices_max=2))
    again = Client(second, client.world)
    with pytest.raises(ChainAhead):
        await again.make_again(links[1:])
    with pytest.raises(CryptoError):
        await again.make_again([links[0], StoredLink(links[1].link, ())])
    with pytest.raises(QuotaExceeded):
        await again.make_again(links)
    assert await second.tip(client.world.account_id) is None


async def test_other_chain_than_the_standing_one_conflicts(store: Store) -> None:
    """Making an account again never takes a link back."""
    client = await Client.create(store)
    fork = client.world.fork()
    await client.add()
    upload = fork.add()
    with pytest.raises(ChainConflict):
        await client.make_again([StoredLink(upload.link, upload.grants)])
    tip = await store.tip(client.world.account_id)
    assert tip is not None
    assert tip.chain == client.world.chain


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


async def test_accounts_under_peppers_before_count(store_factory: Factory) -> None:
    """While peppers overlap, a subject has no more accounts than otherwise."""
    store = await store_factory(limits=Limits(accounts_per_subject_max=2))
    worlds = [World.create(seed) for seed in range(3)]
    old, new = b"o" * 32, b"n" * 32
    await store.create_account(worlds[0].genesis, subject_row=old, now_ms=NOW_MS)
    for world, before in ((worlds[1], [old, old]), (worlds[2], [old])):
        refused = world is worlds[2]
        with pytest.raises(QuotaExceeded) if refused else contextlib.nullcontext():
            await store.create_account(
                world.genesis, subject_row=new, subject_rows_before=before, now_ms=NOW_MS
            )
    await store.delete_account(worlds[0].account_id)
    assert await store.create_account(
        worlds[2].genesis, subject_row=new, subject_rows_before=[old], now_ms=NOW_MS
    )


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


async def test_deletion_looks_at_the_chain_of_its_moment(store: Store) -> None:
    """A device that was revoked while its call waited deletes nothing."""
    client = await Client.create(store, devices=2)
    revoked = client.world.authors[1].device_id
    await client.rotate(revoke=[1])
    assert await store.delete_account(client.world.account_id, revoked) is None
    assert await store.tip(client.world.account_id) is not None
    by = client.world.authors[0].device_id
    assert await store.delete_account(client.world.account_id, by) is not None


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

    def poke(account_id: AccountId, age_s: float = 0.0, /) -> None:
        assert 0 <= age_s < 60
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
