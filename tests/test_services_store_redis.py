"""Several replicas on one Redis: what one does holds for the others at their next call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from crypto.ids import AccountId
from crypto.op import STUB_BYTES, Verb
from services.store import redis as redis_store, snapshot
from services.store.base import Limits, Store
from services.store.errors import (
    CallerUnknown,
    CallsExceeded,
    NonceUsed,
    OpGap,
    PolicyConflict,
    QuotaExceeded,
    StoreUnavailable,
)
from services.store.governance import NOTHING, Head, PolicyRow, first_broken
from services.store.redis import RedisStore
from services.store.redis_keys import AccountKeys
from services.store.redis_link import Link
from services.store.redis_state import Account
from services.store.wake import Mark, Pace
from tests.governance_rows import append_consents, policy_after, put_policies
from tests.store_worlds import NOW_MS, Client, RedisHouse, RedisStores
from tests.worlds import World

Replica = Callable[..., Awaitable[RedisStore]]
PATIENCE_S = 30.0


@pytest.fixture
async def replica(redis_house: RedisHouse) -> AsyncIterator[Replica]:
    """Opens one more replica's store on the same, at first empty, server."""
    stores = RedisStores(redis_house)

    async def more(limits: Limits | None = None) -> RedisStore:
        store = await stores(limits=limits)
        assert isinstance(store, RedisStore)
        return store

    yield more
    await stores.close()


@pytest.fixture
async def link(replica: Replica, redis_house: RedisHouse) -> AsyncIterator[Link]:
    """A look past the stores."""
    opened = await Link.open(redis_house.server.url)
    yield opened
    await opened.close()


def seen_by(client: Client, store: Store) -> Client:
    """The same account as another replica has it."""
    return Client(store, client.world)


async def keys_left(link: Link) -> list[bytes]:
    """All keys but the store's own, and nonces, which end by themselves."""
    (keys,) = await link.each_master("KEYS", "*")
    return sorted(key for key in keys if b"{meta}" not in key and b"}n" not in key)


class Pokes:
    """What a store pokes."""

    def __init__(self, store: Store) -> None:
        self._queue: asyncio.Queue[AccountId] = asyncio.Queue()
        store.on_commit(lambda account_id, age_s=0.0: self._queue.put_nowait(account_id))

    async def one(self) -> AccountId:
        """Waits for the next one."""
        return await asyncio.wait_for(self._queue.get(), PATIENCE_S)

    @property
    def is_empty(self) -> bool:
        """Whether nothing came that was not waited for."""
        return self._queue.empty()


# --- what others did ---


async def test_push_through_one_pokes_who_watches_at_the_other(replica: Replica) -> None:
    """Ops, links and deletion, as long as one watch of several lasts; and again with a new one."""
    a, b = await replica(), await replica()
    client = await Client.create(a)
    account_id = client.world.account_id
    pokes = Pokes(b)
    await b.watch(account_id)
    await b.watch(account_id)
    await client.push(client.world.op())
    assert await pokes.one() == account_id
    b.unwatch(account_id)
    await client.add()
    assert await pokes.one() == account_id
    b.unwatch(account_id)
    await b.watch(account_id)
    await a.delete_account(account_id)
    assert await pokes.one() == account_id
    assert pokes.is_empty


async def test_own_commit_pokes_once_whether_watched_or_not(replica: Replica) -> None:
    """The channel tells of one's own commits, too: they are not told twice."""
    store = await replica()
    client = await Client.create(store)
    pokes = Pokes(store)
    for name in ("unwatched", "watched"):
        await client.push(client.world.op(key=name))
        await pokes.one()
        await store.heads(client.world.account_id)
        assert pokes.is_empty
        await store.watch(client.world.account_id)


async def test_revocation_through_one_counts_at_the_other_s_next_call(replica: Replica) -> None:
    """The call's nonce brings the chain along; a push finds out by itself."""
    a, b = await replica(), await replica()
    client = await Client.create(a, devices=2)
    there = seen_by(client, b)
    await there.push(client.world.op(1), by=1)
    account_id, late = client.world.account_id, client.world.op(1)
    await client.rotate(revoke=[1])
    assert await b.remember_nonce(account_id, b"n" * 16, now_ms=NOW_MS)
    tip = await b.tip(account_id)
    assert tip is not None
    assert tip.chain == client.world.chain
    c = seen_by(client, await replica())
    await c.store.tip(account_id)
    with pytest.raises(CallerUnknown):
        await c.push(late, by=1)


