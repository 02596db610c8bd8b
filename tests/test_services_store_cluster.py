"""Every call of a store on a cluster of three: keys of one script in one slot, all named.

The whole story runs on a cluster as well (`make soak`); here each call does, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crypto.ids import AccountId, DeviceId
from crypto.op import STUB_BYTES, Verb
from services.store.base import Limits, Store
from services.store.errors import (
    AccountAbsent,
    DeviceForked,
    NonceUsed,
    PolicyConflict,
    QuotaExceeded,
)
from services.store.governance import NOTHING, first_broken
from tests.governance_rows import append_consents, policy_after, put_policies
from tests.store_worlds import BACKENDS, NOW_MS, Client, RedisHouse, stub_of

LIMITS = Limits(grace_ms=0, accounts_per_subject_max=1)
PATIENCE_S = 30.0


@pytest.fixture
async def store(redis_house: RedisHouse, tmp_path: Path) -> AsyncIterator[Store]:
    """A store on the cluster."""
    stores = BACKENDS["cluster"](tmp_path, redis_house)
    yield await stores(limits=LIMITS)
    await stores.close()


async def test_life_of_accounts_on_a_cluster(store: Store, redis_house: RedisHouse) -> None:
    """Made, watched, written to, trimmed, read, deleted: accounts on all three masters."""
    poked: asyncio.Queue[AccountId] = asyncio.Queue()
    clients = [await Client.create(store, seed, devices=2) for seed in range(12)]
    for master in redis_house.cluster.masters:
        with master.client() as client:
            assert client.dbsize() > 3
    store.on_commit(lambda account_id, age_s=0.0: poked.put_nowait(account_id))
    for client in clients:
        await store.watch(client.world.account_id)
    await asyncio.gather(*(live(client) for client in clients))
    unheard = {client.world.account_id for client in clients}
    while unheard:
        unheard.discard(await asyncio.wait_for(poked.get(), PATIENCE_S))
    for client in clients:
        store.unwatch(client.world.account_id)
    await store.sweep(now_ms=NOW_MS)
    for client in clients:
        assert all(len(raw) != STUB_BYTES for raw in await client.pull())
        _, heads = await store.heads(client.world.account_id)
        assert [head for _, head in heads] == [client.world.heads[0], client.world.heads[1]]
        by = client.world.authors[0].device_id
        assert await store.delete_account(client.world.account_id, by) is not None
        with pytest.raises(AccountAbsent):
            await client.page()
    await store.sweep(now_ms=NOW_MS + (1 << 40))
    left: list[bytes] = []
    for master in redis_house.cluster.masters:
        with master.client() as plain:
            left += [key for key in plain.scan_iter() if b"}n" not in key and b"{meta}" not in key]
    assert left == []


async def live(client: Client) -> None:
    """Pushes of two epochs, old ops again, forks, stubs, a checkpoint that all pass."""
    world, store = client.world, client.store
    clone, ops = world.fork(), world.ops(20)
    await client.push(*ops, nonce=b"n" * 16)
    with pytest.raises(NonceUsed):
        await client.push(*ops, nonce=b"n" * 16)
    await client.push(world.op(1, key="key/3"), by=1)
    assert (await client.push(ops[3], stub_of(ops[4]))).new_ops == 0
    with pytest.raises(DeviceForked):
        await client.push(clone.op(key="other"))
    await client.rotate()
    await client.push(*world.ops(20))
    links = await store.read_links(world.account_id, -1, links_max=9, bytes_max=1 << 20)
    assert [row.link for row in links] == [upload.link for upload in world.uploads]
    assert not await client.make_again(links[1:])
    covers = await client.position()
    await client.push(world.op(verb=Verb.CHECKPOINT), checkpoint=0, covers=covers)
    await client.passed(covers, 0, 1)
    await client.push(world.op(1), by=1)


async def test_calls_without_an_account_on_a_cluster(store: Store) -> None:
    """Mailboxes, keys' nonces, subjects, and the generation."""
    await store.post_message(b"a" * 16, 1, b"one", now_ms=NOW_MS)
    assert await store.fetch_message(b"a" * 16, 1, now_ms=NOW_MS) == b"one"
    key = DeviceId(b"k" * 16)
    assert await store.remember_nonce(key, b"n" * 16, now_ms=NOW_MS)
    assert not await store.remember_nonce(key, b"n" * 16, now_ms=NOW_MS)
    worlds = [(await Client.create(store, seed)).world for seed in "ab"]
    for world in worlds:
        await store.delete_account(world.account_id)
    row = b"s" * 32
    assert await store.create_account(worlds[0].genesis, subject_row=row, now_ms=NOW_MS)
    with pytest.raises(QuotaExceeded):
        await store.create_account(worlds[1].genesis, subject_row=row, now_ms=NOW_MS)
    await store.delete_account(worlds[0].account_id)
    assert await store.create_account(worlds[1].genesis, subject_row=row, now_ms=NOW_MS)
    before = store.generation
    assert await store.new_generation() == store.generation != before


async def test_governance_on_a_cluster(store: Store) -> None:
    """Bundles, consent and the audit log: put, read, trimmed, deleted."""
    held = store.governance
    policies = await put_policies(store, 2)
    assert await held.policy() == policies[1]
    with pytest.raises(PolicyConflict):
        await held.put_policy(policy_after(NOTHING, b"another"))
    for seed in range(6):
        client = await Client.create(store, seed)
        account = client.world.account_id
        rows = await append_consents(store, account, [("dishes", True), ("dishes", False)])
        assert await held.consents(account, 0, rows_max=9) == rows
        assert await held.consent_state(account, rows[0].tag) == (2, False)
        await store.delete_account(account)
        assert await held.consent_head(account) == NOTHING
    made = [await held.append_audit(b"body", now_ms=NOW_MS + at) for at in range(3)]
    assert await held.trim_audit(before_ms=NOW_MS + 2) == 1
    left = await held.read_audit(0, rows_max=9)
    assert list(left) == made[1:]
    assert first_broken(left, await held.audit_anchor()) is None
