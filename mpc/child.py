"""A job seen from its party's service: it starts the process, feeds it, and ends it.

It is a `Circuit`, so that a round can't tell it from any other. What the process sends to
peers goes to `outbound`; what peers send comes in by `deliver`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto.field import Array
from mpc import frames
from mpc.circuit import OpenedSum, Zeros
from mpc.description import Description, bytes_to_bits, matrix, pack, raise_refusal, unpack
from mpc.errors import JobError
from mpc.frames import Frame, Kind
from mpc.opening import Lines

END_SECONDS = 10
"""How long an ending process may take before it is killed."""
BACKLOG_BYTES_MAX = 256 << 20

Outbound = Callable[[int, int, bytes], None]
"""(party, program counter, payload)."""


class JobProcess:
    """The process of one job. `await ready()`, then the steps one at a time, then `end()`."""

    def __init__(
        self,
        description: Description,
        process: Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        outbound: Outbound,
    ) -> None:
        self._description = description
        self._field = description.terms.field
        self._process = process
        self._writer = writer
        self._is_ended = False
        self._answers: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read(reader, outbound))

    @staticmethod
    async def start(
        description: Description, outbound: Outbound, *, module: str = "mpc.job"
    ) -> JobProcess:
        """Starts the process. The description goes through a pipe: arguments can be seen."""
        ours, theirs = socket.socketpair()
        source, sink = os.pipe()
        try:
            with os.fdopen(sink, "wb") as file:
                file.write(description.to_bytes())
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, str(theirs.fileno()), str(source),
                pass_fds=(theirs.fileno(), source),
                stdin=asyncio.subprocess.DEVNULL,
                # numpy starts a thread for each core, for products of floats that no job has.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            os.close(source)
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        return JobProcess(description, process, reader, writer, outbound)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    async def _read(self, reader: asyncio.StreamReader, outbound: Outbound) -> None:
        size = self._description.limits.frame_bytes_max
        while isinstance(frame := await frames.read(reader, shares_bytes_max=size), Frame):
            if frame.kind is Kind.SHARES:
                outbound(frame.party, frame.pc, frame.payload)
            elif frame.kind is Kind.ANSWER:
                self._answers.put_nowait(frame.payload)
        self._answers.put_nowait(None)

    @property
    def gone(self) -> asyncio.Future[None]:
        """Done once the process has closed its stream: its peers must be told."""
        return asyncio.shield(self._reading)

    def deliver(self, party: int, pc: int, payload: bytes) -> None:
        """Hands on what a peer's process sent. A process that reads nothing is killed."""
        self._write(Frame(Kind.SHARES, payload, party, pc))

    def lose(self, party: int) -> None:
        """Tells the process that a peer will send nothing any more."""
        self._write(Frame(Kind.LOST, party=party))

    def _write(self, frame: Frame) -> None:
        if self._is_ended or self._writer.is_closing():
            return
        if self._writer.transport.get_write_buffer_size() > BACKLOG_BYTES_MAX:
            self.kill()
        else:
            self._writer.write(frame.to_bytes())

    async def _result(self) -> dict[str, Any]:
        """The next answer. Raises what the process met; JobError `died` if it says nothing."""
        payload = await self._answers.get()
        if payload is None:
            self._answers.put_nowait(None)
            raise JobError("died", "the process of the job ended without an answer")
        answer = unpack(payload)
        raise_refusal(answer)
        return answer

    async def ready(self) -> None:
        """Returns once all present parties hold the keys of the job."""
        await self._result()

    async def step(self, do: str, name: str, **more: Any) -> dict[str, Any]:
        """Has a step done. The names of one kind of step must differ within a job."""
        self._write(Frame(Kind.STEP, pack({"do": do, "name": name, **more})))
        return await self._result()

    async def coin(self, context: bytes) -> bytes:
        """See `Circuit`. One coin a context."""
        coin: bytes = (await self.step("coin", context.hex(), context=context))["coin"]
        return coin

    async def consistent(self, name: str, d: Array) -> Lines:
        """See `Circuit`."""
        answer = await self.step("consistent", name, **matrix(self._field, d))
        return Lines(bytes_to_bits(answer["consistent"], len(d)), answer["suspects"])

    async def zeros(self, name: str, q: Array) -> Zeros:
        """See `Circuit`."""
        answer = await self.step("zeros", name, **matrix(self._field, q))
        zero = bytes_to_bits(answer["zero"], len(q))
        return Zeros(zero, answer["checked"], tuple(answer["liars"]))

    async def noise_in(self, name: str, noise: NDArray[np.int64]) -> Array:
        """See `Circuit`."""
        answer = await self.step("noise_in", name, noise=noise.astype("<i8").tobytes())
        return self._field.from_bytes(answer["shares"], len(noise))

    async def open_sum(self, name: str, noised: Array) -> OpenedSum:
        """See `Circuit`."""
        shares = self._field.to_bytes(noised)
        answer = await self.step("open_sum", name, noised=shares, count=len(noised))
        values = np.frombuffer(answer["values"], "<i8").astype(np.int64)
        return OpenedSum(values, answer["checked"], tuple(answer["liars"]))

    async def same(self, name: str, data: bytes) -> None:
        """See `Circuit`."""
        await self.step("same", name, data=data)

    def kill(self) -> None:
        """Ends the process at once."""
        if self._process.returncode is None:
            self._process.kill()

    async def end(self) -> int:
        """Closes the stream and waits for the process; its exit code (negative if killed)."""
        if not self._is_ended and not self._writer.is_closing():
            with contextlib.suppress(OSError):  # it was faster
                self._writer.write_eof()
        self._is_ended = True
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
        self._writer.close()
        await self._reading
        return await self._process.wait()
