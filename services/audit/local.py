"""The audit log from outside of a running service: commands that read it, and those that are
in it themselves because they touch the store or the keys.

A file of SQLite is read, and appended to, while a service runs on it: entries are made in one
transaction each, whoever makes them.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

from services.audit.record import BEGUN, DONE, Record, lists_hash
from services.audit.trimming import gone_before
from services.config import Config, store_absent
from services.keeping import copying
from services.keeping.current import Trusted
from services.keeping.errors import KeepingError
from services.store.errors import StoreUnavailable
from services.store.governance import GovernanceStore
from services.store.opening import look_at_redis, open_store
from services.store.rounds import RoundStore
from services.store.sqlite_governance import SqliteGovernance, put_audit
from services.store.sqlite_relay import SqliteRounds
from services.store.sqlite_schema import AUDIT_SCHEMA

T = TypeVar("T")

FAILED = "FAILED"


class Readable(Protocol):
    """What of a store commands read."""

    @property
    def governance(self) -> GovernanceStore: ...
    @property
    def rounds(self) -> RoundStore: ...


class SqliteFile:
    """A file that another process may serve, for reading only."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.rounds: RoundStore = SqliteRounds(_refuse, connection, _open)
        self.governance: GovernanceStore = SqliteGovernance(
            _refuse, connection, _open, lambda account_id: None
        )


async def _refuse(work: object) -> NoReturn:
    raise StoreUnavailable("the file was opened for reading")


def _open() -> None:
    """It is, for as long as it is used."""


def _find(config: Config) -> None:
    if not Path(config.database).is_file():
        raise KeepingError(store_absent(config))


@asynccontextmanager
async def reading(config: Config) -> AsyncIterator[Readable]:
    """The configured store, for reading. KeepingError, StoreError."""
    if config.redis_url:
        store = await open_store(config, must_exist=True, serves=False)
        try:
            yield store
        finally:
            await store.close()
        return
    path = Path(config.database)
    _find(config)
    with copying.moment(path) as moment:
        (version,) = moment.execute("PRAGMA user_version").fetchone()
    if version < AUDIT_SCHEMA:
        raise KeepingError(f"{path}: is of before the audit log; the next start brings it up")
    with copying.reported(path), closing(copying.connect(path, "ro")) as connection:
        yield SqliteFile(connection)


async def gone_before_now(config: Config, store: GovernanceStore) -> int | None:
    """What may be trimmed by now (`trimming.gone_before`), by the keys of the configuration."""
    return await gone_before(store, _policy_keys(config), now_ms=time.time_ns() // 1_000_000)


def _policy_keys(config: Config) -> frozenset[bytes]:
    """Those that have ended, too: what they published was in force."""
    return frozenset(one.key for one in Trusted.of(config).policy)


@contextmanager
def noted(config: Config, command: str) -> Iterator[None]:
    """For the time of a command: that it began is in the log before it does anything, and how it
    ended afterwards. StoreError, KeepingError if that can't be written: then nothing is done.
    A store that is not there yet, or is of an older schema, has no log."""
    what = f"rookery-server {command}"
    begun = _append(config, Record(_who(), what, BEGUN))
    try:
        yield
    except BaseException:
        _append(config, Record(_who(), what, FAILED, begun=begun))
        raise
    _append(config, Record(_who(), what, DONE, begun=begun))


async def recorded(
    log: GovernanceStore, command: str, run: Callable[[], Awaitable[T]], *, request: str = ""
) -> T:
    """What `run` comes to, of a command that has the store open: as `noted`."""
    what = f"rookery-server {command}"
    begun = await _written(log, Record(_who(), what, BEGUN, request))
    try:
        done = await run()
    except BaseException:
        await _written(log, Record(_who(), what, FAILED, request, begun))
        raise
    await _written(log, Record(_who(), what, DONE, request, begun))
    return done


async def started(log: GovernanceStore, lists: Mapping[str, Sequence[str]]) -> None:
    """That a service starts, and with which lists of keys. StoreError."""
    await _written(log, Record(_who(), "rookery-server serve", DONE, lists_hash(lists)))


async def _written(log: GovernanceStore, record: Record) -> int:
    entry = await log.append_audit(record.encode(), now_ms=time.time_ns() // 1_000_000)
    return entry.seq


def note(config: Config, command: str) -> None:
    """That a command was done which put another store in the place of the configured one, or
    made it: there is no earlier entry in this log to refer to."""
    _append(config, Record(_who(), f"rookery-server {command}", DONE))


def at(config: Config, where: str) -> Config:
    """The configuration with another store: a path, or a URL of Redis."""
    if "://" in where:
        return replace(config, redis_url=where)
    return replace(config, redis_url="", database=where)


def _who() -> str:
    return f"local:{os.getuid()}"


def _append(config: Config, record: Record) -> int:
    """seq of the new entry; 0: there is no log."""
    body, now_ms = record.encode(), time.time_ns() // 1_000_000
    if config.redis_url:
        return asyncio.run(_append_by_store(config, body, now_ms))
    path = Path(config.database)
    if not path.is_file():
        return 0
    with copying.reported(path), closing(copying.connect(path, "rw")) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version < AUDIT_SCHEMA:
            return 0
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        entry = put_audit(connection, body, now_ms)
        connection.execute("COMMIT")
    return entry.seq


async def _append_by_store(config: Config, body: bytes, now_ms: int) -> int:
    if not (await look_at_redis(config)).made:
        return 0
    store = await open_store(config, must_exist=True, serves=False)
    try:
        return (await store.governance.append_audit(body, now_ms=now_ms)).seq
    finally:
        await store.close()
