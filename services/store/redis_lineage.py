"""Whether a Redis server still has what was acknowledged, and the generation, which says so.

Beside the generation the store keeps its line: which processes its masters are. A connection
to a process that is not in it is judged before it is used:

* the same server, started again: nothing is lost if each write had been synced before it was
  acknowledged (`appendonly yes`, `appendfsync always`);
* a replica that took over: nothing is lost if it is one of those that the master was last seen
  with, and each write had been on all of these before (`redis_replicas_min`). Redis counts
  whoever confirms: a replica that joined since may have been counted instead of them;
* anything else, or neither promised: acknowledged writes may be gone. The generation is
  renewed, so that clients compare heads and push again what is missing.

Every process of the service does this for itself. The line changes by compare-and-set, so that
one loss renews the generation once.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha1
from typing import Any, Protocol

from redis.asyncio.connection import Connection

from services.store.errors import StoreUnavailable
from services.store.redis_address import Address, Host
from services.store.redis_connection import Connections, NotDone, ask, judge, peer
from services.store.redis_safety import Info, Promise, is_synced

META = b"meta{meta}"
"""A hash: schema, generation, secret, line."""
CHANNEL = b"generation{meta}"
SCHEMA = b"1"
FOREIGN = "redis_url: what is there holds another program's data"
_NOBODY = "0" * 40


class Script:
    """A Lua script. `reads`: it writes nothing, so it may be sent again if the answer is lost."""

    __slots__ = ("reads", "sha", "text")

    def __init__(self, text: str, *, reads: bool = False) -> None:
        self.text = text.encode()
        self.sha = sha1(self.text, usedforsecurity=False).hexdigest().encode()
        self.reads = reads


_MAKE = b"""
if redis.call('HSETNX', KEYS[1], 'schema', ARGV[1]) == 1 then
  redis.call('HSET', KEYS[1], 'generation', ARGV[2], 'secret', ARGV[3], 'line', ARGV[4])
end
return redis.call('HMGET', KEYS[1], 'schema', 'generation', 'secret', 'line')
"""
_CHANGE = b"""
if redis.call('HGET', KEYS[1], 'line') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'line', ARGV[2])
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], 'generation', ARGV[3])
  redis.call(ARGV[4], KEYS[2], '')
end
return 1
"""


class Where(Protocol):
    """What the lineage needs of the topology."""

    async def owner(self, key: bytes) -> Any:
        """The server with this key."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A master as it was when somebody looked last."""

    host: str
    port: int
    run: str
    replid: str
    replicas: int
    synced: bool
    seen: tuple[str, ...] = ()
    """Which replicas it had: `IP:PORT`, as Redis names them."""
    at: str = ""
    """`IP:PORT` at the other end of the connection: `host` may be a name."""
    older: str = ""
    """What `replid` was before it started again: a replica that took over from there has all
    that was acknowledged, because nothing could be without it since."""

    @classmethod
    async def of(cls, host: Host, info: Info, connection: Connection, promise: Promise) -> Entry:
        """What is to be remembered of the server at the other end."""
        synced = await is_synced(connection, promise)
        at = peer(connection)
        return cls(*host, info.run_id, info.replid, info.replicas, synced, info.seen, at)

    @classmethod
    def parse(cls, row: dict[str, Any]) -> Entry:
        """As it stands in the store; a version before this one did not write `seen`."""
        return cls(**{**row, "seen": tuple(row.get("seen", ()))})

    @property
    def names(self) -> frozenset[str]:
        """What a master may call it."""
        return frozenset((f"{self.host}:{self.port}", self.at))

    def leaves_all_to(self, new: Entry, promise: Promise) -> bool:
        """Whether that one, which was its replica and takes over, has all that was
        acknowledged."""
        if promise.persistence == "synced":
            return True
        known = self.names | frozenset(self.seen)
        return (
            promise.failover_keeps(max(self.replicas, len(self.seen)))
            and not new.names.isdisjoint(self.seen)
            and known.issuperset(new.seen)
        )


Line = tuple[Entry, ...]


def follow(line: Line, new: Entry, replaced: str, promise: Promise) -> tuple[Line, bool]:
    """The line with a master in it, and whether nothing can have been lost on the way.

    `replaced`: replication id of the master whose place it took; zeros if it took none."""
    same = next((entry for entry in line if entry.run == new.run), None)
    here = next((entry for entry in line if (entry.host, entry.port) == (new.host, new.port)), None)
    took = None
    if replaced != _NOBODY:
        took = next((entry for entry in line if replaced in (entry.replid, entry.older)), None)
    before = took or same or here
    if before is None:
        kept = not line
    elif same is not None and (new.replid == same.replid or replaced == _NOBODY):
        kept = True  # the same process, which was a master all the time
        new = replace(new, older=same.older)
    elif took is None:
        # It started again; or it was a replica for a time, of a master that nobody saw.
        kept = replaced == _NOBODY and before.synced
    elif took is here and took.run != new.run:
        # Behind one address: started again from its own file, or another one took over.
        kept = took.synced and (took.replicas == 0 or took.leaves_all_to(new, promise))
    else:
        kept = took.leaves_all_to(new, promise)
    if kept and before is here and before is not same and before is not None:
        # Its replicas come back to it, if one of them does not take over.
        seen = tuple(sorted({*new.seen, *before.seen}))
        replicas = max(new.replicas, before.replicas)
        new = replace(new, older=before.replid, replicas=replicas, seen=seen)
    rest = tuple(entry for entry in line if entry not in (before, here))
    return (*rest, new), kept