async def test_pushing_replica_learns_of_a_revocation_from_the_push(replica: Replica) -> None:
    """What it knew said that the device is active."""
    a, b = await replica(), await replica()
    client = await Client.create(a, devices=2)
    there = seen_by(client, b)
    assert await there.position() == 0
    late = client.world.op(1)
    await client.rotate(revoke=[1])
    with pytest.raises(CallerUnknown):
        await there.push(late, by=1)


async def test_device_that_another_replica_added_is_known_when_asked_anew(
    replica: Replica,
) -> None:
    """A tip may be old; a fresh one isn't."""
    a, b = await replica(), await replica()
    client = await Client.create(a)
    account_id = client.world.account_id
    await b.tip(account_id)
    await client.add()
    old, new = await b.tip(account_id), await b.tip(account_id, fresh=True)
    assert old is not None
    assert new is not None
    assert (len(old.chain.devices), len(new.chain.devices)) == (1, 2)


async def test_page_brings_the_chain_of_its_moment(replica: Replica) -> None:
    """Who reads through one replica what was pushed through the other knows its author."""
    a, b = await replica(), await replica()
    client = await Client.create(a)
    there = seen_by(client, b)
    await there.page()
    await client.add()
    sealed = client.world.op(1)
    await client.push(sealed, by=1)
    assert (await there.page()).ops == [sealed.raw]
    tip = await b.tip(client.world.account_id)
    assert tip is not None
    assert (tip.chain, tip.position) == (client.world.chain, 1)


async def test_nonce_used_at_one_is_refused_at_the_other(replica: Replica) -> None:
    """By itself or with a push; a refused push has used its nonce as well."""
    a, b = await replica(), await replica()
    client = await Client.create(a)
    there = seen_by(client, b)
    account_id = client.world.account_id
    assert await a.remember_nonce(account_id, b"1" * 16, now_ms=NOW_MS)
    assert not await b.remember_nonce(account_id, b"1" * 16, now_ms=NOW_MS + 299_999)
    first, second, third = client.world.ops(3)
    await client.push(first, nonce=b"2" * 16)
    with pytest.raises(NonceUsed):
        await there.push(second, nonce=b"2" * 16)
    with pytest.raises(OpGap):
        await there.push(third, nonce=b"3" * 16)
    assert not await a.remember_nonce(account_id, b"3" * 16, now_ms=NOW_MS)
    await there.push(first, nonce=b"4" * 16)
    assert not await a.remember_nonce(account_id, b"4" * 16, now_ms=NOW_MS)
    assert (await there.push(second, nonce=b"5" * 16)).new_ops == 1


async def test_bound_of_calls_holds_across_replicas(redis_house: RedisHouse) -> None:
    """An account's nonces are counted together, and one refused for their number isn't used."""
    RedisStores(redis_house)
    stores = [
        await RedisStore.open(await Link.open(redis_house.server.url), nonces_account_max=3)
        for _ in range(2)
    ]
    client = await Client.create(stores[0])
    account_id = client.world.account_id
    for number in range(3):
        assert await stores[number % 2].remember_nonce(account_id, b"%016d" % number, now_ms=NOW_MS)
    for store in stores:
        with pytest.raises(CallsExceeded):
            await store.remember_nonce(account_id, bytes(16), now_ms=NOW_MS + 300_000)
        with pytest.raises(CallsExceeded):
            await seen_by(client, store).push(client.world.fork().op(), nonce=bytes(16))
    assert await stores[1].remember_nonce(account_id, bytes(16), now_ms=NOW_MS + 600_000)
    for store in stores:
        await store.close()


