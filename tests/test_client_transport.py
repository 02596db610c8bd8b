"""The way to the service: what is signed, what is tried again, what an error becomes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from grpc import StatusCode

from client import methods, remoteerrors as reasons
from client.backoff import HINT_MS_MAX, Backoff
from client.endpoint import ClientCertificate, Endpoint, EndpointError
from client.remoteerrors import ProtocolBreach, RemoteError
from client.transport import Method, Signer, Transport
from crypto import request
from crypto.ids import AccountId
from crypto.keys import Identity
from crypto.request import CallKind
from rookery.v1 import common_pb2, sync_pb2
from tests.scripted import answer, held, never, refuse, scripted

KEY = b"\x01" * 32
IDENTITY = Identity(b"\x02" * 32, b"\x03" * 32)
SIGNER = Signer(IDENTITY, AccountId(b"\x04" * 32))
NOW_MS = 1_800_000_000_000
PULL = sync_pb2.PullRequest(cursor=b"cursor", limit=7)
FINE = answer(sync_pb2.PullResponse(cursor=b"next"))
AWAY = refuse(StatusCode.UNAVAILABLE)


@dataclass
class Clock:
    """Stands still and notes how long somebody wanted to sleep."""

    at_ms: int = NOW_MS
    slept: list[float] = field(default_factory=list)

    def wall_ms(self) -> int:
        return self.at_ms

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


def transport(clock: Clock, *targets: str, tries: int = 4) -> Transport:
    made = Transport(
        Endpoint(targets, "test", KEY), clock=clock, backoff=Backoff(100, 1_000, tries)
    )
    made.wire.uniform = lambda: 0.5
    return made


async def test_the_bytes_that_travel_are_the_bytes_that_are_signed() -> None:
    """The signature is over the payload as it came, for this method, audience and account."""
    async with scripted(FINE) as script:
        calls = transport(Clock(), script.target)
        got = await calls.call(methods.PULL, PULL, SIGNER)
        await calls.close()
    (seen,) = script.seen
    auth = request.parse(seen.auth)
    request.check_context(auth, kind=CallKind.UNARY, method=seen.method, audience="test")
    request.verify(auth, IDENTITY.ik_pk, seen.payload)
    assert seen.payload == PULL.SerializeToString()
    assert (auth.ts_ms, auth.account_id) == (NOW_MS, SIGNER.account_id)
    assert got.nonce == auth.nonce
    assert got.message.cursor == b"next"


async def test_an_unsigned_call_says_nothing_of_the_device() -> None:
    """Pairing calls carry no signature."""
    async with scripted(FINE) as script:
        calls = transport(Clock(), script.target)
        await calls.call(methods.PULL, PULL)
        await calls.close()
    assert script.seen[0].auth == b""


@pytest.mark.parametrize(
    "reply",
    [
        AWAY,
        refuse(StatusCode.CANCELLED),
        # Of a proxy, not of the service: the device is still in the account.
        refuse(StatusCode.UNAUTHENTICATED),
        refuse(StatusCode.INTERNAL),
        refuse(StatusCode.UNKNOWN),
        refuse(StatusCode.UNAVAILABLE, "DRAINING", 0),
        refuse(StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", 0),
        refuse(StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", 0, limit="calls"),
        refuse(StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", 0),
    ],
)
async def test_what_passes_is_tried_again_with_a_fresh_signature(reply: object) -> None:
    """A call that failed for now is sent again, with another nonce, until it works."""
    async with scripted(reply, reply, FINE) as script:  # type: ignore[arg-type]
        clock = Clock()
        calls = transport(clock, script.target)
        await calls.call(methods.PULL, PULL, SIGNER)
        await calls.close()
    nonces = {request.parse(seen.auth).nonce for seen in script.seen}
    assert len(nonces) == len(script.seen) == 3
    assert clock.slept == [0.05, 0.1]


async def test_it_gives_up_after_some_tries() -> None:
    """A service that stays away is reported, with the sentence that says what to check."""
    async with scripted(AWAY) as script:
        calls = transport(Clock(), script.target, tries=3)
        with pytest.raises(RemoteError, match="can't be reached") as caught:
            await calls.call(methods.PULL, PULL, SIGNER)
        await calls.close()
    assert caught.value.transient
    assert len(script.seen) == 3


async def test_a_port_where_nobody_listens_is_unreachable() -> None:
    """A refused connection is the same kind of error as an unavailable service."""
    async with scripted(FINE) as script:
        target = script.target
    calls = transport(Clock(), target, tries=2)
    with pytest.raises(RemoteError) as caught:
        await calls.call(methods.PULL, PULL, SIGNER)
    await calls.close()
    assert caught.value.reason == reasons.UNREACHABLE


async def test_a_refusal_is_typed_and_not_repeated() -> None:
    """Reason and metadata of ErrorInfo come out; asking again would not help."""
    reply = refuse(StatusCode.FAILED_PRECONDITION, "CHAIN_GAP", dev_seq="17", op_hash="ab")
    async with scripted(reply) as script:
        calls = transport(Clock(), script.target)
        with pytest.raises(RemoteError) as caught:
            await calls.call(methods.PUSH, sync_pb2.PushRequest(), SIGNER)
        await calls.close()
    error = caught.value
    assert (error.reason, error.status) == ("CHAIN_GAP", "FAILED_PRECONDITION")
    assert (error.number("dev_seq"), error.number("op_hash")) == (17, None)
    assert not error.transient
    assert len(script.seen) == 1


async def test_another_domains_error_info_is_not_ours() -> None:
    """A proxy's status without our ErrorInfo keeps its plain meaning."""
    async with scripted(refuse(StatusCode.PERMISSION_DENIED)) as script:
        calls = transport(Clock(), script.target)
        with pytest.raises(RemoteError) as caught:
            await calls.call(methods.PULL, PULL, SIGNER)
        await calls.close()
    assert caught.value.reason == "PERMISSION_DENIED"


