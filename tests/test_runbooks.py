"""The run books: their commands do what they say."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import subprocess
from pathlib import Path

import pytest

from services.store import mark
from services.store.sqlite import SqliteStore
from tests.served import serving
from tests.worlds import World

RUNBOOK = Path(__file__).parents[1] / "docs" / "runbooks" / "lost-store.md"


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
    text = await asyncio.to_thread(RUNBOOK.read_text, "utf-8")
    commands = re.findall(r"^ +(cp .*|rm .*)$", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        await asyncio.to_thread(
            subprocess.run, ["sh", "-c", command.strip()], cwd=tmp_path, check=True
        )
    async with serving(tmp_path) as service:
        assert isinstance(service.server.store, SqliteStore)
        assert service.server.store.restored
        assert len((await service.pull(world)).ops) == 1


def _backup(folder: Path) -> None:
    """What the page's last command does."""
    with (
        contextlib.closing(sqlite3.connect(folder / "rookery.db")) as source,
        contextlib.closing(sqlite3.connect(folder / "backup" / "rookery.db")) as copy,
    ):
        source.backup(copy)