async def test_pushes_through_many_replicas_lose_nothing(replica: Replica) -> None:
    """Devices that write to one account at once, each through its own replica: every op is
    there once, in the order of positions, and each tag has one winner."""
    stores = [await replica() for _ in range(3)]
    client = await Client.create(stores[0], devices=3)
    answers: list[tuple[int, int]] = []

    async def device(by: int) -> None:
        own = seen_by(client, stores[by])
        for number in range(12):
            ops = client.world.ops(1 + number % 3, by, keys=f"{number % 4}")
            committed = await own.push(*ops, by=by)
            answers.append((committed.position, committed.new_ops))

    await asyncio.gather(*(device(by) for by in range(3)))
    end = 0
    for position, new_ops in sorted(answers):
        assert position == end + new_ops
        end = position
    logs = [await seen_by(client, store).pull() for store in stores]
    assert logs[0] == logs[1] == logs[2]
    assert len(logs[0]) == end
    assert sum(len(raw) != STUB_BYTES for raw in logs[0]) == 4 * 3


async def test_account_made_anew_through_another_replica_is_another_account(
    replica: Replica,
) -> None:
    """What a replica knew of the deleted one judges nothing."""
    a, b = await replica(), await replica()
    client = await Client.create(a)
    fresh = client.world.fork()
    await client.push(*client.world.ops(3))
    there = seen_by(client, b)
    assert await there.position() == 3
    await a.delete_account(client.world.account_id)
    await a.create_account(client.world.genesis, subject_row=None, now_ms=NOW_MS)
    with pytest.raises(OpGap):
        await there.push(client.world.op())
    again = Client(b, fresh)
    assert (await again.push(fresh.op())).position == 1


# --- quotas, mailboxes, deletion ---


async def test_stored_quotas_hold_across_replicas(replica: Replica) -> None:
    """Records, accounts of a subject and mailboxes are counted where all replicas see them."""
    limits = Limits(records_max=3, accounts_per_subject_max=1, pairing_mailboxes_max=1)
    a, b = await replica(limits), await replica(limits)
    client = await Client.create(a)
    there = seen_by(client, b)
    await there.push(*client.world.ops(2))
    await client.push(client.world.op(key="third"))
    with pytest.raises(QuotaExceeded):
        await there.push(client.world.fork().op(key="fourth"))
    worlds = [World.create(seed) for seed in (1, 2)]
    await a.create_account(worlds[0].genesis, subject_row=b"s" * 32, now_ms=NOW_MS)
    with pytest.raises(QuotaExceeded):
        await b.create_account(worlds[1].genesis, subject_row=b"s" * 32, now_ms=NOW_MS)
    await a.post_message(b"a" * 16, 1, b"one", now_ms=NOW_MS)
    assert await b.fetch_message(b"a" * 16, 1, now_ms=NOW_MS) == b"one"
    with pytest.raises(QuotaExceeded):
        await b.post_message(b"b" * 16, 1, b"one", now_ms=NOW_MS)


async def test_deletion_leaves_no_key(replica: Replica, link: Link) -> None:
    """Whatever an account had: ops of several epochs, stubs, marks, what was trimmed; nor its id
    in a list of accounts to look at, or to wake."""
    store = await replica(Limits(grace_ms=0))
    client = await Client.create(store, devices=2)
    assert len(await keys_left(link)) == 3, "state, chain and links"
    await store.delete_account(client.world.account_id)
    world = client.world
    await store.create_account(world.genesis, subject_row=b"s" * 32, now_ms=NOW_MS)
    await client.send_link()
    await client.push(*world.ops(100))
    await client.push(*world.ops(50))
    await client.rotate()
    await client.push(world.op(verb=Verb.CHECKPOINT), checkpoint=0, covers=150)
    await client.passed(150, 0, 1)
    await store.sweep(now_ms=NOW_MS)
    await client.push(world.op(1), by=1)
    await store.wake.set_handle(
        world.account_id, world.authors[0].device_id, b"h" * 560, expires_ms=NOW_MS + 1_000_000
    )
    pace = Pace(debounce_ms=0, spread_ms=lambda: 0)
    await store.wake.mark([Mark(world.account_id, frozenset())], now_ms=NOW_MS, pace=pace)
    await store._keeper.expect(world.account_id, NOW_MS)
    await store.delete_account(world.account_id)
    assert await keys_left(link) == []


