"""Which Redis server has a key: one server, the master that Sentinels name, or the owner of the
key's slot in a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from redis.crc import key_slot
from redis.exceptions import ResponseError

from services.store.errors import StoreUnavailable
from services.store.redis_address import Address, Host
from services.store.redis_connection import (
    Connections,
    Greet,
    MaybeDone,
    NotDone,
    Server,
    ask,
    judge,
)

SLOTS = 16_384


class Topology:
    """What is known of it now; `refresh` asks again."""

    def __init__(self, address: Address, connections: Connections, greet: Greet) -> None:
        self._address = address
        self._connections = connections
        self._greet = greet
        self._servers: dict[Host, Server] = {}
        # One for all slots, unless it is a cluster.
        self._owners: list[Host | None] = [None]
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def masters(self) -> Sequence[Server]:
        """Every server that has keys, as far as is known."""
        return [self.server(host) for host in dict.fromkeys(self._owners) if host is not None]

    async def owner(self, key: bytes) -> Server:
        """The server that has the key. NotDone if nobody knows."""
        place = key_slot(key) if self._address.is_cluster else 0
        if place >= len(self._owners) or self._owners[place] is None:
            await self.refresh()
        host = self._owners[place] if place < len(self._owners) else None
        if host is None:
            raise NotDone("no server has this part of the cluster", moved=True)
        return self.server(host)

    async def refresh(self) -> None:
        """Asks who has what. Whoever comes while it asks waits for the same answer. NotDone."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh())
        await asyncio.shield(self._refreshing)

    async def close(self) -> None:
        """Ends connections that nobody uses."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        for server in self._servers.values():
            await server.close()

    def server(self, host: Host) -> Server:
        """The server there."""
        server = self._servers.get(host)
        if server is None:
            server = self._servers[host] = Server(host, self._connections, self._greet)
        return server

    async def _refresh(self) -> None:
        if self._address.scheme == "redis":
            self._owners = [self._address.hosts[0]]
        elif self._address.is_cluster:
            self._owners = await self._ask_each(
                chain((server.host for server in self.masters), self._address.hosts), self._slots
            )
        else:
            self._owners = [await self._ask_each(self._address.hosts, self._master)]
        for host in set(self._servers).difference(self._owners):
            await self._servers.pop(host).close()

    async def _ask_each(self, hosts: Iterable[Host], question: Any) -> Any:
        """The first answer. Of a host that doesn't answer, the next one is asked."""
        last: Exception | None = None
        for host in dict.fromkeys(hosts):
            try:
                return await question(host)
            except (NotDone, MaybeDone, StoreUnavailable) as error:
                last = error
        if isinstance(last, StoreUnavailable):
            raise last
        raise NotDone(f"nobody says who is the master: {last}", moved=True)

    async def _master(self, host: Host) -> Host:
        try:
            found = await self._ask_sentinel(host)
        except StoreUnavailable:
            # Many a Sentinel asks for no password where its masters do.
            found = await self._ask_sentinel(host, username=None, password=None)
        if found is None:
            raise StoreUnavailable("the Sentinels know no master of the name in redis_url")
        return found[0].decode(), int(found[1])

    async def _ask_sentinel(self, host: Host, **options: Any) -> Any:
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.master)
        async with self._connections.visit(host, db=0, **options) as connection:
            (answer,) = await ask(connection, question)
        return _judge(answer, "no Sentinel answers there")

    async def _slots(self, host: Host) -> list[Host | None]:
        async with self._connections.visit(host) as connection:
            (answer,) = await ask(connection, ("CLUSTER", "SLOTS"))
        owners: list[Host | None] = [None] * SLOTS
        for first, last, owner in _ranges(_judge(answer, "no cluster answers there"), host):
            owners[first : last + 1] = [owner] * (last + 1 - first)
        if not any(owners):
            raise StoreUnavailable("the cluster has no slots: it is not set up")
        return owners


def _judge(answer: Any, otherwise: str) -> Any:
    """As `judge`; a command that is not known there means that the URL is of another form."""
    try:
        return judge(answer)
    except ResponseError:
        raise StoreUnavailable(f"redis_url: {otherwise}; see its forms") from None


def _ranges(answer: Sequence[Any], asked: Host) -> Iterator[tuple[int, int, Host]]:
    for first, last, (name, port, *_), *_replicas in answer:
        # A server that doesn't know its own name says nothing: it is the one that was asked.
        yield first, last, (name.decode() if name else asked[0], port)
