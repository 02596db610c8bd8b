"""A real server on a real file, and devices of a `World` that call it. Shared by tests."""

from __future__ import annotations

import asyncio
import io
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from crypto import enrol, link, request
from crypto.cert import Role
from crypto.keys import Identity
from crypto.link import SignedLink
from crypto.op import SealedOp
from crypto.request import CallKind
from rookery.v1 import accounts_pb2, common_pb2, pairing_pb2, sync_pb2
from services.call import Clock
from services.config import Config, load
from services.metrics import Metrics
from services.otlp import open_tracer
from services.server import Secrets, Server
from services.store.opening import open_store
from services.telemetry import Telemetry, configure
from tests.worlds import Upload, World

AUDIENCE = "test.rookery"
SECRETS = Secrets(b"\x07" * 32, b"\x08" * 32)
PUSH = "/rookery.v1.Sync/Push"
PULL = "/rookery.v1.Sync/Pull"
SUBSCRIBE = "/rookery.v1.Sync/Subscribe"
RECEIPT = "/rookery.v1.Sync/GetReceipt"
CREATE = "/rookery.v1.Accounts/CreateAccount"
APPEND = "/rookery.v1.Accounts/AppendLink"
CHAIN = "/rookery.v1.Accounts/GetChain"
DELETE = "/rookery.v1.Accounts/DeleteAccount"
POST = "/rookery.v1.Pairing/PostMessage"
FETCH = "/rookery.v1.Pairing/FetchMessage"
UNARY = (PUSH, PULL, RECEIPT, CREATE, APPEND, CHAIN, DELETE, POST, FETCH)
_nonces = itertools.count(1)


def nonce() -> bytes:
    """Sixteen bytes that no other call of this run has."""
    return next(_nonces).to_bytes(16, "big")


@dataclass(slots=True)
class Moment:
    """The clocks that the server is given; tests move them."""

    offset_ms: int = 0

    def clock(self) -> Clock:
        """Wall and monotonic clock, moved by the same offset."""
        return Clock(
            lambda: time.time_ns() // 1_000_000 + self.offset_ms,
            lambda: time.monotonic() + self.offset_ms / 1000,
        )

    @property
    def ms(self) -> int:
        """What the server's wall clock says."""
        return time.time_ns() // 1_000_000 + self.offset_ms


@dataclass
class Refusal(Exception):
    """What a call failed with, taken apart."""

    code: grpc.StatusCode
    reason: str
    metadata: dict[str, str] = field(default_factory=dict)
    retry_ms: int | None = None
    message: str = ""
    untaken: bool = False

    __hash__ = Exception.__hash__

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> Refusal:
        """From a failed call; reason is empty if it carries no ErrorInfo of ours."""
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        reason, metadata, retry_ms, untaken = "", {}, None, False
        for key, value in error.trailing_metadata() or ():
            untaken |= key == "rookery-untaken"
            if key != "grpc-status-details-bin":
                continue
            status = status_pb2.Status.FromString(value)
            assert status.code == error.code().value[0]
            for detail in status.details:
                if detail.Unpack(info):
                    assert info.domain == "rookery"
                    reason, metadata = info.reason, dict(info.metadata)
                elif detail.Unpack(retry):
                    retry_ms = retry.retry_delay.ToMilliseconds()
        return cls(error.code(), reason, metadata, retry_ms, error.details() or "", untaken)


@dataclass(slots=True)
class Stream:
    """An open Subscribe."""

    call: Any

    async def next(self) -> sync_pb2.SubscribeResponse | None:
        """The next frame; None at the end; Refusal."""
        try:
            raw = await self.call.read()
        except grpc.aio.AioRpcError as error:
            raise Refusal.of(error) from None
        return None if raw is grpc.aio.EOF else sync_pb2.SubscribeResponse.FromString(raw)

    async def caught_up(self) -> list[bytes]:
        """The ops before EVENT_CAUGHT_UP."""
        ops: list[bytes] = []
        while (frame := await self.next()) is not None:
            if frame.event == sync_pb2.SubscribeResponse.EVENT_CAUGHT_UP:
                return ops
            ops += frame.ops
        raise AssertionError("the stream ended before it had caught up")

    async def end(self) -> Refusal:
        """How it ends, whatever comes before."""
        try:
            while await self.next() is not None:
                pass
        except Refusal as refusal:
            return refusal
        raise AssertionError("the stream ended without an error")


