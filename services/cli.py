"""`rookery-server`: the command line of the service."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import secrets as randomness
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc

from services import keys
from services.config import Config, ConfigError, Value, commented_toml, load
from services.keys import KeyFileError
from services.server import Secrets, Server, open_server, until_signal
from services.store.errors import StoreError
from services.store.sqlite import SqliteStore

OK, FAILED, USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code."""
    arguments = _parser().parse_args(argv)
    # First, or gRPC reports to standard error what we report ourselves.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        code: int = arguments.run(arguments)
    except (ConfigError, KeyFileError, StoreError) as error:
        print(f"rookery-server: {error}", file=sys.stderr)
        return USAGE if isinstance(error, ConfigError) else FAILED
    except (OSError, RuntimeError, grpc.RpcError) as error:
        print(f"rookery-server: {error}", file=sys.stderr)
        return FAILED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rookery-server",
        description="The sync service. It stores and forwards what it can't read.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = _command(commands, "serve", "run the service", _serve)
    serve.add_argument("--listen", metavar="HOST:PORT", help="port 0 takes a free one")
    serve.add_argument("--database", metavar="FILE")
    serve.add_argument("--audience", metavar="NAME")
    serve.add_argument(
        "--dev", action="store_true", help="make missing keys; for trying it out, not for use"
    )
    key_commands = commands.add_parser("keys", help="the service's own keys").add_subparsers(
        required=True, metavar="COMMAND"
    )
    _command(key_commands, "init", "make identity key and pepper (mode 0600)", _keys_init)
    _command(commands, "config", "print every setting with its default", _config)
    _command(commands, "check", "judge settings, keys and store; serve nothing", _check)
    _command(
        commands,
        "new-generation",
        "after restoring a backup: clients compare and push again what is missing",
        _new_generation,
    )
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.add_argument("--config", metavar="FILE", type=Path, help="TOML; see `config`")
    command.set_defaults(run=run)
    return command


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


def _load(arguments: argparse.Namespace) -> Config:
    given: dict[str, Value] = {
        name: value
        for name in ("listen", "database", "audience")
        if (value := getattr(arguments, name, None)) is not None
    }
    return load(arguments.config, os.environ, given)


def _serve(arguments: argparse.Namespace) -> int:
    config = _load(arguments)
    if arguments.dev:
        _make_keys(config, missing_only=True)
    secrets = Secrets.read(config)
    sys.setswitchinterval(SWITCH_SECONDS)
    _keep_freed_memory()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(config, secrets))
    return OK


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _run(config: Config, secrets: Secrets) -> None:
    server = await open_server(config, secrets)
    _announce(server, secrets)
    await until_signal()
    server.telemetry.event("draining")
    await server.stop()
    server.telemetry.event("stopped")


def _announce(server: Server, secrets: Secrets) -> None:
    """One line on standard output: where, under which name, with which key to pin."""
    ready = {
        "listening": server.address,
        "audience": server.config.audience,
        "server_key": secrets.server_key.public.hex(),
    }
    print(json.dumps(ready), flush=True)
    server.telemetry.event("serving")


def _make_keys(config: Config, *, missing_only: bool) -> None:
    for name in (config.identity_key_file, config.pepper_file):
        if not missing_only or not Path(name).exists():
            keys.create(Path(name), randomness.token_bytes(keys.KEY_BYTES))


def _keys_init(arguments: argparse.Namespace) -> int:
    config = _load(arguments)
    _make_keys(config, missing_only=False)
    print(f"server_key {Secrets.read(config).server_key.public.hex()}")
    return OK


def _config(arguments: argparse.Namespace) -> int:
    del arguments
    print(commented_toml(), end="")
    return OK


def _check(arguments: argparse.Namespace) -> int:
    config = _load(arguments)
    secrets = Secrets.read(config)
    for name in (config.tls_cert_file, config.tls_key_file):
        if name:
            Path(name).read_bytes()

    async def look() -> None:
        store = await SqliteStore.open(Path(config.database), limits=config.limits())
        await store.close()

    asyncio.run(look())
    print(f"ok: audience {config.audience}, server_key {secrets.server_key.public.hex()}")
    return OK


def _new_generation(arguments: argparse.Namespace) -> int:
    config = _load(arguments)
    if not Path(config.database).exists():
        raise ConfigError(f"database: {config.database} is not there")

    async def renew() -> None:
        store = await SqliteStore.open(Path(config.database), limits=config.limits())
        try:
            await store.new_generation()
        finally:
            await store.close()

    asyncio.run(renew())
    print("ok: every cursor that clients hold is void; they compare heads and push again")
    return OK


if __name__ == "__main__":
    sys.exit(main())
