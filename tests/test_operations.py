"""What operators see: privacy health, exposure, the audit log, rounds. Against a real server."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crypto.policy.access import Access, Grant, Role
from mpc import task as tasks
from rookery.v1 import accounts_pb2, operations_pb2 as wire, rounds_pb2
from services.access.matrix import Matrix
from services.audit.record import Record, of_key
from services.operations import exposure, facts
from services.store.governance import AuditEntry, Head, first_broken
from tests import governed_worlds
from tests.governed_worlds import KEY, OPEN, to_publish
from tests.redis_process import RedisServer
from tests.relay_worlds import (
    ANALYST,
    PUBLISH,
    PUBLISHER,
    RESULT,
    STRANGER as OPERATOR,
    Relay,
    manifest,
    relaying,
    result,
    signed_task,
    task,
)
from tests.round_stored import stored
from tests.served import Refusal, refusal

HEALTH, EXPOSURE, AUDIT, ROUNDS = (
    f"/rookery.v1.Operations/{name}"
    for name in ("GetPrivacyHealth", "GetExposure", "ListAudit", "GetRoundsOverview")
)
ROLE = Role("operator", (), (OPERATOR.public.hex(),))


def access(*purposes: str) -> Access:
    """Everybody may do what the routes let them; operators see results of these purposes."""
    grants = tuple(
        Grant("operator", method, purposes if method == ROUNDS and purposes else ("*",))
        for method in (HEALTH, EXPOSURE, AUDIT, ROUNDS)
    )
    return replace(OPEN, roles=(ROLE,), grants=(*OPEN.grants, *grants))


@dataclass(slots=True)
class Operated:
    """A governed relay with an operator."""

    relay: Relay

    async def health(self) -> wire.GetPrivacyHealthResponse:
        """As the operator sees it."""
        return wire.GetPrivacyHealthResponse.FromString(await self.ask(HEALTH))

    async def rounds(self, skip: int = 0) -> wire.GetRoundsOverviewResponse:
        """A page."""
        message = wire.GetRoundsOverviewRequest(skip=skip)
        return wire.GetRoundsOverviewResponse.FromString(await self.ask(ROUNDS, message))

    async def audit(self, after: int = 0) -> wire.ListAuditResponse:
        """A page."""
        message = wire.ListAuditRequest(after=after)
        return wire.ListAuditResponse.FromString(await self.ask(AUDIT, message))

    async def ask(self, method: str, message: Any = b"") -> bytes:
        """A call by the operator."""
        return await self.relay.call(OPERATOR, method, message)


@pytest.fixture
async def operated(tmp_path: Path) -> AsyncIterator[Operated]:
    """One whose policy lists an operator's key."""
    async with relaying(tmp_path, policy_keys=(KEY.public.hex(),)) as relay:
        first = governed_worlds.bundle(access=access())
        by: Any = SimpleNamespace(identity=KEY)
        await relay.call(by, "/rookery.v1.Policy/PublishPolicy", to_publish(first))
        yield Operated(relay)


# --- exposure ---


def columns(path: Path) -> list[str]:
    """Every column of a file's tables."""
    with closing(sqlite3.connect(path)) as db:
        names = [
            name
            for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if not name.startswith("sqlite_")
        ]
        return [
            f"{name}.{row[1]}" for name in names for row in db.execute(f"PRAGMA table_info({name})")
        ]


async def test_every_column_of_the_schema_is_declared(operated: Operated) -> None:
    """Who adds a column says what it tells, in services/operations/fields.py."""
    found = columns(operated.relay.service.path / "rookery.db")
    assert exposure.undeclared(found) == (set(), set())
    assert len(found) == len(set(found)) == len(exposure.TABLE)
    served = operated.relay.service.server.edge.routes
    assert {one for row in exposure.TABLE for one in row.methods} <= served.keys()


async def test_tables_of_accounts_are_those_with_their_number(operated: Operated) -> None:
    """So that the count of rows past their account's deletion leaves no table out."""
    found = columns(operated.relay.service.path / "rookery.db")
    owned = {
        name.partition(".")[0]
        for name in found
        if name.endswith((".account_n", ".device_key"))
        or name in ("link.link_id", "epoch_end.epoch_id", "segment.segment_id")
        or name == "consent.consent_id"
    }
    assert owned - {"account"} == facts.OWNED.keys()


