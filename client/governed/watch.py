"""Hearing of each newer policy bundle at once, for as long as a device stays connected.

Beside the stream of ops, and apart from it: neither waits for the other, and one that breaks
leaves the other be.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from client import remoteerrors as reasons
from client.governed.holding import Shown
from client.governed.remote import get_policy, watch_policy
from client.remoteerrors import ProtocolBreach, RemoteError
from client.transport import Signer

if TYPE_CHECKING:
    from client.sync import SyncedDevice

UNSERVED_S: Final = 900.0
"""A service that has no such call, or does not let this device make it, is asked again so much
later: what it publishes then comes with the next sync meanwhile."""


class PolicyWatch:
    """Keeps one device's bundle the newest. `on_change` is called when there is another one."""

    def __init__(self, synced: SyncedDevice, on_change: Callable[[], None]) -> None:
        self._synced = synced
        self._on_change = on_change
        self._tries = 0
        self.live = False
        """Whether a stream is open, by which the next bundle comes."""

    async def run(self) -> None:
        """Until it is cancelled. A device that is not governed when it begins has none to watch
        for."""
        while self._synced.governed:
            try:
                await self._stream()
                error = RemoteError(reasons.UNREACHABLE, status="OK")
            except RemoteError as failed:
                error = failed
            except ProtocolBreach:
                error = RemoteError(reasons.UNSUPPORTED, status="INTERNAL")
            finally:
                self.live = False
            await self._pause(error)

    async def _stream(self) -> None:
        synced = self._synced
        signer = Signer(synced.core.identity, synced.core.account_id)
        stream = watch_policy(synced.transport, signer, synced.holding.sequence)
        async with contextlib.aclosing(stream) as frames:
            async for shown in frames:
                self._tries, self.live = 0, True
                await self._take(shown)

    async def _take(self, shown: Shown) -> None:
        before = self._synced.policy
        again = self._synced.on_policy(shown)
        if again is not None:
            self._synced.on_policy(await get_policy(self._synced.transport, again))
        if self._synced.policy is not before:
            self._on_change()

    async def _pause(self, error: RemoteError) -> None:
        """The stream of ops sees to it that calls go elsewhere where they must."""
        self._tries += 1
        transport = self._synced.transport
        if error.transient or error.reason == reasons.UNAUTHENTICATED:
            wait_ms = transport.backoff.delay_ms(
                self._tries, transport.wire.uniform, error.retry_ms
            )
            await transport.clock.sleep(wait_ms / 1000)
        else:
            await asyncio.sleep(UNSERVED_S)
