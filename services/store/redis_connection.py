"""Connections to Redis servers, and what one exchange over them can end in.

Built on the connections of `redis.asyncio` (with hiredis), below its clients: those retry by
rules of their own, and here it is to be known whether a command may have been carried out.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis import exceptions
from redis.asyncio.connection import Connection, SSLConnection

from services.store.errors import StoreUnavailable
from services.store.observer import Fault
from services.store.redis_address import Address, Host

CONNECT_S = 2.0
REPLY_S = 5.0
CONNECTIONS_PER_SERVER = 32
TURN_S = 3.0
"""A call waits so long for a connection; by then a server that is there has answered many."""
Argument = bytes | str | int
Command = Sequence[Argument]
Greet = Callable[[Host, Connection], Awaitable[None]]
"""Called with each new connection before it is used; raises if it must not be."""

_ELSEWHERE = (exceptions.MovedError, exceptions.ReadOnlyError)
_LATER = (
    exceptions.BusyLoadingError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
)
_LOGIN_WANTED = "Redis wants a password: redis_password_file"
_REFUSED_WORDS = ("NOREPLICAS", "MISCONF", "BUSY", "OOM", "UNKILLABLE")


class NotDone(Exception):
    """The command was surely not carried out; another try may go better. `moved`: elsewhere;
    `instead`: there, this once (its slot is on the way)."""

    def __init__(self, why: str, *, moved: bool = False, instead: Host | None = None) -> None:
        super().__init__(why)
        self.moved = moved
        self.instead = instead


class MaybeDone(Exception):
    """The connection was lost before the answer came. `fault`: or what else kept it."""

    def __init__(self, why: str, fault: Fault = Fault.CONNECTION) -> None:
        super().__init__(why)
        self.fault = fault


class TakesNoWrites(StoreUnavailable):
    """Redis answers, and refuses to write."""

    def __init__(self, word: str) -> None:
        super().__init__(f"Redis takes no writes ({word})")
        self.fault = Fault.REPLICAS if word == "NOREPLICAS" else Fault.FULL


class Connections:
    """Makes connections as the settings say."""

    def __init__(self, address: Address, password_file: str = "", ca_file: str = "") -> None:
        self._options: dict[str, Any] = {
            "db": address.db,
            "protocol": 2,
            "socket_timeout": None,
            "socket_connect_timeout": CONNECT_S,
            "driver_info": None,
        }
        if address.user:
            self._options["username"] = address.user
        if password_file:
            try:
                self._options["password"] = Path(password_file).read_text("utf-8").strip()
            except OSError as error:
                raise StoreUnavailable(
                    f"redis_password_file: {password_file} can't be read ({error.strerror})"
                ) from None
        self._tls = address.tls
        if ca_file:
            self._options["ssl_ca_certs"] = ca_file

    def __repr__(self) -> str:
        return f"Connections(tls={self._tls})"

    async def connect(self, host: Host, **more: Any) -> Connection:
        """A new connection, authenticated. NotDone; StoreUnavailable if Redis refuses us."""
        make = SSLConnection if self._tls else Connection
        options = self._options | more
        connection = make(host=host[0], port=host[1], **options)
        try:
            async with asyncio.timeout(CONNECT_S):
                await connection.connect()  # type: ignore[no-untyped-call]
        except exceptions.AuthenticationError as error:
            if options.get("password") is None:
                raise StoreUnavailable(_LOGIN_WANTED) from None
            raise StoreUnavailable(
                f"Redis refuses the user or password: redis_url, redis_password_file ({error})"
            ) from None
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            await connection.disconnect(nowait=True)
            if isinstance(error.__context__, ssl.SSLCertVerificationError):
                raise StoreUnavailable(
                    "Redis's certificate is none that redis_ca_file vouches for, or has another"
                    f" name ({error.__context__.verify_message})"
                ) from None
            at = f"{host[0]}:{host[1]}"
            raise NotDone(
                f"no connection to Redis at {at} ({self._reason(error)})", moved=True
            ) from None
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def _reason(self, error: BaseException) -> str:
        if isinstance(error.__cause__ or error.__context__ or error, ConnectionRefusedError):
            return "nobody listens there"
        late = isinstance(error, TimeoutError)
        said = f"no answer in {CONNECT_S:.0f} s" if late else _said(error)
        return f"{said}; does it speak TLS, as redis_url says?" if self._tls else said

    @asynccontextmanager
    async def visit(self, host: Host, **more: Any) -> AsyncIterator[Connection]:
        """A connection for a moment, outside any pool."""
        connection = await self.connect(host, **more)
        try:
            yield connection
        finally:
            await connection.disconnect(nowait=True)


def _said(error: BaseException) -> str:
    """The kind of an error. Its words may hold an address or a value."""
    return type(error.__cause__ or error).__name__


async def ask(connection: Connection, *commands: Command) -> list[Any]:
    """The answers, in order; refusals among them as exceptions. MaybeDone, NotDone."""
    answers: list[Any] = []
    try:
        async with asyncio.timeout(REPLY_S):
            packed = connection.pack_commands(commands)
            await connection.send_packed_command(packed, check_health=False)
            for _ in commands:
                try:
                    answers.append(await connection.read_response())
                except exceptions.ResponseError as error:
                    answers.append(error)
    except exceptions.BusyLoadingError:
        raise NotDone("Redis reads its data") from None
    except exceptions.AuthenticationError:
        raise StoreUnavailable(_LOGIN_WANTED) from None
    except (exceptions.RedisError, OSError, TimeoutError) as error:
        raise MaybeDone(f"the connection to Redis was lost ({_said(error)})") from None
    return answers


def peer(connection: Connection) -> str:
    """`IP:PORT` at the other end; empty if it is closed."""
    writer = connection._writer
    name = None if writer is None else writer.get_extra_info("peername")
    return "" if name is None else f"{name[0]}:{name[1]}"


def judge(answer: Any) -> Any:
    """The answer, unless it is a refusal: NotDone, StoreUnavailable, or a ResponseError, which
    is a defect of ours."""
    if not isinstance(answer, exceptions.ResponseError):
        return answer
    text = str(answer)
    if type(answer) is exceptions.AskError:
        raise NotDone("its slot is on the way", instead=(answer.host, answer.port))
    if isinstance(answer, _ELSEWHERE) or "-READONLY" in text:
        raise NotDone("another server has this key now", moved=True)
    if isinstance(answer, _LATER):
        raise NotDone(f"Redis says to wait ({type(answer).__name__})", moved=True)
    if isinstance(answer, exceptions.NoPermissionError):
        raise StoreUnavailable("Redis's user lacks a permission: see docs/redis.md")
    if isinstance(answer, exceptions.OutOfMemoryError) or text.startswith(_REFUSED_WORDS):
        # redis-py takes the word off where it has a class for it.
        full = isinstance(answer, exceptions.OutOfMemoryError)
        raise TakesNoWrites("OOM" if full else text.split(" ", 1)[0])
    raise answer


class Server:
    """One server, with the connections that nobody uses at the moment."""

    def __init__(self, host: Host, connections: Connections, greet: Greet) -> None:
        self.host = host
        self._connections = connections
        self._greet = greet
        self._idle: list[Connection] = []
        self._room = asyncio.Semaphore(CONNECTIONS_PER_SERVER)
        self._closed = False

    async def take(self) -> Connection:
        """A connection that was greeted; the one that was given back last. NotDone."""
        await self._enter()
        try:
            while self._idle:
                connection = self._idle.pop()
                # At its end, or with an answer nobody waits for.
                if connection.is_connected and not await connection.can_read():
                    return connection
                await connection.disconnect(nowait=True)
            connection = await self._connections.connect(self.host)
            try:
                await self._greet(self.host, connection)
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
        except BaseException:
            self._room.release()
            raise
        return connection

    async def _enter(self) -> None:
        if not self._room.locked():
            await self._room.acquire()
            return
        try:
            async with asyncio.timeout(TURN_S):
                await self._room.acquire()
        except TimeoutError:
            raise NotDone("too many wait for Redis") from None

    async def give(self, connection: Connection) -> None:
        """Takes it back; one that was lost is forgotten."""
        self._room.release()
        if not connection.is_connected:
            return
        if self._closed:
            await connection.disconnect(nowait=True)
        else:
            self._idle.append(connection)

    async def close(self) -> None:
        """Ends idle connections now, and the others when they are given back."""
        self._closed = True
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)
