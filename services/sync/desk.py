"""What every handler of the sync half has at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError

from crypto.chain import Device
from crypto.ids import AccountId, DeviceId
from services import wire
from services.call import Clock, SignedCall
from services.cursor import Cursors
from services.errors import GenerationChanged, Malformed, Unauthenticated
from services.store.base import Store, Tip

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Desk:
    """Store, cursors, clock, and what every answer says beside: the back-off hint of the moment,
    the number of the policy."""

    store: Store
    cursors: Cursors
    clock: Clock
    backoff_ms: Callable[[], int]
    policy_sequence: Callable[[], int] = lambda: 0
    """Of the bundle in force."""

    def info(self, chain_seq: int = 0) -> bytes:
        """An encoded ServerInfo as of now."""
        return wire.server_info(
            self.clock.wall_ms(), self.backoff_ms(), chain_seq, self.policy_sequence()
        )

    def info_field(self, chain_seq: int = 0) -> bytes:
        """The field `info = 1` that every unary answer starts with."""
        return wire.data(1, self.info(chain_seq))

    def position(self, call: SignedCall, token: bytes) -> int:
        """The position of a cursor. GenerationChanged also if it is beyond the account's end:
        what stood there is gone, and what comes next would be taken for it."""
        position = self.cursors.open(call.account, token)
        if position > call.tip.position:
            raise GenerationChanged
        return position

    async def member(self, account: AccountId, device: DeviceId) -> Tip:
        """The account as it is now; Unauthenticated if it or the device is no longer in it.

        Asked after reading ops, so that the chain is at least as new as they are.
        """
        tip = await self.store.tip(account)
        if tip is None or not is_active(tip.chain.find(device)):
            raise Unauthenticated
        return tip


def is_active(device: Device | None) -> bool:
    """Whether it is in the chain and not revoked."""
    return device is not None and device.active


def parse(from_string: Callable[[bytes], M], raw: bytes) -> M:
    """A request message; Malformed if the bytes are none."""
    try:
        return from_string(raw)
    except DecodeError:
        raise Malformed("message") from None
