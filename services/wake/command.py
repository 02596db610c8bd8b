"""`rookery-server gateway`: runs the reference gateway, makes its key, prints its settings."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
from pathlib import Path

from crypto.wake import GatewayKey
from services import keys, settings
from services.keys import KeyFileError
from services.listen import ListenError
from services.process import announce, until_signal
from services.settings import ConfigError
from services.wake import gateway_config
from services.wake.gateway import Gateway
from services.wake.gateway_config import GatewayConfig

FORESEEN = (ConfigError, KeyFileError, ListenError, OSError)


def gateway(arguments: argparse.Namespace) -> None:
    """Runs one gateway until it is told to stop; or makes its key; or prints its settings."""
    if arguments.show_config:
        print(gateway_config.commented_toml(), end="")
        return
    given = settings.of_options(arguments, "listen")
    config = gateway_config.load(arguments.config, os.environ, given)
    path = Path(config.box_key_file)
    if arguments.init:
        keys.create(path, secrets.token_bytes(keys.KEY_BYTES))
        print(f"gateway_key {GatewayKey(keys.read(path)).public.hex()}")
        return
    asyncio.run(_run(config, GatewayKey(keys.read(path))))


async def _run(config: GatewayConfig, key: GatewayKey) -> None:
    running = Gateway(config, key)
    await running.start()
    public = key.public.hex()
    announce(running.telemetry, running.address, running.scrape.address, gateway_key=public)
    await until_signal()
    await running.stop()
    running.telemetry.event("stopped")
