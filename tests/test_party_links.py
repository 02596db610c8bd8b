"""services/party/links.py: who may speak, how much, and how a bad peer ends."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import grpc
import grpc.aio
import pytest
from hypothesis import given, settings, strategies as st

from crypto.errors import FormatError, OpenError, SignatureError
from mpc.keys import PartyKey
from rookery.v1 import parties_pb2
from services.party.duplex import DialledDuplex, link_handler
from services.party.handshake import Handshake, Session, Side
from services.party.links import Duplex, Frame, Link, LinkLimits, LinkLost, Links, greet
from tests.pipes import Pipe, pipe

LIMITS = LinkLimits(
    payload_bytes_max=1 << 16, handshake_s=0.2, beat_s=0.05, stall_s=0.4,
    frames_per_s=1_000, burst_frames=2_000,
)  # fmt: skip
ROUND = b"r" * 16
KEYS = sorted((PartyKey(bytes((n,)) * 32) for n in range(1, 5)), key=lambda key: key.public)
ALICE, BOB, CAROL, MALLORY = KEYS


def shake(dialer: PartyKey = ALICE, acceptor: PartyKey = BOB) -> tuple[Handshake, Handshake]:
    """Both sides of a stream."""
    return (
        Handshake(dialer, Side.DIALER, os.urandom(32)),
        Handshake(acceptor, Side.ACCEPTOR, os.urandom(32)),
    )


def test_both_sides_get_each_others_keys_and_nobody_else_does() -> None:
    a, b = shake()
    at_a = a.finish(b.hello, b.proof(a.hello))
    at_b = b.finish(a.hello, a.proof(b.hello))
    assert at_b.open(ROUND, 3, 7, at_a.seal(ROUND, 3, 7, b"share")) == b"share"
    assert at_a.open(ROUND, 3, 7, at_b.seal(ROUND, 3, 7, b"share")) == b"share"
    assert "secret" not in repr(at_a).replace("secrets hidden", "")


def test_a_proof_is_good_for_one_stream_one_side_and_one_peer() -> None:
    """A recorded hello and proof open nothing later, nor elsewhere."""
    a, b = shake()
    recorded = a.proof(b.hello)
    later = Handshake(BOB, Side.ACCEPTOR, os.urandom(32))
    with pytest.raises(SignatureError):
        later.finish(a.hello, recorded)
    elsewhere = Handshake(CAROL, Side.ACCEPTOR, os.urandom(32))
    with pytest.raises(SignatureError):
        elsewhere.finish(a.hello, recorded)
    with pytest.raises(SignatureError):
        a.finish(b.hello, recorded)
    with pytest.raises(FormatError):
        a.finish(a.hello, recorded)


def test_a_low_order_key_of_a_peer_is_refused() -> None:
    a, _ = shake()
    evil = Handshake(BOB, Side.ACCEPTOR, os.urandom(32))
    evil.hello = replace(evil.hello, nonce=bytes(32))
    with pytest.raises(FormatError):
        a.finish(evil.hello, evil.proof(a.hello))


@given(st.sampled_from(("repeat", "skip", "round", "channel", "counter", "bit", "short")))
def test_a_changed_frame_does_not_open(how: str) -> None:
    a, b = shake()
    sender, taker = a.finish(b.hello, b.proof(a.hello)), b.finish(a.hello, a.proof(b.hello))
    first = sender.seal(ROUND, 1, 1, b"one")
    second = sender.seal(ROUND, 1, 2, b"two")
    head: tuple[bytes, int, int] = (ROUND, 1, 1)
    sealed = first
    if how == "repeat":
        taker.open(ROUND, 1, 1, first)
    elif how == "skip":
        head, sealed = (ROUND, 1, 2), second
    elif how == "round":
        head = (b"x" * 16, 1, 1)
    elif how == "channel":
        head = (ROUND, 2, 1)
    elif how == "counter":
        head = (ROUND, 1, 2)
    elif how == "bit":
        sealed = bytes((first[0] ^ 1,)) + first[1:]
    else:
        sealed = first[:5]
    with pytest.raises(OpenError):
        taker.open(*head, sealed)


@dataclass
class Node:
    """A party's links, and what came over them."""

    identity: PartyKey
    known: tuple[PartyKey, ...]
    limits: LinkLimits = LIMITS
    frames: list[tuple[bytes, Frame]] = field(default_factory=list)
    news: list[tuple[bytes, str]] = field(default_factory=list)
    defects: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.changed = asyncio.Condition()
        self.links = Links(
            self.identity,
            limits=self.limits,
            monotonic_s=time.monotonic,
            random_bytes=os.urandom,
            is_known=lambda ik: ik in [known.public for known in self.known],
            on_frame=self._on_frame,
            on_defect=self.defects.append,
            on_change=lambda ik, lost: self._wake(
                self.news, (ik, "up" if lost is None else lost.rule)
            ),
        )
        self._tasks: set[asyncio.Task[None]] = set()

    def _on_frame(self, ik: bytes, frame: Frame) -> None:
        self._wake(self.frames, (ik, frame))

    def _wake(self, into: list, what: object) -> None:  # type: ignore[type-arg]
        into.append(what)

        async def notify() -> None:
            async with self.changed:
                self.changed.notify_all()

        task = asyncio.get_running_loop().create_task(notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for it; the test's own time limit is the bound."""
        async with self.changed:
            await self.changed.wait_for(condition)


@asynccontextmanager
async def joined(a: Node, b: Node) -> AsyncIterator[tuple[Pipe, Pipe]]:
    """The two are linked over a pipe."""
    left, right = pipe()
    ends = [
        asyncio.create_task(a.links.attach(left, Side.DIALER)),
        asyncio.create_task(b.links.attach(right, Side.ACCEPTOR)),
    ]
    await a.until(lambda: bool(a.news))
    await b.until(lambda: bool(b.news))
    yield left, right
    a.links.close()
    b.links.close()
    await asyncio.gather(*ends)


async def test_frames_arrive_in_order_from_who_proved_to_be_the_peer() -> None:
    a, b = Node(ALICE, (BOB,)), Node(BOB, (ALICE,))
    async with joined(a, b):
        for number in range(50):
            assert a.links.send(BOB.public, Frame(ROUND, 4, number, bytes((number,)) * 100))
        await b.until(lambda: len(b.frames) == 50)
        assert [frame.counter for _, frame in b.frames] == list(range(50))
        assert {ik for ik, _ in b.frames} == {ALICE.public}
        assert not a.links.send(CAROL.public, Frame(ROUND, 4, 0, b""))
    assert a.links.up == b.links.up == frozenset()


async def test_an_idle_link_lives_by_its_beats() -> None:
    """Longer than the deadline for silence, both sides stay up."""
    a, b = Node(ALICE, (BOB,)), Node(BOB, (ALICE,))
    async with joined(a, b):
        await asyncio.sleep(2 * LIMITS.stall_s)
        assert (a.news, b.news) == ([(BOB.public, "up")], [(ALICE.public, "up")])


async def test_the_wire_shows_neither_payload_nor_length_of_secrets_in_clear() -> None:
    """Who ends TLS between two parties does not read shares."""
    a, b = Node(ALICE, (BOB,)), Node(BOB, (ALICE,))
    seen: list[bytes] = []
    left, right = pipe()
    plain_send = left.send

    async def spy(message: bytes) -> None:
        seen.append(message)
        await plain_send(message)

    left.send = spy  # type: ignore[method-assign]
    ends = [
        asyncio.create_task(a.links.attach(left, Side.DIALER)),
        asyncio.create_task(b.links.attach(right, Side.ACCEPTOR)),
    ]
    await a.until(lambda: bool(a.news))
    a.links.send(BOB.public, Frame(ROUND, 4, 0, b"a very secret share"))
    await b.until(lambda: bool(b.frames))
    assert b.frames[0][1].payload == b"a very secret share"
    assert not [message for message in seen if b"secret" in message]
    a.links.close()
    await asyncio.gather(*ends)


async def greeted(raw: list[bytes]) -> LinkLost:
    """How Bob's side ends for a dialer that sends just these messages and then nothing."""
    bob = Node(BOB, (ALICE,))
    left, right = pipe()
    end = asyncio.create_task(bob.links.attach(right, Side.ACCEPTOR))
    for message in raw:
        await left.send(message)
    lost = await end
    assert bob.links.up == frozenset()
    assert left.aborted.is_set()
    return lost


def hello(identity: PartyKey, ephemeral: bytes = b"e" * 32) -> bytes:
    """A hello as it travels."""
    said = Handshake(identity, Side.DIALER, ephemeral).hello
    return parties_pb2.LinkRequest(
        hello=parties_pb2.LinkHello(ik=said.ik, nonce=said.nonce)
    ).SerializeToString()


def proof(sig: bytes) -> bytes:
    """A proof as it travels."""
    return parties_pb2.LinkRequest(proof=parties_pb2.LinkProof(sig=sig)).SerializeToString()


FRAME = parties_pb2.LinkRequest(
    frame=parties_pb2.LinkFrame(round_id=ROUND, channel=1, payload=b"x" * 32)
).SerializeToString()


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        ([], "stalled"),
        ([b"\xff\xff\xff"], "hello"),
        ([b""], "hello"),
        ([b"x" * 10_000], "hello"),
        ([FRAME], "hello"),
        ([hello(MALLORY)], "stranger"),
        ([hello(BOB)], "stranger"),
        ([hello(ALICE)], "stalled"),
        ([hello(ALICE), proof(b"s" * 64)], "proof"),
        ([hello(ALICE), proof(b"s" * 3)], "proof"),
        ([hello(ALICE), FRAME], "hello"),
    ],
)
async def test_who_does_not_prove_itself_is_dropped(raw: list[bytes], rule: str) -> None:
    assert (await greeted(raw)).rule == rule


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_no_opening_bytes_raise_anything_else(raw: list[bytes]) -> None:
    """Whatever comes first, the side ends with a rule and no other exception."""
    limits = replace(LIMITS, handshake_s=0.02)

    async def play() -> None:
        left, right = pipe()
        for message in raw:
            await left.send(message)
        with pytest.raises(LinkLost):
            await greet(
                right, BOB, Side.ACCEPTOR, ephemeral=b"e" * 32,
                is_known=lambda _: True, limits=limits,
            )  # fmt: skip

    asyncio.run(play())