async def test_readers_are_those_of_the_matrix(operated: Operated) -> None:
    """By route and grant together; without a policy, by route."""
    answer = wire.GetExposureResponse.FromString(await operated.ask(EXPOSURE))
    rows = {row.field: row for row in answer.fields}
    assert answer.policy_sequence == 1
    assert rows["segment.ops"].form == wire.EXPOSURE_FORM_SEALED
    assert rows["segment.ops"].readers == ["device"]
    assert rows["audit.body"].readers == ["operator"]
    assert rows["box.data"].readers == ["party"]
    assert rows["account.subject_row"].readers == []
    assert "analyst" in rows["result.result"].readers
    [result_row] = [row for row in exposure.TABLE if row.field == "result.result"]
    routes = {RESULT: frozenset(("device", "analyst", "known-key"))}
    auditor = Role("auditor", (), ("11" * 32,))
    grants = Grant("analyst", RESULT, ("*",)), Grant("auditor", RESULT, ("*",))
    narrow = Matrix.compile(Access((auditor,), grants), [RESULT])
    assert exposure.readers(result_row, narrow, routes) == ("analyst", "auditor")
    assert exposure.readers(result_row, None, routes) == ("analyst", "device")


# --- privacy health ---


async def test_health_says_what_can_be_known(operated: Operated) -> None:
    """Policy, refusals by gate, budgets by the rounds held, ages, heads; and no more."""
    relay = operated.relay
    await relay.call(PUBLISHER, PUBLISH, signed_task(task()))
    await stored(relay.service.server.store, manifest(task(), relay.now_ms - 1_000_000))
    await refusal(relay.call(ANALYST, PUBLISH, signed_task(task())))
    found = await operated.health()
    assert (found.governed, found.policy_sequence) == (True, 1)
    assert found.policy_hash == governed_worlds.bundle(access=access()).hash
    assert {row.reason: row.count for row in found.refusals} == {"ROLE_MISSING": 1}
    [budget] = found.budgets
    cost = task().cost_micro_rho
    assert (budget.task_id, budget.round_micro_rho) == ("cuisine", cost)
    assert budget.cap_micro_rho == task().caps.task_micro_rho
    assert (budget.spent_micro_rho, budget.left_micro_rho) == (cost, budget.cap_micro_rho - cost)
    assert found.audit_head.seq > 0
    assert found.audit_anchor.seq == 0
    assert (found.rows_past_deletion, found.oldest_ended_epoch_ms) == (0, 0)
    assert found.HasField("rows_past_deletion")
    assert {row.kind for row in found.overdue} == {"boxes", "results", "mailboxes", "wake", "audit"}
    assert not any(row.count for row in found.overdue)


