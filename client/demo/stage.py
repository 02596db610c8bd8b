"""The demo's servers: `rookery-server` as processes of their own, on free ports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

PROOF_BITS = 8
"""Proof of work per account in the demo; a deployment asks for 18 and more."""


class StageError(Exception):
    """The service did not start; the message has the last line that it said."""


@dataclass(frozen=True, slots=True)
class Address:
    """What a client must know of a service, and pins."""

    target: str
    audience: str
    server_key: str


class Program:
    """A running `rookery-server`; ended by its process id when the block is left."""

    def __init__(
        self, folder: Path, name: str, arguments: list[str], settings: Mapping[str, str]
    ) -> None:
        self.database = folder / f"{name}.db"
        self.log = folder / f"{name}.log"
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("ROOKERY_")
        }
        environment |= settings
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own server, no shell
                [
                    *_command(), *arguments, "--listen", "127.0.0.1:0",
                    "--database", str(self.database),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=environment,
                text=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            said = self.log.read_text(errors="replace").strip().splitlines()
            why = said[-1] if said else f"exit code {self._process.returncode}"
            raise StageError(f"the {name} did not start: {why}")
        self.ready: dict[str, str] = json.loads(line)

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that it writes: database, write-ahead log, logs."""
        return (
            self.database,
            self.database.with_name(self.database.name + "-wal"),
            self.log,
        )

    def stop(self) -> None:
        """Asks it to drain, and waits."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class Service(Program):
    """The service that devices sync with; it relays the rounds of this publisher, and with a
    `policy` key it stands under the policy of who has that one."""

    def __init__(
        self, folder: Path, publisher: bytes, policy: bytes | None = None, name: str = "service"
    ) -> None:
        settings = {
            "ROOKERY_POW_BITS": str(PROOF_BITS),
            # One address enrols everybody here; a deployment keeps its rates.
            "ROOKERY_IP_UNSIGNED_PER_S": "0",
            "ROOKERY_IP_MAILBOXES_PER_S": "0",
            "ROOKERY_ACCOUNT_CALLS_PER_S": "0",
            "ROOKERY_ACCESS_LOG_SHARE": "1",
            "ROOKERY_LOG_LEVEL": "debug",
            "ROOKERY_PUBLISHERS": publisher.hex(),
            "ROOKERY_POLICY_KEYS": policy.hex() if policy is not None else "",
            "ROOKERY_METRICS_LISTEN": "127.0.0.1:0",
        }
        super().__init__(folder, name, ["serve", "--dev"], settings)
        ready = self.ready
        self.address = Address(ready["listening"], ready["audience"], ready["server_key"])


def keep(folder: Path, database: Path, *arguments: str) -> None:
    """`rookery-server backup` or `restore`, for a service of this folder; StageError."""
    done = subprocess.run(  # noqa: S603 - our own program, no shell
        [*_command(), *arguments],
        cwd=folder,
        env=os.environ | {"ROOKERY_DATABASE": str(database)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StageError(f"{arguments[0]} failed: {done.stderr.strip()}")


def _command() -> list[str]:
    """The `rookery-server` that belongs to this installation."""
    beside = Path(sys.executable).with_name("rookery-server")
    found = str(beside) if beside.exists() else shutil.which("rookery-server")
    # The module by name: the client may not import the service.
    return [found] if found else [sys.executable, "-m", "services.cli"]
