"""A relay for TCP that keeps a copy of all that passes: what stands in front of a process sees
what the network sees."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Final, Self

_READ_BYTES: Final = 1 << 16


class Tap:
    """Listens on loopback; whoever connects is connected to `target`."""

    def __init__(self) -> None:
        self.target = ""
        """HOST:PORT; may be set after the tap began to listen."""
        self.address = ""
        self._streams: list[bytearray] = []
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def streams(self) -> list[bytes]:
        """What passed, one for each connection and direction: bytes of one stay together."""
        return [bytes(one) for one in self._streams]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._relay(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        with contextlib.closing(writer):
            try:
                there, back = await asyncio.open_connection(host, int(port))
            except (OSError, ValueError):
                return  # the caller sees a line that is closed, as without the tap
            with contextlib.closing(back):
                await asyncio.gather(self._copy(reader, back), self._copy(there, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept = bytearray()
        self._streams.append(kept)
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                kept += data
                writer.write(data)
                await writer.drain()
            writer.write_eof()
