"""The policy bundle at the service: published, served, pushed, and in force."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from crypto import labels
from mpc.keys import PublisherKey
from rookery.v1 import policy_pb2
from services.keeping.reload import ServiceKeys
from services.keys import create
from services.store.errors import StoreUnavailable
from services.store.governance import PolicyRow
from tests import policy_samples
from tests.governed_service import KEYS, PATIENCE_S, Governed, row_of
from tests.governed_worlds import (
    CUISINE,
    KEY,
    OPEN,
    OTHER_KEY,
    PUBLISH,
    bundle,
    killing,
    signed,
    to_publish,
)
from tests.redis_process import RedisServer
from tests.relay_worlds import (
    COLLECT,
    PUBLISH as PUBLISH_TASK,
    PUBLISHER,
    Relay,
    manifest,
    signed_round,
    signed_task,
    task,
)
from tests.served import config, refusal, serving


@pytest.fixture
async def governed(tmp_path: Path) -> AsyncIterator[Governed]:
    """A service with policy keys, and no bundle yet."""
    async with serving(tmp_path, heartbeat_s=0.5, **KEYS) as service:
        yield Governed(service)


# --- publishing and reading ---


async def test_a_bundle_is_published_and_read_by_anyone(governed: Governed) -> None:
    """As it was signed; who holds it is told that nothing is newer."""
    empty = await governed.get()
    assert (empty.sequence, empty.HasField("policy"), empty.info.policy_sequence) == (0, False, 0)
    first = bundle()
    made = await governed.publish(first)
    assert (made.sequence, made.hash, made.info.policy_sequence) == (1, first.hash, 1)
    found = await governed.get()
    assert (found.policy, found.sequence, found.hash) == (signed(first), 1, first.hash)
    second = bundle(first)
    await governed.publish(second, OTHER_KEY)
    assert (await governed.get(1)).policy == signed(second, OTHER_KEY)
    nothing = await governed.get(2)
    assert (nothing.HasField("policy"), nothing.sequence) == (False, 2)
    assert nothing.hash == second.hash


async def test_every_answer_says_which_bundle_is_the_newest(governed: Governed) -> None:
    """A device that syncs learns of it without asking."""
    first = bundle()
    await governed.publish(first)
    world = await governed.service.account("told")
    assert (await governed.service.pull(world)).info.policy_sequence == 1
    stream = governed.service.subscribe(world)
    await stream.caught_up()
    await governed.publish(bundle(first))
    told = 1
    while told == 1:
        frame = await stream.next()
        assert frame is not None
        told = frame.info.policy_sequence
    assert told == 2


async def test_publishing_again_changes_nothing(governed: Governed) -> None:
    """Whoever heard no answer asks again; only of the newest."""
    first = bundle()
    answers = [await governed.publish(first) for _ in range(2)]
    assert [(answer.sequence, answer.hash) for answer in answers] == [(1, first.hash)] * 2
    await governed.publish(bundle(first))
    refused = await refusal(governed.publish(first))
    assert refused.reason == "POLICY_CONFLICT"


async def test_a_bundle_that_does_not_follow_is_refused(governed: Governed) -> None:
    """With the number and hash of the newest, on which the next one must be built."""
    refused = await refusal(governed.publish(bundle(bundle())))
    assert refused.code is grpc.StatusCode.ABORTED
    assert (refused.reason, refused.metadata) == (
        "POLICY_CONFLICT", {"sequence": "0", "hash": "00" * 32},
    )  # fmt: skip
    first = bundle()
    await governed.publish(first)
    second = bundle(first)
    rival = bundle(title="Another policy")
    for wrong in (rival, bundle(second), bundle(rival)):
        refused = await refusal(governed.publish(wrong))
        assert (refused.reason, refused.metadata) == (
            "POLICY_CONFLICT", {"sequence": "1", "hash": first.hash.hex()},
        )  # fmt: skip
    assert (await governed.get()).policy == signed(first)


async def test_only_who_signed_a_sound_bundle_publishes_it(governed: Governed) -> None:
    """Another key's call, another's signature, changed bytes, no bundle at all."""
    first = bundle()
    refused = await refusal(governed.call(PUBLISHER.identity, PUBLISH, to_publish(first)))
    # By its key it publishes tasks; the matrix has no place for it before the first bundle.
    assert refused.code is grpc.StatusCode.PERMISSION_DENIED
    stranger = PublisherKey(b"\x55" * 32)
    refused = await refusal(governed.publish(first, stranger))
    assert refused.reason == "UNAUTHENTICATED"
    taken = to_publish(first, OTHER_KEY)
    for wrong, rule in (
        (taken, "publisher"),
        (to_publish(first), "signature"),
        (to_publish(first), "cbor-form"),
    ):
        if rule == "signature":
            wrong.policy.sig = bytes(64)
        elif rule == "cbor-form":
            wrong.policy.bundle = b"\xa0"
            wrong.policy.sig = KEY.sign(b"pss1/policy-sig", b"\xa0")
        refused = await refusal(governed.call(KEY, PUBLISH, wrong))
        assert refused.reason == "POLICY_INVALID"
        assert refused.metadata["rule"] == rule or rule == "cbor-form"
    empty = policy_pb2.PublishPolicyRequest()
    assert (await refusal(governed.call(KEY, PUBLISH, empty))).reason == "MALFORMED"
    large = to_publish(first)
    large.policy.bundle = bytes((256 << 10) + 1)
    refused = await refusal(governed.call(KEY, PUBLISH, large))
    assert (refused.reason, refused.metadata["limit"]) == ("QUOTA", "policy_bytes")
    assert (await governed.get()).sequence == 0


async def test_broken_bundles_and_numbers_are_answered_clearly(governed: Governed) -> None:
    """Whatever a publisher's machine sends, and whatever anybody says to hold."""
    await governed.publish(bundle())
    rng = random.Random("broken bundles")
    good = bundle(bundle()).encoded
    for _ in range(40):
        data = bytearray(good)
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(4)] = rng.randbytes(rng.randrange(4))
        made = bytes(data)
        if made == good:
            continue
        message = to_publish(bundle())
        message.policy.bundle, message.policy.sig = made, KEY.sign(labels.POLICY_SIG, made)
        refused = await refusal(governed.call(KEY, PUBLISH, message))
        assert refused.reason in ("POLICY_INVALID", "POLICY_CONFLICT")
    for after in (1 << 53, 1 << 63, (1 << 64) - 1):
        assert (await governed.get(after)).sequence == 1
        world = await governed.service.account(f"holds {after}")
        assert (await governed.watch(world, after).next()).sequence == 1
    assert "defect" not in governed.events


