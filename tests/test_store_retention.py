"""Retention at the service: the shorter of settings and policy; a sweep leaves nothing overdue."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crypto.ids import AccountId
from crypto.policy import Bundle
from crypto.policy.retention import ServiceRetention
from crypto.policy.tasks import TaskRule
from services.operations.health import Counted, gather
from services.policy.retention import DAY_MS, handle_lifetime_ms, retention_of
from services.store.base import Limits, Store
from services.store.errors import RoundOver, RoundUnknown
from services.store.governance import PolicyRow
from services.store.redis import RedisStore
from services.store.redis_chains import _INTENT
from services.store.redis_keys import gone, shard
from services.store.redis_link import Link
from services.store.retention import DELETED, KINDS, Retention
from services.store.sqlite import SqliteStore
from tests import governed_worlds
from tests.metered import scraped, value
from tests.policy_samples import bundle
from tests.redis_process import RedisServer
from tests.relay_worlds import Relay, relaying
from tests.round_rows import UNTIL_MS, Round, collected, people, round_, rows, task
from tests.store_worlds import NOW_MS

LIMITS = Limits(boxes_ms=7 * DAY_MS, results_ms=30 * DAY_MS)
NONE = dict.fromkeys(KINDS, 0)


def policy(**days: int) -> Bundle:
    """A bundle with these bounds; `task`: the days of results of a task of that name."""
    own = days.pop("task", None)
    rules = () if own is None else (
        TaskRule("task", ("region",), "statistics", "histogram", 50, 100_000, own, None, "What."),
    )  # fmt: skip
    made = bundle()
    retention = replace(made.retention, **days)
    short = [replace(one, result_days=min(one.result_days, retention.result_days))
             for one in made.tasks]  # fmt: skip
    return replace(made, retention=retention, tasks=(*short, *rules))


def test_the_shorter_of_setting_and_policy_counts() -> None:
    """Neither lengthens what the other shortens; a task's own bound is shorter still."""
    plain = retention_of(LIMITS, None)
    assert (plain.boxes_ms, plain.results_ms, plain.audit_ms) == (
        7 * DAY_MS, 30 * DAY_MS, None,
    )  # fmt: skip
    long = retention_of(LIMITS, policy())
    assert (long.boxes_ms, long.results_ms) == (7 * DAY_MS, 30 * DAY_MS)
    assert long.audit_ms == bundle().retention.audit_days * DAY_MS
    short = retention_of(LIMITS, policy(boxes_days=2, result_days=9, task=3))
    assert (short.boxes_ms, short.results_ms) == (2 * DAY_MS, 9 * DAY_MS)
    assert short.result_ms(b"task/v2") == 3 * DAY_MS
    assert short.result_ms(b"other") == 9 * DAY_MS
    one = retention_of(LIMITS, policy(boxes_days=2, result_days=9, task=1))
    assert one.box_ms(b"task") == DAY_MS, "boxes don't outlive the result"


def test_a_handle_lasts_as_long_as_the_policy_lets_it() -> None:
    """And none at all where nobody is woken."""
    days = bundle().retention.wake_days
    assert handle_lifetime_ms(400 * DAY_MS, bundle()) == days * DAY_MS
    assert handle_lifetime_ms(DAY_MS, bundle()) == DAY_MS
    assert handle_lifetime_ms(0, bundle()) == 0
    assert handle_lifetime_ms(400 * DAY_MS, None) == 400 * DAY_MS


@pytest.fixture
async def held(store: Store) -> Round:
    """A round with boxes of one account, and a round of another task."""
    made = await collected(store)
    [client] = await people(store, 1)
    await made.give(client, rows(0))
    await store.rounds.publish_task(task(b"other"))
    await store.rounds.collect_round(round_(b"second", of=b"other"))
    return made


async def overdue(store: Store, now_ms: int, kept: Retention) -> dict[str, int]:
    """What is more than nothing."""
    found = await store.overdue(now_ms=now_ms, retention=kept)
    assert set(found) == set(KINDS)
    return {kind: count for kind, count in found.items() if count}