async def lawful_peer(bob: Node) -> tuple[Pipe, Session, asyncio.Task[LinkLost]]:
    """Alice's end of an authenticated stream to Bob, in the hands of the test."""
    left, right = pipe()
    end = asyncio.create_task(bob.links.attach(right, Side.ACCEPTOR))
    _, session = await greet(
        left, ALICE, Side.DIALER, ephemeral=os.urandom(32),
        is_known=lambda _: True, limits=LIMITS,
    )  # fmt: skip
    await bob.until(lambda: bool(bob.news))
    return left, session, end


def sealed(session: Session, payload: bytes = b"x") -> bytes:
    """A good frame."""
    return parties_pb2.LinkRequest(
        frame=parties_pb2.LinkFrame(
            round_id=ROUND, channel=1, counter=1, payload=session.seal(ROUND, 1, 1, payload)
        )
    ).SerializeToString()


@pytest.mark.parametrize(
    "garbage", [b"\xff\xff", b"", FRAME, hello(ALICE), b"y" * (LIMITS.payload_bytes_max + 999)]
)
async def test_garbage_after_the_proof_ends_the_link(garbage: bytes) -> None:
    bob = Node(BOB, (ALICE,))
    left, _, end = await lawful_peer(bob)
    await left.send(garbage)
    assert (await end).rule == "frame"
    assert bob.links.up == frozenset()


