"""The way to the service: one gRPC channel, signed calls as raw bytes, typed errors.

A request is serialised once; those bytes are signed and those bytes travel. It knows methods
and messages, and nothing of what they mean for a profile.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from client import remoteerrors as reasons
from client.backoff import HINT_MS_MAX, Backoff
from client.endpoint import Endpoint, EndpointError, is_loopback
from client.remoteerrors import ProtocolBreach, RemoteError
from crypto import request
from crypto.ids import AccountId
from crypto.request import NO_ACCOUNT, Caller, CallKind
from rookery.v1 import common_pb2

ANSWER_BYTES_MAX = 8 << 20
STREAM_SECONDS_MAX = 6 * 3600.0
RETIRE_SECONDS = 30.0
_OPTIONS = (
    ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
    # Sizes of compressed ciphertext leak; no algorithm but identity is offered.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Several devices of one process must not share a connection, nor its fate.
    ("grpc.use_local_subchannel_pool", 1),
)


class Answered(Protocol):
    """A response message: each carries ServerInfo."""

    @property
    def info(self) -> common_pb2.ServerInfo:
        """Clock, back-off and length of the chain."""
        ...


M = TypeVar("M", bound=Answered)


Headers = tuple[tuple[str, str], ...]


class CallTracing(Protocol):
    """Traces calls (`client.tracing`)."""

    def call(self, method: str) -> AbstractContextManager[Headers]:
        """Around one attempt of a call; what goes along with it, unsigned."""
        ...


class Clock(Protocol):
    """Where time comes from. Both may be replaced in tests."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        ...


class SystemClock:
    """The machine's."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs a call, and for which account: none, for a key that belongs to no account."""

    identity: Caller
    account_id: AccountId = NO_ACCOUNT


@dataclass(frozen=True, slots=True)
class Method(Generic[M]):
    """A full gRPC method name and what answers it."""

    name: str
    answer: Callable[[bytes], M]
    seconds: float = 20.0


@dataclass(frozen=True, slots=True)
class Answer(Generic[M]):
    """A message and the nonce of the request that it answers (receipts are bound to it)."""

    message: M
    nonce: bytes


@dataclass(slots=True)
class Wire:
    """The offset to the service's clock and what it last asked of us."""

    clock_offset_ms: int = 0
    chain_seq: int = 0
    policy_sequence: int = 0
    not_before: float = 0.0
    uniform: Callable[[], float] = field(default=random.SystemRandom().random, repr=False)


