"""Who may call: signatures over raw bytes, replays, clocks, and one answer for all strangers."""

from __future__ import annotations

import random
from pathlib import Path

import grpc
import pytest

from crypto import request
from crypto.cert import Role
from crypto.ids import AccountId
from crypto.keys import Identity
from crypto.request import CallKind
from rookery.v1 import accounts_pb2, sync_pb2
from services import auth
from services.errors import ClockSkew, Malformed, Unauthenticated
from services.store.base import Tip
from tests.served import (
    APPEND,
    AUDIENCE,
    CHAIN,
    DELETE,
    PULL,
    PUSH,
    RECEIPT,
    SUBSCRIBE,
    UNARY,
    Service,
    nonce,
    push_request,
    refusal,
    serving,
)
from tests.worlds import World

SIGNED_UNARY = (PUSH, PULL, RECEIPT, APPEND, CHAIN, DELETE)
BODY = sync_pb2.PullRequest(limit=7).SerializeToString()


@pytest.fixture
async def world(service: Service) -> World:
    """An account with two devices, known to the server."""
    return await service.account("auth")


def value(world: World, payload: bytes, ts_ms: int = 10_000_000) -> bytes:
    """A metadata value for Pull."""
    return request.sign(
        world.authors[0].identity,
        kind=CallKind.UNARY,
        method=PULL,
        audience=AUDIENCE,
        account_id=world.account_id,
        ts_ms=ts_ms,
        nonce=bytes(16),
        payload=payload,
    )


def judged(world: World, raw: bytes, payload: bytes, now_ms: int = 10_000_000) -> Tip:
    """What the interceptor decides, without store and transport."""
    parsed = auth.parse([raw])
    if abs(parsed.ts_ms - now_ms) > request.SKEW_MS_MAX:
        raise ClockSkew(now_ms)
    auth.check_context(parsed, auth.Context.of(CallKind.UNARY, PULL, AUDIENCE))
    known = parsed.account_id == world.account_id
    return auth.check_signature(parsed, payload, Tip(world.chain, 0, 0) if known else None)


def flipped(data: bytes, bit: int) -> bytes:
    """The same bytes but for one bit."""
    at = bit // 8
    return data[:at] + bytes((data[at] ^ 1 << bit % 8,)) + data[at + 1 :]


def test_no_bit_of_the_auth_value_may_change() -> None:
    """Each of the 1,664 bits of header and signature, flipped alone, is noticed."""
    world = World.create("bits")
    good = value(world, BODY)
    assert judged(world, good, BODY).chain is world.chain
    for bit in range(8 * len(good)):
        with pytest.raises((Malformed, Unauthenticated, ClockSkew)):
            judged(world, flipped(good, bit), BODY)


def test_no_bit_of_the_body_may_change() -> None:
    """Each bit of the message, flipped alone, and each byte cut or added, is noticed."""
    world = World.create("bits")
    payload = push_request(world.op()).SerializeToString()
    good = value(world, payload)
    judged(world, good, payload)
    for bit in range(8 * len(payload)):
        with pytest.raises(Unauthenticated):
            judged(world, good, flipped(payload, bit))
    for other in (payload[:-1], payload + b"\0", b"", b"\0" + payload):
        with pytest.raises(Unauthenticated):
            judged(world, good, other)


async def test_flipped_bits_are_refused_over_grpc(service: Service, world: World) -> None:
    """A sample of the same over the wire; the unchanged call passes."""
    rng = random.Random("flips")
    identity = world.authors[0].identity
    for _ in range(60):
        good = service.auth(identity, world, PULL, BODY)
        bad_auth = flipped(good, rng.randrange(8 * len(good)))
        refused = await refusal(service.raw(PULL, BODY, [bad_auth]))
        assert refused.reason in ("UNAUTHENTICATED", "CLOCK_SKEW", "MALFORMED")
        bad_body = flipped(BODY, rng.randrange(8 * len(BODY)))
        refused = await refusal(service.raw(PULL, bad_body, [good]))
        assert refused.reason == "UNAUTHENTICATED"
        await service.raw(PULL, BODY, [good])