@dataclass(slots=True)
class Service:
    """A started server and a channel to it."""

    server: Server
    path: Path
    moment: Moment
    channel: grpc.aio.Channel
    log: io.StringIO

    @property
    def now_ms(self) -> int:
        """The server's clock."""
        return self.moment.ms

    def auth(
        self,
        identity: Identity,
        world: World,
        method: str,
        payload: bytes,
        *,
        kind: CallKind = CallKind.UNARY,
        audience: str = AUDIENCE,
        once: bytes | None = None,
        ts_ms: int | None = None,
    ) -> bytes:
        """The metadata value of a call."""
        return request.sign(
            identity,
            kind=kind,
            method=method,
            audience=audience,
            account_id=world.account_id,
            ts_ms=self.now_ms if ts_ms is None else ts_ms,
            nonce=once or nonce(),
            payload=payload,
        )

    async def raw(
        self,
        method: str,
        payload: bytes,
        auth: Sequence[bytes] = (),
        *,
        seconds: float = 20.0,
        extra: Sequence[tuple[str, str]] = (),
    ) -> bytes:
        """One call as bytes; Refusal."""
        metadata = (*extra, *((request.METADATA_KEY, value) for value in auth))
        stub: Any = self.channel.unary_unary(method)
        try:
            answer: bytes = await stub(payload, metadata=metadata, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            raise Refusal.of(error) from None
        return answer

    async def signed(
        self, world: World, method: str, message: Message | bytes, *, by: int = 0
    ) -> bytes:
        """One call that a device of the world signed."""
        payload = message if isinstance(message, bytes) else message.SerializeToString()
        identity = world.authors[by].identity
        return await self.raw(method, payload, [self.auth(identity, world, method, payload)])

    async def create(self, world: World) -> None:
        """Makes the account and appends every further link of the world."""
        await self.raw(CREATE, self.proof(world).SerializeToString())
        for upload in world.uploads[1:]:
            await self.append(world, upload)

    async def account(self, seed: str, *more: Role) -> World:
        """An account with two devices, and more of other roles, known to the server."""
        world = World.create(seed)
        world.add()
        for role in more:
            world.add(role)
        await self.create(world)
        return world

    def proof(self, world: World) -> accounts_pb2.CreateAccountRequest:
        """A CreateAccount with a proof of work of the configured strength."""
        hour = self.now_ms // enrol.HOUR_MS
        genesis = link.parse(world.genesis.raw).link_hash
        counters = enrol.prove_work(genesis, hour, self.server.config.pow_bits)
        counter = next(found for found in counters if found is not None)
        return accounts_pb2.CreateAccountRequest(
            genesis=wire_link(world.genesis),
            proof=accounts_pb2.ProofOfWork(hour=hour, counter=counter),
        )

    async def append(self, world: World, upload: Upload, *, by: int = 0) -> None:
        """Uploads a link with its grants."""
        await self.signed(world, APPEND, append_request(upload), by=by)

    async def push(
        self, world: World, *ops: SealedOp | bytes, by: int = 0
    ) -> sync_pb2.PushResponse:
        """Pushes ops."""
        answer = await self.signed(world, PUSH, push_request(*ops), by=by)
        return sync_pb2.PushResponse.FromString(answer)

    async def pull(
        self, world: World, cursor: bytes = b"", *, limit: int = 0, by: int = 0
    ) -> sync_pb2.PullResponse:
        """One page."""
        message = sync_pb2.PullRequest(cursor=cursor, limit=limit)
        return sync_pb2.PullResponse.FromString(await self.signed(world, PULL, message, by=by))

    async def position(self, world: World) -> int:
        """Where the account stands in the store."""
        tip = await self.server.store.tip(world.account_id)
        assert tip is not None
        return tip.position

    async def chain(self, world: World, *, by: int = 0) -> accounts_pb2.GetChainResponse:
        """The whole chain."""
        answer = await self.signed(world, CHAIN, accounts_pb2.GetChainRequest(), by=by)
        return accounts_pb2.GetChainResponse.FromString(answer)

    def subscribe(self, world: World, cursor: bytes = b"", *, by: int = 0) -> Stream:
        """Opens a stream."""
        payload = sync_pb2.SubscribeRequest(cursor=cursor).SerializeToString()
        identity = world.authors[by].identity
        auth = self.auth(identity, world, SUBSCRIBE, payload, kind=CallKind.STREAM)
        return self.open(payload, auth)

    def open(self, payload: bytes, *auth: bytes) -> Stream:
        """Opens a stream with these bytes."""
        stub: Any = self.channel.unary_stream(SUBSCRIBE)
        metadata = tuple((request.METADATA_KEY, value) for value in auth)
        return Stream(stub(payload, metadata=metadata, timeout=60))

    async def post(self, rendezvous: bytes, number: int, body: bytes) -> None:
        """Puts a pairing message."""
        message = pairing_pb2.PostMessageRequest(rendezvous=rendezvous, number=number, body=body)
        await self.raw(POST, message.SerializeToString())

    async def fetch(self, rendezvous: bytes, number: int, wait_ms: int = 0) -> bytes:
        """Reads a pairing message."""
        message = pairing_pb2.FetchMessageRequest(
            rendezvous=rendezvous, number=number, wait_ms=wait_ms
        )
        answer = await self.raw(FETCH, message.SerializeToString())
        return pairing_pb2.FetchMessageResponse.FromString(answer).body


def wire_link(signed: SignedLink) -> common_pb2.SignedLink:
    """A link as it travels."""
    return common_pb2.SignedLink(link=signed.raw, sig=signed.sig, pop=signed.pop)


def append_request(upload: Upload) -> accounts_pb2.AppendLinkRequest:
    """A link with its grants as they travel."""
    return accounts_pb2.AppendLinkRequest(
        link=wire_link(upload.link),
        grants=[
            common_pb2.Grant(recipient_id=row.recipient_id, epoch=row.epoch, sealed=row.sealed)
            for row in upload.grants
        ],
    )


def push_request(*ops: SealedOp | bytes) -> sync_pb2.PushRequest:
    """A push."""
    return sync_pb2.PushRequest(ops=[row if isinstance(row, bytes) else row.raw for row in ops])


def config(path: Path, **settings: Any) -> Config:
    """A configuration for tests: a free port, easy enrolment, no rates unless given."""
    easy: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "audience": AUDIENCE,
        "database": str(path / "rookery.db"),
        "pow_bits": 0,
        "account_calls_per_s": 0.0,
        "account_ops_per_s": 0.0,
        "ip_unsigned_per_s": 0.0,
        "ip_failures_per_s": 0.0,
        "ip_mailboxes_per_s": 0.0,
        "access_log_share": 1.0,
        # Tests move the clock, and share their machine: neither is more load than it bears.
        "queue_target_ms": 0,
        "drain_s": 5.0,
    }
    return load(None, {}, easy | settings)


@asynccontextmanager
async def serving(
    path: Path, *, moment: Moment | None = None, **settings: Any
) -> AsyncIterator[Service]:
    """A server for the time of the block, on the file in `path`."""
    moment = moment or Moment()
    told = config(path, **settings)
    metrics = Metrics()
    store = await open_store(told, observer=metrics.store)
    log = io.StringIO()
    telemetry = Telemetry(
        configure("debug", "json", log), access_share=told.access_log_share, metrics=metrics
    )
    server = Server(
        told,
        store,
        SECRETS,
        telemetry=telemetry,
        metrics=metrics,
        tracer=open_tracer(told, "rookery-server", on_lost=metrics.spans_lost.inc),
        clock=moment.clock(),
    )
    await server.start()
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        # A client that does not read lets the server notice after 64 KiB, not 4 MiB.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
    ]
    channel = grpc.aio.insecure_channel(server.address, options=options)
    try:
        yield Service(server, path, moment, channel, log)
    finally:
        await channel.close()
        await server.stop()


async def refusal(call: Any) -> Refusal:
    """What a call is refused with; AssertionError if it isn't."""
    try:
        async with asyncio.timeout(30):
            await call
    except Refusal as refused:
        return refused
    raise AssertionError("the call was not refused")
