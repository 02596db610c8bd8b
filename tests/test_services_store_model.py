"""Any sequence of calls: the store does what a simple model in memory does."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from crypto.op import SealedOp, Verb
from services.store.base import Limits, Store
from services.store.errors import StoreError
from tests.store_model import Model
from tests.store_worlds import (
    BACKENDS,
    EVERY_BACKEND,
    NOW_MS,
    Client,
    RedisHouse,
    Stores,
    stub_of,
)
from tests.worlds import World

T = TypeVar("T")
GRACE_MS = 1000
LIMITS = Limits(records_max=6, grace_ms=GRACE_MS)
DEVICES = st.integers(0, 2)
KEYS = st.sampled_from("abcdefgh")


class StoreMachine(RuleBasedStateMachine):
    """One account with three devices; every call is made to the store and to the model. Where a
    store has replicas, calls take turns between two of them."""

    backend: str
    house: RedisHouse

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.replicas: list[Store] = []
        self.folder = tempfile.TemporaryDirectory()
        self.stores: Stores = BACKENDS[self.backend](Path(self.folder.name), self.house)

    def run(self, call: Coroutine[object, object, T]) -> T:
        """Runs a call to its end, at the replica whose turn it is."""
        if self.replicas:
            self.replicas.reverse()
            self.client.store = self.replicas[0]
        return self.loop.run_until_complete(call)

    def open(self) -> list[Store]:
        """Opens the store; its replicas."""
        count = 1 if self.backend == "sqlite" else 2
        return [self.run(self.stores(limits=LIMITS)) for _ in range(count)]

    def teardown(self) -> None:
        self.run(self.stores.close())
        self.loop.close()
        self.folder.cleanup()

    @initialize()
    def create(self) -> None:
        opened = self.open()
        self.client = self.run(Client.create(opened[0], "machine", devices=3))
        self.replicas = opened
        self.world = self.client.world
        self.model = Model(self.world.chain, LIMITS)
        self.sent: list[SealedOp] = []

    def push(self, ops: list[SealedOp], mark: int | None = None, covers: int = 0) -> bool:
        """Pushes to both; they must agree. True if it was taken."""
        error: StoreError | None = None
        expected = 0
        try:
            expected = self.model.commit(ops, now_ms=self.client.now_ms, mark=mark, covers=covers)
        except StoreError as refused:
            error = refused
        if error is not None:
            with pytest.raises(type(error)) as refusal:
                self.run(self.client.push(*ops, checkpoint=mark, covers=covers))
            assert str(refusal.value) == str(error) or not str(error)
            return False
        committed = self.run(self.client.push(*ops, checkpoint=mark, covers=covers))
        assert (committed.new_ops, committed.position) == (expected, self.model.position)
        self.sent += ops
        return True

    @rule(rows=st.lists(st.tuples(DEVICES, KEYS, st.integers(-3, 3)), min_size=1, max_size=8))
    def push_new(self, rows: list[tuple[int, str, int]]) -> None:
        """A batch by several devices, some of whose ops lose."""
        draft = self.world.fork()
        ops = []
        for by, key, step in rows:
            lamport = max(1, draft.lamport + step)
            ops.append(draft.op(by, key, lamport=lamport))
            draft.lamport = max(lamport, draft.lamport)
        if self.push(ops):
            self.take(draft)

    def take(self, draft: World) -> None:
        """What was drafted has been sent."""
        self.world.authors, self.world.lamport = draft.authors, draft.lamport
        self.world.heads = draft.heads

    @rule(by=DEVICES, key=KEYS, skip=st.integers(0, 1), lamport=st.sampled_from([1, 5, 1 << 13]))
    def push_odd(self, by: int, key: str, skip: int, lamport: int) -> None:
        """With a gap, far ahead, or of an epoch that is or isn't over."""
        draft = self.world.fork()
        draft.ops(skip, by, keys="unsent")
        epoch = max(1, draft.chain.epoch - lamport % 3)
        if self.push([draft.op(by, key, epoch=epoch, lamport=lamport)]):
            self.take(draft)

    @precondition(lambda self: self.sent)
    @rule(seed=st.integers(0, 1 << 16), stubs=st.booleans(), count=st.integers(1, 5))
    def push_again(self, seed: int, stubs: bool, count: int) -> None:
        """What was sent before, whole or as stubs."""
        rng = random.Random(seed)
        start = rng.randrange(len(self.sent))
        again = self.sent[start : start + count]
        by_device = sorted(again, key=lambda sealed: sealed.header.dev_seq)
        self.push([stub_of(sealed) for sealed in by_device] if stubs else by_device)

    @precondition(lambda self: self.sent)
    @rule(seed=st.integers(0, 1 << 16), key=KEYS)
    def push_fork(self, seed: int, key: str) -> None:
        """Another op at a dev_seq that is taken."""
        rng = random.Random(seed)
        original = rng.choice(self.sent).header
        clone = self.world.fork()
        by = next(n for n, a in enumerate(clone.authors) if a.device_id == original.device_id)
        clone.authors[by].dev_seq = original.dev_seq - 1
        clone.authors[by].head = original.prev
        assert not self.push([clone.op(by, key, b"other", epoch=original.epoch)])

    @rule(by=DEVICES, key=KEYS)
    def push_stub(self, by: int, key: str) -> None:
        """A stub whose winner may be missing."""
        draft = self.world.fork()
        if self.push([stub_of(draft.op(by, key, lamport=max(1, draft.lamport - 2)))]):
            self.take(draft)

    @rule(behind=st.integers(0, 3), cover=st.booleans())
    def checkpoint(self, behind: int, cover: bool) -> None:
        """Marks a checkpoint of what was there some pushes ago."""
        draft = self.world.fork()
        ops = [draft.op(0, verb=Verb.CHECKPOINT)]
        if cover:
            ops.append(draft.cover(0))
        covers = self.model.ends[max(0, len(self.model.ends) - 1 - behind)]
        if self.push(ops, 0, covers):
            self.take(draft)

    @rule(by=st.sampled_from([(0,), (1,), (2,), (0, 1, 2)]), behind=st.integers(0, 3))
    def pass_(self, by: tuple[int, ...], behind: int) -> None:
        """Devices ask for what comes after some push."""
        position = self.model.ends[max(0, len(self.model.ends) - 1 - behind)]
        self.run(self.client.passed(position, *by))
        passed = self.model.passed
        for index in by:
            device_id = self.world.authors[index].device_id
            passed[device_id] = max(position, passed.get(device_id, 0))

    @rule(revoke=st.sampled_from([(), (), (1,), (2,)]), later_ms=st.sampled_from([0, GRACE_MS]))
    def rotate(self, revoke: tuple[int, ...], later_ms: int) -> None:
        """A new epoch, perhaps without a device, and perhaps the old one's grace ends."""
        active = {device.index for device in self.world.chain.active}
        if self.world.chain.epoch < 6:
            self.run(self.client.rotate(sorted(set(revoke) & active)))
            self.model.rotate(self.world.chain, self.client.now_ms)
        self.client.now_ms += later_ms

    @rule()
    def sweep(self) -> None:
        """Housekeeping, of the time when all this began: no epoch's grace is over."""
        self.run(self.client.store.sweep(now_ms=NOW_MS))

    @rule()
    def restart(self) -> None:
        """Closes the store and opens it again."""
        closing, self.replicas = self.replicas, []
        for store in closing:
            self.run(store.close())
        self.replicas = self.open()
        self.client.store = self.replicas[0]

    @rule(ops_max=st.integers(1, 9))
    def read(self, ops_max: int) -> None:
        """Pages end where pushes end, and make the log."""
        after, ops, more = 0, list[bytes](), True
        while more:
            page = self.run(self.client.page(after, ops_max))
            assert page.position in self.model.ends
            assert page.position > after or not page.more
            ops += page.ops
            after, more = page.position, page.more
        assert after == self.model.position
        self.check_log(ops)

    def check_log(self, ops: list[bytes]) -> None:
        """All that may not go is there, in order, and nothing else but what may."""
        left = iter(ops)
        raw = next(left, None)
        for held in self.model.log:
            kept = {held.raw, held.sealed.raw} if held.marked else {held.raw}
            if held.marked and held.superseded_at is not None:
                kept.add(held.sealed.stub)
            if raw in kept:
                raw = next(left, None)
            else:
                assert self.model.may_go(held)
        assert raw is None

    @invariant()
    def same_tip_and_heads(self) -> None:
        """Tip and heads are the model's after every step."""
        if not hasattr(self, "client"):
            return
        tip = self.run(self.client.store.tip(self.world.account_id, fresh=True))
        assert tip is not None
        assert (tip.chain, tip.position, tip.lamport_max) == (
            self.model.chain,
            self.model.position,
            self.model.lamport_max,
        )
        _, heads = self.run(self.client.store.heads(self.world.account_id))
        assert [head for _, head in heads] == [h for _, h in sorted(self.world.heads.items())]


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_store_does_what_the_model_does(backend: str, redis_house: RedisHouse) -> None:
    """Pushes, forks, stubs, checkpoints, rotations and restarts in any order agree."""
    machine = type("Machine", (StoreMachine,), {"backend": backend, "house": redis_house})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=10 if backend == "redis" else 25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
