"""Another party as MPyC meets it: messages by program counter, within bounds.

It stands in for MPyC's own exchanger of messages, which waits for a dead peer for ever and
keeps whatever it is sent.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from mpc.codec import Received
from mpc.errors import PeerLost


class Link(Protocol):
    """A way to one other party, confidential and authenticated, that keeps no order."""

    def send(self, pc: int, payload: bytes) -> None:
        """Takes the message for sending, and doesn't block."""


class Peer:
    """What has come from one party and what is waited for."""

    def __init__(self, party: int, link: Link, *, unread_bytes_max: int, unread_max: int) -> None:
        self.party = party
        self.nbytes_sent = 0  # MPyC's name, as are those of the three methods below
        self._link = link
        self._unread_bytes_max = unread_bytes_max
        self._unread_max = unread_max
        self._unread: dict[int, bytes] = {}
        self._unread_bytes = 0
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._lost: PeerLost | None = None

    def send(self, pc: int, payload: bytes) -> None:
        """Sends a message. To a party that is lost nothing is sent, and no error is raised:
        it is raised where its answer is waited for."""
        if self._lost is None:
            self.nbytes_sent += len(payload)
            self._link.send(pc, bytes(payload))

    def receive(self, pc: int) -> asyncio.Future[bytes]:
        """The message of that program counter, now or later; PeerLost if it can't come."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        payload = self._unread.pop(pc, None)
        if payload is not None:
            self._unread_bytes -= len(payload)
            future.set_result(payload)
        elif self._lost is not None:
            _fail(future, self._lost)
        else:
            self._waiting[pc] = future
        return future

    def close_connection(self) -> None:
        """MPyC's end; here the service ends the streams."""

    def deliver(self, pc: int, payload: bytes) -> None:
        """Takes in a message. One too many makes the party lost: `flood` or `garbage`."""
        if self._lost is not None:
            return
        payload = Received.of(self.party, payload)
        future = self._waiting.pop(pc, None)
        if future is not None:
            if not future.done():
                future.set_result(payload)
        elif pc in self._unread:
            self.lose("garbage", "sent two messages in one place")
        elif (
            len(self._unread) >= self._unread_max
            or self._unread_bytes + len(payload) > self._unread_bytes_max
        ):
            self.lose("flood", "sent more than anybody waits for")
        else:
            self._unread[pc] = payload
            self._unread_bytes += len(payload)

    def lose(self, rule: str, message: str) -> PeerLost:
        """From now on every wait for this party ends with PeerLost. The first reason stays."""
        if self._lost is None:
            self._lost = PeerLost(rule, self.party, message)
            if rule != "gone":
                self._unread.clear()
            for future in self._waiting.values():
                if not future.done():
                    _fail(future, self._lost)
            self._waiting.clear()
        return self._lost

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for a message of this party."""
        return any(not future.done() for future in self._waiting.values())


class Absent:
    """A party that takes no part in the job."""

    nbytes_sent = 0

    def __init__(self, party: int) -> None:
        self._party = party

    def send(self, pc: int, payload: bytes) -> None:
        """Sends nothing."""

    def receive(self, pc: int) -> asyncio.Future[bytes]:
        """PeerLost."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        _fail(future, PeerLost("gone", self._party, "takes no part in this job"))
        return future

    def close_connection(self) -> None:
        """Nothing to close."""


def _fail(future: asyncio.Future[bytes], error: PeerLost) -> None:
    future.set_exception(error)
    future.exception()  # so that asyncio does not complain of those that nobody looks at
