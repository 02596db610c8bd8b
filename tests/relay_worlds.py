"""A relay with a publisher, an analyst and three parties, and devices that contribute.

Shared by tests. Keys, signatures, shares and sealed boxes are real; only randomness is fixed.
"""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from crypto import contribution, labels, request
from crypto.contribution import PartyBox, Shape
from crypto.field import FIELD31
from crypto.ids import AccountId
from crypto.request import NO_ACCOUNT, Caller, CallKind
from crypto.shares import Share
from mpc.keys import PartyKey, PublisherKey
from mpc.kinds import Histogram
from mpc.manifest import Manifest, Party
from mpc.noise import Law, Mechanism
from mpc.tail_params import AsTheyAre
from mpc.task import Caps, Task
from rookery.v1 import parties_pb2, rounds_pb2
from tests.served import AUDIENCE, Moment, Refusal, Service, nonce, refusal, serving
from tests.service_process import ServiceProcess
from tests.worlds import World

PUBLISH = "/rookery.v1.Rounds/PublishTask"
LIST = "/rookery.v1.Rounds/ListTasks"
COLLECT = "/rookery.v1.Rounds/CollectRound"
ROUND = "/rookery.v1.Rounds/GetRound"
CONTRIBUTE = "/rookery.v1.Rounds/Contribute"
RESULT = "/rookery.v1.Rounds/GetResult"
BOXES = "/rookery.v1.Parties/StreamBoxes"
FINISH = "/rookery.v1.Parties/PublishResult"
UNARY = (PUBLISH, LIST, COLLECT, ROUND, CONTRIBUTE, RESULT, FINISH)
BINS = 16
WINDOW_MS, GRACE_MS = 60_000, 30_000
M, T = 3, 1


class Actor:
    """Somebody with a key and no account. `party`: which one in the rounds of these tests."""

    def __init__(self, name: str, party: int = 0) -> None:
        self.seed = random.Random(f"actor {name}").randbytes(32)
        self.as_publisher = PublisherKey(self.seed)
        self.as_party = PartyKey(self.seed)
        self.identity: Caller = self.as_publisher
        self.box = PartyBox(party, random.Random(f"box {name}").randbytes(32))

    @property
    def public(self) -> bytes:
        """Its public key."""
        return self.as_publisher.public


PUBLISHER, RIVAL, ANALYST, STRANGER = map(Actor, ("publisher", "rival", "analyst", "stranger"))
PARTIES = [Actor(f"party {number}", number) for number in range(1, M + 1)]


def task(name: str = "cuisine", **changes: Any) -> Task:
    """A histogram of sixteen bins."""
    plain = Task(
        task_id=name,
        title="Favourite cuisine",
        purpose="product",
        kind=Histogram(FIELD31, BINS, ()),
        kappa=2,
        window_ms=WINDOW_MS,
        grace_ms=GRACE_MS,
        reports_max=10_000,
        k_min=2,
        noise=Law(Mechanism.GAUSSIAN, 4_000),
        caps=Caps(1_000_000, 86_400_000, 10_000_000),
        m=M,
        t=T,
        tail=AsTheyAre(),
        expires_ms=1 << 52,
    )
    return replace(plain, **changes)


def signed_task(made: Task, by: Actor = PUBLISHER) -> rounds_pb2.PublishTaskRequest:
    """A task on its way to the relay."""
    sig = by.as_publisher.sign(labels.TASK_SIG, made.encoded)
    return rounds_pb2.PublishTaskRequest(task=made.encoded, sig=sig)


def manifest(made: Task, open_ms: int, seed: object = 0, **changes: Any) -> Manifest:
    """A round of a task."""
    plain = Manifest(
        round_id=random.Random(f"round {seed}").randbytes(16),
        spec_hash=made.spec_hash,
        t=made.t,
        open_ms=open_ms,
        close_ms=open_ms + made.window_ms,
        k_min=made.k_min,
        parties=tuple(Party(one.public, one.box.public) for one in PARTIES),
    )
    return replace(plain, **changes)


def signed_round(made: Manifest, by: Sequence[Actor] = PARTIES) -> rounds_pb2.CollectRoundRequest:
    """A manifest with everybody's signature."""
    sigs = [one.as_party.sign(labels.ROUND_SIG, made.encoded) for one in by]
    return rounds_pb2.CollectRoundRequest(manifest=made.encoded, sigs=sigs)


