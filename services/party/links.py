"""Authenticated streams between parties, over anything that carries messages both ways.

A peer is the identity key that it proved. What it sends is bounded in size, number and rate,
a peer that is silent, that takes nothing or that sends what can't be read is dropped by a
deadline, and nothing that it sends can do more than end its own link. Knows no rounds: frames
go to `on_frame`, which must not block.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from crypto.errors import CryptoError
from mpc.keys import PartyKey
from rookery.v1 import parties_pb2
from services.errors import RateLimited
from services.limits import Buckets
from services.party.handshake import ROUND_ID_BYTES, Handshake, Hello, Session, Side

NO_ROUND = bytes(ROUND_ID_BYTES)
BEAT_CHANNEL = 0
"""Frames that only say that the peer is alive."""
FRAME_OVERHEAD_BYTES = 128
"""What a frame's envelope takes at most."""


LOST_RULES = (
    "gone", "hello", "stranger", "proof", "frame", "flood", "stalled", "backlog", "replaced",
    "closed", "defect",
)  # fmt: skip
"""Why a link ends; `defect` is this side's."""


class LinkLost(Exception):
    """The stream to a peer ended. `rule` says why; one of LOST_RULES."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"the link to a party ended: {rule}")
        self.rule = rule


class Duplex(Protocol):
    """Messages both ways, in order."""

    async def send(self, message: bytes) -> None:
        """Returns when the next may be sent; LinkLost or OSError if the peer is gone."""

    async def receive(self) -> bytes | None:
        """The next message; None if there will be no more."""

    def abort(self) -> None:
        """Ends both ways at once."""


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """What one peer may do."""

    payload_bytes_max: int = 16 << 20
    unsent_bytes_max: int = 128 << 20
    bytes_per_s: float = 128 << 20
    burst_bytes: int = 256 << 20
    frames_per_s: float = 20_000
    burst_frames: int = 100_000
    handshake_s: float = 5.0
    beat_s: float = 2.0
    stall_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Frame:
    """What one party tells another."""

    round_id: bytes
    channel: int
    counter: int
    payload: bytes

    def __repr__(self) -> str:
        return f"Frame(channel={self.channel}, {len(self.payload)} bytes)"


async def greet(
    duplex: Duplex,
    key: PartyKey,
    side: Side,
    *,
    ephemeral: bytes,
    is_known: Callable[[bytes], bool],
    limits: LinkLimits,
) -> tuple[bytes, Session]:
    """The peer's proved identity key and the stream's keys; LinkLost otherwise."""
    try:
        async with asyncio.timeout(limits.handshake_s):
            return await _greet(duplex, Handshake(key, side, ephemeral), is_known)
    except TimeoutError:
        duplex.abort()
        raise LinkLost("stalled") from None
    except LinkLost:
        duplex.abort()
        raise
    except CryptoError:
        duplex.abort()
        raise LinkLost("proof") from None
    except (DecodeError, OSError):
        duplex.abort()
        raise LinkLost("hello") from None


async def _greet(
    duplex: Duplex, handshake: Handshake, is_known: Callable[[bytes], bool]
) -> tuple[bytes, Session]:
    mine = handshake.hello
    await duplex.send(
        parties_pb2.LinkRequest(
            hello=parties_pb2.LinkHello(ik=mine.ik, nonce=mine.nonce)
        ).SerializeToString()
    )
    said = await _message(duplex, "hello")
    peer = Hello(said.hello.ik, said.hello.nonce)
    # A stranger is told nothing more, and gets no signature of ours.
    if not is_known(peer.ik):
        raise LinkLost("stranger")
    handshake.check(peer)
    await duplex.send(
        parties_pb2.LinkRequest(
            proof=parties_pb2.LinkProof(sig=handshake.proof(peer))
        ).SerializeToString()
    )
    said = await _message(duplex, "proof")
    return peer.ik, handshake.finish(peer, said.proof.sig)


async def _message(duplex: Duplex, want: str) -> parties_pb2.LinkRequest:
    """LinkRequest and LinkResponse are the same bytes; one parser serves both sides."""
    raw = await duplex.receive()
    if raw is None:
        raise LinkLost("gone")
    if len(raw) > FRAME_OVERHEAD_BYTES:
        raise LinkLost("hello")
    message = parties_pb2.LinkRequest.FromString(raw)
    if message.WhichOneof("body") != want:
        raise LinkLost("hello")
    return message


class Link:
    """An authenticated stream to one peer. `run` until it is lost."""

    def __init__(
        self,
        ik: bytes,
        duplex: Duplex,
        session: Session,
        *,
        limits: LinkLimits,
        monotonic_s: Callable[[], float],
        on_frame: Callable[[bytes, Frame], None],
        on_defect: Callable[[BaseException], None],
    ) -> None:
        self.ik = ik
        self.lost: LinkLost | None = None
        self._duplex = duplex
        self._session = session
        self._limits = limits
        self._now_s = monotonic_s
        self._on_frame = on_frame
        self._on_defect = on_defect
        self._out: asyncio.Queue[Frame] = asyncio.Queue()
        self._unsent_bytes = 0
        self._ended = asyncio.Event()
        self._bytes = Buckets(
            "link_bytes", per_s=limits.bytes_per_s, burst=limits.burst_bytes, keys_max=1
        )
        self._frames = Buckets(
            "link_frames", per_s=limits.frames_per_s, burst=limits.burst_frames, keys_max=1
        )

    def __repr__(self) -> str:
        return f"Link({self.ik[:4].hex()}…, {'up' if self.lost is None else self.lost.rule})"

    def send(self, frame: Frame) -> None:
        """Queues a frame and returns at once. Nothing happens if the link is lost; a peer that
        takes nothing for too long loses it."""
        if self.lost is not None:
            return
        if len(frame.payload) > self._limits.payload_bytes_max:
            raise ValueError("the payload is larger than a frame may be")
        self._unsent_bytes += len(frame.payload)
        if self._unsent_bytes > self._limits.unsent_bytes_max:
            self.lose("backlog")
            return
        self._out.put_nowait(frame)

    def lose(self, rule: str) -> None:
        """Ends the link; the first reason stays."""
        if self.lost is None:
            self.lost = LinkLost(rule)
            self._duplex.abort()
            self._ended.set()

    async def run(self) -> LinkLost:
        """Sends, receives and beats until the link is lost; says why."""
        tasks = [
            asyncio.ensure_future(self._guarded(part()))
            for part in (self._send_all, self._receive_all, self._beat)
        ]
        try:
            await self._ended.wait()
        finally:
            self.lose("closed")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert self.lost is not None
        return self.lost

    async def _guarded(self, part: Coroutine[Any, Any, None]) -> None:
        try:
            await part
        except LinkLost as error:
            self.lose(error.rule)
        except TimeoutError:
            self.lose("stalled")
        except RateLimited:
            self.lose("flood")
        except (CryptoError, DecodeError):
            self.lose("frame")
        except OSError:
            self.lose("gone")
        except Exception as error:  # noqa: BLE001 - of ours, not of the peer's
            self._on_defect(error)
            self.lose("defect")

    async def _send_all(self) -> None:
        while True:
            frame = await self._out.get()
            sealed = self._session.seal(frame.round_id, frame.channel, frame.counter, frame.payload)
            message = parties_pb2.LinkRequest(
                frame=parties_pb2.LinkFrame(
                    round_id=frame.round_id,
                    channel=frame.channel,
                    counter=frame.counter,
                    payload=sealed,
                )
            ).SerializeToString()
            async with asyncio.timeout(self._limits.stall_s):
                await self._duplex.send(message)
            self._unsent_bytes -= len(frame.payload)

    async def _receive_all(self) -> None:
        while True:
            async with asyncio.timeout(self._limits.stall_s):
                raw = await self._duplex.receive()
            if raw is None:
                raise LinkLost("gone")
            frame = self._take(raw)
            if frame.channel != BEAT_CHANNEL:
                self._on_frame(self.ik, frame)

    def _take(self, raw: bytes) -> Frame:
        if len(raw) > self._limits.payload_bytes_max + FRAME_OVERHEAD_BYTES:
            raise LinkLost("frame")
        now_s = self._now_s()
        self._frames.take(b"", now_s)
        self._bytes.take(b"", now_s, len(raw))
        message = parties_pb2.LinkRequest.FromString(raw)
        if message.WhichOneof("body") != "frame":
            raise LinkLost("frame")
        said = message.frame
        plain = self._session.open(said.round_id, said.channel, said.counter, said.payload)
        return Frame(said.round_id, said.channel, said.counter, plain)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._limits.beat_s)
            # What waits to be sent says as much.
            if self._out.empty():
                self.send(Frame(NO_ROUND, BEAT_CHANNEL, 0, b""))


class Links:
    """All peers of this party: one link each, the newest."""

    def __init__(
        self,
        key: PartyKey,
        *,
        limits: LinkLimits,
        monotonic_s: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        is_known: Callable[[bytes], bool],
        on_frame: Callable[[bytes, Frame], None],
        on_change: Callable[[bytes, LinkLost | None], None],
        on_defect: Callable[[BaseException], None],
    ) -> None:
        self._key = key
        self._limits = limits
        self._now_s = monotonic_s
        self._random = random_bytes
        self._is_known = is_known
        self._on_frame = on_frame
        self._on_change = on_change
        self._on_defect = on_defect
        self._links: dict[bytes, Link] = {}

    @property
    def up(self) -> frozenset[bytes]:
        """Identity keys of the peers that can be reached."""
        return frozenset(self._links)

    def dials(self, ik: bytes) -> bool:
        """Whether this party dials that peer, rather than waits for it."""
        return self._key.public < ik

    def send(self, ik: bytes, frame: Frame) -> bool:
        """Queues a frame; False if the peer can't be reached."""
        link = self._links.get(ik)
        if link is None:
            return False
        link.send(frame)
        return link.lost is None

    async def attach(
        self,
        duplex: Duplex,
        side: Side,
        *,
        wanted: bytes | None = None,
        on_proved: Callable[[], None] = lambda: None,
    ) -> LinkLost:
        """Greets, then serves the stream until it is lost. `wanted`: the only peer that will
        do, for who dialled it. Never raises for what a peer does."""
        try:
            ik, session = await greet(
                duplex,
                self._key,
                side,
                ephemeral=self._random(32),
                is_known=lambda ik: self._is_known(ik) and wanted in (None, ik),
                limits=self._limits,
            )
        except LinkLost as error:
            return error
        on_proved()
        link = Link(
            ik,
            duplex,
            session,
            limits=self._limits,
            monotonic_s=self._now_s,
            on_frame=self._on_frame,
            on_defect=self._on_defect,
        )
        older = self._links.get(ik)
        if older is not None:
            # Proved anew, so the peer has begun anew: what it had open is dead.
            older.lose("replaced")
            self._on_change(ik, LinkLost("replaced"))
        self._links[ik] = link
        self._on_change(ik, None)
        try:
            return await link.run()
        finally:
            if self._links.get(ik) is link:
                del self._links[ik]
                self._on_change(ik, link.lost or LinkLost("closed"))

    def close(self) -> None:
        """Ends all links."""
        for link in list(self._links.values()):
            link.lose("closed")

    def drop(self, ik: bytes, rule: str) -> None:
        """Ends the link to a peer that broke a rule of a layer above."""
        with contextlib.suppress(KeyError):
            self._links[ik].lose(rule)
