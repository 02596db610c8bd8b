"""What a Redis server promises to keep, asked when a store is opened and while it is open.

Eviction is refused always: it takes single keys, so that what is left is no state that ever
was. All else that may lose acknowledged writes is refused unless the settings say, in words,
that this is accepted; then the generation changes where it may have happened
(`services.store.redis_lineage`), and clients heal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from redis.asyncio.connection import Connection
from redis.exceptions import ResponseError

from services.store.errors import StoreUnavailable
from services.store.redis_address import Address
from services.store.redis_connection import ask, judge

VERSION_MIN = (6, 2)
SHARDED_SINCE = (7, 0)
"""Publishing to a slot's channels, which in a cluster reaches one server instead of all."""
_SYNCED = {
    b"appendonly": b"yes",
    b"appendfsync": b"always",
    # Or `always` does not hold while the file is rewritten.
    b"no-appendfsync-on-rewrite": b"no",
}


@dataclass(frozen=True, slots=True)
class Promise:
    """What the settings say of writes."""

    replicas_min: int = 0
    persistence: str = "ask"
    """The setting `redis_persistence`."""
    accepts_loss: bool = False

    def failover_keeps(self, replicas: int) -> bool:
        """Whether one of so many replicas has all that was acknowledged when it takes over:
        whichever is chosen, it had each write before."""
        return self.persistence == "synced" or 0 < replicas <= self.replicas_min


@dataclass(frozen=True, slots=True)
class Info:
    """What a server says of itself."""

    version: tuple[int, ...]
    run_id: str
    is_master: bool
    is_cluster: bool
    replid: str
    replid_before: str
    """Of the master whose place this one took; zeros if it took none."""
    replicas: int
    seen: tuple[str, ...]
    """Its replicas that have all it sent so far, but for what is on the way: `IP:PORT`."""
    evicts: bool

    @classmethod
    async def read(cls, connection: Connection) -> Info:
        """Asks on this connection. NotDone, MaybeDone."""
        answers = await ask(connection, *((b"INFO", part) for part in _SECTIONS))
        lines = b"\r\n".join(map(judge, answers)).decode().splitlines()
        rows = [line.partition(":") for line in lines]
        said = {name: value for name, colon, value in rows if colon}
        if said["redis_mode"] == "sentinel":
            raise StoreUnavailable("redis_url: a Sentinel answers there: redis+sentinel://")
        return cls(
            version=tuple(int(part) for part in said["redis_version"].split(".")[:2]),
            run_id=said["run_id"],
            is_master=said["role"] == "master",
            is_cluster=said["redis_mode"] == "cluster",
            replid=said["master_replid"],
            replid_before=said["master_replid2"],
            replicas=int(said["connected_slaves"]),
            seen=tuple(sorted(_online(said))),
            evicts=said.get("maxmemory_policy", "noeviction") != "noeviction",
        )


def _online(said: dict[str, str]) -> Iterator[str]:
    for name, value in said.items():
        if re.fullmatch(r"slave\d+", name):
            row = dict(part.split("=", 1) for part in value.split(","))
            if row["state"] == "online":
                yield f"{row['ip']}:{row['port']}"


_SECTIONS = (b"server", b"replication", b"memory")


async def is_synced(connection: Connection, promise: Promise) -> bool:
    """Whether a crash of this server loses nothing that was acknowledged. StoreUnavailable if
    nobody says."""
    return await _loses(connection, promise) is None


async def _loses(connection: Connection, promise: Promise) -> str | None:
    """Why a crash may lose acknowledged writes, as the settings that would have to change."""
    if promise.persistence != "ask":
        return None if promise.persistence == "synced" else "redis_persistence says lossy"
    answers = await ask(connection, *((b"CONFIG", b"GET", name) for name in _SYNCED))
    for (name, wanted), answer in zip(_SYNCED.items(), answers, strict=True):
        if isinstance(answer, ResponseError):
            raise StoreUnavailable(
                "Redis forbids CONFIG GET: say in redis_persistence what its operator promises,"
                " synced or lossy"
            )
        found = _pairs(judge(answer)).get(name)
        if found != wanted:
            said = "nothing" if found is None else found.decode()
            return f"{name.decode()} is {said} and would have to be {wanted.decode()}"
    return None


def _pairs(answer: Any) -> dict[bytes, bytes]:
    return dict(zip(answer[::2], answer[1::2], strict=True))


async def check(connection: Connection, info: Info, address: Address, promise: Promise) -> None:
    """Refuses a server that must not be used, and says which setting to change."""
    if info.version < VERSION_MIN:
        said = ".".join(map(str, info.version))
        raise StoreUnavailable(f"Redis {said} is too old: 6.2 or newer, or Valkey")
    if info.is_cluster != address.is_cluster:
        form = "redis+cluster://" if info.is_cluster else "redis:// or redis+sentinel://"
        raise StoreUnavailable(f"redis_url: what answers there wants {form}")
    if info.evicts:
        raise StoreUnavailable(
            "Redis may evict keys of the store: set its maxmemory-policy to noeviction"
        )
    why = await _loses(connection, promise)
    # Also behind one address: it may be one that follows the master.
    if why is None and info.replicas and not promise.failover_keeps(info.replicas):
        why = (
            f"a master has {info.replicas} replica{'s' * (info.replicas > 1)}, and"
            " redis_replicas_min of"
            f" {promise.replicas_min} lets one take over that lacks writes"
        )
    if why is not None and not promise.accepts_loss:
        raise StoreUnavailable(
            f"Redis may lose acknowledged writes: {why}."
            ' Or accept it: redis_accept_loss = "acknowledged writes may be lost"'
        )