async def test_a_silent_peer_is_dropped_by_the_deadline() -> None:
    """It proved itself, keeps the stream open, and sends nothing."""
    bob = Node(BOB, (ALICE,))
    left, _, end = await lawful_peer(bob)
    reading = asyncio.create_task(drain(left))
    assert (await end).rule == "stalled"
    await reading


async def drain(end: Pipe) -> None:
    """Takes what comes until the end."""
    while await end.receive() is not None:
        pass


async def test_a_peer_that_takes_nothing_is_dropped_by_the_deadline() -> None:
    """It beats, but never reads: what is sent to it does not pile up."""
    bob = Node(BOB, (ALICE,))
    left, session, end = await lawful_peer(bob)
    for _ in range(100):
        bob.links.send(ALICE.public, Frame(ROUND, 1, 1, b"z" * 1000))

    async def beat() -> None:
        while True:
            await left.send(sealed(session))
            await asyncio.sleep(0.05)

    beating = asyncio.create_task(beat())
    assert (await end).rule == "stalled"
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)


async def test_what_waits_for_a_peer_is_bounded_in_bytes() -> None:
    bob = Node(BOB, (ALICE,), replace(LIMITS, unsent_bytes_max=100_000))
    _, _, end = await lawful_peer(bob)
    for _ in range(200):
        bob.links.send(ALICE.public, Frame(ROUND, 1, 1, b"z" * 1000))
    assert (await end).rule == "backlog"


