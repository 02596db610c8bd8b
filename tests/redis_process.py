"""Redis on loopback, started by tests: one server, a pair with Sentinel, a cluster. A helper.

Each server has a folder of its own, is ended by its pid, and starts again on what it left there.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from tests.programs import program

SLOTS = 16_384
PATIENCE_S = 30.0
_BUS = 10_000  # a cluster node's second port, counted from its first
PERSISTENCE = {
    "always": ("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
    "everysec": ("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
    "none": ("--appendonly", "no", "--save", ""),
}


def free_port() -> int:
    """A port that is free on loopback, with the one that a cluster's bus would take. Below the
    range that the system hands out by itself, or a client's socket may have it a moment later."""
    while True:
        port = random.randrange(12_000, 22_000)
        try:
            for number in (port, port + _BUS):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
        except OSError:
            continue
        return port


def until(holds: Callable[[], bool]) -> None:
    """Waits for what another process has to come to; AssertionError if it doesn't."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            if holds():
                return
        except redis.RedisError:
            pass
        time.sleep(0.02)
    raise AssertionError("waited in vain")


class RedisServer:
    """One `redis-server`. The port stays the same over restarts."""

    ready = "Ready to accept connections"

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        fsync: str = "always",
        port: int | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = port or free_port()
        self.arguments = [*PERSISTENCE[fsync], *arguments]
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """What the service is told."""
        return f"redis://{self.address}"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts it, on the data that it left, and waits until it takes connections."""
        assert self._process is None, "it runs already"
        self._process = subprocess.Popen(
            self._command(),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        ready = threading.Event()
        threading.Thread(target=self._log, args=(self._process, ready), daemon=True).start()
        if not ready.wait(PATIENCE_S) or self._process.poll() is not None:
            raise AssertionError((self.folder / "redis.log").read_text())

    def _command(self) -> list[str]:
        return [
            str(program("redis-server")),
            "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder),
            "--daemonize", "no", "--maxmemory-policy", "noeviction",
            # Else a replica's first copy begins five seconds late.
            "--repl-diskless-sync-delay", "0",
            *self.arguments,
        ]  # fmt: skip

    def _log(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        """Reads what it says to the end, or it would wait for somebody who does."""
        assert process.stdout is not None
        with (self.folder / "redis.log").open("a") as log, process.stdout:
            for line in process.stdout:
                log.write(line)
                log.flush()
                if self.ready in line:
                    ready.set()
        ready.set()

    def client(self) -> Any:
        """A blocking client of this server."""
        return redis.Redis(port=self.port, socket_timeout=PATIENCE_S)

    def is_master(self) -> bool:
        """Whether it is one now."""
        with self.client() as client:
            return bool(client.info("replication")["role"] == "master")

    def flush(self) -> None:
        """Forgets all data."""
        with self.client() as client:
            client.flushall()

    def kill(self) -> None:
        """SIGKILL: no chance to write anything."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: writes what it has."""
        self._end(signal.SIGTERM)

    def written(self) -> int:
        """Length of its log of writes."""
        return self._log_of_writes().stat().st_size

    def lose_after(self, length: int) -> None:
        """Cuts its log of writes, as a power cut does with what was not synced."""
        os.truncate(self._log_of_writes(), length)

    def _log_of_writes(self) -> Path:
        """The newest piece; before Redis 7 there was one."""
        pieces = [*self.folder.glob("appendonlydir/*.incr.aof"), *self.folder.glob("*.aof")]
        return max(pieces, key=lambda piece: piece.stat().st_mtime)

    def suspend(self) -> None:
        """SIGSTOP: it is there, and does not answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


class _Sentinel(RedisServer):
    """The process that promotes the replica."""

    ready = "+monitor master"

    def __init__(self, folder: Path, master: RedisServer, down_ms: int) -> None:
        folder.mkdir(parents=True)
        self._master = master
        self._down_ms = down_ms
        super().__init__(folder)

    def _command(self) -> list[str]:
        file = self.folder / "sentinel.conf"
        if not file.exists():  # it writes what it learns into it
            file.write_text(
                f"bind 127.0.0.1\nport {self.port}\n"
                f"sentinel monitor main 127.0.0.1 {self._master.port} 1\n"
                f"sentinel down-after-milliseconds main {self._down_ms}\n"
                "sentinel failover-timeout main 2000\n"
            )
        return [str(program("redis-server")), str(file), "--sentinel"]


class _Group(AbstractContextManager["Any"]):
    """Servers that end together."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()


class RedisPair(_Group):
    """A master, its replica, and a Sentinel that watches them under the name `main`."""

    def __init__(self, folder: Path, *, fsync: str = "everysec", down_ms: int = 500) -> None:
        super().__init__()
        enter = self._stack.enter_context
        try:
            self.master = enter(RedisServer(folder / "a", fsync=fsync))
            self.replica = enter(
                RedisServer(
                    folder / "b",
                    *("--replicaof", "127.0.0.1", str(self.master.port)),
                    fsync=fsync,
                )
            )
            with self.replica.client() as client:
                until(lambda: client.info("replication")["master_link_status"] == "up")
            self.sentinel = enter(_Sentinel(folder / "s", self.master, down_ms))
            with self.sentinel.client() as client:
                until(lambda: client.sentinel_masters()["main"]["num-slaves"] == 1)
        except BaseException:
            self._stack.close()
            raise

    @property
    def url(self) -> str:
        """What the service is told."""
        return f"redis+sentinel://{self.sentinel.address}/main"

    def wait_promoted(self) -> None:
        """Returns when the replica is the master."""
        with self.replica.client() as client:
            until(lambda: client.info("replication")["role"] == "master")

    def rejoin(self) -> None:
        """Starts the former master as the replica, which a Sentinel would do ten seconds later."""
        self.master.arguments += ["--replicaof", "127.0.0.1", str(self.replica.port)]
        self.master.start()


class RedisCluster(_Group):
    """Three masters, and so many replicas of each. `masters[i]` has `replicas[i]`."""

    def __init__(
        self,
        folder: Path,
        *,
        fsync: str = "always",
        replicas: int = 0,
        timeout_ms: int = 5_000,
    ) -> None:
        super().__init__()
        ports = [free_port() for _ in range(3 * (1 + replicas))]
        assert len(set(ports)) == len(ports)
        names = [secrets.token_hex(20) for _ in ports]
        servers: list[RedisServer] = []
        try:
            for own, port in enumerate(ports):
                home = folder / str(own)
                home.mkdir(parents=True)
                # Written instead of negotiated: who is who, from the start.
                (home / "nodes.conf").write_text(_nodes(names, ports, own))
                options = (
                    "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf",
                    "--cluster-node-timeout", str(timeout_ms),
                    "--cluster-replica-validity-factor", "0",
                    "--repl-ping-replica-period", "1",
                )  # fmt: skip
                server = RedisServer(home, *options, fsync=fsync, port=port)
                servers.append(self._stack.enter_context(server))
            self.masters: Sequence[RedisServer] = servers[:3]
            self.replicas: Sequence[RedisServer] = servers[3:]
            self.wait_ok(servers)
        except BaseException:
            self._stack.close()
            raise

    @property
    def url(self) -> str:
        """What the service is told."""
        return "redis+cluster://" + ",".join(server.address for server in self.masters)

    def wait_ok(self, servers: Iterable[RedisServer]) -> None:
        """Returns when these servers find the cluster whole, and the replicas hold what
        their masters do."""
        for server in servers:
            with server.client() as client:
                until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
                until(lambda: client.info("replication").get("master_link_status", "up") == "up")

    def wait_promoted(self, number: int) -> None:
        """Returns when the replica of a master stands in its place."""
        with self.replicas[number].client() as client:
            until(lambda: client.info("replication")["role"] == "master")

    def fail_over(self, number: int) -> None:
        """Kills the master of a part; returns when its replica stands in its place, and it is
        the replica of that."""
        pair = (self.masters[number], self.replicas[number])
        master, replica = sorted(pair, key=lambda server: not server.is_master())
        master.kill()
        with replica.client() as client:
            until(lambda: client.info("replication")["role"] == "master")
        master.start()
        self.wait_ok((master, replica))

    def flush(self) -> None:
        """Forgets all data."""
        for server in self.masters:
            server.flush()


def _nodes(names: Sequence[str], ports: Sequence[int], own: int) -> str:
    lines = []
    for number, (name, port) in enumerate(zip(names, ports, strict=True)):
        master = number % 3
        myself = "myself," if number == own else ""
        where = f"{name} 127.0.0.1:{port}@{port + _BUS}"
        if number < 3:
            first, end = SLOTS * master // 3, SLOTS * (master + 1) // 3
            lines.append(f"{where} {myself}master - 0 0 {master + 1} connected {first}-{end - 1}")
        else:
            lines.append(f"{where} {myself}slave {names[master]} 0 0 {master + 1} connected")
    return "\n".join([*lines, "vars currentEpoch 3 lastVoteEpoch 0"]) + "\n"
