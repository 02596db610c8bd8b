"""The way to Redis: scripts run where their keys are, each as one exchange.

What a call promises. `run` returns when the script was carried out and, with
`redis_replicas_min`, when so many replicas hold all that it wrote and all that it read: what
was read and then lost by a failover would leave a reader behind its cursor. It is tried again
while it surely was not carried out (another server has the key, Redis starts or fails over),
and also after a lost answer if the script only reads; for at most `PATIENCE_S`. Then, and
where the generation changed on the way, it raises StoreUnavailable: the caller asks again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Self

from redis import exceptions
from redis.asyncio.connection import Connection

from services.store import redis_tenancy as tenancy
from services.store.errors import StoreUnavailable
from services.store.observer import UNOBSERVED, Fault, Renewal, Retry, StoreObserver
from services.store.redis_address import Address, Host
from services.store.redis_connection import (
    Argument,
    Command,
    Connections,
    MaybeDone,
    NotDone,
    Server,
    TakesNoWrites,
    ask,
    judge,
)
from services.store.redis_lineage import CHANNEL, FOREIGN, META, Lineage, Script
from services.store.redis_pokes import Heard, Pokes
from services.store.redis_safety import SHARDED_SINCE, Info, Promise, check
from services.store.redis_topology import Topology

PATIENCE_S = 3.0
WAIT_MS = 1_000
LOOK_S, SOON_S = 10.0, 1.0
_ASKING = (b"ASKING",)
_FIRST_PAUSE_S, _PAUSE_MAX_S = 0.01, 0.3

Exchange = Callable[[Connection, bool], Awaitable[Any]]
"""What is done over a connection; True if the server only takes it when asked to."""

__all__ = ["Link", "Promise", "Script"]


class Link:
    """Made by `open`, on the loop that will use it."""

    def __init__(
        self,
        address: Address,
        promise: Promise,
        *,
        password_file: str = "",
        ca_file: str = "",
        observer: StoreObserver = UNOBSERVED,
    ) -> None:
        self.observer = observer
        self._under_way = 0
        self._told = False
        observer.watch_queue(lambda: self._under_way)
        self._address = address
        self._promise = promise
        self._connections = Connections(address, password_file, ca_file)
        self._topology = Topology(address, self._connections, self._greet)
        self._lineage = Lineage(address, self._connections, self._topology, promise)
        self._lineage.on_renewed(self._count_renewal)
        self._pokes: Pokes | None = None
        self._looking: asyncio.Task[None] | None = None
        self._jitter = random.SystemRandom().random
        self._closed = False
        self._tenant: tenancy.Tenant | None = tenancy.Tenant(self._lineage, self._refresh)
        self.publish_command = b"PUBLISH"
        """What a script calls to be heard by `subscribe`; SPUBLISH in a cluster of Redis 7."""

    @classmethod
    async def open(
        cls,
        url: str,
        promise: Promise | None = None,
        *,
        password_file: str = "",
        ca_file: str = "",
        make: bool = True,
        observer: StoreObserver = UNOBSERVED,
        serves: bool = True,
    ) -> Self:
        """Checks every master. StoreUnavailable says what is wrong, and what to change; also if
        there is no store and it is not to be made, or, for who serves it, if it is moved."""
        link = cls(
            Address.parse(url),
            promise or Promise(),
            password_file=password_file,
            ca_file=ca_file,
            observer=observer,
        )
        if not serves:
            link._tenant = None
        end = asyncio.get_running_loop().time() + PATIENCE_S
        try:
            while True:
                try:
                    await link._start(make)
                except (NotDone, MaybeDone) as error:
                    if asyncio.get_running_loop().time() > end:
                        raise StoreUnavailable(str(error)) from None
                    await asyncio.sleep(_PAUSE_MAX_S)  # it starts, or fails over
                else:
                    return link
        except BaseException:
            await link.close()
            raise

    async def _start(self, make: bool) -> None:
        await self._topology.refresh()
        masters = [(s.host, await self._check(s.host)) for s in self._topology.masters]
        sharded = self._address.is_cluster and all(
            info.version >= SHARDED_SINCE for _, info in masters
        )
        if sharded:
            self.publish_command = self._lineage.publish = b"SPUBLISH"
        if not await self._is_made():
            if not make:
                raise StoreUnavailable("redis_url: there is no store of Rookery's")
            await self._check_empty()
        await self._lineage.open(masters)
        if self._tenant is not None:
            await self._tenant.enter()
        # Each master is judged now: later it would be while the first caller waits.
        for server in self._topology.masters:
            await server.give(await server.take())
        self._pokes = Pokes(self._topology, self._connections, sharded=sharded)
        await self._pokes.subscribe(CHANNEL, self._look_soon)
        self._looking = asyncio.get_running_loop().create_task(self._look_often())

    async def _check(self, host: Host) -> Info:
        async with self._connections.visit(host) as connection:
            info = await Info.read(connection)
            await check(connection, info, self._address, self._promise)
        return info

    async def _is_made(self) -> bool:
        server = await self._topology.owner(META)
        async with self._connections.visit(server.host) as connection:
            (found,) = await ask(connection, (b"EXISTS", META))
        return bool(judge(found))

    async def _check_empty(self) -> None:
        for server in self._topology.masters:
            async with self._connections.visit(server.host) as connection:
                (keys,) = await ask(connection, (b"DBSIZE",))
            if judge(keys):
                raise StoreUnavailable(FOREIGN)

    # --- what the store is ---

    @property
    def generation(self) -> bytes:
        """See `Store.generation`. It changes where Redis may have lost acknowledged writes."""
        return self._lineage.generation

    @property
    def secret(self) -> bytes:
        """See `Store.secret`."""
        return self._lineage.secret

    def on_renewed(self, callback: Callable[[], None]) -> None:
        """Called on the loop when the generation has changed: whatever was remembered of the
        store's content is to be forgotten, and open streams come again."""
        self._lineage.on_renewed(callback)

    async def new_generation(self) -> bytes:
        """See `Store.new_generation`."""
        self._told = True
        try:
            return await self._lineage.renew()
        except (NotDone, MaybeDone) as error:
            raise StoreUnavailable(str(error)) from None
        finally:
            self._told = False

    def _count_renewal(self) -> None:
        self.observer.renewed(Renewal.TOLD if self._told else Renewal.FAILOVER)

    # --- calls ---

    async def run(
        self, script: Script, keys: Sequence[bytes], args: Sequence[Argument] = ()
    ) -> Any:
        """What the script returns; its keys are all in one slot."""
        behind = (len(keys), *keys, *args)

        async def exchange(connection: Connection, asking: bool) -> Any:
            answer = await self._send(
                connection, keys[0], asking, (b"EVALSHA", script.sha, *behind)
            )
            if isinstance(answer, exceptions.NoScriptError):
                self.observer.retried(Retry.SCRIPT)
                answer = await self._send(
                    connection, keys[0], asking, (b"EVAL", script.text, *behind)
                )
            return judge(answer)

        return await self._try(keys[0], exchange, again=script.reads)

    async def call(self, *command: Argument) -> Any:
        """The answer to a command that only reads, or does no harm twice. Its first argument
        is the key, or the first of several in one slot."""
        key = command[1]
        assert isinstance(key, bytes)

        async def exchange(connection: Connection, asking: bool) -> Any:
            return judge(await self._send(connection, key, asking, command))

        return await self._try(key, exchange, again=True)

    async def _send(
        self, connection: Connection, key: bytes, asking: bool, command: Command
    ) -> Any:
        """The answer, when the replicas have confirmed. MaybeDone, NotDone."""
        commands = [command]
        waits = self._promise.replicas_min
        if waits:
            # WAIT is about what this connection wrote: so it writes something, and what was
            # there before, by whomever, is on the replicas as well.
            commands.append((b"SET", _beside(key), b"", b"PX", 2 * WAIT_MS))
        if asking:
            commands = [each for one in commands for each in (_ASKING, one)]
        if waits:
            commands.append((b"WAIT", waits, WAIT_MS))
        answers = await ask(connection, *commands)
        answer = answers[1 if asking else 0]
        if waits and not isinstance(answer, Exception) and judge(answers[-1]) < waits:
            raise MaybeDone("too few replicas of Redis answer", Fault.REPLICAS)
        return answer

    async def each_master(self, *command: Argument) -> Sequence[Any]:
        """The answers of all masters to a command without keys, which does no harm twice."""
        answers = []
        try:
            for server in self._topology.masters:
                connection = await server.take()
                try:
                    answers.append(judge((await ask(connection, command))[0]))
                finally:
                    await server.give(connection)
        except (NotDone, MaybeDone) as error:
            raise StoreUnavailable(str(error)) from None
        return answers

    async def _try(self, key: bytes, exchange: Exchange, *, again: bool) -> Any:
        self._under_way += 1
        try:
            return await self._try_often(key, exchange, again=again)
        except StoreUnavailable as error:
            if not self._closed:
                self.observer.failed(_fault_of(error))
            raise
        finally:
            self._under_way -= 1

    async def _try_often(self, key: bytes, exchange: Exchange, *, again: bool) -> Any:
        changes = self._lineage.changes
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE_S
        pause = _FIRST_PAUSE_S
        instead: Host | None = None
        while True:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            try:
                if self._tenant is not None:
                    await self._tenant.hold()
                server = (
                    self._topology.server(instead) if instead else await self._topology.owner(key)
                )
                connection = await self._greeted(server)
                try:
                    if self._lineage.changes != changes:
                        raise StoreUnavailable("Redis may have lost writes: ask again")
                    return await exchange(connection, instead is not None)
                finally:
                    await server.give(connection)
            except MaybeDone as error:
                if not again or loop.time() > end:
                    raise StoreUnavailable(str(error)) from error
                instead = None
            except NotDone as error:
                if loop.time() > end:
                    raise StoreUnavailable(str(error)) from error
                instead = error.instead
                if instead is not None:
                    continue
                if error.moved:
                    await self._refresh()
            self.observer.retried(Retry.CONNECTION)
            await asyncio.sleep(pause * (0.5 + self._jitter()))
            pause = min(2 * pause, _PAUSE_MAX_S)

    async def _greeted(self, server: Server) -> Connection:
        try:
            return await server.take()
        except MaybeDone as error:  # of the greeting: what is asked here was not sent
            raise NotDone(str(error), moved=True) from None

    async def _refresh(self) -> None:
        try:
            await self._topology.refresh()
        except (NotDone, StoreUnavailable):
            return  # the next try finds the same, or better

    async def scan(self, match: bytes) -> AsyncIterator[bytes]:
        """Every key like that, some of them perhaps twice."""
        for server in self._topology.masters:
            cursor = b"0"
            while True:
                connection = await self._greeted(server)
                try:
                    command = (b"SCAN", cursor, b"MATCH", match, b"COUNT", 1_000)
                    cursor, names = judge((await ask(connection, command))[0])
                finally:
                    await server.give(connection)
                for name in names:
                    yield name
                if cursor == b"0":
                    break

    @property
    def lineage(self) -> Lineage:
        """For `services.store.redis_tenancy`."""
        return self._lineage

    # --- being told ---

    async def subscribe(self, channel: bytes, heard: Heard) -> None:
        """`heard` is called on the loop after each message on the channel from now on, and
        once after each time when some may have been missed. StoreUnavailable."""
        if self._pokes is None or self._closed:
            raise StoreUnavailable("the store is closed")
        await self._pokes.subscribe(channel, heard)

    async def unsubscribe(self, channel: bytes) -> None:
        """Nothing more is heard of the channel."""
        if self._pokes is not None:
            await self._pokes.unsubscribe(channel)

    # --- looking after it ---

    async def _greet(self, host: Host, connection: Connection) -> None:
        await self._lineage.admit(host, connection)

    def _look_soon(self) -> None:
        if not self._closed:
            task = asyncio.get_running_loop().create_task(self._look_once())
            self._soon = task  # or nobody holds it

    async def _look_once(self) -> None:
        try:
            await self._lineage.reread()
        except (NotDone, MaybeDone, StoreUnavailable):
            return  # the next look, or the next connection, finds out

    async def _look_often(self) -> None:
        """Replicas come and go, and settings change: what a crash may lose is judged by what
        was so before it."""
        while True:
            await asyncio.sleep(SOON_S if self._lineage.awaits_replicas else LOOK_S)
            await self._look_once()
            for server in self._topology.masters:
                try:
                    async with self._connections.visit(server.host) as connection:
                        info = await Info.read(connection)
                        if await self._lineage.is_master(connection, info):
                            await self._lineage.look(server.host, connection, info)
                except (NotDone, MaybeDone, StoreUnavailable):
                    continue

    async def close(self) -> None:
        """Ends all connections. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        if self._pokes is not None:
            await self._pokes.close()
        if self._tenant is not None:
            await self._tenant.close()
        await self._topology.close()


def _fault_of(error: StoreUnavailable) -> Fault:
    if isinstance(error, TakesNoWrites):
        return error.fault
    match error.__cause__:
        case MaybeDone() as lost:
            return lost.fault
        case NotDone():
            return Fault.CONNECTION
    return Fault.OTHER


def _beside(key: bytes) -> bytes:
    """A key in the slot of another one."""
    start = key.find(b"{")
    end = key.find(b"}", start + 1)
    tag = key[start + 1 : end] if start >= 0 and end > start + 1 else key
    return b"wait{" + tag + b"}"
