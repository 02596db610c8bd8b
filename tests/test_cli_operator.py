"""`rookery operator` as people run it, against a real governed relay."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from client.operator.auditlog import (
    ZEROS,
    AuditEntry,
    ChainHead,
    LogBroken,
    Start,
    follow,
    parse_head,
)
from services.audit.record import of_key
from services.store.governance import Head, following
from tests.analyst_worlds import Desktop
from tests.governed_worlds import KEY
from tests.operator_worlds import Office, open_office
from tests.relay_worlds import (
    ANALYST,
    PARTIES,
    PUBLISHER,
    STRANGER as OPERATOR,
)


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    async with open_office(tmp_path) as made:
        yield made


async def test_health_and_exposure_on_one_screen(office: Office) -> None:
    """For people and for programs; what can be read by nobody is not in --clear."""
    shown = (await office.desk.run("health")).out
    for part in (
        "policy         number 1",
        "past deletion  0 rows",
        "nothing is past",
        "audit log",
    ):
        assert part in shown
    told = await office.json("health")
    assert told["policy"]["sequence"] == 1
    assert told["consent"] == {"grants": 0, "withdrawals": 0}
    rows = {row["field"]: row for row in (await office.json("exposure"))["fields"]}
    assert rows["segment.ops"]["form"] == "sealed"
    assert rows["audit.body"]["readers"] == ["operator"]
    clear = (await office.desk.run("exposure", "--clear")).out
    assert "segment.ops" not in clear
    assert "nobody by a call" in clear


async def test_the_log_is_verified_against_a_noted_head(office: Office) -> None:
    """What was cut off shows by the head that the operator noted, and by nothing else."""
    await office.json("health")
    first = await office.json("audit")
    assert first["holds"]
    assert first["entries"][-1]["what"].endswith("/GetPrivacyHealth")
    assert (
        "verified; note the head" in (await office.desk.run("audit", "--head", first["head"])).out
    )
    with closing(sqlite3.connect(office.relay.service.path / "rookery.db")) as db, db:
        db.execute("DELETE FROM audit WHERE seq > 1")
    assert (await office.json("audit"))["holds"]
    broken = await office.json("audit", "--head", first["head"], code=1)
    assert not broken["holds"]
    assert "not in the log" in broken["why"]
    with closing(sqlite3.connect(office.relay.service.path / "rookery.db")) as db, db:
        db.execute("UPDATE audit SET at_ms = at_ms + 1 WHERE seq = 2")
    assert "entry 2" in (await office.json("audit", code=1))["why"]
    assert "SEQ:HASH" in (await office.desk.run("audit", "--head", "x", code=1)).err


async def test_a_log_begins_where_the_policy_or_a_noted_anchor_lets_it(office: Office) -> None:
    """Anything else that is gone from its start shows. Without either, that is not judged, and
    said."""
    for _ in range(3):
        await office.json("health")
    assert (await office.json("audit", "--policy", KEY.public.hex()))["anchor"] == f"0:{'00' * 32}"
    with closing(sqlite3.connect(office.relay.service.path / "rookery.db")) as db, db:
        db.execute("INSERT INTO audit_anchor SELECT 1, seq, hash, at_ms FROM audit WHERE seq = 2")
        db.execute("DELETE FROM audit WHERE seq <= 2")
    found = await office.json("audit")
    assert (found["holds"], found["anchor"].partition(":")[0]) == (True, "2")
    assert "NOT CHECKED" in (await office.desk.run("audit")).out
    for judged, code in (
        (("--policy", KEY.public.hex()), 1),
        (("--anchor", found["head"]), 1),
        (("--anchor", found["anchor"]), 0),
        (("--policy", KEY.public.hex(), "--anchor", found["anchor"]), 0),
    ):
        told = await office.json("audit", *judged, code=code)
        assert told["holds"] is (code == 0)
        assert ("the entries up to 2 are gone" in told.get("why", "")) is (code == 1)
    assert "NOT CHECKED" not in (await office.desk.run("audit", "--anchor", found["anchor"])).out
    other = await office.desk.run("audit", "--policy", ANALYST.public.hex(), code=1)
    assert "not signed by" in other.err
    assert "64 hex digits" in (await office.desk.run("audit", "--policy", "x", code=1)).err


def test_a_start_is_judged_by_the_first_entry_that_is_left() -> None:
    """It is the one that trimming leaves: past its time."""
    entries = [AuditEntry(5, 1_000, ZEROS, b"", b"h" * 32)]
    anchor = ChainHead(4, b"a" * 32)
    Start(None, 1_001).check(anchor, entries)
    Start(anchor, None).check(anchor, entries)
    Start(anchor, 0).check(ChainHead(0, ZEROS), entries)
    for start in (Start(None, 1_000), Start(ChainHead(3, b"a" * 32), 1_000)):
        with pytest.raises(LogBroken):
            start.check(anchor, entries)
    with pytest.raises(LogBroken):
        Start(None, 1_001).check(anchor, [])


async def test_results_come_with_the_noise_that_is_in_them(office: Office) -> None:
    """Every statistic has its sigma and an interval; by pinned keys it is verified."""
    await office.opened_round()
    pins = ["--publisher", PUBLISHER.public.hex()]
    for party in PARTIES:
        pins += ["--party", party.public.hex()]
    data = await office.json("rounds", *pins)
    assert (data["pinned"], data["states"]) == (True, {"done": 1})
    [one] = data["rounds"]
    assert (one["task"], one["state"], one["withheld"]) == ("cuisine", "done", False)
    for row in one["result"]["estimates"]:
        assert row["low"] < row["value"] < row["high"]
        assert row["sigma"] > 0
    assert "NOT PINNED" in (await office.desk.run("rounds")).out
    wrong = await office.json("rounds", "--publisher", ANALYST.public.hex())
    assert wrong["rounds"][0]["not_verified"] == "publisher"


async def test_who_is_no_operator_is_told_what_makes_one(office: Office, tmp_path: Path) -> None:
    """A key that nobody knows, and one that has another role."""
    for name, seed, says in (
        ("nobody.key", b"\x05" * 32, "must list it for the role"),
        ("analyst.key", ANALYST.seed, "does not allow it this call"),
    ):
        desk = Desktop.of(tmp_path, office.relay.service, seed, name)
        failed = await replace(desk, program="operator").run("health", code=1)
        assert says in failed.err
    made = await office.desk.run("keygen", "--out", str(tmp_path / "new.key"), key=False)
    assert "role operator" in made.out


async def test_the_log_says_which_roles_a_listed_key_has(office: Office) -> None:
    """By the policy that the pinned key signed, and only then: the service's word is not asked."""
    await office.json("health")
    who = of_key(OPERATOR.public)
    unnamed = await office.json("audit")
    assert all("roles" not in entry for entry in unnamed["entries"])
    named = await office.json("audit", "--policy", KEY.public.hex())
    assert {tuple(entry["roles"]) for entry in named["entries"] if entry["who"] == who} == {
        ("operator",)
    }
    told = (await office.desk.run("audit", "--policy", KEY.public.hex())).out
    assert f"by {who} (operator)" in told


async def test_a_log_with_a_hole_does_not_reach_its_head(office: Office) -> None:
    """Whatever was taken out: the reader is told where the log ends for it."""
    for _ in range(3):
        await office.json("health")
    with closing(sqlite3.connect(office.relay.service.path / "rookery.db")) as db, db:
        db.execute("DELETE FROM audit WHERE seq BETWEEN 3 AND 4")
    broken = await office.json("audit", code=1)
    assert (broken["holds"], len(broken["entries"])) == (False, 2)
    assert "ends at entry 2" in broken["why"]


def test_the_reader_s_chain_is_the_service_s() -> None:
    """Both sides hash alike; anything else is refused with its place."""
    first = following(Head(0, ZEROS), 0, b"one", 5)
    second = following(Head(1, first.hash), 5, b"two", 4)
    rows = [AuditEntry(row.seq, row.at_ms, row.prev, row.body, row.hash) for row in (first, second)]
    head = follow(ChainHead(0, ZEROS), rows)
    assert head == ChainHead(2, second.hash)
    assert parse_head(str(head)) == head
    for broken in (rows[1:], rows[::-1], [rows[0], replace(rows[1], body=b"three")]):
        with pytest.raises(LogBroken):
            follow(ChainHead(0, ZEROS), broken)
