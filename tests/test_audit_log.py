"""The audit log: what is in it, what is not, and that a change of it shows."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from crypto import canonical
from crypto.errors import FormatError
from rookery.v1 import rounds_pb2
from services.audit.record import Record, of_key, request_hash
from tests.relay_worlds import (
    ANALYST,
    COLLECT,
    LIST,
    PARTIES,
    PUBLISH,
    PUBLISHER,
    RESULT,
    STRANGER,
    Relay,
    manifest,
    relaying,
    report,
    signed_task,
    task,
)
from tests.served import refusal

DATABASE = "rookery.db"


async def log_of(relay: Relay) -> list[Record]:
    """All that is in the log."""
    rows = await relay.service.server.store.governance.read_audit(0, rows_max=1_000)
    return [Record.decode(row.body) for row in rows]


def said(records: list[Record]) -> list[tuple[str, str]]:
    """Methods and outcomes."""
    return [(one.what, one.outcome) for one in records]


async def test_every_call_of_a_key_without_an_account_is_in_it(tmp_path: Path) -> None:
    """Changes twice, before and after; reads and refusals once; who and which request."""
    async with relaying(tmp_path) as relay:
        made = task()
        asked = signed_task(made)
        await relay.call(PUBLISHER, PUBLISH, asked)
        opened = manifest(made, relay.now_ms - 1_000)
        await relay.collect(opened)
        await refusal(relay.call(ANALYST, PUBLISH, asked))
        await refusal(relay.result(ANALYST, opened.round_id))
        await refusal(relay.call(PUBLISHER, PUBLISH, b"\xff"))
        await relay.fetch(PARTIES[0], opened.round_id)
        found = await log_of(relay)
    assert said(found) == [
        (PUBLISH, "BEGUN"), (PUBLISH, "OK"), (COLLECT, "BEGUN"), (COLLECT, "OK"),
        (PUBLISH, "BEGUN"), (PUBLISH, "ROLE_MISSING"), (RESULT, "RESULT_ABSENT"),
        (PUBLISH, "BEGUN"), (PUBLISH, "MALFORMED"),
        ("/rookery.v1.Parties/StreamBoxes", "OPENED"),
    ]  # fmt: skip
    assert [one.begun for one in found] == [0, 1, 0, 3, 0, 5, 0, 0, 8, 0]
    assert {one.who for one in found[:4]} == {of_key(PUBLISHER.public)}
    assert found[6].who == of_key(ANALYST.public)
    assert found[0].request == request_hash(asked.SerializeToString())


async def test_devices_and_unknown_keys_are_not_in_it(tmp_path: Path) -> None:
    """Nor what a device is refused: nobody fills the log who was not given a key."""
    async with relaying(tmp_path) as relay:
        opened = await relay.opened("x")
        before = len(await log_of(relay))
        world = await relay.service.account("devices")
        await relay.contribute(world, report(opened, "x", task("task-x")))
        await refusal(relay.call(world, PUBLISH, b""))
        for _ in range(3):
            await refusal(relay.call(STRANGER, LIST, rounds_pb2.ListTasksRequest()))
        assert len(await log_of(relay)) == before


async def test_a_call_that_can_t_be_written_down_does_nothing(tmp_path: Path) -> None:
    """The task is not there afterwards, and the caller is told that it failed."""
    async with relaying(tmp_path) as relay:
        await relay.call(ANALYST, LIST, rounds_pb2.ListTasksRequest())
        with closing(sqlite3.connect(tmp_path / DATABASE)) as db:
            db.execute(
                "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'x'); END"
            )
        for actor, method, asked in (
            (PUBLISHER, PUBLISH, signed_task(task())),
            (ANALYST, LIST, rounds_pb2.ListTasksRequest()),
        ):
            failed = await refusal(relay.call(actor, method, asked))
            assert failed.reason == "INTERNAL"
        rows, _ = await relay.service.server.store.rounds.read_tasks(0, tasks_max=9, bytes_max=9)
        assert not rows
        assert len(await log_of(relay)) == 1


async def test_a_key_in_a_loop_writes_no_more_than_its_rate(tmp_path: Path) -> None:
    """Beyond it calls are refused before their handler, and leave no entry."""
    async with relaying(tmp_path, audit_calls_per_s=0.001, audit_calls_burst=5) as relay:
        outcomes = []
        for _ in range(12):
            try:
                await relay.call(ANALYST, LIST, rounds_pb2.ListTasksRequest())
                outcomes.append("OK")
            except Exception as error:  # noqa: BLE001 - told apart below
                outcomes.append(f"{getattr(error, 'metadata', {}).get('limit')}")
        assert outcomes == ["OK"] * 5 + ["audited_calls"] * 7
        assert len(await log_of(relay)) == 5
        # It is that key's rate alone.
        await relay.call(PUBLISHER, LIST, rounds_pb2.ListTasksRequest())


def test_a_record_reads_back_and_nothing_else_does() -> None:
    """One form, of known fields."""
    record = Record("key:00", "/x.Y/Z", "OK", "ab", 3, "cd")
    assert Record.decode(record.encode()) == record
    for broken in (
        {"v": 2, "who": "key:00", "what": "x", "outcome": "OK"},
        {"v": 1, "who": "somebody", "what": "x", "outcome": "OK"},
        {"v": 1, "who": "key:00", "what": "x"},
        {"v": 1, "who": "key:00", "what": "x", "outcome": "OK", "name": "x"},
        {"v": 1, "who": "key:00", "what": "x", "outcome": "OK", "begun": "1"},
        {"v": 1, "who": "key:00", "what": "x" * 999, "outcome": "OK"},
        {"v": 1, "who": "key:00", "what": "x", "outcome": "OK", "request": ""},
    ):
        with pytest.raises(FormatError):
            Record.decode(canonical.encode(broken))
