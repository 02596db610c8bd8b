"""The run books: their commands do what they say."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import subprocess
from collections.abc import Awaitable
from pathlib import Path

import pytest

from crypto import enrol
from services import cli, keys
from services.keeping import ring
from services.store import mark
from services.store.sqlite import SqliteStore
from tests.served import refusal, serving
from tests.service_process import ServiceProcess
from tests.worlds import World

RUNBOOKS = Path(__file__).parents[1] / "docs" / "runbooks"


async def test_a_backup_restored_by_the_run_book_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of the page, in its order: afterwards the log says so and cursors are void."""
    monkeypatch.setattr(mark, "BEAT_S", 0.0)
    world = World.create("run book")
    async with serving(tmp_path) as service:
        await service.create(world)
        await service.push(world, world.op())
    (tmp_path / "backup").mkdir()
    await asyncio.to_thread(_backup, tmp_path)
    async with serving(tmp_path) as service:
        await service.push(world, world.op(key="later"))
    commands = await shown("lost-store.md", r"cp .*|rm .*")
    assert len(commands) == 2
    for command in commands:
        await asyncio.to_thread(subprocess.run, ["sh", "-c", command], cwd=tmp_path, check=True)
    async with serving(tmp_path) as service:
        assert isinstance(service.server.store, SqliteStore)
        assert service.server.store.restored
        assert len((await service.pull(world)).ops) == 1


def here(command: str) -> Awaitable[int]:
    """A command of a page, in this folder; its exit code."""
    return asyncio.to_thread(cli.main, command.split()[1:])


async def test_a_backup_is_taken_and_restored_by_the_run_book(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of the page, in its order: the first while a service runs, the second after
    it ended. What was pushed in between is gone, cursors are void, and the old file is aside."""
    world = World.create("restore")
    (tmp_path / "rookery.toml").write_text('database = "rookery.db"\n')
    monkeypatch.chdir(tmp_path)
    [folder] = await shown("restore.md", r"mkdir .*")
    await asyncio.to_thread(subprocess.run, folder.split(), check=True)
    assert await here("rookery-server keys init --config rookery.toml") == 0
    take, put_back, renew = await shown("restore.md", r"rookery-server .*")
    async with serving(tmp_path) as service:
        await service.create(world)
        await service.push(world, world.op())
        assert await here(take) == 0
        await service.push(world, world.op(key="later"))
        old = (await service.pull(world)).cursor
        assert await here(put_back) == 1
    for command in (put_back, renew):
        assert await here(command) == 0
    assert await asyncio.to_thread(lambda: list(tmp_path.glob("rookery.db.before-*")))
    async with serving(tmp_path) as service:
        assert len((await service.pull(world)).ops) == 1
        assert (await refusal(service.pull(world, old))).reason == "GENERATION_CHANGED"


async def test_keys_are_rotated_by_the_run_book(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its commands, in its order, beside a service that runs: which takes each up by itself."""
    (tmp_path / "rookery.toml").write_text('database = "service.db"\nlisten = "127.0.0.1:0"\n')
    commands = await shown("rotate-keys.md", r"rookery-server .*")
    assert [row.split()[1:3] for row in commands] == [
        ["keys", "list"], ["keys", "rotate"], ["check", "--config"], ["keys", "rotate"],
        ["keys", "retire"], ["keys", "rotate"], ["keys", "retire"],
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    pepper = tmp_path / "rookery-server.pepper"
    with ServiceProcess(tmp_path, "--config", "rookery.toml") as service:
        first = service.endpoint.server_key
        mark = enrol.pepper_mark(keys.read(pepper)).hex()
        second = b""
        for number, row in enumerate(commands):
            if "retire identity" in row:
                # The first key's overlap lasts; the second had none, but leads on from the first.
                assert await here(row.replace("KEY", second.hex())) == 1
                assert "still count" in capsys.readouterr().err
                continue
            assert await here(row.replace("MARK", mark)) == 0, capsys.readouterr()
            if number == 1:
                [(_, step)] = ring.read_successions(
                    tmp_path / "rookery-server.key", audience=service.endpoint.audience
                )
                assert step.old == first
                second = step.new
        assert await asyncio.to_thread(ring.peppers_before, pepper) == []


async def shown(page: str, form: str) -> list[str]:
    """The commands of this form in the blocks of a page, in its order."""
    text = await asyncio.to_thread((RUNBOOKS / page).read_text, "utf-8")
    blocks = re.findall(r"^ *```\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return [row for block in blocks for row in re.findall(rf"^ *({form})$", block, re.MULTILINE)]


def _backup(folder: Path) -> None:
    """What another program does that copies databases."""
    with (
        contextlib.closing(sqlite3.connect(folder / "rookery.db")) as source,
        contextlib.closing(sqlite3.connect(folder / "backup" / "rookery.db")) as copy,
    ):
        source.backup(copy)