async def test_boxes_and_results_go_when_the_policy_says(held: Round) -> None:
    """Of the task that has a bound of its own by that, of all others by the general one. What is
    due is counted before, and nothing is after the sweep."""
    store = held.store
    kept = retention_of(LIMITS, policy(boxes_days=2, result_days=9, task=1))
    first, second = held.row.round_id, round_(b"second").round_id
    await store.sweep(now_ms=UNTIL_MS + DAY_MS - 1, retention=kept)
    assert len(await held.boxes(1)) == 1
    now_ms = UNTIL_MS + DAY_MS
    assert await overdue(store, now_ms, kept) == {"boxes": 1, "results": 1}
    await store.sweep(now_ms=now_ms, retention=kept)
    assert await overdue(store, now_ms, kept) == {}
    assert await store.rounds.find_round(first) is None
    with pytest.raises(RoundUnknown):
        await held.boxes(1)
    assert await store.rounds.find_round(second) is not None
    now_ms = UNTIL_MS + 2 * DAY_MS
    assert await overdue(store, now_ms, kept) == {"boxes": 1}
    await store.sweep(now_ms=now_ms, retention=kept)
    with pytest.raises(RoundOver):
        await store.rounds.read_boxes(second, 1, 0, bytes_max=9)
    now_ms = UNTIL_MS + 9 * DAY_MS
    assert await overdue(store, now_ms, kept) == {"results": 1}
    await store.sweep(now_ms=now_ms, retention=kept)
    assert await overdue(store, now_ms, kept) == {}
    assert await store.rounds.find_round(second) is None
    assert await store.rounds.find_task(task().spec_hash) == task()


async def test_without_a_policy_the_settings_count(held: Round) -> None:
    """Those of the store's own limits."""
    store = held.store
    assert await store.overdue(now_ms=UNTIL_MS) == NONE
    late_ms = UNTIL_MS + 10_000 * DAY_MS
    assert (await store.overdue(now_ms=late_ms))["results"] == 2
    await store.sweep(now_ms=late_ms)
    assert await store.overdue(now_ms=late_ms) == NONE


async def test_the_audit_log_is_trimmed_by_the_policy_and_still_verifies(store: Store) -> None:
    """Without one it is kept for good. Of what is past its time, one entry stays as a witness,
    and is not overdue."""
    for at in range(4):
        await store.governance.append_audit(b"%d" % at, now_ms=NOW_MS + at * DAY_MS)
    days = 5
    kept = retention_of(LIMITS, policy(audit_days=days))
    now_ms = NOW_MS + (days + 1) * DAY_MS + 1
    await store.sweep(now_ms=now_ms + 10_000 * DAY_MS)
    assert len(await store.governance.read_audit(0, rows_max=9)) == 4
    assert await overdue(store, now_ms, kept) == {"audit": 1}
    await store.sweep(now_ms=now_ms, retention=kept)
    assert await overdue(store, now_ms, kept) == {}
    left = await store.governance.read_audit(0, rows_max=9)
    assert [entry.body for entry in left] == [b"1", b"2", b"3"]
    assert (await store.governance.audit_anchor()).hash == left[0].prev


async def test_mailboxes_and_deleted_accounts_leave_nothing_overdue(store: Store) -> None:
    """A mailbox is over after five minutes; a deleted account after its call."""
    await store.post_message(b"r" * 32, 1, b"hello", now_ms=NOW_MS)
    kept = retention_of(LIMITS, None)
    assert await overdue(store, NOW_MS, kept) == {}
    later_ms = NOW_MS + 300_000
    assert await overdue(store, later_ms, kept) == {"mailboxes": 1}
    [client] = await people(store, 1)
    await store.delete_account(client.world.account_id, None)
    await store.sweep(now_ms=later_ms, retention=kept)
    assert await overdue(store, later_ms, kept) == {}