async def test_retry_info_is_the_least_wait() -> None:
    """The wait is what the service asked for, and jitter on top."""
    reply = refuse(StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", 3_000, limit="calls")
    async with scripted(reply, FINE) as script:
        clock = Clock()
        calls = transport(clock, script.target)
        await calls.call(methods.PULL, PULL, SIGNER)
        await calls.close()
    assert clock.slept == [3.05]


async def test_a_hint_on_success_delays_the_next_call() -> None:
    """backoff_ms of a good answer is waited out before anything else is asked."""
    info = common_pb2.ServerInfo(server_ms=NOW_MS, backoff_ms=60_000)
    async with scripted(answer(sync_pb2.PullResponse(info=info)), FINE) as script:
        clock = Clock()
        calls = transport(clock, script.target)
        await calls.call(methods.PULL, PULL, SIGNER)
        assert clock.slept == []
        await calls.call(methods.PULL, PULL, SIGNER)
        await calls.close()
    assert [round(seconds) for seconds in clock.slept] == [60]


def test_no_hint_silences_a_device_for_good() -> None:
    """A service can ask for minutes, not for years; jitter spreads devices over the bound."""
    backoff = Backoff(first_ms=100, longest_ms=1_000)
    assert backoff.delay_ms(1, lambda: 0.0, 10**15) == HINT_MS_MAX
    assert [backoff.delay_ms(tries, lambda: 1.0) for tries in (1, 2, 5, 500)] == [
        100, 200, 1_000, 1_000,
    ]  # fmt: skip
    assert backoff.delay_ms(3, lambda: 0.0) == 0


async def test_a_skewed_clock_is_put_right_once() -> None:
    """CLOCK_SKEW gives the service's time, and the second try is signed with it, at once."""
    skew = refuse(StatusCode.UNAUTHENTICATED, "CLOCK_SKEW", 0, server_ms=str(NOW_MS + 500_000))
    async with scripted(skew, FINE) as script:
        clock = Clock()
        calls = transport(clock, script.target)
        await calls.call(methods.PULL, PULL, SIGNER)
        await calls.close()
    assert [request.parse(seen.auth).ts_ms - NOW_MS for seen in script.seen] == [0, 500_000]
    assert clock.slept == []


async def test_a_service_that_always_finds_skew_is_not_believed_for_ever() -> None:
    """The offset is adopted once a call; after that CLOCK_SKEW is an error like others."""
    skew = refuse(StatusCode.UNAUTHENTICATED, "CLOCK_SKEW", server_ms=str(NOW_MS + 500_000))
    async with scripted(skew) as script:
        calls = transport(Clock(), script.target)
        with pytest.raises(RemoteError, match="clock"):
            await calls.call(methods.PULL, PULL, SIGNER)
        await calls.close()
    assert len(script.seen) == 2


async def test_every_answer_teaches_the_services_clock() -> None:
    """server_ms of an answer becomes the offset that the next call is signed with."""
    info = common_pb2.ServerInfo(server_ms=NOW_MS - 90_000, chain_seq=5)
    async with scripted(answer(sync_pb2.PullResponse(info=info))) as script:
        calls = transport(Clock(), script.target)
        for _ in range(2):
            await calls.call(methods.PULL, PULL, SIGNER)
        await calls.close()
    assert request.parse(script.seen[1].auth).ts_ms == NOW_MS - 90_000
    assert calls.wire.chain_seq == 5


async def test_a_drained_service_is_left_for_the_next_address() -> None:
    """DRAINING sends the next try to another address of the deployment."""
    draining = refuse(StatusCode.UNAVAILABLE, "DRAINING", 0)
    async with scripted(draining) as one, scripted(FINE) as two:
        calls = transport(Clock(), one.target, two.target)
        await calls.call(methods.PULL, PULL, SIGNER)
        await calls.call(methods.PULL, PULL, SIGNER)
        await calls.close()
    assert (len(one.seen), len(two.seen)) == (1, 2)


async def test_a_call_has_a_deadline() -> None:
    """A service that never answers is given up on."""
    slow = Method(methods.PULL.name, methods.PULL.answer, seconds=0.05)
    async with scripted(never) as script:
        calls = transport(Clock(), script.target, tries=2)
        with pytest.raises(RemoteError) as caught:
            await calls.call(slow, PULL, SIGNER)
        await calls.close()
    assert caught.value.reason == reasons.UNREACHABLE


async def test_an_answer_that_is_no_message_is_a_breach() -> None:
    """Garbage is not taken for an empty answer."""
    async with scripted(answer(b"\xff\xff\xff")) as script:
        calls = transport(Clock(), script.target)
        with pytest.raises(ProtocolBreach):
            await calls.call(methods.PULL, PULL, SIGNER)
        await calls.close()


async def test_a_silent_stream_is_given_up() -> None:
    """A stream without even a heartbeat counts as broken."""
    async with scripted(answer(sync_pb2.SubscribeResponse(cursor=b"1"))) as script:
        calls = transport(Clock(), script.target)
        frames = calls.stream(
            methods.SUBSCRIBE, sync_pb2.SubscribeRequest(), SIGNER, idle_seconds=0.2
        )
        assert (await anext(frames)).cursor == b"1"
        with pytest.raises(RemoteError) as caught:
            await anext(frames)
        await calls.close()
    assert caught.value.reason == reasons.UNREACHABLE
    assert request.parse(script.seen[0].auth).kind is CallKind.STREAM


async def test_who_is_stopped_is_stopped() -> None:
    """Cancelling the caller is no error of the network and is not tried again."""
    reached, hold = held()
    async with scripted(hold) as script:
        calls = transport(Clock(), script.target)
        task = asyncio.create_task(calls.call(methods.PULL, PULL, SIGNER))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await calls.close()
    assert len(script.seen) == 1


async def test_a_channel_that_is_closed_under_a_call_is_unreachable() -> None:
    """A call whose channel goes away ends as a transient error, not as a cancelled task."""
    reached, hold = held()
    async with scripted(hold) as script:
        calls = transport(Clock(), script.target, tries=1)
        task = asyncio.create_task(calls.call(methods.PULL, PULL, SIGNER))
        await reached.wait()
        await calls.close()
        with pytest.raises(RemoteError) as caught:
            await task
    assert caught.value.transient


@pytest.mark.parametrize(
    ("target", "plain"),
    [
        ("127.0.0.1:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("10.0.0.1:1", False),
        ("localhost.example.org:1", False),
        ("127.0.0.1.example.org:1", False),
    ],
)
def test_only_this_machine_is_spoken_to_without_tls(target: str, plain: bool) -> None:
    """Another machine wants TLS, unless the person says otherwise; a CA or a client certificate
    always means TLS."""
    assert Endpoint((target,), "a", KEY).plaintext(target) is plain
    assert Endpoint((target,), "a", KEY, insecure=True).plaintext(target)
    assert not Endpoint((target,), "a", KEY, tls_ca=b"x", insecure=True).plaintext(target)
    shown = ClientCertificate(Path("c"), Path("k"))
    assert not Endpoint((target,), "a", KEY, client_certificate=shown).plaintext(target)


@pytest.mark.parametrize(
    ("server", "audience", "key", "word"),
    [
        ("nohost", "a", "00" * 32, "HOST:PORT"),
        ("h:0", "a", "00" * 32, "HOST:PORT"),
        ("", "a", "00" * 32, "servers"),
        ("h:1", "", "00" * 32, "audience"),
        ("h:1", "a", "00" * 31, "64 hexadecimal"),
        ("h:1", "a", "zz" * 32, "64 hexadecimal"),
    ],
)
def test_an_unusable_endpoint_is_refused_in_words(
    server: str, audience: str, key: str, word: str
) -> None:
    """The sentence names what is wrong."""
    with pytest.raises(EndpointError, match=word):
        Endpoint.parse(server, audience, key)


def test_an_endpoint_survives_the_vault() -> None:
    """What was stored comes back equal; what was damaged is refused."""
    endpoint = Endpoint(("a:1", "b:2"), "test", KEY, tls_ca=b"PEM", insecure=True)
    shown = ClientCertificate(Path("/a/tls.crt"), Path("/a/tls.key"))
    for kept in (endpoint, dataclasses.replace(endpoint, client_certificate=shown)):
        assert Endpoint.decode(kept.encode()) == kept
    before = json.loads(endpoint.encode())
    del before["client_certificate"]
    assert Endpoint.decode(json.dumps(before).encode()) == endpoint
    for damaged in (b"", b"{}", b"[]", b'{"targets": []}'):
        with pytest.raises(EndpointError):
            Endpoint.decode(damaged)


async def test_a_client_certificate_that_is_being_replaced_is_waited_for(tmp_path: Path) -> None:
    """A moment without the files is like a moment without the service; a command that begins
    without them says so."""
    shown = ClientCertificate(tmp_path / "tls.crt", tmp_path / "tls.key")
    calls = Transport(
        Endpoint(("127.0.0.1:1",), "test", KEY, client_certificate=shown),
        clock=Clock(),
        backoff=Backoff(100, 1_000, 1),
    )
    with pytest.raises(RemoteError) as caught:
        await calls.call(methods.PULL, PULL, SIGNER)
    await calls.close()
    assert caught.value.transient
    with pytest.raises(EndpointError, match=r"client certificate .* can't be read"):
        shown.read()
