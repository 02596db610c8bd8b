"""The processes of a canary run: our own programs, in a folder of their own, with all that they
can say switched on."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process as Started
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

STOP_S: Final = 20.0
PROGRAM: Final = (sys.executable, "-m", "services.cli")
_ROOT: Final = Path(__file__).resolve().parents[2]


class CanaryError(Exception):
    """The canary could not run; nothing is said of leaks."""


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """What a process gets: no settings of whoever calls, and the modules that we run from."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ROOKERY_")}
    path = os.pathsep.join([str(_ROOT), str(_ROOT / "proto"), kept.get("PYTHONPATH", "")])
    return {**kept, "PYTHONPATH": path.rstrip(os.pathsep), **settings}


class Running:
    """A process that has said where it listens; ended by its id when the block is left."""

    def __init__(
        self, name: str, folder: Path, command: Sequence[str], settings: Mapping[str, str]
    ) -> None:
        self.name = name
        self.folder = folder
        self.log = folder / f"{name}.log"
        self.ready: dict[str, Any] = {}
        self._command = command
        self._settings = settings
        self._process: Started | None = None

    async def __aenter__(self) -> Self:
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, cwd=self.folder, env=environment(self._settings), stdout=PIPE,
                stderr=log,
            )  # fmt: skip
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            code = await self._process.wait()
            said = self.log.read_text(errors="replace").strip().splitlines()
            raise CanaryError(
                f"the {self.name} did not start: {said[-1] if said else f'exit code {code}'}"
            )
        self.ready = json.loads(line)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Asks it to end, and waits."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return str(self.ready["listening"])

    async def metrics(self) -> bytes:
        """Its page of metrics, as it is now."""
        host, _, port = str(self.ready["metrics"]).rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: canary\r\nConnection: close\r\n\r\n")
        page = await reader.read()
        writer.close()
        return page