async def test_what_a_deletion_left_in_a_file_is_counted_at_the_sweep(tmp_path: Path) -> None:
    """It can't come about by a deletion, which is one transaction; somebody's hand can do it."""
    store = await SqliteStore.open(tmp_path / "db")
    [client] = await people(store, 1)
    store._writes.execute("DELETE FROM account")
    await store.sweep(now_ms=NOW_MS)
    assert (await overdue(store, NOW_MS, retention_of(LIMITS, None)))["deleted"] >= 1
    await store.close()
    assert client.world.account_id


async def test_a_deletion_that_was_cut_short_is_counted_until_a_sweep(
    redis_server: RedisServer,
) -> None:
    """In Redis, where an account lies in several slots."""
    redis_server.flush()
    store = await RedisStore.open(await Link.open(redis_server.url))
    account = AccountId(bytes(32))
    with redis_server.client() as redis:
        redis.hset(gone(shard(account)), account, _INTENT.pack(1, bytes(8), b""))
    kept = retention_of(LIMITS, None)
    assert await overdue(store, NOW_MS, kept) == {"deleted": 1}
    await store.sweep(now_ms=NOW_MS, retention=kept)
    assert await overdue(store, NOW_MS, kept) == {}
    await store.close()


def test_a_bundle_bounds_all_that_a_store_keeps() -> None:
    """A field that is added to it must be applied somewhere."""
    known = {
        "result_days", "audit_days", "boxes_days",  # the sweep
        "wake_days",  # handles, as they are registered
        "consent_days_after_account",  # consent goes with the account: in 0 days
    }  # fmt: skip
    assert set(ServiceRetention.__slots__) == known


async def test_a_service_sweeps_as_soon_as_a_policy_shortens_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its metric tells what two sweeps should have removed: nothing, before and after."""
    settings: dict[str, Any] = {
        "policy_keys": (governed_worlds.KEY.public.hex(),),
        "result_retention_days": 30,
        "metrics_listen": "127.0.0.1:0",
    }
    async with relaying(tmp_path, **settings) as relay:
        server = relay.service.server
        one = replace(governed_worlds.CUISINE, source="task-0")
        first = governed_worlds.bundle(tasks=(one,), experiments=())
        await put_in_force(relay, first)
        opened = await relay.opened()
        store = server.store
        late_ms = relay.now_ms + 99 * DAY_MS
        for now_ms, counts in ((relay.now_ms, (0, 0, 0)), (late_ms, (1, 1, 0))):
            told = await gather(store, server.config, Counted(), None, now_ms)
            assert [(one.kind, one.count) for one in told.overdue] == list(
                zip(("boxes", "results", "audit"), counts, strict=True)
            )
        with relay.later(10 * DAY_MS):
            await store.sweep(now_ms=relay.now_ms, retention=server._retention)
            await no_overdue(relay)
            assert await store.rounds.find_round(opened.round_id) is not None
            short = replace(first.retention, result_days=5)
            swept = asyncio.Event()
            monkeypatch.setattr(server.metrics, "swept", lambda *, is_done: swept.set())
            rules = (replace(one, result_days=5),)
            await put_in_force(
                relay,
                governed_worlds.bundle(first, retention=short, tasks=rules, experiments=()),
            )
            async with asyncio.timeout(30):
                await swept.wait()
            assert await store.rounds.find_round(opened.round_id) is None


async def put_in_force(relay: Relay, made: Bundle) -> None:
    """What its publisher's call does."""
    row = PolicyRow(
        made.sequence, made.previous, made.hash, made.encoded,
        made.sign(governed_worlds.KEY), governed_worlds.KEY.public, relay.now_ms,
    )  # fmt: skip
    server = relay.service.server
    assert await server.store.governance.put_policy(row)
    await server.policy.refresh()
    assert server.policy.sequence == made.sequence


async def no_overdue(relay: Relay) -> None:
    """All the gauges are there, and 0."""
    server = relay.service.server
    await scraped(server.scrape.address)
    for kind in set(KINDS) - {DELETED}:
        assert value(server.metrics, "rookery_retention_overdue", kind=kind) == 0
    assert value(server.metrics, "rookery_rows_past_deletion") == 0
