"""A Redis for a benchmark, and the floor on it: scripts that store the same bytes and no more."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import redis
from redis.asyncio import Redis

from bench.floors import Floor
from services.store.base import Batch

FETCHED = Path(__file__).resolve().parent.parent / ".cache/debian/bin"
# Each op is a field of its own, and the account's state says where they end.
STORE = """
local ops, at, first = {}, 1, tonumber(ARGV[2])
for n = 1, tonumber(ARGV[3]) do
  local size = struct.unpack('>I4', ARGV[1], at)
  ops[2 * n - 1] = struct.pack('>I4', first + n)
  ops[2 * n] = string.sub(ARGV[1], at + 4, at + 3 + size)
  at = at + 4 + size
end
redis.call('HSET', KEYS[1], unpack(ops))
redis.call('HSET', KEYS[2], 't', first + tonumber(ARGV[3]))
return 1
"""
_PATIENCE_S = 20.0


def program() -> str:
    """Redis's server, from PATH or as `make programs` fetched it."""
    found = shutil.which("redis-server") or shutil.which("redis-server", path=str(FETCHED))
    if found is None:
        raise SystemExit("redis-server is missing: `make programs` fetches it")
    return found


class RedisProcess:
    """One server on loopback that writes every command to disk before it answers."""

    def __init__(self, folder: Path, *, fsync: str = "always") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process = subprocess.Popen(
            [
                program(), "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(folder),
                "--appendonly", "yes", "--appendfsync", fsync, "--save", "",
                "--maxmemory-policy", "noeviction",
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self._info = psutil.Process(self._process.pid)
        self._await_ready()

    @property
    def url(self) -> str:
        """What a service is told."""
        return f"redis://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        times = self._info.cpu_times()
        return float(times.user + times.system)

    def used_bytes(self) -> int:
        """What it says that its data take in memory."""
        with redis.Redis(port=self.port) as client:
            info: Any = client.info("memory")
            return int(info["used_memory"])

    def stop(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait()

    def _await_ready(self) -> None:
        end = time.monotonic() + _PATIENCE_S
        with redis.Redis(port=self.port) as client:
            while True:
                try:
                    client.ping()
                except redis.RedisError:
                    if time.monotonic() > end or self._process.poll() is not None:
                        raise
                    time.sleep(0.02)
                else:
                    return


@contextmanager
def running(folder: Path) -> Iterator[RedisProcess]:
    """One for the time of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    server = RedisProcess(folder)
    try:
        yield server
    finally:
        server.stop()


async def bare_scripts(server: RedisProcess, batches: Sequence[Batch], *, lanes: int) -> Floor:
    """Stores the ops of batches by one script call each, so many in flight.

    Packing the arguments is counted, as it is in the store.
    """
    client: Any = Redis(port=server.port, max_connections=lanes)
    script = await client.script_load(STORE)
    queue = iter(enumerate(batches))
    places: dict[bytes, int] = {}

    async def lane() -> None:
        for _, batch in queue:
            owner = b"{" + bytes(batch.account_id) + b"}"
            first = places.get(owner, 0)
            places[owner] = first + len(batch.rows)
            packed = b"".join(len(row.raw).to_bytes(4, "big") + row.raw for row in batch.rows)
            await client.evalsha(script, 2, owner + b"o", owner + b"s", packed, first,
                                 len(batch.rows))  # fmt: skip

    cpu, wall = server.cpu_seconds(), time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(lanes)))
    wall, cpu = time.perf_counter() - wall, server.cpu_seconds() - cpu
    await client.aclose()
    return Floor(sum(len(batch.rows) for batch in batches), wall, cpu)