class Transport:
    """Calls to one deployment. Every call has a deadline; transient failures are tried again
    with a fresh signature, because every call is idempotent."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        clock: Clock | None = None,
        backoff: Backoff | None = None,
        clock_offset_ms: int = 0,
        tracing: CallTracing | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._tracing = tracing
        self.wire = Wire(clock_offset_ms=clock_offset_ms)
        self.clock = clock or SystemClock()
        self.backoff = backoff or Backoff()
        self._at = 0
        self._channel: grpc.aio.Channel | None = None
        self._retiring: set[asyncio.Future[None]] = set()

    async def close(self) -> None:
        """Ends the connections; running calls fail."""
        channel, self._channel = self._channel, None
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if channel is not None:
            await channel.close()

    def elsewhere(self) -> None:
        """New calls go to the next address of the deployment, or the same one resolved anew.

        Calls that are under way keep their connection until they end.
        """
        self._at = (self._at + 1) % len(self.endpoint.targets)
        channel, self._channel = self._channel, None
        if channel is not None:
            task = asyncio.ensure_future(channel.close(grace=RETIRE_SECONDS))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def server_ms(self) -> int:
        """The service's clock, as far as we know it."""
        return max(0, self.clock.wall_ms() + self.wire.clock_offset_ms)

    async def call(
        self, method: Method[M], message: Message, signer: Signer | None = None
    ) -> Answer[M]:
        """One call, tried again while that may help; RemoteError otherwise."""
        payload = message.SerializeToString()
        tries, skew_left = 0, 1
        while True:
            await self._wait_turn()
            try:
                return await self._try(method, payload, signer)
            except RemoteError as error:
                if error.reason == reasons.CLOCK_SKEW and skew_left and self._adopt_clock(error):
                    skew_left -= 1
                    continue
                tries += 1
                if not error.transient or tries >= self.backoff.tries_max:
                    raise
                await self.pause(tries, error)

    async def pause(self, tries: int, error: RemoteError) -> None:
        """Waits as `error` and the number of failed tries want it, elsewhere if drained."""
        if error.reason in (reasons.DRAINING, reasons.UNREACHABLE):
            # A channel in its own long back-off would not notice a service that is back.
            self.elsewhere()
        delay_ms = self.backoff.delay_ms(tries, self.wire.uniform, error.retry_ms)
        await self.clock.sleep(delay_ms / 1000)

    async def stream(
        self, method: Method[M], message: Message, signer: Signer, *, idle_seconds: float
    ) -> AsyncGenerator[M, None]:
        """One server stream, not tried again; RemoteError when it breaks or goes silent."""
        payload = message.SerializeToString()
        await self._wait_turn()
        auth, _ = self._sign(CallKind.STREAM, method.name, payload, signer)
        stub: Any = self._open().unary_stream(method.name)
        # Its span is the opening: who reads a stream, and when, is not its context.
        with self._traced(method) as headers:
            call = stub(payload, timeout=STREAM_SECONDS_MAX, metadata=(*auth, *headers))
        try:
            while True:
                raw = await self._read(call, idle_seconds)
                if raw is grpc.aio.EOF:
                    return
                answer = _parse(method, raw)
                self._note(answer.info, None)
                yield answer
        finally:
            call.cancel()

    async def _read(self, call: Any, idle_seconds: float) -> Any:
        try:
            # Not wait_for: in Python 3.11 it can swallow the cancellation of its caller.
            async with asyncio.timeout(idle_seconds):
                return await self._guard(call.read())
        except TimeoutError:
            raise RemoteError(reasons.UNREACHABLE, status="DEADLINE_EXCEEDED") from None

    async def _try(self, method: Method[M], payload: bytes, signer: Signer | None) -> Answer[M]:
        auth, nonce = self._sign(CallKind.UNARY, method.name, payload, signer)
        stub: Any = self._open().unary_unary(method.name)
        sent = self.clock.wall_ms()
        with self._traced(method) as headers:
            metadata = (*auth, *headers)
            raw = await self._guard(stub(payload, timeout=method.seconds, metadata=metadata))
        answer = _parse(method, raw)
        self._note(answer.info, sent)
        return Answer(answer, nonce)

    def _sign(
        self, kind: CallKind, method: str, payload: bytes, signer: Signer | None
    ) -> tuple[tuple[tuple[str, bytes], ...], bytes]:
        if signer is None:
            return (), b""
        nonce = secrets.token_bytes(request.NONCE_BYTES)
        value = request.sign(
            signer.identity,
            kind=kind,
            method=method,
            audience=self.endpoint.audience,
            account_id=signer.account_id,
            ts_ms=self.server_ms(),
            nonce=nonce,
            payload=payload,
        )
        return ((request.METADATA_KEY, value),), nonce

    def _traced(self, method: Method[M]) -> AbstractContextManager[Headers]:
        return nullcontext(()) if self._tracing is None else self._tracing.call(method.name)

    def _open(self) -> grpc.aio.Channel:
        if self._channel is None:
            try:
                self._channel = _channel(self.endpoint, self.endpoint.targets[self._at])
            except EndpointError:
                # Its certificate is being replaced; a command has looked before it began.
                raise RemoteError(reasons.UNREACHABLE, status="UNAVAILABLE") from None
        return self._channel

    async def _guard(self, call: Awaitable[Any]) -> Any:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise _typed(error) from None
        except grpc.aio.UsageError:
            raise RemoteError(reasons.UNREACHABLE, status="UNAVAILABLE") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody stopped us: the channel was closed under the call.
            raise RemoteError(reasons.UNREACHABLE, status="UNAVAILABLE") from None

    async def _wait_turn(self) -> None:
        wait = self.wire.not_before - time.monotonic()
        if wait > 0:
            await self.clock.sleep(wait)

    def _note(self, info: common_pb2.ServerInfo, sent: int | None) -> None:
        now = self.clock.wall_ms()
        if info.server_ms:
            # Of a unary call, half the way there and back; frames of a stream come when
            # they come.
            self.wire.clock_offset_ms = info.server_ms - (
                now if sent is None else (sent + now) // 2
            )
        self.wire.chain_seq = info.chain_seq
        self.wire.policy_sequence = info.policy_sequence
        hint_ms = min(info.backoff_ms, HINT_MS_MAX)
        self.wire.not_before = time.monotonic() + hint_ms / 1000 if hint_ms else 0.0

    def _adopt_clock(self, error: RemoteError) -> bool:
        server_ms = error.number("server_ms")
        if server_ms is None:
            return False
        self.wire.clock_offset_ms = server_ms - self.clock.wall_ms()
        return True