def _pack(line: Iterable[Entry]) -> bytes:
    return json.dumps([asdict(entry) for entry in line], separators=(",", ":")).encode()


class Lineage:
    """The line and the generation as this process knows them."""

    def __init__(
        self, address: Address, connections: Connections, where: Where, promise: Promise
    ) -> None:
        self._address = address
        self._connections = connections
        self._where = where
        self._promise = promise
        self._lock = asyncio.Lock()
        self._line: Line = ()
        self._renewed: list[Callable[[], None]] = []
        self.publish = b"PUBLISH"
        self.generation = b""
        self.secret = b""
        self.changes = 0
        """How often the generation changed. What was prepared before a change must not be
        sent after it."""

    def on_renewed(self, callback: Callable[[], None]) -> None:
        """Called when the generation changed while the store was open."""
        self._renewed.append(callback)

    async def open(self, masters: Sequence[tuple[Host, Info]]) -> None:
        """Reads what the store says of itself; makes it, if there is none, upon these masters."""
        entries: list[Entry] = []
        for host, info in masters:
            async with self._connections.visit(host) as connection:
                entries.append(await Entry.of(host, info, connection, self._promise))
        async with self._lock:
            await self._read(entries)

    @property
    def awaits_replicas(self) -> bool:
        """Whether a master was last seen without a replica that its writes wait for, so that
        it is soon to be looked at again."""
        waits = self._promise.replicas_min
        return any(len(entry.seen) < max(waits, entry.replicas) for entry in self._line if waits)

    async def admit(self, host: Host, connection: Connection) -> Info:
        """Judges the server at the other end. NotDone if it is no master."""
        info = await Info.read(connection)
        if not await self.is_master(connection, info):
            raise NotDone("it is no master any more", moved=True)
        if not self._knows(host, info):
            await self.look(host, connection, info)
        return info

    async def is_master(self, connection: Connection, info: Info) -> bool:
        """Whether it is one, and knows it: started again after its replica took over, a server
        of a cluster thinks so until the others tell it, and finds the cluster down meanwhile."""
        if not info.is_master or not self._address.is_cluster:
            return info.is_master
        (said,) = await ask(connection, (b"CLUSTER", b"INFO"))
        return b"cluster_state:ok" in judge(said)

    def _knows(self, host: Host, info: Info) -> bool:
        return any(
            (entry.host, entry.port, entry.run, entry.replid) == (*host, info.run_id, info.replid)
            for entry in self._line
        )

    async def look(self, host: Host, connection: Connection, info: Info) -> None:
        """Takes the server into the line as it is now; renews the generation if it must be."""
        entry = await Entry.of(host, info, connection, self._promise)
        async with self._lock:
            while True:
                raw = await self._read()
                line, kept = follow(self._line, entry, info.replid_before, self._promise)
                if line == self._line:
                    return
                fresh = b"" if kept else secrets.token_bytes(8)
                if await self._change(raw, line, fresh):
                    self._line = line
                    self._take_generation(fresh or self.generation)
                    return

    async def reread(self) -> None:
        """Learns what another process changed."""
        async with self._lock:
            await self._read()

    async def renew(self) -> bytes:
        """A new generation, because somebody asks for it."""
        fresh = secrets.token_bytes(8)
        async with self._lock:
            while not await self._change(await self._read(), self._line, fresh):
                pass
            self._take_generation(fresh)
        return fresh

    async def _read(self, line: Sequence[Entry] = ()) -> bytes:
        generation, secret = secrets.token_bytes(8), self.secret or secrets.token_bytes(32)
        schema, generation, self.secret, raw = await self.eval(
            _MAKE, (META,), SCHEMA, generation, secret, _pack(line)
        )
        if schema != SCHEMA:
            raise StoreUnavailable(
                f"the store has schema {schema.decode()}; this version knows {SCHEMA.decode()}:"
                " start the version that wrote it, or a later one"
            )
        self._line = tuple(Entry.parse(row) for row in json.loads(raw))
        self._take_generation(generation)
        return bytes(raw)

    async def _change(self, raw: bytes, line: Line, fresh: bytes) -> bool:
        return bool(
            await self.eval(_CHANGE, (META, CHANNEL), raw, _pack(line), fresh, self.publish)
        )

    async def eval(self, text: bytes, keys: tuple[bytes, ...], *args: bytes) -> Any:
        """Runs a script where the meta key is, over a connection that nobody judges: it is
        used while others are judged."""
        server = await self._where.owner(META)
        commands: list[tuple[bytes | int, ...]] = [(b"EVAL", text, len(keys), *keys, *args)]
        waits = self._promise.replicas_min
        if waits:
            commands.append((b"WAIT", waits, 1_000))
        async with self._connections.visit(server.host) as connection:
            answers = [judge(answer) for answer in await ask(connection, *commands)]
        if waits and answers[1] < waits:
            raise NotDone("too few replicas of Redis answer")
        return answers[0]

    def _take_generation(self, generation: bytes) -> None:
        if generation == self.generation:
            return
        known, self.generation = self.generation, generation
        if known:
            self.changes += 1
            for callback in self._renewed:
                callback()
