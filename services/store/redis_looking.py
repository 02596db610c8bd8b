"""A look at a store in Redis that changes nothing: no lease, no renewal, no key is written."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from redis.asyncio.connection import Connection

from services.store.errors import StoreUnavailable
from services.store.redis_address import Address, Host
from services.store.redis_connection import Connections, MaybeDone, NotDone, ask, judge
from services.store.redis_lineage import FOREIGN, META, SCHEMA, Entry, Line, follow
from services.store.redis_safety import Info, Promise, check
from services.store.redis_tenancy import check_moving
from services.store.redis_topology import Topology


@dataclass(frozen=True, slots=True)
class Clock:
    """What a master's clock said, and this one before it was asked and after."""

    name: str
    told_ms: int
    asked_ms: int
    got_ms: int


@dataclass(frozen=True, slots=True)
class Looked:
    """What was seen."""

    clocks: tuple[Clock, ...]
    made: bool
    """Whether there is a store; who serves makes it where nothing is."""
    renews: bool
    """Whether who opens the store next renews its generation."""


async def look(url: str, promise: Promise, *, password_file: str = "", ca_file: str = "") -> Looked:
    """StoreUnavailable says why nobody could serve what is there."""
    address = Address.parse(url)
    connections = Connections(address, password_file, ca_file)
    topology = Topology(address, connections, _no_greeting)
    try:
        await topology.refresh()
        clocks = []
        masters = []
        for server in topology.masters:
            async with connections.visit(server.host) as connection:
                info = await Info.read(connection)
                await check(connection, info, address, promise)
                clocks.append(await _clock(server.host, connection))
                entry = await Entry.of(server.host, info, connection, promise)
                masters.append((entry, info.replid_before))
        server = await topology.owner(META)
        async with connections.visit(server.host) as connection:
            line = await _read_line(connection)
        if line is None:
            for each in topology.masters:
                async with connections.visit(each.host) as connection:
                    (keys,) = await ask(connection, (b"DBSIZE",))
                if judge(keys):
                    raise StoreUnavailable(FOREIGN)
    except (NotDone, MaybeDone) as error:
        raise StoreUnavailable(str(error)) from None
    finally:
        await topology.close()
    renews = not all(follow(line or (), entry, before, promise)[1] for entry, before in masters)
    return Looked(tuple(clocks), line is not None, renews)


async def _no_greeting(host: Host, connection: Connection) -> None:
    """Whoever only looks has nothing to judge it for."""


async def _read_line(connection: Connection) -> Line | None:
    """None if there is no store."""
    (answer,) = await ask(connection, (b"HMGET", META, b"schema", b"line", b"moving"))
    schema, line, moving = judge(answer)
    if schema is None:
        return None
    if schema != SCHEMA:
        raise StoreUnavailable(
            f"the store has schema {schema.decode()}; this version knows {SCHEMA.decode()}"
        )
    check_moving(moving)
    return tuple(Entry.parse(row) for row in json.loads(line))


async def _clock(host: Host, connection: Connection) -> Clock:
    asked_ms = _wall_ms()
    (answer,) = await ask(connection, (b"TIME",))
    got_ms = _wall_ms()
    seconds, micros = judge(answer)
    told_ms = int(seconds) * 1000 + int(micros) // 1000
    return Clock(f"Redis at {host[0]}:{host[1]}", told_ms, asked_ms, got_ms)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
