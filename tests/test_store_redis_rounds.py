"""Joint aggregates in Redis: what crosses slots, where a crash may strike between two of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from services.store.base import Limits
from services.store.errors import AccountAbsent, ConsentStale, RoundClosed, RoundOver
from services.store.governance import ConsentClaim
from services.store.redis import RedisStore
from services.store.redis_chains import _INTENT
from services.store.redis_keys import AccountKeys, gone, shard
from services.store.redis_link import Link
from services.store.redis_round_keys import FORGOTTEN, RoundKeys
from services.store.redis_round_scripts import CONTRIBUTE, STALE
from tests.governance_rows import append_consents
from tests.redis_process import RedisServer
from tests.round_rows import UNTIL_MS, Round, collected, people, round_, rows, task
from tests.store_worlds import DAY_MS


@pytest.fixture
async def held(redis_server: RedisServer) -> AsyncIterator[Round]:
    """A round of a task, both stored."""
    redis_server.flush()
    limits = Limits(boxes_ms=DAY_MS, results_ms=2 * DAY_MS)
    store = await RedisStore.open(await Link.open(redis_server.url), limits=limits)
    yield await collected(store)
    await store.close()


def everything(server: RedisServer) -> dict[bytes, bytes]:
    """What is in the server, by key."""
    with server.client() as client:
        return {key: client.dump(key) for key in client.scan_iter()}


async def test_a_round_is_whole_whoever_was_interrupted_in_collecting_it(
    held: Round, redis_server: RedisServer
) -> None:
    """In the index and not yet made, a round is made by whoever asks for it first."""
    [client] = await people(held.store, 1)
    state, store = RoundKeys(round_().round_id).state, held.store.rounds
    with redis_server.client() as redis:
        for ask in (
            store.find_round(round_().round_id),
            store.rounds_of(task().spec_hash, now_ms=0, rounds_max=9),
            store.read_boxes(round_().round_id, 1, 0, bytes_max=1),
            held.give(client, rows(0)),
        ):
            redis.delete(state)
            assert await ask
        redis.delete(state)
        assert await store.collect_round(round_())
        assert not await store.collect_round(round_())


async def test_an_account_that_goes_while_it_gives_leaves_nothing(held: Round) -> None:
    """Deletion and contribution at once, many times: whichever is first, nothing of a deleted
    account is held, and the count is right."""
    clients = await people(held.store, 24)
    calls: list[Coroutine[Any, Any, object]] = []
    for number, client in enumerate(clients):
        calls += [held.give(client, rows(number)), held.give(client, rows(number))]
        if number % 3:
            calls.append(held.store.delete_account(client.world.account_id))
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    errors = {type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)}
    assert errors <= {AccountAbsent}
    staying = [rows(number)[0] for number in range(0, 24, 3)]
    assert sorted(await held.boxes(1)) == sorted(staying)
    assert await held.store.rounds.seal_round(held.row.round_id) == len(staying)


@pytest.mark.parametrize("made", [True, False])
async def test_a_contribution_that_comes_after_its_account_was_deleted_is_refused(
    held: Round, redis_server: RedisServer, *, made: bool
) -> None:
    """It was noted with the account, and then the account went: the round bars it, also if it
    was only in the index yet."""
    [client] = await people(held.store, 1)
    account_id = client.world.account_id
    link = held.store.rounds._link  # type: ignore[attr-defined]
    account = AccountKeys(account_id)
    incarnation = await link.call("HGET", account.state, "i")
    await link.call("ZADD", account.given, UNTIL_MS + DAY_MS, held.row.round_id)
    if not made:
        with redis_server.client() as redis:
            redis.delete(RoundKeys(held.row.round_id).state)
    await held.store.delete_account(account_id)
    # The account as the call saw it, before.
    await link.call("HSET", account.state, "i", incarnation)
    with pytest.raises(AccountAbsent):
        await held.give(client, rows(0))
    assert await held.boxes(1) == []


@pytest.mark.parametrize("says_of_what", [True, False])
async def test_a_withdrawal_between_the_slots_of_account_and_round_is_obeyed(
    held: Round, monkeypatch: pytest.MonkeyPatch, *, says_of_what: bool
) -> None:
    """The contribution was noted with the account and is not stored yet: the round takes it no
    more, or what it took is erased before anybody is told that it was taken."""
    [client] = await people(held.store, 1)
    one = client.world.account_id
    [first] = await append_consents(held.store, one, [("dishes", True)])
    link = held.store.rounds._link  # type: ignore[attr-defined]
    run = link.run

    async def withdrawn(script: Any, *args: Any) -> Any:
        if script is CONTRIBUTE:
            await append_consents(held.store, one, [("dishes", False)])
            if says_of_what:
                assert await held.store.rounds.given_by(one) == [held.row.round_id]
                await held.store.rounds.take_back(held.row.round_id, one, behind=2)
        answer = await run(script, *args)
        if script is CONTRIBUTE:
            answers.append(answer)
        return answer

    answers: list[int] = []
    monkeypatch.setattr(link, "run", withdrawn)
    with pytest.raises(ConsentStale):
        await held.give(client, rows(0), consent=ConsentClaim(first.tag, 1))
    assert answers == [STALE if says_of_what else 1]
    assert [box for box in await held.boxes(1) if box] == []
    assert not await held.store.rounds.has_contributed(held.row.round_id, one)


async def test_an_interrupted_deletion_is_finished_by_a_sweep(
    held: Round, redis_server: RedisServer
) -> None:
    """Killed between the account's own slot and the round's, a service leaves a note of what is
    to be done; nothing of the account is anywhere afterwards."""
    clients = await people(held.store, 2)
    for number, client in enumerate(clients):
        await held.give(client, rows(number))
    account_id = clients[0].world.account_id
    account = AccountKeys(account_id)
    with redis_server.client() as redis:
        incarnation = redis.hget(account.state, "i")
        redis.hset(gone(shard(account_id)), account_id, _INTENT.pack(0, incarnation, b""))
        redis.rename(account.given, account.given_by_deleted(incarnation))
        redis.delete(account.state, account.chain, account.links)
    await held.store.sweep(now_ms=UNTIL_MS)
    assert await held.boxes(2) == [rows(1)[1]]
    left = everything(redis_server)
    assert not any(account.tag in key for key in left)
    assert not any(bytes(account_id) in value for value in left.values())
    assert not any(rows(0)[1][1:50] in value for value in left.values())


async def test_a_round_that_is_forgotten_leaves_no_key(
    held: Round, redis_server: RedisServer
) -> None:
    """After its retention, and also where a sweep was interrupted behind the index."""
    [client] = await people(held.store, 1)
    await held.give(client, rows(0))
    with pytest.raises(RoundClosed):
        await held.give((await people(held.store, 2))[1], rows(1), UNTIL_MS)
    await held.store.sweep(now_ms=UNTIL_MS + DAY_MS)
    with pytest.raises(RoundOver):
        await held.boxes(1)
    kept = everything(redis_server).keys()
    assert {key for key in kept if RoundKeys(held.row.round_id).own in key} == {
        RoundKeys(held.row.round_id).state
    }
    await held.store.sweep(now_ms=UNTIL_MS + 2 * DAY_MS)
    with redis_server.client() as redis:
        redis.hset(FORGOTTEN, held.row.round_id, 3)
        redis.hset(RoundKeys(held.row.round_id).state, "open", 1)
    await held.store.sweep(now_ms=UNTIL_MS + 2 * DAY_MS)
    left = {key for key in everything(redis_server) if key.startswith(b"{rounds}")}
    assert left == {b"{rounds}t", b"{rounds}i", b"{rounds}l"}
    assert not any(RoundKeys(held.row.round_id).own in key for key in everything(redis_server))
