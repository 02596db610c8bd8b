"""Being woken in the background (docs/protocol.md, 10): the push token reaches the gateway, and
nobody else.

The gateway's key comes from the app's own configuration. A key from the service could be the
service's own, and the token would be its to read. What is registered ends by itself, so it is
renewed in time: sealed anew, under the identity that the device has then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from client.errors import UserError
from client.rows import pack, unpack
from client.sync import SHELL_ROWS, SyncedDevice
from crypto import wake
from crypto.errors import CryptoError
from crypto.keys import Recipient
from crypto.wake import Platform, PushToken

ROW = SHELL_ROWS + "wake"
LIFETIME_MS = 90 * 86_400_000
"""What the gateway is told; the service may forget a handle sooner."""


class WakeError(UserError):
    """The gateway's key or the push token is of no use; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What this device had registered, and for how long. Its repr hides the token."""

    gateway_key: bytes
    push_token: PushToken
    device_id: bytes
    since_ms: int
    expires_ms: int

    @property
    def renew_ms(self) -> int:
        """When to register again: after a third of the time."""
        return self.since_ms + (self.expires_ms - self.since_ms) // 3

    def encode(self) -> bytes:
        """For the vault."""
        token = self.push_token
        return pack(
            self.gateway_key, int(token.platform), token.token, self.device_id, self.since_ms,
            self.expires_ms,
        )  # fmt: skip

    @classmethod
    def decode(cls, row: bytes) -> Self:
        """RowsError if it is not what `encode` made."""
        key, platform, token, device_id, since_ms, expires_ms = unpack(row, 6)
        return cls(key, PushToken(Platform(platform), token), device_id, since_ms, expires_ms)


class Waking:
    """Has one device woken, or no longer."""

    def __init__(self, synced: SyncedDevice) -> None:
        self._synced = synced

    @property
    def registered(self) -> Registration | None:
        """What this device remembers to have registered."""
        row = self._synced.vault.load().get(ROW)
        return None if row is None else Registration.decode(row)

    async def register(self, gateway_key: bytes, push_token: PushToken) -> Registration:
        """From now on a push wakes this device when there is something to sync. WakeError,
        RemoteError."""
        synced = self._synced
        now_ms = synced.transport.server_ms()
        try:
            handle = wake.seal(
                Recipient(gateway_key),
                push_token,
                audience=synced.transport.endpoint.audience,
                expires_ms=now_ms + LIFETIME_MS,
            )
        except CryptoError as error:
            raise WakeError(error.message) from None
        synced.sign_as_device()
        until_ms = await synced.remote.register_handle(handle)
        made = Registration(
            gateway_key,
            push_token,
            bytes(synced.core.identity.device_id),
            now_ms,
            min(until_ms, now_ms + LIFETIME_MS),
        )
        synced.save({ROW: made.encode()})
        return made

    async def renew_if_due(self) -> bool:
        """Registers again what was registered, once a third of its time is over or this device
        has become another one. True if it did. To be called after a sync; RemoteError."""
        known = self.registered
        if known is None:
            return False
        is_other = known.device_id != self._synced.core.identity.device_id
        now_ms = self._synced.transport.server_ms()
        # A clock that was wrong must not put it off for years.
        if not is_other and known.since_ms <= now_ms < known.renew_ms:
            return False
        await self.register(known.gateway_key, known.push_token)
        return True

    async def remove(self) -> None:
        """No push any more. RemoteError: then it is still registered."""
        self._synced.sign_as_device()
        await self._synced.remote.remove_handle()
        self._synced.save({ROW: None})

    async def held_until_ms(self) -> int:
        """Until when the service says to hold a handle of this device; 0: it holds none.
        RemoteError."""
        self._synced.sign_as_device()
        return await self._synced.remote.handle_expires_ms()
