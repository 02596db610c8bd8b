"""Keys and lists of keys are taken up while the process runs: at SIGHUP, and when a file changes.

What is broken changes nothing: the keys before stay in force, and the log says why.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from services.config import Config, ConfigError
from services.keeping import ring
from services.keeping.current import Keys, Secrets, Trusted
from services.keys import KeyFileError
from services.telemetry import Telemetry

LOOK_S = 2.0
RELOADED = frozenset(
    ("identity_key_file", "pepper_file", "token_issuers", "publishers", "analysts")
)
"""Settings that are taken up; a change of any other waits for the next start."""
Stamp = tuple[tuple[str, int, int, int], ...]


def stamp(paths: Iterable[Path]) -> Stamp:
    """Changes whenever one of the files does, or goes, or comes."""
    found = []
    for path in paths:
        try:
            row = os.stat(path)  # noqa: PTH116 - follows links, as those of mounted secrets are
        except OSError:
            continue
        found.append((str(path), row.st_ino, row.st_mtime_ns, row.st_size))
    return tuple(found)


class Reloader:
    """Looks after the keys of one process."""

    def __init__(
        self,
        keys: Keys,
        config: Config,
        load: Callable[[], Config],
        telemetry: Telemetry,
        *,
        file: Path | None,
    ) -> None:
        self._keys = keys
        self._started = config
        self._config = config
        self._load = load
        self._telemetry = telemetry
        self._file = file
        self._seen = self._stamp()

    def reload(self) -> bool:
        """Takes up what the files say now; False if they are broken."""
        self._seen = self._stamp()
        try:
            config = self._load()
            secrets, trusted = Secrets.read(config), Trusted.of(config)
        except (ConfigError, KeyFileError, OSError) as error:
            self._telemetry.event("reload_refused", why=str(error))
            return False
        self._config = config
        self._keys.secrets, self._keys.trusted = secrets, trusted
        self._telemetry.event(
            "reloaded",
            server_key=secrets.server_key.public.hex()[:16],
            waiting=", ".join(sorted(_changed(self._started, config) - RELOADED)),
        )
        return True

    async def watch(self) -> None:
        """Reloads whenever a file has changed."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._stamp() != self._seen:
                self.reload()

    def _stamp(self) -> Stamp:
        identity, pepper = Path(self._config.identity_key_file), Path(self._config.pepper_file)
        successions = identity.with_name(identity.name + ring.SUCCESSIONS)
        own = [identity, successions, pepper, *ring.peppers_before(pepper)]
        return stamp([*own, self._file] if self._file is not None else own)


@asynccontextmanager
async def reloading(reload: Callable[[], Any], watch: Callable[[], Any]) -> AsyncIterator[None]:
    """For the time of the block: at SIGHUP, and as `watch` sees fit."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reload)
    watching = loop.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        loop.remove_signal_handler(signal.SIGHUP)


def _changed(before: Config, after: Config) -> set[str]:
    return {
        row.name for row in fields(Config) if getattr(before, row.name) != getattr(after, row.name)
    }
