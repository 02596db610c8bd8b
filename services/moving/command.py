"""`rookery-server migrate-store`: what it is given, and what it says."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from services.audit.local import at, note
from services.config import Config, ConfigError, of_arguments
from services.keeping.foreseen import FORESEEN
from services.moving.move import Moved, Tell, move
from services.moving.redis_side import RedisSide
from services.moving.rows import Target
from services.moving.sqlite_side import SqliteSide
from services.store.opening import promise_of
from services.store.redis_address import Address
from services.store.redis_link import Link

__all__ = ["FORESEEN", "migrate_store"]


def migrate_store(arguments: argparse.Namespace) -> None:
    """Moves a store, and says what was moved."""
    config = of_arguments(arguments)
    if arguments.json:
        moved = asyncio.run(_move(config, arguments.source, arguments.target, _lines()))
    else:
        from services.keeping.progress import bar

        with bar("move") as tell:
            parts = _of_parts(tell)
            moved = asyncio.run(_move(config, arguments.source, arguments.target, parts))
    # Of what stands there now: the log came along, and goes on there.
    note(at(config, arguments.target), "migrate-store")
    _report(arguments, moved)


def _of_parts(tell: object) -> Tell:
    """One bar for all parts: copied, read, compared."""
    order = {"copy": 0, "rounds": 0, "read": 1, "compare": 2}

    def told(part: str, done: int, total: int) -> None:
        if part != "rounds" and callable(tell):
            tell(order[part] * total + done, 3 * total)

    return told


def _lines() -> Tell:
    def told(part: str, done: int, total: int) -> None:
        if done == total or not done % max(1, total // 100):
            print(json.dumps({"part": part, "done": done, "total": total}), flush=True)

    return told


async def _move(config: Config, source: str, target: str, tell: Tell) -> Moved:
    there = await _open(config, source, filled=False)
    try:
        here = await _open(config, target, filled=True)
        try:
            return await move(there, here, tell)
        finally:
            await here.close()
    finally:
        await there.close()


async def _open(config: Config, where: str, *, filled: bool) -> Target:
    """A path, or a URL of Redis; for Redis the settings are those of the configuration."""
    if "://" not in where:
        return SqliteSide(Path(where), filled=filled)
    try:
        Address.parse(where)
    except ValueError as error:
        raise ConfigError(f"--{'to' if filled else 'from'}: {error}") from None
    link = await Link.open(
        where,
        promise_of(config),
        password_file=config.redis_password_file,
        ca_file=config.redis_ca_file,
        make=filled,
        serves=False,
    )
    return RedisSide(link, where)


def _report(arguments: argparse.Namespace, moved: Moved) -> None:
    if moved.ended_before:
        if arguments.json:
            said = {"ok": True, "ended_before": True, "generation": moved.generation}
            print(json.dumps(said))
            return
        print(
            f"ok: this move has ended, and {arguments.target} is the store: start the service on"
            f" it. Remove {arguments.source} once all is well"
        )
        return
    if arguments.json:
        kinds = {kind: {"count": n, "hash": h} for kind, (n, h) in moved.kinds.items()}
        print(json.dumps({"ok": True, "generation": moved.generation, "kinds": kinds}))
        return
    for kind, (count, hashed) in moved.kinds.items():
        print(f"{kind:<14}{count:>12}  {hashed[:16]}")
    print(
        f"ok: both sides are the same; {arguments.source} is retired. Point redis_url or database"
        f" at {arguments.target} and start the service: its clients go on where they were"
    )