def shape(made: Manifest, of: Task | None = None) -> Shape:
    """What contributions to a round look like."""
    of = of or task()
    return Shape(
        round_digest=made.digest, m=made.m, t=made.t, field=of.field, length=of.kind.length
    )


def report(made: Manifest, seed: object, of: Task | None = None) -> rounds_pb2.ContributeRequest:
    """A contribution, sealed for the parties of the round. Equal bytes for equal arguments."""
    return rounds_pb2.ContributeRequest.FromString(_report(made, seed, of or task()))


@cache
def _report(made: Manifest, seed: object, of: Task) -> bytes:
    # A sealed box has a random key inside: it is another one each time it is made.
    rng = random.Random(f"report {seed}")
    given = contribution.make(
        shape(made, of),
        of.kind.encode(rng.randrange(of.kind.d)),
        box_keys=made.box_keys(),
        aggregation_key=rng.randbytes(32),
        rand=rng.randbytes,
    )
    message = rounds_pb2.ContributeRequest(
        round_id=made.round_id, header=given.header, boxes=given.boxes
    )
    return message.SerializeToString()


def opened_shares(made: Manifest, message: rounds_pb2.ContributeRequest) -> list[Share]:
    """What the parties find in the boxes of a report."""
    return [
        party.box.open(shape(made), message.header, sealed)[1]
        for party, sealed in zip(PARTIES, message.boxes, strict=True)
    ]


def result(
    made: Manifest, said: bytes, by: Sequence[int] = (1, 2, 3)
) -> parties_pb2.PublishResultRequest:
    """A result that these parties signed."""
    return parties_pb2.PublishResultRequest(
        round_id=made.round_id,
        result=said,
        sigs=[
            rounds_pb2.PartySignature(
                party=party, sig=PARTIES[party - 1].as_party.sign(labels.RESULT, made.digest + said)
            )
            for party in by
        ],
    )


def abandonment(made: Manifest, party: int, said: bytes) -> parties_pb2.PublishResultRequest:
    """A party's word that it gave up."""
    sig = PARTIES[party - 1].as_party.sign(labels.ABANDONMENT, made.digest + said)
    return parties_pb2.PublishResultRequest(
        round_id=made.round_id,
        abandonment=rounds_pb2.Abandonment(party=party, statement=said, sig=sig),
    )


@dataclass(slots=True)
class Fetched:
    """What a party was sent, frame by frame."""

    frames: list[parties_pb2.StreamBoxesResponse] = field(default_factory=list)

    @property
    def boxes(self) -> list[parties_pb2.Box]:
        """All boxes, in their order."""
        return [box for frame in self.frames for box in frame.boxes]

    @property
    def last(self) -> parties_pb2.StreamBoxesResponse:
        """The last frame."""
        return self.frames[-1]