async def test_a_service_without_policy_keys_has_no_policy(tmp_path: Path) -> None:
    """Nobody can publish one, and none is served, whatever stands in the store."""
    async with serving(tmp_path) as service:
        plain = Governed(service)
        assert (await refusal(plain.publish(bundle()))).reason == "UNAUTHENTICATED"
        await service.server.store.governance.put_policy(row_of(bundle()))
        await service.server.policy.refresh()
        assert (await plain.get()).sequence == 0
        world = await service.account("plain")
        assert (await service.pull(world)).info.policy_sequence == 0


# --- watching ---


async def test_a_watcher_has_the_newest_and_then_each_newer_one(governed: Governed) -> None:
    """Also one that has it already, and one that began before there was any."""
    first = bundle()
    await governed.publish(first)
    world = await governed.service.account("watching")
    fresh, knowing = governed.watch(world), governed.watch(world, 1, by=1)
    frame = await fresh.next()
    assert (frame.policy, frame.sequence, frame.info.policy_sequence) == (signed(first), 1, 1)
    frame = await knowing.next()
    assert (frame.HasField("policy"), frame.sequence) == (False, 1)
    before = first
    for _ in range(2):
        before = bundle(before)
        await governed.publish(before)
        for watcher in (fresh, knowing):
            frame = await watcher.next()
            while not frame.HasField("policy"):
                frame = await watcher.next()
            assert frame.policy == signed(before)


async def test_an_idle_watcher_hears_a_heartbeat(governed: Governed) -> None:
    """It says which bundle is the newest, and carries none."""
    await governed.publish(bundle())
    world = await governed.service.account("idle")
    watcher = governed.watch(world)
    await watcher.next()
    frame = await watcher.next()
    assert (frame.HasField("policy"), frame.sequence) == (False, 1)


async def test_a_revoked_device_watches_no_longer(governed: Governed) -> None:
    """Its stream ends with the next heartbeat."""
    await governed.publish(bundle())
    world = await governed.service.account("revoked")
    watcher = governed.watch(world, by=1)
    await watcher.next()
    await governed.service.append(world, world.rotate(revoke=[1]))
    assert (await watcher.end()).reason == "UNAUTHENTICATED"


async def test_watchers_leave_when_the_service_does(tmp_path: Path) -> None:
    """They are told to come again elsewhere, and hold nothing up."""
    async with serving(tmp_path, **KEYS) as service:
        governed = Governed(service)
        await governed.publish(bundle())
        watcher = governed.watch(await service.account("leaving"))
        await watcher.next()
        stopping = asyncio.create_task(service.server.stop())
        refused = await watcher.end()
        assert (refused.reason, refused.code) == ("DRAINING", grpc.StatusCode.UNAVAILABLE)
        await stopping


