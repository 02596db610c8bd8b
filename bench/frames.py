"""Unary gRPC calls as bare HTTP/2 frames: a caller that costs a tenth of a real one.

A generator that shares a machine with what it loads must be cheaper than it, or it measures
itself. Headers are written without compression state and read without it, too (the table is
set to 0), and of an answer only its status is looked at: the bytes of its name are found as
they are or in Huffman's code, which Envoy writes and gRPC does not, and nothing is decoded.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import struct
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from crypto.request import METADATA_KEY

Answered = Callable[[int, bool], None]
"""Gets the gRPC status of a call and whether it came with details; CANCELLED for a reset."""
CANCELLED: Final = 1
UNKNOWN: Final = 2

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_HEAD = struct.Struct(">BHBBI")
_WINDOW_BYTES = 65_535
_FRAME_BYTES = 16_384
"""The most that everybody takes."""
# Of RFC 7541, appendix B, what the names below are made of: letter, bits, code.
_HUFFMAN: Final = {
    "-": (6, 0x16), "a": (5, 0x3), "b": (6, 0x23), "c": (5, 0x4), "d": (6, 0x24), "e": (5, 0x5),
    "g": (6, 0x26), "i": (5, 0x6), "l": (6, 0x28), "n": (6, 0x2A), "p": (6, 0x2B), "r": (6, 0x2C),
    "s": (5, 0x8), "t": (5, 0x9), "u": (6, 0x2D),
}  # fmt: skip


def _names(name: str) -> tuple[bytes, bytes]:
    """A header's name with its length before it, as HPACK writes it: plain and in Huffman's
    code, which is filled up with ones."""
    bits = "".join(f"{code:0{size}b}" for size, code in (_HUFFMAN[letter] for letter in name))
    size = -(-len(bits) // 8)
    coded = int(bits.ljust(8 * size, "1"), 2).to_bytes(size, "big")
    return bytes([len(name)]) + name.encode(), bytes([0x80 | size]) + coded


_STATUS_NAMES: Final = _names("grpc-status")
_DETAILS_NAMES: Final = _names("grpc-status-details-bin")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def _text(value: bytes) -> bytes:
    """A string of HPACK, as it is."""
    size = len(value)
    if size < 127:
        return bytes([size]) + value
    rest, head = size - 127, bytearray([127])
    while rest >= 128:
        head.append(rest % 128 + 128)
        rest //= 128
    head.append(rest)
    return bytes(head) + value


def _named(name: bytes, value: bytes) -> bytes:
    return b"\x00" + _text(name) + _text(value)


def headers(method: str, authority: str, timeout: str) -> bytes:
    """What all calls of a method share: a header block without a signature."""
    return (
        b"\x83\x86\x04" + _text(method.encode())
        + b"\x01" + _text(authority.encode())
        + b"\x0f\x10" + _text(b"application/grpc")
        + _named(b"te", b"trailers")
        + _named(b"grpc-timeout", timeout.encode())
    )  # fmt: skip


def signature(auth: bytes) -> bytes:
    """The rest of a header block."""
    return _named(METADATA_KEY.encode(), base64.b64encode(auth).rstrip(b"="))


class Connection(asyncio.Protocol):
    """One connection. Calls that its window has no room for wait."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._next = 1
        self._room = _WINDOW_BYTES
        self._waiting: deque[tuple[bytes, bytes, Answered]] = deque()
        self._answers: dict[int, Answered] = {}
        self._gone = asyncio.Event()

    @classmethod
    async def open(cls, address: str, *, tls: ssl.SSLContext | None = None) -> Connection:
        """A connection that takes calls; with `tls`, which agrees on HTTP/2 and knows the
        authority of the other end."""
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(cls, host, int(port), ssl=tls)
        return made

    def call(self, block: bytes, message: bytes, answered: Answered) -> None:
        """Sends one call. `block`: `headers` and `signature`."""
        if self._gone.is_set():
            asyncio.get_running_loop().call_soon(answered, CANCELLED, False)
        elif self._waiting or len(message) + 5 > self._room:
            self._waiting.append((block, message, answered))
        else:
            self._send(block, message, answered)

    async def close(self) -> None:
        """Whatever is under way. A service that ends waits for those who do not."""
        if self._transport is not None:
            self._transport.close()
            await self._gone.wait()

    def _send(self, block: bytes, message: bytes, answered: Answered) -> None:
        assert self._transport is not None
        stream, self._next = self._next, self._next + 2
        body = b"\0" + len(message).to_bytes(4, "big") + message
        self._room -= len(body)
        self._answers[stream] = answered
        last = (len(body) - 1) // _FRAME_BYTES * _FRAME_BYTES
        frames = [_frame(_HEADERS, _END_HEADERS, stream, block)]
        frames += [
            _frame(_DATA, 0, stream, body[at : at + _FRAME_BYTES])
            for at in range(0, last, _FRAME_BYTES)
        ]
        frames.append(_frame(_DATA, _END_STREAM, stream, body[last:]))
        self._transport.write(b"".join(frames))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Says hello: no header table, and room for all answers."""
        self._transport = cast(asyncio.Transport, transport)
        no_table = struct.pack(">HI", 1, 0)
        self._transport.write(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, no_table)
            + _frame(_WINDOW, 0, 0, (1 << 30).to_bytes(4, "big"))
        )

    def connection_lost(self, error: Exception | None) -> None:
        """Nothing that is under way will be answered."""
        self._gone.set()
        answers, self._answers = self._answers, {}
        waiting, self._waiting = self._waiting, deque()
        for answered in (*answers.values(), *(answered for _, _, answered in waiting)):
            answered(CANCELLED, False)

    def data_received(self, data: bytes) -> None:
        """Takes frames apart as they become whole."""
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= 9:
            high, low, kind, flags, stream = _HEAD.unpack_from(buffer, at)
            end = at + 9 + (high << 16 | low)
            if len(buffer) < end:
                break
            self._take(kind, flags, stream, buffer, at + 9, end)
            at = end
        del buffer[:at]

    def _take(
        self, kind: int, flags: int, stream: int, buffer: bytearray, at: int, end: int
    ) -> None:
        assert self._transport is not None
        if kind == _HEADERS and flags & _END_STREAM:
            answered = self._answers.pop(stream, None)
            if answered is not None:
                detailed = any(buffer.find(name, at, end) >= 0 for name in _DETAILS_NAMES)
                answered(_status(buffer, at, end), detailed)
        elif kind == _RESET:
            answered = self._answers.pop(stream, None)
            if answered is not None:
                answered(CANCELLED, False)
        elif kind == _WINDOW and stream == 0:
            self._room += int.from_bytes(buffer[at:end], "big")
            while self._waiting and len(self._waiting[0][1]) + 5 <= self._room:
                self._send(*self._waiting.popleft())
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            echoed = bytes(buffer[at:end]) if kind == _PING else b""
            self._transport.write(_frame(kind, _ACK, 0, echoed))
        elif kind == _GOAWAY:
            self._transport.close()


def _status(buffer: bytearray, at: int, end: int) -> int:
    for name in _STATUS_NAMES:
        found = buffer.find(name, at, end)
        if found >= 0:
            value = found + len(name)
            # Huffman's code makes no digit shorter, so nobody uses it for one or two.
            text = bytes(buffer[value + 1 : value + 1 + buffer[value]])
            return int(text) if text.isdigit() else UNKNOWN
    return UNKNOWN


def trusting(authority: str) -> ssl.SSLContext:
    """For `Connection.open`: TLS that trusts this authority (a PEM file) and agrees on HTTP/2."""
    context = ssl.create_default_context(cafile=authority)
    context.set_alpn_protocols(["h2"])
    return context