def _channel(endpoint: Endpoint, target: str) -> grpc.aio.Channel:
    options: list[tuple[str, Any]] = list(_OPTIONS)
    if is_loopback(target):
        options.append(("grpc.enable_http_proxy", 0))
    if endpoint.plaintext(target):
        return grpc.aio.insecure_channel(
            target, options, compression=grpc.Compression.NoCompression
        )
    shown = endpoint.client_certificate
    key, chain = shown.read() if shown is not None else (None, None)
    credentials = grpc.ssl_channel_credentials(endpoint.tls_ca, key, chain)
    return grpc.aio.secure_channel(
        target, credentials, options, compression=grpc.Compression.NoCompression
    )


def _parse(method: Method[M], raw: bytes) -> M:
    try:
        return method.answer(raw)
    except DecodeError:
        raise ProtocolBreach("the service's answer is no message of this protocol") from None


def _typed(error: grpc.aio.AioRpcError) -> RemoteError:
    """The RemoteError in a failed call's trailing metadata, or what its status means."""
    status = error.code().name
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            typed = _from_details(value, status)
            if typed is not None:
                return typed
    return RemoteError(_PLAIN.get(error.code(), status), status=status)


# What carries no word of ours comes from the way to the service. A busy server also answers
# CANCELLED to calls that it did not get round to; of a stream that a proxy lost its upstream
# of, INTERNAL arrives; and UNAUTHENTICATED of a proxy says nothing about this device.
_PLAIN = {
    grpc.StatusCode.INTERNAL: reasons.UNREACHABLE,
    grpc.StatusCode.UNKNOWN: reasons.UNREACHABLE,
    grpc.StatusCode.UNAUTHENTICATED: reasons.UNREACHABLE,
    grpc.StatusCode.UNAVAILABLE: reasons.UNREACHABLE,
    grpc.StatusCode.CANCELLED: reasons.UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: reasons.UNREACHABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: reasons.OVERLOADED,
    grpc.StatusCode.UNIMPLEMENTED: reasons.UNSUPPORTED,
}


def _from_details(raw: bytes, status: str) -> RemoteError | None:
    try:
        details = status_pb2.Status.FromString(raw).details
    except DecodeError:
        return None
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    reason, retry_ms = "", None
    for detail in details:
        if detail.Unpack(info) and info.domain == "rookery":
            reason = info.reason
        elif detail.Unpack(retry):
            retry_ms = retry.retry_delay.ToMilliseconds()
    if not reason:
        return None
    return RemoteError(reason, status=status, metadata=info.metadata, retry_ms=retry_ms)