async def test_on_redis_health_says_what_that_store_can_tell(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """The same, but for when the oldest epoch ended, which nobody looks up there."""
    redis_server.flush()
    settings: dict[str, Any] = {"redis_url": redis_server.url}
    async with relaying(tmp_path, policy_keys=(KEY.public.hex(),), **settings) as relay:
        by: Any = SimpleNamespace(identity=KEY)
        first = governed_worlds.bundle(access=access())
        await relay.call(by, "/rookery.v1.Policy/PublishPolicy", to_publish(first))
        await stored(relay.service.server.store, manifest(task(), relay.now_ms - 1_000_000))
        found = await Operated(relay).health()
        assert (found.policy_sequence, len(found.budgets)) == (1, 1)
        assert found.HasField("rows_past_deletion")
        assert found.rows_past_deletion == 0
        assert not found.HasField("oldest_ended_epoch_ms")
        assert len((await Operated(relay).rounds()).rounds) == 1


async def test_rows_past_deletion_are_counted(operated: Operated) -> None:
    """None after a deletion; one that somebody left behind shows."""
    relay = operated.relay
    world = await relay.service.account("deleted")
    await relay.service.account("kept")
    asked = accounts_pb2.DeleteAccountRequest(account_id=bytes(world.account_id))
    await relay.service.signed(world, "/rookery.v1.Accounts/DeleteAccount", asked)
    database = relay.service.path / "rookery.db"
    assert facts.of_file(database).past_deletion == 0
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("INSERT INTO tail VALUES (77, 0, 0, 0, 0)")
        db.execute("INSERT INTO live VALUES (?, x'00')", ((77).to_bytes(4, "big") + b"x",))
        db.execute("INSERT INTO epoch_end VALUES (?, 5)", (77 << 32 | 1,))
    found = facts.of_file(database)
    assert (found.past_deletion, found.oldest_ended_epoch_ms) == (3, 5)


# --- the audit log ---


async def test_an_operator_verifies_the_log_it_reads(operated: Operated) -> None:
    """Page by page, from its anchor to the head that it names; its own calls come behind."""
    for _ in range(3):
        await operated.health()
    page = await operated.audit()
    rows = [AuditEntry(row.seq, row.at_ms, row.prev, row.body, row.hash) for row in page.entries]
    assert first_broken(rows, Head(page.anchor.seq, page.anchor.hash)) is None
    assert (rows[-1].seq, rows[-1].hash) == (page.head.seq, page.head.hash)
    last = Record.decode(rows[-1].body)
    assert (last.who, last.what, last.outcome) == (of_key(OPERATOR.public), HEALTH, "OK")
    [own] = [Record.decode(row.body) for row in (await operated.audit(page.head.seq)).entries]
    assert own.what == AUDIT
    assert not page.more


async def test_a_long_log_comes_in_pages(operated: Operated) -> None:
    """None is left out, none comes twice."""
    store = operated.relay.service.server.store.governance
    body = Record("local:0", "rookery-server backup", "OK").encode()
    for _ in range(300):
        await store.append_audit(body, now_ms=1)
    first = await operated.audit()
    assert first.more
    assert len(first.entries) == 256
    second = await operated.audit(first.entries[-1].seq)
    seqs = [row.seq for row in (*first.entries, *second.entries)]
    assert seqs == list(range(1, len(seqs) + 1))
    assert not second.more


# --- rounds ---


async def test_rounds_come_newest_first_with_what_was_signed(operated: Operated) -> None:
    """States of all, the task once, and the result of the one that has it."""
    relay = operated.relay
    store = relay.service.server.store
    now_ms = relay.now_ms
    old, new = manifest(task(), now_ms - 500_000, "old"), manifest(task(), now_ms - 1_000, "new")
    for one in (old, new):
        await stored(store, one)
    said = result(old, b"signed result")
    sigs = {row.party: row.sig for row in said.sigs}
    await store.rounds.publish_result(old.round_id, b"signed result", sigs, now_ms=now_ms)
    page = await operated.rounds()
    assert [one.summary.round_id for one in page.rounds] == [new.round_id, old.round_id]
    assert {row.state: row.count for row in page.states if row.count} == {
        rounds_pb2.ROUND_STATE_OPEN: 1, rounds_pb2.ROUND_STATE_DONE: 1,
    }  # fmt: skip
    [named] = page.tasks
    assert tasks.decode(named.task) == task()
    assert page.rounds[1].result == b"signed result"
    assert [row.party for row in page.rounds[1].result_sigs] == [1, 2, 3]
    assert not page.rounds[0].result
    assert (page.next, page.more) == (2, False)
    rest = await operated.rounds(1)
    assert [one.summary.round_id for one in rest.rounds] == [old.round_id]


async def test_a_result_of_another_purpose_is_withheld(operated: Operated) -> None:
    """The round is there, and that it has a result; the result is not."""
    relay = operated.relay
    store = relay.service.server.store
    old = manifest(task(), relay.now_ms - 500_000)
    await stored(store, old)
    said = result(old, b"signed result")
    sigs = {row.party: row.sig for row in said.sigs}
    await store.rounds.publish_result(
        old.round_id, b"signed result", sigs, now_ms=relay.now_ms
    )  # fmt: skip
    for purpose, withheld in (("statistics", True), ("product", False)):
        relay.service.server.guard.take(access(purpose), 1)
        [one] = (await operated.rounds()).rounds
        assert (one.withheld, bool(one.result)) == (withheld, not withheld)


async def test_nobody_else_sees_any_of_it(operated: Operated) -> None:
    """Not publishers, analysts or devices, whatever else they may do."""
    world = await operated.relay.service.account("curious")
    for by in (PUBLISHER, ANALYST, world):
        for method in (HEALTH, EXPOSURE, AUDIT, ROUNDS):
            denied = await refusal(operated.relay.call(by, method, b""))
            assert denied.reason == "ACCESS_DENIED", (by, method)
    with pytest.raises(Refusal):
        await operated.relay.service.raw(AUDIT, b"")
