"""`rookery-server audit`: the log is shown and verified, and commands are in it."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rookery.v1 import rounds_pb2
from services.audit.record import of_key
from services.audit.walk import parse_head, show_head, verify
from services.cli import main
from services.store.governance import Head
from tests.redis_process import RedisServer
from tests.relay_worlds import ANALYST, LIST, relaying
from tests.test_audit_log import log_of

DATABASE = "rookery.db"


@pytest.fixture
async def kept(tmp_path: Path) -> tuple[Path, str]:
    """The folder of a service that has ended, with eight entries; the head after the fifth."""
    async with relaying(tmp_path) as relay:
        store = relay.service.server.store.governance
        for number in range(8):
            await relay.call(ANALYST, LIST, rounds_pb2.ListTasksRequest())
            if number == 4:
                noted = show_head(await store.audit_head())
    return tmp_path, noted


def tamper(folder: Path, *statements: str) -> None:
    """Writes into the file behind everybody's back."""
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """`rookery-server audit`."""
    monkeypatch.chdir(folder)
    return main(["audit", *arguments])


def test_a_whole_log_verifies_and_is_shown(
    kept: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against itself and against an earlier head, which it says where to find."""
    folder, noted = kept
    assert run(folder, monkeypatch, "--verify") == 0
    assert run(folder, monkeypatch, "--verify", "--head", noted, "--json") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["ok"], told["entries"]) == (True, 8)
    assert parse_head(told["head"]).seq == 8
    assert run(folder, monkeypatch, "--verify", "--head", told["head"].partition(":")[2]) == 0
    capsys.readouterr()
    assert run(folder, monkeypatch, "--after", "6", "--json") == 0
    rows = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert [row["seq"] for row in rows] == [7, 8]
    assert rows[0]["who"] == of_key(ANALYST.public)
    assert run(folder, monkeypatch) == 0
    assert capsys.readouterr().out.count(LIST) == 8


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit SET at_ms = at_ms + 1 WHERE seq = 4",
        "UPDATE audit SET body = CAST(body || x'00' AS BLOB) WHERE seq = 4",
        "UPDATE audit SET prev = zeroblob(32) WHERE seq = 4",
        "UPDATE audit SET hash = zeroblob(32) WHERE seq = 4",
        "DELETE FROM audit WHERE seq = 4",
        "DELETE FROM audit WHERE seq < 4",
        "UPDATE audit SET seq = CASE seq WHEN 4 THEN 104 WHEN 5 THEN 4 ELSE seq END",
        "INSERT INTO audit SELECT 9, at_ms, prev, body, hash FROM audit WHERE seq = 8",
    ],
)
def test_what_was_altered_removed_or_reordered_is_found(
    kept: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: str,
) -> None:
    """Exit code 1, and where."""
    folder, _ = kept
    monkeypatch.chdir(folder)
    assert main(["keys", "init"]) == 0
    assert main(["check", "--deep"]) == 0
    assert "one chain up to entry 8" in capsys.readouterr().out
    tamper(folder, change)
    assert run(folder, monkeypatch, "--verify") == 1
    assert "does not hold" in capsys.readouterr().err
    assert main(["check", "--deep"]) == 1


def test_a_start_that_was_cut_off_is_found(
    kept: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though it looks as if it were trimmed; an anchor that was noted is taken instead."""
    folder, noted = kept
    tamper(
        folder,
        "INSERT INTO audit_anchor SELECT 1, seq, hash, at_ms FROM audit WHERE seq = 5",
        "DELETE FROM audit WHERE seq <= 5",
    )
    assert run(folder, monkeypatch, "--verify") == 1
    assert "no policy let them go" in capsys.readouterr().err
    assert main(["keys", "init"]) == 0
    assert main(["check", "--deep"]) == 1
    assert "no policy let them go" in capsys.readouterr().out
    assert run(folder, monkeypatch, "--health") == 0
    assert "DOES NOT HOLD" in capsys.readouterr().out
    assert run(folder, monkeypatch, "--verify", "--anchor", noted) == 0
    assert f"Note the anchor elsewhere: {noted}" in capsys.readouterr().out
    assert run(folder, monkeypatch, "--anchor", noted) != 0
    assert run(folder, monkeypatch, "--verify", "--anchor", "x") != 0


def test_a_cut_off_end_is_found_against_a_noted_head(
    kept: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left is a chain, so that only the head tells."""
    folder, noted = kept
    tamper(folder, "DELETE FROM audit WHERE seq > 3")
    assert run(folder, monkeypatch, "--verify") == 0
    assert run(folder, monkeypatch, "--verify", "--head", noted) == 1
    assert "not in the log" in capsys.readouterr().err


def test_health_is_shown_without_a_service(
    kept: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Out of the file: ages, counts, and whether the log holds."""
    folder, _ = kept
    assert run(folder, monkeypatch, "--health", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["governed"], told["policy"]["sequence"]) == (False, 0)
    assert told["consent"] == {"grants": 0, "withdrawals": 0}
    assert told["rows_past_deletion"] == 0
    assert (told["audit"]["holds"], told["audit"]["entries"]) == (True, 8)
    tamper(folder, "DELETE FROM audit WHERE seq = 4")
    assert run(folder, monkeypatch, "--health") == 0
    assert "DOES NOT HOLD" in capsys.readouterr().out


async def test_what_is_trimmed_leaves_a_chain(tmp_path: Path) -> None:
    """It begins at the anchor; a head from before it is said to be too old."""
    async with relaying(tmp_path) as relay:
        store = relay.service.server.store.governance
        for _ in range(3):
            await relay.call(ANALYST, LIST, rounds_pb2.ListTasksRequest())
        old = Head(1, (await store.read_audit(0, rows_max=1))[0].hash)
        with relay.later(60_000):
            await store.trim_audit(before_ms=relay.now_ms)
            await relay.call(ANALYST, LIST, rounds_pb2.ListTasksRequest())
            found = await verify(store, gone_before_ms=relay.now_ms)
            assert found.holds
            assert (found.anchor.seq, found.entries) == (2, 2)
            assert (await verify(store, found.anchor, gone_before_ms=relay.now_ms)).holds
            assert "was trimmed" in (await verify(store, old)).why


async def test_the_log_on_redis_is_the_same(
    tmp_path: Path,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Written by a service on Redis, read and verified by commands beside it, and appended to."""
    redis_server.flush()
    monkeypatch.setenv("ROOKERY_REDIS_URL", redis_server.url)
    monkeypatch.chdir(tmp_path)
    # Before there is a store: keys are made first.
    assert await asyncio.to_thread(main, ["keys", "init"]) == 0
    assert await asyncio.to_thread(main, ["keys", "make", "wake"]) == 0
    async with relaying(tmp_path, redis_url=redis_server.url) as relay:
        for _ in range(3):
            await relay.call(ANALYST, LIST, rounds_pb2.ListTasksRequest())
        noted = show_head(await relay.service.server.store.governance.audit_head())
        for arguments in (["--verify", "--head", noted], ["--health"]):
            assert await asyncio.to_thread(run, tmp_path, monkeypatch, *arguments) == 0
        assert "3 entries hold" in capsys.readouterr().out
        assert await asyncio.to_thread(main, ["keys", "rotate", "pepper"]) == 0
        await relay.call(ANALYST, LIST, rounds_pb2.ListTasksRequest())
        found = await log_of(relay)
    assert [(one.who.partition(":")[0], one.outcome) for one in found[3:]] == [
        ("local", "BEGUN"), ("local", "OK"), ("key", "OK"),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "1:", "x", "1:ab", f"+1:{'00' * 32}", "00" * 31])
def test_a_head_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Before anything is read."""
    assert run(tmp_path, monkeypatch, "--verify", "--head", text) == 2


def test_commands_on_store_and_keys_are_in_it(
    kept: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before and after, by the user who ran them; a restored store goes on with its own log."""
    folder, _ = kept
    monkeypatch.chdir(folder)
    assert main(["keys", "init"]) == 0
    assert main(["backup", "copy.db"]) == 0
    assert main(["backup", "copy.db"]) == 1
    assert main(["keys", "rotate", "identity"]) == 0
    assert main(["new-generation"]) == 0
    found = shown(folder, monkeypatch, capsys)
    assert [(row["what"].removeprefix("rookery-server "), row["outcome"]) for row in found[8:]] == [
        ("backup", "BEGUN"), ("backup", "OK"), ("backup", "BEGUN"), ("backup", "FAILED"),
        ("keys rotate identity", "BEGUN"), ("keys rotate identity", "OK"),
        ("new-generation", "BEGUN"), ("new-generation", "OK"),
    ]  # fmt: skip
    assert {row["who"] for row in found[8:]} == {f"local:{os.getuid()}"}
    assert main(["restore", "copy.db", "--replace"]) == 0
    after = shown(folder, monkeypatch, capsys)
    assert after[:9] == found[:9]
    assert [(row["what"], row["outcome"]) for row in after[9:]] == [
        ("rookery-server restore", "OK")
    ]
    assert run(folder, monkeypatch, "--verify") == 0


async def test_a_backup_beside_a_running_service_is_in_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes write one chain, and it stays one."""
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "init"]) == 0
    async with relaying(tmp_path) as relay:
        asked = rounds_pb2.ListTasksRequest()
        calls = [relay.call(ANALYST, LIST, asked) for _ in range(20)]
        copying = asyncio.to_thread(main, ["backup", "copy.db"])
        code, *_ = await asyncio.gather(copying, *calls)
        assert code == 0
        store = relay.service.server.store.governance
        found = await log_of(relay)
        assert (await verify(store)).holds
    assert [one.outcome for one in found if one.what == "rookery-server backup"] == ["BEGUN", "OK"]
    assert len(found) == 22


def shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[dict[str, Any]]:
    """What `audit --json` prints."""
    capsys.readouterr()
    assert run(folder, monkeypatch, "--json") == 0
    return [json.loads(row) for row in capsys.readouterr().out.splitlines()]


def test_the_store_is_named_as_serve_names_it(
    kept: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By --database, by the file of --config or by the environment; who names none that is there
    is told these ways."""
    folder, _ = kept
    (folder / DATABASE).rename(folder / "service.db")
    (folder / "rookery.toml").write_text('database = "service.db"\n')
    for arguments in (["--verify"], [], ["--health"]):
        assert run(folder, monkeypatch, *arguments, "--database", "service.db") == 0
        assert run(folder, monkeypatch, *arguments, "--config", "rookery.toml") == 0
        capsys.readouterr()
        assert run(folder, monkeypatch, *arguments) == 1
        told = capsys.readouterr().err
        assert f"{DATABASE}: is not there" in told
        assert all(way in told for way in ("--database", "--config", "ROOKERY_DATABASE"))
    monkeypatch.setenv("ROOKERY_DATABASE", "service.db")
    assert run(folder, monkeypatch, "--verify") == 0


def test_a_key_that_the_settings_list_is_shown_with_its_role(
    kept: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that an id says something; a key that is nowhere listed stays an id."""
    folder, _ = kept
    who = of_key(ANALYST.public)
    assert run(folder, monkeypatch) == 0
    assert f"by {who}\n" in capsys.readouterr().out
    monkeypatch.setenv("ROOKERY_ANALYSTS", f"{ANALYST.public.hex()} until 2020-01-31")
    assert run(folder, monkeypatch) == 0
    assert capsys.readouterr().out.count(f"by {who} (analyst)\n") == 8
    assert run(folder, monkeypatch, "--json") == 0
    rows = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert all(row["roles"] == ["analyst"] for row in rows if row["who"] == who)
