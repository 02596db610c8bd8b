"""Which backend a configuration names, opened."""

from __future__ import annotations

from pathlib import Path

from services.config import Config, ConfigError
from services.store.base import Store
from services.store.observer import UNOBSERVED, StoreObserver
from services.store.sqlite import SqliteStore
from services.telemetry import Telemetry


async def open_store(
    config: Config,
    *,
    telemetry: Telemetry | None = None,
    observer: StoreObserver = UNOBSERVED,
    must_exist: bool = False,
) -> Store:
    """The store that `redis_url` or `database` names. StoreUnavailable says what is wrong with
    it; ConfigError if there is none and `must_exist`."""
    if config.redis_url:
        raise ConfigError("redis_url: this version stores in SQLite only")
    if must_exist:
        _find_file(config)
    store = await SqliteStore.open(
        Path(config.database),
        limits=config.limits(),
        nonces_max=config.nonces_max,
        nonces_account_max=config.nonces_account_max,
        observer=observer,
    )
    if store.restored and telemetry is not None:
        telemetry.event("store_restored")
    return store


def _find_file(config: Config) -> None:
    if not Path(config.database).exists():
        raise ConfigError(f"database: {config.database} is not there")
