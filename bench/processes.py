"""Child processes of a benchmark: started, asked for their CPU time and memory, ended."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import psutil

PROFILED = """
import atexit, cProfile, sys
profile = cProfile.Profile()
from services.cli import main
sys.argv = ["rookery-server", *sys.argv[2:]]
try:
    profile.enable()
    code = main()
finally:
    profile.disable()
    profile.dump_stats({path!r})
sys.exit(code)
"""


class Child:
    """A server in a process of its own that prints one JSON line when it is ready."""

    def __init__(
        self, command: list[str], env: dict[str, str] | None = None, *, log: Path | None = None
    ) -> None:
        shown = bool(os.environ.get("BENCH_VERBOSE"))
        with (log or Path(os.devnull)).open("ab") as written:
            self._process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=None if shown and log is None else written,
                text=True,
                env={**os.environ, **(env or {})},
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{command[:4]} did not start; BENCH_VERBOSE=1 shows why")
        self.ready: dict[str, Any] = json.loads(line)
        self._info = psutil.Process(self._process.pid)

    @property
    def address(self) -> str:
        """host:port."""
        return str(self.ready["listening"])

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        times = self._info.cpu_times()
        return float(times.user + times.system)

    def memory_bytes(self) -> int:
        """Resident set."""
        return int(self._info.memory_info().rss)

    def peak_bytes(self) -> int:
        """The largest that the resident set has been."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) << 10

    def children_bytes(self) -> int:
        """The largest resident set among the processes that it has started."""
        sizes = [0]
        for child in self._info.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                sizes.append(int(child.memory_info().rss))
        return max(sizes)

    def __enter__(self) -> Self:
        return self

    def pin(self, cores: set[int]) -> None:
        """Runs on these cores only, as a container with a limit does."""
        for thread in self._info.threads():
            os.sched_setaffinity(thread.id, cores)

    def kill(self) -> None:
        """SIGKILL: says goodbye to nobody."""
        self._process.kill()
        self._process.wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def echo() -> Child:
    """The bare server."""
    return Child([sys.executable, "-m", "bench.echo"])


def service(
    folder: Path,
    *,
    profile: Path | None = None,
    listen: str = "127.0.0.1:0",
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Child:
    """`rookery-server serve` on the SQLite file of a folder, without rates, logs or work to
    prove."""
    start = (
        ["-c", PROFILED.format(path=str(profile)), "rookery-server"]
        if profile
        else ["-m", "services.cli"]
    )
    env = {
        "ROOKERY_POW_BITS": "0",
        "ROOKERY_ACCOUNT_CALLS_PER_S": "0",
        "ROOKERY_ACCOUNT_OPS_PER_S": "0",
        "ROOKERY_IP_UNSIGNED_PER_S": "0",
        "ROOKERY_STREAMS_PER_ACCOUNT_MAX": "100000",
        "ROOKERY_MAX_PENDING_REQUESTS": "20000",
        # What is measured is the work, not how it is refused.
        "ROOKERY_QUEUE_TARGET_MS": "0",
        "ROOKERY_PUSHES_MAX": "1024",
        "ROOKERY_IDENTITY_KEY_FILE": str(folder / "server.key"),
        "ROOKERY_PEPPER_FILE": str(folder / "server.pepper"),
        **settings,
    }
    database = str(folder / "rookery.db")
    arguments = ["serve", "--dev", "--listen", listen, "--database", database]
    return Child([sys.executable, *start, *arguments], env)


def party(folder: Path, seed: bytes, **settings: str) -> Child:
    """`rookery-server party` on a fresh file, with this identity; its log is kept there."""
    folder.mkdir()
    key = folder / "party.key"
    key.touch(mode=0o600)
    key.write_text(seed.hex() + "\n")
    arguments = ["party", "--listen", "127.0.0.1:0", "--database", str(folder / "party.db")]
    env = {"ROOKERY_PARTY_IDENTITY_KEY_FILE": str(key), **settings}
    command = [sys.executable, "-m", "services.cli", *arguments]
    return Child(command, env, log=folder / "party.log")