async def test_watching_has_bounds_and_wakes_nobody(tmp_path: Path) -> None:
    """So many of an account; and who watches the policy counts as asleep for ops."""
    async with serving(tmp_path, streams_per_account_max=1, **KEYS) as service:
        governed = Governed(service)
        await governed.publish(bundle())
        world = await service.account("bounded")
        watcher = governed.watch(world)
        await watcher.next()
        refused = await governed.watch(world, by=1).end()
        assert (refused.reason, refused.metadata["limit"]) == (
            "RATE_LIMITED", "streams_per_account",
        )  # fmt: skip
        assert len(service.server.policy_hub) == 1
        assert len(service.server.hub) == 0


# --- in force ---


async def test_what_no_listed_key_signed_is_not_in_force(tmp_path: Path) -> None:
    """Whoever can write to the store can't make policy: what was in force stays, and is said."""
    async with serving(tmp_path, **KEYS) as service:
        governed = Governed(service)
        first = bundle()
        await governed.publish(first)
        second = bundle(first)
        await service.server.store.governance.put_policy(row_of(second, PublisherKey(b"\x55" * 32)))
        await service.server.policy.refresh()
        assert service.server.policy.bundle == first
        assert (await governed.get()).policy == signed(first)
        assert governed.events.count("policy_refused") == 1
    forged = row_of(bundle(second))
    (tmp_path / "other").mkdir()
    async with serving(tmp_path / "other", **KEYS) as service:
        await service.server.store.governance.put_policy(
            PolicyRow(1, bytes(32), first.hash, first.encoded, forged.sig, KEY.public, 1)
        )
        await service.server.policy.refresh()
        assert service.server.policy.bundle is None


async def test_a_bundle_outlives_a_restart_and_the_end_of_its_key(tmp_path: Path) -> None:
    """A key that has ended publishes nothing more; what it published stays in force."""
    first = bundle()
    async with serving(tmp_path, **KEYS) as service:
        await Governed(service).publish(first)
    ended = (f"{KEY.public.hex()} until 2020-01-31", OTHER_KEY.public.hex())
    async with serving(tmp_path, policy_keys=ended) as service:
        governed = Governed(service)
        assert (await governed.get()).policy == signed(first)
        second = bundle(first)
        assert (await refusal(governed.publish(second))).reason == "UNAUTHENTICATED"
        await governed.publish(second, OTHER_KEY)


