"""What of the service wakes phones, put together: handles, the waker, the way to the gateway."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from crypto.ids import AccountId, DeviceId
from crypto.policy import Bundle
from mpc.keys import ServiceKey
from services import keys
from services.call import Clock, Route
from services.config import Config
from services.hub import Hub
from services.policy.retention import handle_lifetime_ms
from services.store.base import Store
from services.sync.desk import Desk
from services.telemetry import Telemetry
from services.wake.handles import Handles
from services.wake.metrics import WakeMetrics
from services.wake.sender import Sender, credentials
from services.wake.waker import Waker

_DAY_MS = 86_400_000


def key(config: Config) -> ServiceKey:
    """What signs calls of the gateway; KeyFileError."""
    return ServiceKey(keys.read(Path(config.wake_key_file)))


def check(config: Config) -> None:
    """Judges the settings and keys of waking without asking the gateway. KeyFileError,
    ConfigError."""
    key(config)
    credentials(config)


class Waking:
    """Without `wake_gateway` it serves refusals and pokes nobody."""

    def __init__(
        self,
        config: Config,
        store: Store,
        hub: Hub,
        *,
        telemetry: Telemetry,
        metrics: WakeMetrics,
        clock: Clock,
    ) -> None:
        self._config = config
        self._sender: Sender | None = None
        self.waker: Waker | None = None
        if not config.wake_gateway:
            return
        self._sender = Sender(config, key(config), clock.wall_ms)
        self.waker = Waker(
            store.wake,
            hub,
            self._sender,
            debounce_ms=int(1000 * config.wake_debounce_s),
            spread_ms=int(1000 * config.wake_spread_s),
            batch_max=config.wake_batch_max,
            queue_max=config.wake_queue_max,
            timeout_s=config.wake_timeout_s,
            telemetry=telemetry,
            metrics=metrics,
            clock=clock,
        )

    def routes(self, desk: Desk, policy: Callable[[], Bundle | None]) -> list[Route]:
        """What to serve. `policy`: where the bundle in force is asked for, at each call."""
        setting_ms = self._config.wake_handle_days * _DAY_MS if self.waker is not None else 0
        return Handles(desk, lifetime_ms=lambda: handle_lifetime_ms(setting_ms, policy())).routes()

    def committed(self, account: AccountId, author: DeviceId) -> None:
        """This device brought new ops."""
        if self.waker is not None:
            self.waker.committed(account, author)

    def start(self) -> None:
        """Begins to poke."""
        if self.waker is not None:
            self.waker.start()

    async def stop(self) -> None:
        """Before the store is closed."""
        if self.waker is not None:
            await self.waker.stop()
        if self._sender is not None:
            await self._sender.close()
