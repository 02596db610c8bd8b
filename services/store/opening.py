"""Which backend a configuration names, opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from services.config import ACCEPTED_LOSS, Config, ConfigError, store_absent
from services.store.base import Store
from services.store.observer import UNOBSERVED, StoreObserver
from services.store.sqlite import SqliteStore
from services.telemetry import Telemetry

if TYPE_CHECKING:
    from services.store.redis import RedisStore
    from services.store.redis_link import Promise
    from services.store.redis_looking import Looked


async def open_store(
    config: Config,
    *,
    telemetry: Telemetry | None = None,
    observer: StoreObserver = UNOBSERVED,
    must_exist: bool = False,
    serves: bool = True,
) -> Store:
    """The store that `redis_url` or `database` names. StoreUnavailable says what is wrong with
    it; ConfigError if there is none and `must_exist`. Who does not serve it counts in Redis as
    no process that does."""
    if config.redis_url:
        return await _open_redis(config, observer, must_exist=must_exist, serves=serves)
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


async def _open_redis(
    config: Config, observer: StoreObserver, *, must_exist: bool, serves: bool
) -> RedisStore:
    # Here: importing Redis takes half of the time in which a process without it starts.
    from services.store.redis import RedisStore
    from services.store.redis_lineage import META
    from services.store.redis_link import Link
    from services.store.redis_tenancy import check_moving

    link = await Link.open(
        config.redis_url,
        promise_of(config),
        password_file=config.redis_password_file,
        ca_file=config.redis_ca_file,
        make=not must_exist,
        observer=observer,
        serves=serves,
    )
    if not serves:
        try:
            check_moving(await link.call("HGET", META, "moving"))
        except BaseException:
            await link.close()
            raise
    return await RedisStore.open(
        link, limits=config.limits(), nonces_account_max=config.nonces_account_max
    )


async def look_at_redis(config: Config) -> Looked:
    """What is at `redis_url`, without a change to it. StoreUnavailable if it can't be served."""
    from services.store.redis_looking import look

    return await look(
        config.redis_url,
        promise_of(config),
        password_file=config.redis_password_file,
        ca_file=config.redis_ca_file,
    )


def promise_of(config: Config) -> Promise:
    """What the settings say of writes to Redis."""
    from services.store.redis_link import Promise

    return Promise(
        replicas_min=config.redis_replicas_min,
        persistence=config.redis_persistence,
        accepts_loss=config.redis_accept_loss == ACCEPTED_LOSS,
    )


def _find_file(config: Config) -> None:
    if not Path(config.database).exists():
        raise ConfigError(store_absent(config))