async def test_account_of_thousands_of_epochs_can_be_deleted(replica: Replica, link: Link) -> None:
    """More keys than Lua passes on at once."""
    client = await Client.create(await replica())
    await client.push(client.world.op())
    keys = AccountKeys(client.world.account_id)
    known = await client.store.heads(client.world.account_id)
    chain = replace(known[0], epoch=10_000)
    await link.call("SET", keys.chain, snapshot.encode(chain))
    assert await (await replica()).delete_account(client.world.account_id) is not None
    assert await keys_left(link) == []


async def test_interrupted_deletion_is_finished_by_a_sweep(
    replica: Replica, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account is gone at once; its place among its subject's accounts follows."""
    store, other = await replica(Limits(accounts_per_subject_max=1)), await replica()
    world = World.create()
    await store.create_account(world.genesis, subject_row=b"s" * 32, now_ms=NOW_MS)

    async def killed(account_id: AccountId, intent: bytes) -> None:
        raise StoreUnavailable("killed")

    monkeypatch.setattr(store._chains, "_finish", killed)
    with pytest.raises(StoreUnavailable):
        await store.delete_account(world.account_id)
    assert await other.tip(world.account_id) is None
    assert await keys_left(link) != []
    await other.sweep(now_ms=NOW_MS)
    assert await keys_left(link) != [], "it may be under way"
    await other._chains.sweep(settled_ms=-1)
    assert await keys_left(link) == []


async def test_place_that_nobody_uses_is_given_to_who_needs_it(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between the place and the account costs the subject nothing."""
    store = await replica(Limits(accounts_per_subject_max=1))
    await store._chains._reserve([b"s" * 32], World.create("lost").account_id)
    world = World.create()
    with pytest.raises(QuotaExceeded):
        await store.create_account(world.genesis, subject_row=b"s" * 32, now_ms=NOW_MS)
    monkeypatch.setattr("services.store.redis_chains.SETTLED_MS", -1)
    assert await store.create_account(world.genesis, subject_row=b"s" * 32, now_ms=NOW_MS)


# --- Redis itself ---


async def test_scripts_that_redis_forgot_are_sent_again(replica: Replica, link: Link) -> None:
    """After SCRIPT FLUSH, as after a restart, everything goes on."""
    store = await replica()
    client = await Client.create(store)
    await client.push(client.world.op())
    await link.each_master("SCRIPT", "FLUSH")
    assert (await client.push(client.world.op())).position == 2
    assert len(await client.pull()) == 2


async def test_largest_push_there_is(replica: Replica) -> None:
    """256 ops, and ops of 32 KiB up to a mebibyte, superseded all at once."""
    client = await Client.create(await replica())
    for _ in range(2):
        await client.push(*client.world.ops(256))
        big = [client.world.op(key=f"big/{n}", value=b"x" * 30_000) for n in range(31)]
        await client.push(*big)
    log = await client.pull()
    assert sum(len(raw) == STUB_BYTES for raw in log) == 256 + 31
    assert log[-31:] == [sealed.raw for sealed in big]


async def test_page_finds_what_is_left_of_a_long_log(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much was trimmed: a call looks at a bounded part, and the next one goes on."""
    monkeypatch.setattr(redis_store, "SCANNED_MAX", 1)
    client = await Client.create(await replica())
    first = client.world.op(key="stays")
    await client.push(first)
    for _ in range(5):
        await client.push(*client.world.ops(100))
    await client.push(client.world.op(verb=Verb.CHECKPOINT), checkpoint=0, covers=501)
    whole = await client.pull()
    await client.passed(501, 0)
    await client.store.sweep(now_ms=NOW_MS)
    left = [raw for raw in whole if len(raw) != STUB_BYTES]
    for ops_max in (1, 50, 1000):
        assert await client.pull(ops_max=ops_max) == left
    assert (await client.page(1, 1)).position == 501


async def test_trimming_that_a_crash_interrupted_is_done_by_another_replica(
    replica: Replica,
) -> None:
    """A sweep finds the account in the list of those to look at."""
    a = await replica()
    client = await Client.create(a)
    for _ in range(3):
        await client.push(client.world.op())
    await client.push(client.world.op(verb=Verb.CHECKPOINT), checkpoint=0, covers=3)
    a._keeper._work = lambda: None  # type: ignore[method-assign]
    await client.passed(3, 0)
    other = await replica()
    await other.sweep(now_ms=NOW_MS)
    there = seen_by(client, other)
    assert len(await there.pull()) == 4, "what it passed was known to the other one alone"
    await there.passed(3, 0)
    await other.sweep(now_ms=NOW_MS)
    assert len(await there.pull()) == 2


async def test_new_generation_ends_what_was_known(replica: Replica) -> None:
    """Whoever listens is told; accounts are read anew."""
    a, b = await replica(), await replica()
    client = await Client.create(a)
    there = seen_by(client, b)
    await there.position()
    told = asyncio.Event()
    b.on_renewed(told.set)
    before = b.generation
    fresh = await a.new_generation()
    async with asyncio.timeout(PATIENCE_S):
        await told.wait()
    assert fresh != before
    assert a.generation == b.generation == fresh
    assert (await there.push(client.world.op())).new_ops == 1


async def test_a_handle_of_a_device_that_joins_while_others_are_claimed_stays(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another replica takes a device and its handle in after the chain was read."""
    here, there = await replica(), await replica()
    client = await Client.create(there)
    account_id, authors = client.world.account_id, client.world.authors
    expires_ms = NOW_MS + 1_000_000

    async def give_handle(index: int) -> None:
        device_id = authors[index].device_id
        await there.wake.set_handle(account_id, device_id, b"h" * 560, expires_ms=expires_ms)

    await give_handle(0)
    pace = Pace(debounce_ms=0, spread_ms=lambda: 0)
    await there.wake.mark([Mark(account_id, frozenset())], now_ms=NOW_MS, pace=pace)
    known = here.wake._known
    load = known.load

    async def overtaken(wanted: AccountId) -> Account | None:
        account = await load(wanted)
        monkeypatch.undo()
        await client.add()
        await give_handle(1)
        return account

    monkeypatch.setattr(known, "load", overtaken)
    claims, _ = await here.wake.claim(now_ms=NOW_MS, lease_ms=30_000, claims_max=9)
    assert [claim.device_id for claim in claims] == [authors[0].device_id]
    found = await here.wake.handle_expires_ms(account_id, authors[1].device_id, now_ms=NOW_MS)
    assert found == expires_ms


# --- governance ---


async def test_replicas_that_append_to_the_audit_log_make_one_chain(replica: Replica) -> None:
    """However they are in between each other, each entry is there once."""
    stores = [await replica() for _ in range(3)]
    bodies = [b"%d of %d" % (number, at) for number in range(15) for at in range(3)]
    made = await asyncio.gather(
        *(
            stores[number % 3].governance.append_audit(body, now_ms=NOW_MS - number)
            for number, body in enumerate(bodies)
        )
    )
    log = list(await stores[0].governance.read_audit(0, rows_max=99))
    assert sorted(entry.body for entry in log) == sorted(bodies)
    assert sorted(made, key=lambda entry: entry.seq) == log
    assert first_broken(log, NOTHING) is None


async def test_a_bundle_put_through_one_is_heard_of_at_the_others(replica: Replica) -> None:
    """Each of them is told, and reads the same."""
    a, b = await replica(), await replica()
    told = asyncio.Event()
    b.governance.on_policy(told.set)
    for row in await put_policies(a, 2):
        assert await b.governance.policy(row.sequence) == row
    await asyncio.wait_for(told.wait(), PATIENCE_S)
    head = Head(2, (await put_newest(a)).hash)
    with pytest.raises(PolicyConflict):
        await b.governance.put_policy(policy_after(head, b"late"))


async def put_newest(store: RedisStore) -> PolicyRow:
    """One more bundle; the one before it."""
    before = await store.governance.policy()
    assert before is not None
    await store.governance.put_policy(policy_after(Head(before.sequence, before.hash)))
    return before


async def test_deletion_leaves_no_consent(replica: Replica, link: Link) -> None:
    """No key of the account's chain is left, nor its way to tell what counts."""
    store = await replica()
    client = await Client.create(store)
    await append_consents(store, client.world.account_id, [("dishes", True), ("taste", False)])
    keys = AccountKeys(client.world.account_id)
    assert {keys.consents, keys.consent_tags} <= {*await keys_left(link)}
    await store.delete_account(client.world.account_id)
    assert await keys_left(link) == []