async def test_those_who_ask_for_what_is_not_there_share_a_read_of_the_store(
    governed: Governed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows who they are: a hundred at once cost two reads, that under way and the next, and
    all hear what stood there after they asked."""
    first = bundle()
    await governed.publish(first)
    server = governed.service.server
    store: Any = server.store.governance
    reads, going = 0, asyncio.Event()
    read_on = store.policy_sequence

    async def counted() -> int:
        nonlocal reads
        reads += 1
        sequence: int = await read_on()
        await going.wait()
        return sequence

    monkeypatch.setattr(store, "policy_sequence", counted)
    looking = [asyncio.create_task(server.policy.look()) for _ in range(50)]
    while not reads:  # noqa: ASYNC110
        await asyncio.sleep(0)
    second = bundle(first)
    # As another replica does: this process is not told.
    store.on_policy(lambda: None)
    await store.put_policy(row_of(second))
    late = [asyncio.create_task(server.policy.look()) for _ in range(50)]
    await asyncio.sleep(0)
    going.set()
    await asyncio.gather(*looking, *late)
    assert (server.policy.sequence, reads) == (2, 2)
    assert (await governed.get(1 << 60)).sequence == 2
    assert reads == 3

    async def broken() -> int:
        nonlocal reads
        reads += 1
        await asyncio.sleep(0)
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "policy_sequence", broken)
    reads = 0
    failed = await asyncio.gather(
        *(server.policy.look() for _ in range(50)), return_exceptions=True
    )
    assert {type(one) for one in failed} == {StoreUnavailable}
    assert reads == 2


async def test_a_publisher_that_is_listed_later_is_in_force_then(tmp_path: Path) -> None:
    """Keys are taken up while the service runs, and so is what one of them had signed."""
    first = bundle()
    async with serving(tmp_path, **KEYS) as service:
        await Governed(service).publish(first)
    async with serving(tmp_path) as service:
        governed, server = Governed(service), service.server
        assert (await governed.get()).sequence == 0
        own = ServiceKeys(
            server.keys,
            server.config,
            lambda: config(tmp_path, **KEYS, **key_files(tmp_path)),
            None,
            log=server.store.governance,
            taken=server.keys_taken,
        )
        told = asyncio.Event()
        server.policy.on_taken(lambda _: told.set())
        await own.take()
        await asyncio.wait_for(told.wait(), PATIENCE_S)
        assert (await governed.get()).policy == signed(first)


def key_files(folder: Path) -> dict[str, str]:
    """Files of a service's own keys, for settings."""
    for name, secret in (("identity", b"\x07" * 32), ("pepper", b"\x08" * 32)):
        create(folder / name, secret)
    return {"identity_key_file": str(folder / "identity"), "pepper_file": str(folder / "pepper")}


async def test_what_the_store_lost_is_put_back(governed: Governed) -> None:
    """The newest alone can be: who still holds it in memory has it."""
    first = bundle()
    second = bundle(first)
    await governed.publish(first)
    await governed.publish(second)
    server = governed.service.server
    await lose(server.store, 2)
    assert (await governed.get(5)).policy == policy_pb2.SignedPolicy()
    assert await server.store.governance.policy_sequence() == 2
    assert "policy_put_back" in governed.events
    await lose(server.store, 1)
    await server.policy.refresh()
    assert "policy_lost" in governed.events
    assert server.policy.sequence == 2


async def lose(store: Any, first: int) -> None:
    """What a failover may do: the bundles from this number on are gone."""

    def work(tx: Any) -> None:
        tx.db.execute("DELETE FROM policy WHERE sequence >= ?", (first,))

    await store._writer.submit(work)


async def test_an_undeclared_task_is_not_published(governed: Governed) -> None:
    """Nor one that a switch stops, or that is outside its rule; its rounds likewise."""
    relay = Relay(governed.service)
    first = bundle(tasks=policy_samples.bundle().tasks)
    await governed.publish(first)

    async def rule(call: Any) -> str:
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION, "TASK_UNDECLARED",
        )  # fmt: skip
        return refused.metadata["rule"]

    def publish(**changes: Any) -> Any:
        return relay.call(PUBLISHER, PUBLISH_TASK, signed_task(task(**changes)))

    assert await rule(publish()) == "task-undeclared"
    second = bundle(first)
    await governed.publish(second)
    assert await rule(publish(name="cuisine/other")) == "task-undeclared"
    assert await rule(publish(purpose="statistics")) == "task-purpose"
    await publish()
    await publish(name="cuisine/v2")
    opened = manifest(task(), relay.now_ms - 1_000)
    await relay.collect(opened)
    for subject, name in (("task", "cuisine"), ("purpose", "product"), ("signal", "region")):
        second = bundle(second, flags=(killing(subject, name),))
        await governed.publish(second)
        assert await rule(publish()) == "task-killed"
        later = manifest(task(), relay.now_ms + 200_000, "later")
        assert await rule(relay.call(PUBLISHER, COLLECT, signed_round(later))) == "task-killed"
    second = bundle(second, tasks=(*first.tasks, replace(CUISINE, k_min_at_least=3)))
    await governed.publish(second)
    assert await rule(publish()) == "task-k-min"


async def test_before_the_first_bundle_no_task_is_published(tmp_path: Path) -> None:
    """What no bundle allows is not allowed, also where the matrix would let the call pass."""
    async with serving(tmp_path, **KEYS) as service:
        service.server.guard.take(OPEN, 0)
        call = Relay(service).call(PUBLISHER, PUBLISH_TASK, signed_task(task()))
        refused = await refusal(call)
        assert (refused.reason, refused.metadata["rule"]) == ("TASK_UNDECLARED", "no-policy")


# --- replicas ---


async def test_a_bundle_reaches_watchers_at_every_replica(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Whichever took it; and who has it is never told by another replica that it has not."""
    redis_server.flush()
    settings: dict[str, Any] = {"redis_url": redis_server.url, **KEYS}
    async with serving(tmp_path, **settings) as one, serving(tmp_path, **settings) as two:
        first, second = Governed(one), Governed(two)
        made = bundle()
        await first.publish(made)
        # At once, however long ago the other replica looked.
        assert (await second.get(1)).sequence == 1
        world = await one.account("watching")
        watchers = [first.watch(world), second.watch(world, by=1)]
        for watcher in watchers:
            assert (await watcher.next()).policy == signed(made)
        after = bundle(made)
        await first.publish(after)
        for watcher in watchers:
            assert (await watcher.next()).policy == signed(after)
        # The one that heard of it from the other is as good a place to go on.
        await second.publish(bundle(after))
        for watcher in watchers:
            assert (await watcher.next()).policy == signed(bundle(after))
