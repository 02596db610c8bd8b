"""The process of one job: `python -m mpc.job SOCKET DESCRIPTION`, two open file descriptors.

It reads its description, agrees on keys with its peers, does the steps that its service sends,
and ends when the service closes the stream, at the first error, or at the job's deadline. All
it knows of its peers comes through its service.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from crypto.errors import FormatError
from mpc import frames
from mpc.circuit import SharedCircuit
from mpc.description import (
    Description,
    Exit,
    bits_to_bytes,
    exit_of,
    pack,
    read_matrix,
    refusal,
    unpack,
)
from mpc.errors import JobError
from mpc.frames import Frame, Kind, Oversized
from mpc.session import Session

DESCRIPTION_BYTES_MAX = 1 << 16
GRACE_SECONDS = 5
"""After the deadline the kernel ends a process whose event loop is stuck."""

Answer = dict[str, Any]


class ServiceLink:
    """`Link` to a peer by way of this party's service."""

    def __init__(self, writer: asyncio.StreamWriter, party: int) -> None:
        self._writer = writer
        self._party = party

    def send(self, pc: int, payload: bytes) -> None:
        """Queues a frame; the job's own limits bound how much there can be."""
        self._writer.write(Frame(Kind.SHARES, payload, self._party, pc).to_bytes())


class Job:
    """The steps of one job, in the order in which the service sends them."""

    def __init__(
        self,
        description: Description,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._limits = description.limits
        self._reader = reader
        self._writer = writer
        self._steps: asyncio.Queue[bytes | JobError | None] = asyncio.Queue()
        peers = (party for party in description.terms.present if party != description.me)
        links = {party: ServiceLink(writer, party) for party in peers}
        self._session = Session(description.terms, description.me, links, limits=description.limits)
        self._field = description.terms.field
        self._circuit = SharedCircuit(self._session)
        self._does: dict[str, Callable[[str, Answer], Coroutine[Any, Any, Answer]]] = {
            "coin": self._coin,
            "consistent": self._consistent,
            "zeros": self._zeros,
            "noise_in": self._noise_in,
            "open_sum": self._open_sum,
            "same": self._same,
        }

    async def run(self) -> Exit:
        """All of it. Errors are answered, and end the job."""
        reading = asyncio.create_task(self._read())
        try:
            async with asyncio.timeout(self._limits.seconds):
                await self._session.start()
                self._answer({"ready": True})
                while (step := await self._steps.get()) is not None:
                    if isinstance(step, JobError):
                        raise step
                    self._answer(await self._do(unpack(step)))
        except TimeoutError:
            return self._end(JobError("deadline", "the job took longer than it may"))
        except JobError as error:
            return self._end(error)
        finally:
            reading.cancel()
        return Exit.DONE

    def _answer(self, answer: Answer) -> None:
        self._writer.write(Frame(Kind.ANSWER, pack(answer)).to_bytes())

    def _end(self, error: JobError) -> Exit:
        self._answer(refusal(error))
        return exit_of(error)

    async def _read(self) -> None:
        size = self._limits.frame_bytes_max
        while True:
            try:
                frame = await frames.read(self._reader, shares_bytes_max=size)
            except FormatError as error:
                self._steps.put_nowait(JobError("frame", error.message))
                return
            if frame is None:
                self._lose_all()
                self._steps.put_nowait(None)
                return
            self._take(frame)

    def _take(self, frame: Frame | Oversized) -> None:
        peer = self._session.peers.get(frame.party)
        if isinstance(frame, Frame) and frame.kind is Kind.STEP:
            self._steps.put_nowait(frame.payload)
        elif peer is None or frame.kind not in (Kind.SHARES, Kind.LOST):
            self._steps.put_nowait(JobError("frame", "a frame that has no place in this job"))
        elif isinstance(frame, Oversized):
            peer.lose("flood", "sent a message that is too long")
        elif frame.kind is Kind.LOST:
            peer.lose("gone", "is gone")
        else:
            peer.deliver(frame.pc, frame.payload)

    def _lose_all(self) -> None:
        for peer in self._session.peers.values():
            peer.lose("gone", "can't be reached: the service ended the job")

    async def _do(self, step: Answer) -> Answer:
        try:
            does, name = self._does[step["do"]], str(step["name"])
            return await self._session.run(f"{step['do']} {name}", does(name, step))
        except (KeyError, TypeError, FormatError):
            raise JobError("step", "the service sent a step that can't be done") from None

    async def _coin(self, _: str, step: Answer) -> Answer:
        return {"coin": await self._circuit.coin(step["context"])}

    async def _consistent(self, name: str, step: Answer) -> Answer:
        found = await self._circuit.consistent(name, read_matrix(self._field, step))
        return {"consistent": bits_to_bytes(found.consistent), "suspects": found.suspects}

    async def _zeros(self, name: str, step: Answer) -> Answer:
        found = await self._circuit.zeros(name, read_matrix(self._field, step))
        bits = bits_to_bytes(found.zero)
        return {"zero": bits, "checked": found.checked, "liars": list(found.liars)}

    async def _noise_in(self, name: str, step: Answer) -> Answer:
        noise = np.frombuffer(step["noise"], "<i8").astype(np.int64)
        return {"shares": self._field.to_bytes(await self._circuit.noise_in(name, noise))}

    async def _open_sum(self, name: str, step: Answer) -> Answer:
        noised = self._field.from_bytes(step["noised"], step["count"])
        found = await self._circuit.open_sum(name, noised)
        return {
            "values": found.values.astype("<i8").tobytes(),
            "checked": found.checked,
            "liars": list(found.liars),
        }

    async def _same(self, name: str, step: Answer) -> Answer:
        await self._circuit.same(name, step["data"])
        return {}


async def serve(connection: socket.socket, description: Description, job: type[Job] = Job) -> Exit:
    """Runs the job over the connected socket."""
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        return await job(description, reader, writer).run()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()  # what peers and service still wait for goes out


def main(arguments: list[str], job: type[Job] = Job) -> int:
    """The process. Unforeseen errors tell their kind and place only: values stay inside."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = socket.socket(fileno=int(arguments[0]))
    with os.fdopen(int(arguments[1]), "rb") as file:
        data = file.read(DESCRIPTION_BYTES_MAX)
    try:
        description = Description.from_bytes(data)
    except JobError as error:
        connection.sendall(Frame(Kind.ANSWER, pack(refusal(error))).to_bytes())
        return Exit.SERVICE
    signal.setitimer(signal.ITIMER_REAL, description.limits.seconds + GRACE_SECONDS)
    try:
        return asyncio.run(serve(connection, description, job))
    except Exception as error:  # noqa: BLE001 - the service reads the exit code
        places = "".join(traceback.format_tb(error.__traceback__))
        sys.stderr.write(f"{type(error).__name__}\n{places}")
        return Exit.FAULT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
