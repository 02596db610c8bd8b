"""Pairing mailboxes (proto/rookery/v1/pairing.proto): sealed messages, nobody signed in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from crypto.pairing import MESSAGE_BYTES_MAX, RENDEZVOUS_BYTES
from rookery.v1 import pairing_pb2
from services import wire
from services.call import Call, OpenUnary, Route
from services.errors import Draining, Malformed, MessageAbsent
from services.limits import Buckets, Gate, rate_key
from services.store.errors import QuotaExceeded
from services.sync.desk import Desk, parse

_SERVICE = "/rookery.v1.Pairing/"
WAIT_MS_MAX = 25_000
NUMBERS = (1, 2, 3)
# A message may arrive at another replica, which can't wake us.
_LOOK_AGAIN_S = 1.0


class Pairing:
    """Handlers of the Pairing service."""

    def __init__(
        self, desk: Desk, waits: Gate, mailboxes: Buckets, farewell: Callable[[], Draining]
    ) -> None:
        self._desk = desk
        self._waits = waits
        self._mailboxes = mailboxes
        self._farewell = farewell
        self._arrivals: dict[bytes, asyncio.Event] = {}
        self._draining = False

    def routes(self) -> list[Route]:
        """What to serve."""
        return [
            OpenUnary(_SERVICE + "PostMessage", self.post),
            OpenUnary(_SERVICE + "FetchMessage", self.fetch),
        ]

    def drain(self) -> None:
        """Lets nobody wait any longer."""
        self._draining = True
        for arrival in self._arrivals.values():
            arrival.set()

    @property
    def waiting(self) -> int:
        """How many calls wait for a message."""
        return self._waits.inside

    async def post(self, raw: bytes, call: Call) -> bytes:
        """PostMessage."""
        request = parse(pairing_pb2.PostMessageRequest.FromString, raw)
        _check(request.rendezvous, request.number)
        if not request.body:
            raise Malformed("body")
        if len(request.body) > MESSAGE_BYTES_MAX:
            raise QuotaExceeded("pairing_message_bytes", MESSAGE_BYTES_MAX)
        call.check_live()
        if request.number == 1:
            self._mailboxes.take(rate_key(call.ip), call.clock.monotonic_s())
        await self._desk.store.post_message(
            request.rendezvous, request.number, request.body, now_ms=call.now_ms
        )
        arrival = self._arrivals.get(request.rendezvous)
        if arrival is not None:
            arrival.set()
        return self._desk.info_field()

    async def fetch(self, raw: bytes, call: Call) -> bytes:
        """FetchMessage: at once if it is there, else as soon as it comes."""
        request = parse(pairing_pb2.FetchMessageRequest.FromString, raw)
        _check(request.rendezvous, request.number)
        if request.wait_ms > WAIT_MS_MAX:
            raise Malformed("wait_ms")
        body = await self._look(request)
        if body is None and request.wait_ms:
            with self._waits:
                body = await self._await(request, call)
        if body is None:
            raise MessageAbsent
        return self._desk.info_field() + wire.data(2, body)

    async def _look(self, request: pairing_pb2.FetchMessageRequest) -> bytes | None:
        return await self._desk.store.fetch_message(
            request.rendezvous, request.number, now_ms=self._desk.clock.wall_ms()
        )

    async def _await(self, request: pairing_pb2.FetchMessageRequest, call: Call) -> bytes | None:
        until_s = call.clock.monotonic_s() + request.wait_ms / 1000
        while True:
            # Registered before looking: what comes in between sets the event.
            arrival = self._arrivals.setdefault(request.rendezvous, asyncio.Event())
            body = await self._look(request)
            left_s = until_s - call.clock.monotonic_s()
            if body is not None or left_s <= 0:
                return body
            if self._draining:
                raise self._farewell()
            try:
                async with asyncio.timeout(min(left_s, _LOOK_AGAIN_S)):
                    await arrival.wait()
            except TimeoutError:
                continue
            finally:
                # The next round makes a new one; others who wait on this one see it set.
                if self._arrivals.get(request.rendezvous) is arrival:
                    del self._arrivals[request.rendezvous]
                    arrival.set()


def _check(rendezvous: bytes, number: int) -> None:
    if len(rendezvous) != RENDEZVOUS_BYTES:
        raise Malformed("rendezvous")
    if number not in NUMBERS:
        raise Malformed("number")
