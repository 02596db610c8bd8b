"""Any sequence of calls: what a store keeps of governance is what three lists would."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import replace
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

from crypto.ids import AccountId
from services.store.base import Limits, Store
from services.store.errors import (
    AccountAbsent,
    ConsentConflict,
    PolicyConflict,
    QuotaExceeded,
)
from services.store.governance import (
    NOTHING,
    AuditEntry,
    ConsentRow,
    Head,
    PolicyRow,
    first_broken,
    following,
)
from tests.governance_rows import consent_after, policy_after
from tests.store_worlds import BACKENDS, EVERY_BACKEND, NOW_MS, Client, RedisHouse, Stores

T = TypeVar("T")
LIMITS = Limits(consents_max=6)
WHO = st.integers(0, 1)
STEPS = st.integers(-1, 1)
"""How far from the next place in a chain."""


class GovernanceMachine(RuleBasedStateMachine):
    """Two accounts; where a store has replicas, calls take turns between two of them."""

    backend: str
    house: RedisHouse

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.stores: Stores = BACKENDS[self.backend](Path(self.folder.name), self.house)
        self.replicas: list[Store] = []
        self.policies: list[PolicyRow] = []
        self.consents: dict[int, list[ConsentRow] | None] = {0: [], 1: []}
        """None: the account is deleted."""
        self.audit: list[AuditEntry] = []
        self.trimmed = 0

    def run(self, call: Coroutine[object, object, T]) -> T:
        return self.loop.run_until_complete(call)

    @property
    def store(self) -> Store:
        """The replica whose turn it is."""
        self.replicas.reverse()
        return self.replicas[0]

    def open(self) -> None:
        count = 1 if self.backend == "sqlite" else 2
        self.replicas = [self.run(self.stores(limits=LIMITS)) for _ in range(count)]

    def teardown(self) -> None:
        self.run(self.stores.close())
        self.loop.close()
        self.folder.cleanup()

    @initialize()
    def create(self) -> None:
        self.open()
        self.clients = [self.run(Client.create(self.store, f"machine {n}")) for n in (0, 1)]

    def account(self, who: int) -> AccountId:
        return self.clients[who].world.account_id

    # --- bundles ---

    @rule(step=STEPS, text=st.sampled_from([b"one", b"another"]), odd=st.booleans())
    def put(self, step: int, text: bytes, odd: bool) -> None:
        """The next one, one that is not, or one behind another past."""
        newest = self.policies[-1] if self.policies else None
        head = NOTHING if newest is None else Head(newest.sequence, newest.hash)
        row = policy_after(head, text)
        row = replace(row, sequence=max(1, row.sequence + step))
        if odd:
            row = replace(row, previous=b"\xff" * 32)
        if (row.sequence - 1, row.previous) == head:
            assert self.run(self.store.governance.put_policy(row))
            self.policies.append(row)
            return
        with pytest.raises(PolicyConflict) as conflict:
            self.run(self.store.governance.put_policy(row))
        assert (conflict.value.sequence, conflict.value.hash) == head

    @precondition(lambda self: self.policies)
    @rule(at_ms=st.integers(0, 9))
    def put_again(self, at_ms: int) -> None:
        """The newest, at another time."""
        row = replace(self.policies[-1], at_ms=at_ms)
        assert not self.run(self.store.governance.put_policy(row))

    # --- consent ---

    @rule(who=WHO, purpose=st.sampled_from("abc"), granted=st.booleans(), step=STEPS)
    def say(self, who: int, purpose: str, granted: bool, step: int) -> None:
        """The next entry of an account, or one that is not."""
        rows = self.consents[who]
        head = Head(rows[-1].seq, rows[-1].hash) if rows else NOTHING
        row = consent_after(head, purpose, granted=granted, salt=bytes((who,)))
        row = replace(row, seq=max(1, row.seq + step))
        call = self.store.governance.append_consent(self.account(who), row)
        is_next = (row.seq - 1, row.prev) == head
        said = [one.granted for one in rows or () if one.tag == row.tag]
        ends = not granted and said[-1:] == [True]
        if is_next and rows is not None and (row.seq <= LIMITS.consents_max or ends):
            assert self.run(call)
            rows.append(row)
            return
        with pytest.raises((AccountAbsent, ConsentConflict, QuotaExceeded)) as refused:
            self.run(call)
        if is_next and rows is not None:
            assert isinstance(refused.value, QuotaExceeded)
        elif row.seq <= LIMITS.consents_max:
            wanted = AccountAbsent if rows is None else ConsentConflict
            # Without an account every place is wrong, and which is found first is no matter.
            assert isinstance(refused.value, wanted) or rows is None

    @precondition(lambda self: self.consents[0])
    @rule(at_ms=st.integers(0, 9))
    def say_again(self, at_ms: int) -> None:
        """The newest entry, at another time."""
        rows = self.consents[0]
        assert rows
        row = replace(rows[-1], at_ms=at_ms)
        assert not self.run(self.store.governance.append_consent(self.account(0), row))

    @rule(who=WHO)
    def leave_or_come_back(self, who: int) -> None:
        """Deleted, or made again, with nothing."""
        if self.consents[who] is None:
            self.clients[who].store = self.store
            self.run(self.clients[who].make_again(()))
            self.consents[who] = []
        else:
            self.run(self.store.delete_account(self.account(who)))
            self.consents[who] = None

    # --- the audit log ---

    @rule(body=st.binary(max_size=40), ms=st.integers(0, 50))
    def write_down(self, body: bytes, ms: int) -> None:
        """By clocks that differ."""
        last_ms = self.audit[-1].at_ms if self.audit else 0
        head = Head(self.audit[-1].seq, self.audit[-1].hash) if self.audit else NOTHING
        made = self.run(self.store.governance.append_audit(body, now_ms=NOW_MS + ms))
        assert made == following(head, last_ms, body, NOW_MS + ms)
        self.audit.append(made)

    @rule(ms=st.integers(0, 60))
    def trim(self, ms: int) -> None:
        """All that is older, but for the newest of it."""
        older = [entry for entry in self.audit[self.trimmed :] if entry.at_ms < NOW_MS + ms]
        gone = max(0, len(older) - 1)
        assert self.run(self.store.governance.trim_audit(before_ms=NOW_MS + ms)) == gone
        self.trimmed += gone

    # --- all of it ---

    @rule()
    def restart(self) -> None:
        """Closed and opened again."""
        for store in self.replicas:
            self.run(store.close())
        self.open()

    @invariant()
    def is_as_the_lists_say(self) -> None:
        """Every read of either replica."""
        if not self.replicas:
            return
        held = self.store.governance
        newest = self.policies[-1] if self.policies else None
        assert self.run(held.policy()) == newest
        assert self.run(held.policy_sequence()) == len(self.policies)
        for row in self.policies:
            assert self.run(held.policy(row.sequence)) == row
        for who, said in self.consents.items():
            rows, account = said or [], self.account(who)
            assert list(self.run(held.consents(account, 0, rows_max=99))) == rows
            head = Head(rows[-1].seq, rows[-1].hash) if rows else NOTHING
            assert self.run(held.consent_head(account)) == head
            for tag, entry in {one.tag: one for one in rows}.items():
                state = self.run(held.consent_state(account, tag))
                assert state == (entry.seq, entry.granted)
        log = list(self.run(held.read_audit(0, rows_max=999)))
        anchor = self.run(held.audit_anchor())
        assert log == self.audit[self.trimmed :]
        assert first_broken(log, anchor) is None
        assert anchor.seq == self.trimmed
        ends = Head(self.audit[-1].seq, self.audit[-1].hash) if self.audit else NOTHING
        assert self.run(held.audit_head()) == ends


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_governance_is_what_three_lists_would_be(backend: str, redis_house: RedisHouse) -> None:
    """Whatever is called, in whatever order, at whichever replica."""
    machine = type("Machine", (GovernanceMachine,), {"backend": backend, "house": redis_house})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
