"""The service as a process of its own, that tests end by its id and start again. A helper."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from client.endpoint import Endpoint

ROOT = Path(__file__).resolve().parent.parent


def environment(**more: str) -> dict[str, str]:
    """What a child process gets: this checkout to import from, and no settings of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ROOKERY_")}
    path = os.pathsep.join([str(ROOT), str(ROOT / "proto")])
    return {**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **more}


class ServiceProcess:
    """`rookery-server serve` on a real file. The port stays the same over restarts."""

    def __init__(self, folder: Path, *arguments: str, **settings: str) -> None:
        self.folder = folder
        self._arguments = arguments
        self._settings = {
            "ROOKERY_POW_BITS": "4",
            "ROOKERY_ACCOUNT_CALLS_PER_S": "0",
            "ROOKERY_ACCOUNT_OPS_PER_S": "0",
            "ROOKERY_IP_UNSIGNED_PER_S": "0",
            "ROOKERY_IP_FAILURES_PER_S": "0",
            "ROOKERY_DRAIN_S": "3",
            **settings,
        }
        self._listen = "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        """Starts it and waits until it listens."""
        with (self.folder / "service.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "services.cli", "serve", "--dev",
                    "--listen", self._listen, "--database", str(self.folder / "service.db"),
                    *self._arguments,
                ],
                cwd=self.folder,
                env=environment(**self._settings),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError((self.folder / "service.log").read_text())
        ready = json.loads(line)
        self._listen = ready["listening"]
        self.metrics = ready.get("metrics", "")
        self.endpoint = Endpoint.parse(self._listen, ready["audience"], ready["server_key"])

    @property
    def listen(self) -> str:
        """Where it listens, over all restarts."""
        return self._listen

    @property
    def variables(self) -> dict[str, str]:
        """What a client process must know of it."""
        return {
            "ROOKERY_SERVER": self._listen,
            "ROOKERY_AUDIENCE": self.endpoint.audience,
            "ROOKERY_SERVER_KEY": self.endpoint.server_key.hex(),
        }

    def hang_up(self) -> None:
        """SIGHUP: looks at its keys again."""
        self._process.send_signal(signal.SIGHUP)

    @property
    def events(self) -> list[dict[str, object]]:
        """What it has logged."""
        text = (self.folder / "service.log").read_text()
        return [json.loads(row) for row in text.splitlines()]

    def kill(self) -> None:
        """SIGKILL: no chance to finish anything."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: drains."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


async def command(service: ServiceProcess, *arguments: str, **variables: str) -> Ended:
    """`rookery-server` with these arguments, on the service's database and keys."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", *arguments,
        cwd=service.folder,
        env=environment(ROOKERY_DATABASE="service.db", **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await started.communicate()
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()
    assert started.returncode is not None
    return Ended(started.returncode, out.decode(), err.decode())
