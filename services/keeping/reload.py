"""Keys and lists of keys are taken up while the process runs: at SIGHUP, and when a file changes.

What is broken changes nothing: the keys before stay in force, and the log says why. Other lists
of keys are in the service's audit log before they are in force, or are not in force.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Set,
)
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.audit.local import recorded
from services.audit.record import lists_hash
from services.config import Config, ConfigError
from services.keeping import ring
from services.keeping.current import Keys, Secrets, Trusted, lists_of
from services.keys import KeyFileError
from services.metrics import CallMetrics
from services.store.errors import StoreError
from services.store.governance import GovernanceStore
from services.telemetry import Telemetry

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LOOK_S = 2.0
RELOADED = frozenset(
    (
        "identity_key_file",
        "pepper_file",
        "token_issuers",
        "publishers",
        "analysts",
        "policy_keys",
    )
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


Load = Callable[[], Awaitable[Mapping[str, str]]]


class Reloader:
    """Looks after the keys and lists of one process. `take` puts in force what its files say, all
    of it or nothing, and returns what to log; `watched` are the files to look at."""

    def __init__(
        self,
        take: Load,
        watched: Callable[[], Iterable[Path]],
        telemetry: Telemetry,
        metrics: CallMetrics,
    ) -> None:
        self._take = take
        self._watched = watched
        self._telemetry = telemetry
        self._metrics = metrics
        self._seen: Stamp | None = stamp(watched())
        self._reloading = asyncio.Lock()

    async def reload(self) -> bool:
        """Takes up what the files say now; False if they are broken, or if that can't be written
        down: then it is tried again."""
        async with self._reloading:
            return await self._reload()

    async def _reload(self) -> bool:
        self._seen = stamp(self._watched())
        try:
            fields = await self._take()
        except (ConfigError, KeyFileError, OSError, StoreError) as error:
            if isinstance(error, StoreError):
                self._seen = None
            self._metrics.reloaded(is_done=False)
            self._telemetry.event("reload_refused", why=str(error))
            return False
        self._metrics.reloaded(is_done=True)
        self._telemetry.event("reloaded", **fields)
        return True

    async def watch(self) -> None:
        """Reloads whenever a file has changed."""
        while True:
            await asyncio.sleep(LOOK_S)
            if stamp(self._watched()) != self._seen:
                await self.reload()


class ServiceKeys:
    """What of a service is taken up: its own keys, and the lists of keys that it trusts."""

    def __init__(
        self,
        keys: Keys,
        config: Config,
        load: Callable[[], Config],
        file: Path | None,
        *,
        log: GovernanceStore,
        taken: Callable[[], None] = lambda: None,
    ) -> None:
        """`log`: where it is written down that other lists are taken up. `taken`: called when
        other keys and lists are in force."""
        self._keys = keys
        self._log = log
        self._taken = taken
        self._started = self._config = config
        self._load = load
        self._file = file

    async def take(self) -> Mapping[str, str]:
        """See `Reloader`. ConfigError, KeyFileError, StoreError."""
        config = self._load()
        secrets, trusted = Secrets.read(config), Trusted.of(config)

        async def put() -> None:
            self._config = config
            self._keys.secrets, self._keys.trusted = secrets, trusted
            self._taken()

        if trusted == self._keys.trusted:
            await put()
        else:
            request = lists_hash(lists_of(config))
            await recorded(self._log, "reload", put, request=request)
        return {
            "server_key": secrets.server_key.public.hex()[:16],
            "waiting": waiting(self._started, config, RELOADED),
        }

    def watched(self) -> list[Path]:
        """See `Reloader`."""
        identity, pepper = Path(self._config.identity_key_file), Path(self._config.pepper_file)
        successions = identity.with_name(identity.name + ring.SUCCESSIONS)
        own = [identity, successions, pepper, *ring.peppers_before(pepper)]
        return own if self._file is None else [*own, self._file]


def waiting(before: DataclassInstance, after: DataclassInstance, taken: Set[str]) -> str:
    """Names of settings that were changed and wait for the next start."""
    changed = {
        row.name for row in fields(before) if getattr(before, row.name) != getattr(after, row.name)
    }
    return ", ".join(sorted(changed - taken))


@asynccontextmanager
async def reloading(
    reload: Callable[[], Coroutine[Any, Any, Any]], watch: Callable[[], Coroutine[Any, Any, Any]]
) -> AsyncIterator[None]:
    """For the time of the block: at SIGHUP, and as `watch` sees fit."""
    loop = asyncio.get_running_loop()
    running = {loop.create_task(watch())}

    def hang_up() -> None:
        task = loop.create_task(reload())
        running.add(task)
        task.add_done_callback(running.discard)

    loop.add_signal_handler(signal.SIGHUP, hang_up)
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        loop.remove_signal_handler(signal.SIGHUP)
