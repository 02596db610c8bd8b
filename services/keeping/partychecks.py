"""`rookery-server party --check`: is a party fit to start, or to go on? Changes nothing."""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from mpc.keys import PartyKey
from services import keys
from services.keeping import checks, copying
from services.keeping.findings import Check, Finding, Level, failed, ok, warning
from services.party.config import PartyConfig, peers, policy_keys, publishers
from services.party.schema import APPLICATION_ID
from services.party.states import State

_ENDED = (int(State.SIGNED), int(State.ABANDONED))


def of_party(config: PartyConfig) -> Iterator[tuple[str, Check]]:
    """All checks of a party, by name."""
    now_ms = checks.wall_ms()
    yield "program", _program
    yield "key", lambda: _key(config)
    yield "peers", lambda: _peers(config)
    yield "publishers", lambda: checks.listed_keys("publishers", publishers(config), now_ms)
    if config.policy_keys:
        yield "policy", lambda: checks.listed_keys("policy_keys", policy_keys(config), now_ms)
    yield "store", lambda: _store(config)
    yield "clock", lambda: checks.clock(None, now_ms)
    yield "tls", lambda: checks.certificate(config, now_ms)
    yield "listen", lambda: [checks.address(config.listen, tls=bool(config.tls_cert_file))]


def _program() -> Iterator[Finding]:
    if importlib.util.find_spec("mpyc") is None:
        yield failed("program", "MPyC is not installed: install rookery with the extra `party`")


def _key(config: PartyConfig) -> Iterator[Finding]:
    path = Path(config.identity_key_file)
    found = list(checks.key_file("key", path))
    yield from found
    if any(row.level is Level.FAILED for row in found):
        return
    yield ok("key", f"party_key {PartyKey(keys.read(path)).public.hex()}")


def _peers(config: PartyConfig) -> Iterator[Finding]:
    pinned = peers(config)
    path = Path(config.identity_key_file)
    if path.exists() and PartyKey(keys.read(path)).public in pinned:
        yield failed("peers", "this party's own key is among its peers: take it out")
    if len(pinned) < 2:
        yield warning("peers", f"{len(pinned)} pinned: a round has three parties at least")
    else:
        yield ok("peers", f"{len(pinned)} pinned")


def _store(config: PartyConfig) -> Iterator[Finding]:
    path = Path(config.database)
    if not path.exists():
        yield warning("store", f"{path} is not there: the party makes it when it starts")
        yield checks.free_space(path, 0)
        return
    with copying.reported(path), closing(copying.connect(path, "ro")) as connection:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID:
            yield failed("store", f"{path}: is not the database of a party")
            return
        yield ok("store", f"{path}, {_rounds_left(connection)} rounds in flight")
    yield from checks.private("store", path)
    yield checks.free_space(path, 0)


def _rounds_left(connection: sqlite3.Connection) -> int:
    """A key can be given up once there are none."""
    (count,) = connection.execute(
        "SELECT count(*) FROM round WHERE state NOT IN (?, ?)", _ENDED
    ).fetchone()
    return int(count)
