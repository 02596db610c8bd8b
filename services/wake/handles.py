"""Wake (proto/rookery/v1/wake.proto): devices register handles that the service can't read."""

from __future__ import annotations

from collections.abc import Callable

from crypto.wake import HANDLE_BYTES
from rookery.v1 import wake_pb2
from services import wire
from services.call import Route, SignedCall, SignedUnary
from services.errors import Malformed, WakeOff
from services.sync.desk import Desk, parse

_SERVICE = "/rookery.v1.Wake/"


class Handles:
    """Handlers of the Wake service. `lifetime_ms`, asked at each call; 0: the service wakes
    nobody."""

    def __init__(self, desk: Desk, *, lifetime_ms: Callable[[], int]) -> None:
        self._desk = desk
        self._lifetime_ms = lifetime_ms

    def routes(self) -> list[Route]:
        """What to serve."""
        return [
            SignedUnary(_SERVICE + "RegisterHandle", self.register),
            SignedUnary(_SERVICE + "RemoveHandle", self.remove),
            SignedUnary(_SERVICE + "GetHandle", self.get),
        ]

    async def register(self, raw: bytes, call: SignedCall) -> bytes:
        """RegisterHandle."""
        request = parse(wake_pb2.RegisterHandleRequest.FromString, raw)
        if len(request.handle) != HANDLE_BYTES:
            raise Malformed("handle")
        if not self._lifetime_ms():
            raise WakeOff
        call.check_live()
        expires_ms = call.now_ms + self._lifetime_ms()
        await self._desk.store.wake.set_handle(
            call.account, call.device, request.handle, expires_ms=expires_ms
        )
        return self._info(call) + wire.number(2, expires_ms)

    async def remove(self, raw: bytes, call: SignedCall) -> bytes:
        """RemoveHandle. Also where nobody is woken any more."""
        parse(wake_pb2.RemoveHandleRequest.FromString, raw)
        await self._desk.store.wake.remove_handle(call.account, call.device)
        return self._info(call)

    async def get(self, raw: bytes, call: SignedCall) -> bytes:
        """GetHandle."""
        parse(wake_pb2.GetHandleRequest.FromString, raw)
        if not self._lifetime_ms():
            raise WakeOff
        expires_ms = await self._desk.store.wake.handle_expires_ms(
            call.account, call.device, now_ms=call.now_ms
        )
        return self._info(call) + wire.number(2, expires_ms)

    def _info(self, call: SignedCall) -> bytes:
        return self._desk.info_field(call.tip.chain.seq)