async def test_a_flood_ends_the_link_and_no_other() -> None:
    bob = Node(BOB, (ALICE, CAROL))
    carol = Node(CAROL, (BOB,))
    async with joined(carol, bob):
        left, session, end = await lawful_peer(bob)
        await bob.until(lambda: len(bob.news) == 2)
        try:
            while not end.done():
                await left.send(sealed(session))
        except LinkLost:
            pass
        assert (await end).rule == "flood"
        assert bob.links.up == {CAROL.public}
        carol.links.send(BOB.public, Frame(ROUND, 9, 9, b"still here"))
        await bob.until(lambda: bob.frames[-1][0] == CAROL.public)


async def test_the_newest_link_of_a_peer_counts() -> None:
    """A party that was killed comes back before its old stream was seen to end."""
    bob = Node(BOB, (ALICE,))
    _, _, first = await lawful_peer(bob)
    left, session, second = await lawful_peer(bob)
    assert (await first).rule == "replaced"
    await left.send(sealed(session, b"new"))
    await bob.until(lambda: bool(bob.frames))
    assert [rule for _, rule in bob.news] == ["up", "replaced", "up"]
    bob.links.close()
    await second


async def test_a_dialer_takes_only_the_peer_that_it_dialled() -> None:
    alice, carol = Node(ALICE, (BOB, CAROL)), Node(CAROL, (ALICE,))
    left, right = pipe()
    served = asyncio.create_task(carol.links.attach(right, Side.ACCEPTOR))
    assert (await alice.links.attach(left, Side.DIALER, wanted=BOB.public)).rule == "stranger"
    await served
    assert carol.links.up == frozenset()


def test_of_two_parties_exactly_one_dials() -> None:
    for one in KEYS:
        for other in KEYS:
            if one is not other:
                dials = [
                    Links(
                        me, limits=LIMITS, monotonic_s=time.monotonic, random_bytes=os.urandom,
                        is_known=lambda _: True, on_frame=lambda *_: None,
                        on_change=lambda *_: None, on_defect=lambda _: None,
                    ).dials(you.public)
                    for me, you in ((one, other), (other, one))
                ]  # fmt: skip
                assert sorted(dials) == [False, True]


def test_errors_and_reprs_hold_no_payload() -> None:
    link = Link.__new__(Link)
    link.ik, link.lost = ALICE.public, None
    assert "secret" not in repr(link) + repr(Frame(ROUND, 1, 1, b"secret")) + str(LinkLost("gone"))


@asynccontextmanager
async def served(node: Node) -> AsyncIterator[str]:
    """The node accepts over gRPC."""
    server = grpc.aio.server()

    async def serve(duplex: Duplex, _: str) -> None:
        await node.links.attach(duplex, Side.ACCEPTOR)

    handlers = {"Link": link_handler(serve)}
    service = grpc.method_handlers_generic_handler("rookery.v1.Parties", handlers)
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        node.links.close()
        await server.stop(1)


async def test_links_run_over_grpc_streams() -> None:
    """`Parties.Link`: both ways, a megabyte, and the end of one side is seen by the other."""
    wide = replace(LIMITS, payload_bytes_max=2 << 20, stall_s=5, handshake_s=5)
    a, b = Node(ALICE, (BOB,), wide), Node(BOB, (ALICE,), wide)
    async with (
        served(b) as address,
        grpc.aio.insecure_channel(
            address, options=[("grpc.max_receive_message_length", 4 << 20)]
        ) as channel,
    ):
        end = asyncio.create_task(
            a.links.attach(DialledDuplex(channel), Side.DIALER, wanted=BOB.public)
        )
        await a.until(lambda: bool(a.news))
        await b.until(lambda: bool(b.news))
        for n in range(100):
            a.links.send(BOB.public, Frame(ROUND, 1, n, b"q" * 20_000))
        b.links.send(ALICE.public, Frame(ROUND, 2, 1, b"w" * (1 << 20)))
        await b.until(lambda: len(b.frames) == 100)
        await a.until(lambda: len(a.frames) == 1)
        b.links.drop(ALICE.public, "gone")
        assert (await end).rule == "gone"
        assert a.links.up == b.links.up == frozenset()


async def test_garbage_over_grpc_leaves_the_server_alive() -> None:
    wide = replace(LIMITS, handshake_s=5, stall_s=5)
    a, b = Node(ALICE, (BOB,), wide), Node(BOB, (ALICE,), wide)
    async with served(b) as address, grpc.aio.insecure_channel(address) as channel:
        garbage = DialledDuplex(channel)
        await garbage.send(b"\x00" * 50)
        while await garbage.receive() is not None:
            pass
        end = asyncio.create_task(a.links.attach(DialledDuplex(channel), Side.DIALER))
        await b.until(lambda: bool(b.news))
        a.links.close()
        await end
