"""A Redis of the canary's own, and all that stands in it: every key, and every file."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis

from services.canary.processes import CanaryError

START_S: Final = 20.0
_NONCES: Final = "{*}n*"


@dataclass(frozen=True, slots=True)
class Redis:
    """One that runs."""

    port: int
    folder: Path

    @property
    def url(self) -> str:
        """What the service is told."""
        return f"redis://127.0.0.1:{self.port}"

    def _client(self) -> Any:
        return redis.Redis(port=self.port, socket_timeout=START_S)

    def walk(self) -> Iterator[tuple[str, bytes]]:
        """All that is under each sort of key, which is named without what it is of."""
        found: dict[str, list[bytes]] = {}
        with self._client() as client:
            for key in client.scan_iter():
                found.setdefault(_sort(key), []).extend(_under(client, key))
        for name, parts in sorted(found.items()):
            yield name, b"\n".join(parts)

    def rewrite(self) -> None:
        """Has the append-only file written anew: what was deleted is not in it any more."""
        with self._client() as client:
            client.bgrewriteaof()

    def pass_time(self) -> None:
        """What ends by itself within a quarter of an hour has ended: nonces of signed calls."""
        with self._client() as client:
            for key in client.scan_iter(match=_NONCES):
                client.delete(key)

    def is_rewriting(self) -> bool:
        """Whether that is under way."""
        with self._client() as client:
            said = client.info("persistence")
            return bool(said["aof_rewrite_in_progress"] or said["aof_rewrite_scheduled"])

    def files(self) -> list[Path]:
        """The append-only file's parts and snapshots."""
        return [path for path in sorted(self.folder.rglob("*")) if path.is_file()]


def _sort(key: bytes) -> str:
    return re.sub(r"\{[^}]*\}", "{}", re.sub(r"[0-9]+$", "N", key.decode("latin-1")))


def _under(client: Any, key: bytes) -> Iterator[bytes]:
    yield key
    match client.type(key):
        case b"string":
            yield client.get(key) or b""
        case b"hash":
            for field, value in client.hgetall(key).items():
                yield field + b" " + value
        case b"list":
            yield from client.lrange(key, 0, -1)
        case b"set":
            yield from client.smembers(key)
        case b"zset":
            yield from client.zrange(key, 0, -1)
        case b"stream":
            for number, fields in client.xrange(key):
                yield number + b" " + b" ".join(part for pair in fields.items() for part in pair)
        case b"none":
            return
        case other:
            raise CanaryError(f"a key of Redis is of a type that is not searched: {other!r}")


@asynccontextmanager
async def serving(program: str, folder: Path) -> AsyncIterator[Redis]:
    """One on loopback for the time of the block. CanaryError."""
    found = shutil.which(program)
    if found is None:
        raise CanaryError(f"{program} is not there: install Redis, or say where by --redis-server")
    await asyncio.to_thread(folder.mkdir)
    made = Redis(_free_port(), folder)
    # Uncompressed, or what stands in its files could not be found there.
    arguments = (
        "--bind", "127.0.0.1", "--port", str(made.port), "--dir", str(folder), "--daemonize", "no",
        "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--rdbcompression", "no",
        "--maxmemory-policy", "noeviction",
    )  # fmt: skip
    with (folder / "redis.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(found, *arguments, stdout=log, stderr=log)
    try:
        await _until_ready(made)
        yield made
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _until_ready(made: Redis) -> None:
    try:
        async with asyncio.timeout(START_S):
            while not await asyncio.to_thread(_answers, made):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise CanaryError("Redis did not start") from None


def _answers(made: Redis) -> bool:
    try:
        with made._client() as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