async def test_a_call_is_good_once(service: Service, world: World) -> None:
    """The same bytes again are refused, as is the nonce on another message."""
    once = nonce()
    identity = world.authors[0].identity
    good = service.auth(identity, world, PULL, BODY, once=once)
    await service.raw(PULL, BODY, [good])
    again = await refusal(service.raw(PULL, BODY, [good]))
    other = service.auth(identity, world, RECEIPT, b"", once=once)
    assert again == await refusal(service.raw(RECEIPT, b"", [other]))
    assert (again.code, again.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


async def test_a_bad_signature_burns_no_nonce(service: Service, world: World) -> None:
    """Somebody who can't sign can't use up the nonces of those who can."""
    once = nonce()
    good = service.auth(world.authors[0].identity, world, PULL, BODY, once=once)
    await refusal(service.raw(PULL, BODY, [flipped(good, 8 * len(good) - 1)]))
    await service.raw(PULL, BODY, [good])


async def test_replays_are_remembered_as_long_as_clocks_allow(tmp_path: Path) -> None:
    """A captured call is useless until its time stamp is too old, whenever it is sent."""
    async with serving(tmp_path) as service:
        world = World.create("window")
        await service.create(world)
        ahead = service.now_ms + 119_000
        good = service.auth(world.authors[0].identity, world, PULL, BODY, ts_ms=ahead)
        await service.raw(PULL, BODY, [good])
        for _ in range(4):
            service.moment.offset_ms += 59_000
            refused = await refusal(service.raw(PULL, BODY, [good]))
            assert refused.reason == "UNAUTHENTICATED"
        service.moment.offset_ms += 59_000
        assert (await refusal(service.raw(PULL, BODY, [good]))).reason == "CLOCK_SKEW"


@pytest.mark.parametrize("off_ms", [-121_000, 121_000, -(10**12), 10**15])
async def test_a_wrong_clock_is_told_the_time(service: Service, world: World, off_ms: int) -> None:
    """CLOCK_SKEW carries the service's clock, so that the client can sign again."""
    ts_ms = max(0, service.now_ms + off_ms)
    bad = service.auth(world.authors[0].identity, world, PULL, BODY, ts_ms=ts_ms)
    refused = await refusal(service.raw(PULL, BODY, [bad]))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CLOCK_SKEW")
    assert abs(int(refused.metadata["server_ms"]) - service.now_ms) < 60_000
    assert refused.retry_ms == 0


async def test_a_clock_within_two_minutes_will_do(service: Service, world: World) -> None:
    """119 s either way pass."""
    for off_ms in (-119_000, 119_000):
        ts_ms = service.now_ms + off_ms
        good = service.auth(world.authors[0].identity, world, PULL, BODY, ts_ms=ts_ms)
        await service.raw(PULL, BODY, [good])


async def test_a_call_is_signed_for_one_method_kind_and_deployment(
    service: Service, world: World
) -> None:
    """Another method, audience or kind of call is no signature at all."""
    identity = world.authors[0].identity
    empty = b""
    for bad in (
        service.auth(identity, world, RECEIPT, empty),
        service.auth(identity, world, PULL, empty, audience="other.rookery"),
        service.auth(identity, world, PULL, empty, kind=CallKind.STREAM),
    ):
        assert (await refusal(service.raw(PULL, empty, [bad]))).reason == "UNAUTHENTICATED"
    for bad in (
        service.auth(identity, world, SUBSCRIBE, empty),
        service.auth(identity, world, PULL, empty, kind=CallKind.STREAM),
    ):
        assert (await service.open(empty, bad).end()).reason == "UNAUTHENTICATED"


async def test_strangers_all_get_one_answer(service: Service, world: World) -> None:
    """Unknown account, unknown device, revoked device and bad signature look alike."""
    revoked = world.authors[1].identity
    await service.append(world, world.rotate([1]))
    unknown = World.create("nobody")
    known = world.authors[0].identity
    refusals = [
        await refusal(service.raw(PULL, b"", [bad]))
        for bad in (
            service.auth(unknown.authors[0].identity, unknown, PULL, b""),
            service.auth(unknown.authors[0].identity, world, PULL, b""),
            service.auth(known, unknown, PULL, b""),
            service.auth(revoked, world, PULL, b""),
            flipped(service.auth(known, world, PULL, b""), 8 * 150),
        )
    ]
    refusals.append(await refusal(service.raw(PULL, b"")))
    refusals.append(await service.subscribe(unknown).end())
    assert refusals == refusals[:1] * len(refusals)
    assert refusals[0].reason == "UNAUTHENTICATED"
    assert (refusals[0].metadata, refusals[0].retry_ms) == ({}, None)


def test_the_key_of_the_dummy_verification_opens_nothing() -> None:
    """Who signs with the key that stands in for an unknown device stays a stranger."""
    world = World.create("dummy")
    nobody = Identity(bytes(32), b"\x01" * 32)
    for account in (world.account_id, AccountId(bytes(32))):
        raw = request.sign(
            nobody,
            kind=CallKind.UNARY,
            method=PULL,
            audience=AUDIENCE,
            account_id=account,
            ts_ms=10_000_000,
            nonce=bytes(16),
            payload=b"",
        )
        with pytest.raises(Unauthenticated):
            judged(world, raw, b"")


@pytest.mark.parametrize("method", SIGNED_UNARY)
async def test_every_other_method_wants_a_signature(service: Service, method: str) -> None:
    """Without the metadata value nothing but enrolment, pairing and health is served."""
    refused = await refusal(service.raw(method, b""))
    assert refused.reason == "UNAUTHENTICATED"


def test_the_list_of_unsigned_methods_is_short() -> None:
    """CreateAccount and the two calls of Pairing, and no other of ours."""
    unsigned = set(UNARY) - set(SIGNED_UNARY)
    assert unsigned == {
        "/rookery.v1.Accounts/CreateAccount",
        "/rookery.v1.Pairing/PostMessage",
        "/rookery.v1.Pairing/FetchMessage",
    }


@pytest.mark.parametrize("size", [0, 1, 143, 207, 209, 4096])
async def test_a_value_of_another_length_is_malformed(
    service: Service, world: World, size: int
) -> None:
    """Size and form are judged before any cryptography."""
    good = service.auth(world.authors[0].identity, world, PULL, b"")
    refused = await refusal(service.raw(PULL, b"", [good.ljust(size, b"\0")[:size]]))
    assert (refused.reason, refused.metadata) == ("MALFORMED", {"field": "rookery-auth-bin"})


async def test_two_values_are_one_too_many(service: Service, world: World) -> None:
    """Which of two signatures counts is not a question."""
    pair = [service.auth(world.authors[0].identity, world, PULL, b"") for _ in range(2)]
    assert (await refusal(service.raw(PULL, b"", pair))).reason == "MALFORMED"


async def test_a_recovery_key_may_read(service: Service) -> None:
    """Role 2 pulls, subscribes, reads the chain and asks for receipts."""
    world = World.create("paper")
    world.add(Role.RECOVERY)
    await service.create(world)
    await service.push(world, world.op())
    assert len((await service.pull(world, by=1)).ops) == 1
    assert len(await service.subscribe(world, by=1).caught_up()) == 1
    assert len((await service.chain(world, by=1)).links) == 2
    await service.signed(world, RECEIPT, b"", by=1)


async def test_one_account_can_not_act_for_another(service: Service, world: World) -> None:
    """A device of one account that names another account is a stranger there."""
    mine, theirs = World.create("mine"), world
    await service.create(mine)
    identity = mine.authors[0].identity
    message = accounts_pb2.DeleteAccountRequest(account_id=theirs.account_id)
    payload = message.SerializeToString()
    bad = service.auth(identity, theirs, DELETE, payload)
    assert (await refusal(service.raw(DELETE, payload, [bad]))).reason == "UNAUTHENTICATED"
    refused = await refusal(service.signed(mine, DELETE, payload))
    assert (refused.reason, refused.metadata) == ("MALFORMED", {"field": "account_id"})
    await service.pull(theirs)
