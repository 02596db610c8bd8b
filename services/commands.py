"""What `rookery-server` does: one function a command, which ends by itself or by an error."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import importlib.util
import secrets as randomness
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services import keys
from services.audit.local import recorded
from services.config import Config, ConfigError, commented_toml, of_arguments
from services.keeping.errors import KeepingError
from services.keeping.reload import Reloader, ServiceKeys, reloading
from services.keys import KeyFileError
from services.listen import ListenError
from services.process import announce, until_signal
from services.server import Secrets, Server, open_server
from services.store.errors import StoreError
from services.store.opening import open_store
from services.wake import waking

if TYPE_CHECKING:
    from services.party.daemon import Daemon

FORESEEN = (ConfigError, KeepingError, KeyFileError, ListenError, StoreError, OSError)
KEPT_BYTES = 32 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt(3)


def _keep_freed_memory() -> None:
    """Lets glibc keep what a page's worth of ops took, for the next page.

    By default it gives buffers of that size back to the system at once, and every copy of
    a page of ops then pays for as many page faults: three times the copy itself. Other C
    libraries have no such call, and are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * KEPT_BYTES)


SWITCH_SECONDS = 0.001
"""How long the loop may keep the interpreter lock from the thread that writes. By default it is
5 ms, longer than a commit takes."""


YOUNG_OBJECTS = 50_000
"""New objects before the collector looks for cycles among them: by default 700, which a dozen
calls make. Few of ours are in cycles, and those that are, are small."""


def _collect_seldom() -> None:
    """Leaves what start-up made out of every later search for garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 100)


def serve(arguments: argparse.Namespace) -> None:
    """Runs the service until it is told to stop."""
    config = of_arguments(arguments)
    if arguments.dev:
        _make_keys(config, missing_only=True)
    secrets = Secrets.read(config)
    sys.setswitchinterval(SWITCH_SECONDS)
    _keep_freed_memory()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(config, secrets, lambda: of_arguments(arguments), arguments.config))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _run(
    config: Config, secrets: Secrets, load: Callable[[], Config], file: Path | None
) -> None:
    server = await open_server(config, secrets)
    _collect_seldom()
    log = server.store.governance
    own = ServiceKeys(server.keys, config, load, file, log=log, taken=server.keys_taken)
    keeper = Reloader(own.take, own.watched, server.telemetry, server.metrics)
    async with reloading(keeper.reload, keeper.watch):
        _announce(server, secrets)
        await until_signal()
    server.telemetry.event("draining")
    await server.stop()
    server.telemetry.event("stopped")


def _announce(server: Server, secrets: Secrets) -> None:
    """One line on standard output: where, under which name, with which key to pin."""
    config = server.config
    public = {"audience": config.audience, "server_key": secrets.server_key.public.hex()}
    if config.wake_gateway:
        public["wake_key"] = waking.key(config).public.hex()
    announce(server.telemetry, server.address, server.scrape.address, **public)


def _make_keys(config: Config, *, missing_only: bool) -> None:
    names = [config.identity_key_file, config.pepper_file]
    if config.wake_gateway:
        names.append(config.wake_key_file)
    for name in names:
        if not missing_only or not Path(name).exists():
            keys.create(Path(name), randomness.token_bytes(keys.KEY_BYTES))


def keys_init(arguments: argparse.Namespace) -> None:
    """Makes the service's own keys."""
    config = of_arguments(arguments)
    _make_keys(config, missing_only=False)
    print(f"server_key {Secrets.read(config).server_key.public.hex()}")
    if config.wake_gateway:
        print(f"wake_key {waking.key(config).public.hex()}")


def show_config(arguments: argparse.Namespace) -> None:
    """Prints every setting with its default."""
    del arguments
    print(commented_toml(), end="")


def new_generation(arguments: argparse.Namespace) -> None:
    """Voids every cursor: the store is not the one that clients knew."""
    config = of_arguments(arguments)

    async def renew() -> None:
        store = await open_store(config, must_exist=True, serves=False)
        try:
            await recorded(store.governance, "new-generation", store.new_generation)
        finally:
            await store.close()

    asyncio.run(renew())
    print("ok: every cursor that clients hold is void; they compare heads and push again")


def party(arguments: argparse.Namespace) -> None:
    """Runs one party until it is told to stop; or makes its key; or prints its settings."""
    from mpc.keys import PartyKey
    from services.party import config as party_config, daemon

    if arguments.check:
        from services.keeping import checkcommand

        checkcommand.check_party(arguments)
        return
    if arguments.show_config:
        print(party_config.commented_toml(), end="")
        return
    config = party_config.of_arguments(arguments)
    if arguments.init:
        seed = randomness.token_bytes(keys.KEY_BYTES)
        keys.create(Path(config.identity_key_file), seed)
        print(f"party_key {PartyKey(seed).public.hex()}")
        return
    if importlib.util.find_spec("mpyc") is None:
        raise ConfigError("MPyC is not installed: install rookery with the extra `party`")
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run_party(daemon.open_daemon(config), arguments))


async def _run_party(starting: Coroutine[Any, Any, Daemon], arguments: argparse.Namespace) -> None:
    from services.party import config as party_config
    from services.party.lists import Lists

    running = await starting
    lists = Lists(running, lambda: party_config.of_arguments(arguments), arguments.config)
    keeper = Reloader(lists.take, lists.watched, running.telemetry, running.metrics)
    key = running.key.public.hex()
    announce(running.telemetry, running.address, running.scrape.address, party_key=key)
    async with reloading(keeper.reload, keeper.watch):
        await until_signal()
    await running.stop()
    running.telemetry.event("stopped")
