"""A `Duplex` in memory with a bound, whose ends may misbehave. A helper."""

from __future__ import annotations

import asyncio

from services.party.links import LinkLost


class Pipe:
    """One end: what is sent here is received at the other end."""

    def __init__(self, outgoing: asyncio.Queue[bytes | None], incoming: Pipe | None) -> None:
        self._outgoing = outgoing
        self.other = incoming
        self.aborted = asyncio.Event()

    async def send(self, message: bytes) -> None:
        """Waits while the other end takes nothing."""
        if self.aborted.is_set():
            raise LinkLost("gone")
        await self._outgoing.put(message)

    async def receive(self) -> bytes | None:
        """None after the other end is gone."""
        assert self.other is not None
        return await self.other._outgoing.get()

    def abort(self) -> None:
        """Both ends see it; what was not read is lost."""
        for end in (self, self.other):
            assert end is not None
            if not end.aborted.is_set():
                end.aborted.set()
                while not end._outgoing.empty():
                    end._outgoing.get_nowait()
                end._outgoing.put_nowait(None)


def pipe(depth: int = 16) -> tuple[Pipe, Pipe]:
    """Two ends; each holds at most `depth` unread messages."""
    left = Pipe(asyncio.Queue(depth), None)
    right = Pipe(asyncio.Queue(depth), left)
    left.other = right
    return left, right