@dataclass(slots=True)
class Relay:
    """A started relay, as its callers see it."""

    service: Service

    @property
    def now_ms(self) -> int:
        """The server's clock."""
        return self.service.now_ms

    @contextmanager
    def later(self, ms: int) -> Iterator[None]:
        """The server's clock is so much further, for the time of the block."""
        self.service.moment.offset_ms += ms
        try:
            yield
        finally:
            self.service.moment.offset_ms -= ms

    def auth(
        self,
        by: Actor,
        method: str,
        payload: bytes,
        *,
        kind: CallKind = CallKind.UNARY,
        account: AccountId = NO_ACCOUNT,
        once: bytes | None = None,
    ) -> bytes:
        """The metadata value of a call by somebody without an account."""
        return request.sign(
            by.identity,
            kind=kind,
            method=method,
            audience=AUDIENCE,
            account_id=account,
            ts_ms=self.now_ms,
            nonce=once or nonce(),
            payload=payload,
        )

    async def call(self, by: Actor | World, method: str, message: Message | bytes) -> bytes:
        """One call by a key, or by the first device of an account; Refusal."""
        payload = message if isinstance(message, bytes) else message.SerializeToString()
        if isinstance(by, World):
            return await self.service.signed(by, method, payload)
        return await self.service.raw(method, payload, [self.auth(by, method, payload)])

    async def publish(self, made: Task) -> bytes:
        """The publisher's task; its spec_hash."""
        answer = await self.call(PUBLISHER, PUBLISH, signed_task(made))
        return rounds_pb2.PublishTaskResponse.FromString(answer).spec_hash

    async def collect(self, made: Manifest) -> bytes:
        """The publisher's round; its digest."""
        answer = await self.call(PUBLISHER, COLLECT, signed_round(made))
        return rounds_pb2.CollectRoundResponse.FromString(answer).round_digest

    async def opened(self, seed: object = 0, **changes: Any) -> Manifest:
        """A task of its own, with a round that is open now."""
        made = task(f"task-{seed}", **changes)
        await self.publish(made)
        opened = manifest(made, self.now_ms - 1_000, seed)
        await self.collect(opened)
        return opened

    async def contribute(self, world: World, message: rounds_pb2.ContributeRequest) -> None:
        """One report of an account."""
        await self.call(world, CONTRIBUTE, message)

    async def round(self, by: Actor | World, round_id: bytes) -> rounds_pb2.GetRoundResponse:
        """A round as somebody sees it."""
        answer = await self.call(by, ROUND, rounds_pb2.GetRoundRequest(round_id=round_id))
        return rounds_pb2.GetRoundResponse.FromString(answer)

    async def result(self, by: Actor | World, round_id: bytes) -> rounds_pb2.GetResultResponse:
        """A result as somebody sees it."""
        answer = await self.call(by, RESULT, rounds_pb2.GetResultRequest(round_id=round_id))
        return rounds_pb2.GetResultResponse.FromString(answer)

    def open(self, by: Actor, payload: bytes, *auth: bytes) -> Any:
        """A stream of boxes, opened with these bytes."""
        stub: Any = self.service.channel.unary_stream(BOXES)
        values = auth or (self.auth(by, BOXES, payload, kind=CallKind.STREAM),)
        metadata = tuple((request.METADATA_KEY, value) for value in values)
        return stub(payload, metadata=metadata, timeout=60)

    async def fetch(self, by: Actor, round_id: bytes, cursor: bytes = b"") -> Fetched:
        """All that the relay sends a party; Refusal."""
        payload = parties_pb2.StreamBoxesRequest(round_id=round_id, cursor=cursor)
        return await drained(self.open(by, payload.SerializeToString()))

    def stored(self) -> bytes:
        """The bytes of the database and its log."""
        folder = self.service.path
        return b"".join(file.read_bytes() for file in sorted(folder.glob("rookery.db*")))


async def drained(call: Any) -> Fetched:
    """Everything that a stream sends; Refusal."""
    fetched = Fetched()
    try:
        async for raw in call:
            frame = parties_pb2.StreamBoxesResponse.FromString(raw)
            # Joined from stored bytes, and yet what the protobuf runtime writes.
            assert frame.SerializeToString() == raw
            fetched.frames.append(frame)
    except grpc.aio.AioRpcError as error:
        raise Refusal.of(error) from None
    return fetched


@asynccontextmanager
async def attached(process: ServiceProcess) -> AsyncIterator[Relay]:
    """A relay that is a process of its own, of the test's audience; its clock is ours."""
    asked: Any = SimpleNamespace(config=SimpleNamespace(pow_bits=4))
    [target] = process.endpoint.targets
    async with grpc.aio.insecure_channel(target) as channel:
        yield Relay(Service(asked, process.folder, Moment(), channel, io.StringIO()))


@asynccontextmanager
async def relaying(
    path: Path, *, moment: Moment | None = None, **settings: Any
) -> AsyncIterator[Relay]:
    """A relay for the time of the block, on the file in `path`."""
    keys = {
        "publishers": (PUBLISHER.public.hex(), RIVAL.public.hex()),
        "analysts": (ANALYST.public.hex(),),
    }
    async with serving(path, moment=moment, **(keys | settings)) as service:
        yield Relay(service)


async def refused(call: Any) -> tuple[str, str, dict[str, str]]:
    """Code, reason and metadata that a call is refused with."""
    failed = await refusal(call)
    return failed.code.name, failed.reason, failed.metadata


async def people(relay: Relay, count: int) -> list[World]:
    """Accounts of one device."""
    worlds = [World.create(f"person {number}") for number in range(count)]
    await asyncio.gather(*(relay.service.create(world) for world in worlds))
    return worlds
