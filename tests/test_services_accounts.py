"""Accounts and pairing over gRPC: enrolment, chains, deletion, mailboxes."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from pathlib import Path

import grpc
import pytest

from crypto import enrol, heads, link, receipt
from crypto.enrol import Token, TokenKey
from crypto.link import SignedLink
from rookery.v1 import accounts_pb2, common_pb2, pairing_pb2, sync_pb2
from services.server import Secrets
from tests.served import (
    APPEND,
    AUDIENCE,
    CHAIN,
    CREATE,
    DELETE,
    FETCH,
    RECEIPT,
    SECRETS,
    Moment,
    Refusal,
    Service,
    append_request,
    nonce,
    refusal,
    serving,
    wire_link,
)
from tests.worlds import Upload, World

RENDEZVOUS = b"r" * 16


async def created(
    service: Service, request: accounts_pb2.CreateAccountRequest
) -> accounts_pb2.CreateAccountResponse:
    """CreateAccount."""
    answer = await service.raw(CREATE, request.SerializeToString())
    return accounts_pb2.CreateAccountResponse.FromString(answer)


async def not_created(service: Service, request: accounts_pb2.CreateAccountRequest) -> Refusal:
    """CreateAccount, refused."""
    return await refusal(service.raw(CREATE, request.SerializeToString()))


def again_request(service: Service, world: World) -> accounts_pb2.CreateAccountRequest:
    """CreateAccount with all that followed the genesis."""
    request = service.proof(world)
    for upload in world.uploads[1:]:
        appended = append_request(upload)
        request.later.add(link=appended.link, grants=appended.grants)
    return request


# --- enrolment ---


async def test_a_proof_of_work_makes_an_account(tmp_path: Path) -> None:
    """Without a proof the service says how many bits and which hour; with it, and again,
    the account is made."""
    async with serving(tmp_path, pow_bits=10) as service:
        world = World.create("proof")
        bare = accounts_pb2.CreateAccountRequest(genesis=wire_link(world.genesis))
        refused = await not_created(service, bare)
        assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
        assert refused.reason == "PROOF_REQUIRED"
        hour = service.now_ms // enrol.HOUR_MS
        assert refused.metadata == {"bits": "10", "hour": str(hour)}
        for _ in range(2):
            answer = await created(service, service.proof(world))
            assert abs(answer.info.server_ms - service.now_ms) < 60_000
        await service.pull(world)


async def test_any_device_makes_a_lost_account_again(service: Service) -> None:
    """The whole chain comes with CreateAccount: afterwards every active device is known, not
    the one of the genesis link alone."""
    world = World.create("lost")
    world.add()
    world.rotate([0], by=1)
    request = again_request(service, world)
    for _ in range(2):
        await created(service, request)
    assert len((await service.chain(world, by=1)).links) == 3
    assert (await service.push(world, world.op(1), by=1)).committed == 1
    assert (await refusal(service.pull(world, by=0))).reason == "UNAUTHENTICATED"


async def test_a_chain_that_breaks_a_rule_makes_no_account(service: Service) -> None:
    """Each fault has the answer that AppendLink gives, and nothing is stored."""
    world = World.create("broken")
    world.add()
    world.rotate()
    request = again_request(service, world)
    del request.later[1].grants[0]
    assert (await not_created(service, request)).reason == "GRANTS_INVALID"
    request = again_request(service, world)
    request.later[0].link.sig = bytes(64)
    assert (await not_created(service, request)).reason == "LINK_INVALID"
    request = again_request(service, world)
    del request.later[0]
    assert (await not_created(service, request)).reason == "CHAIN_GAP"
    request = again_request(service, world)
    request.later[0].ClearField("link")
    assert (await not_created(service, request)).reason == "MALFORMED"
    request = again_request(service, world)
    request.later[0].link.pop = bytes(1 << 20)
    refused = await not_created(service, request)
    assert (refused.reason, refused.metadata["limit"]) == ("QUOTA", "later_bytes")
    assert (await refusal(service.pull(world))).reason == "UNAUTHENTICATED"


@pytest.mark.parametrize(("hours", "taken"), [(-2, False), (-1, True), (1, True), (2, False)])
async def test_a_proof_is_good_for_about_an_hour(service: Service, hours: int, taken: bool) -> None:
    """The hour before and the one after pass, no other."""
    request = service.proof(World.create("hours"))
    request.proof.hour += hours
    if taken:
        await created(service, request)
    else:
        assert (await not_created(service, request)).reason == "PROOF_REQUIRED"


async def test_a_weak_proof_is_refused(tmp_path: Path) -> None:
    """A counter that proves too little is answered like none."""
    async with serving(tmp_path, pow_bits=24) as service:
        request = accounts_pb2.CreateAccountRequest(
            genesis=wire_link(World.create("weak").genesis),
            proof=accounts_pb2.ProofOfWork(hour=service.now_ms // enrol.HOUR_MS, counter=1),
        )
        assert (await not_created(service, request)).reason == "PROOF_REQUIRED"


async def test_tokens_admit_a_subject_a_few_times(tmp_path: Path) -> None:
    """A token of the app's backend makes an account; the fourth for one subject is QUOTA,
    and nothing but a peppered row of the subject is stored."""
    key = TokenKey(b"\x05" * 32)
    subject = enrol.subject(b"\x09" * 32, "user 1")

    def token(world: World, service: Service, by: TokenKey = key, aud: str = AUDIENCE) -> bytes:
        genesis = link.parse(world.genesis.raw).link_hash
        return by.issue(Token(genesis, subject, service.now_ms + 60_000), aud)

    async with serving(tmp_path, enrolment="token", token_issuers=(key.public.hex(),)) as service:
        worlds = [World.create(f"subject {number}") for number in range(4)]
        for world in worlds[:3]:
            genesis = wire_link(world.genesis)
            request = accounts_pb2.CreateAccountRequest(
                genesis=genesis, token=token(world, service)
            )
            await created(service, request)
            await created(service, request)
        last = worlds[3]
        request = accounts_pb2.CreateAccountRequest(genesis=wire_link(last.genesis))
        request.token = token(last, service)
        refused = await not_created(service, request)
        assert (refused.reason, refused.metadata["limit"]) == ("QUOTA", "accounts_per_subject")
        forged = [
            b"",
            token(last, service)[:-1],
            token(last, service, TokenKey(b"\x06" * 32)),
            token(last, service, aud="other"),
            token(worlds[0], service),
        ]
        for bad in forged:
            request.token = bad
            refused = await not_created(service, request)
            assert refused.code is grpc.StatusCode.PERMISSION_DENIED
            assert refused.reason == "TOKEN_REFUSED"
        late = token(last, service)
        service.moment.offset_ms += 61_000
        request.token = late
        assert (await not_created(service, request)).reason == "TOKEN_REFUSED"
        refused = await not_created(service, service.proof(last))
        assert refused.reason == "TOKEN_REFUSED"
    assert subject not in (tmp_path / "rookery.db").read_bytes()


async def test_where_both_are_taken_either_will_do(tmp_path: Path) -> None:
    """Enrolment "both" takes a proof, and a token; "open" asks for a proof instead of it."""
    key = TokenKey(b"\x05" * 32)
    world, other = World.create("either"), World.create("or")
    async with serving(tmp_path, enrolment="both", token_issuers=(key.public.hex(),)) as service:
        await created(service, service.proof(world))
        genesis = link.parse(other.genesis.raw).link_hash
        issued = key.issue(Token(genesis, b"s" * 32, service.now_ms + 60_000), AUDIENCE)
        request = accounts_pb2.CreateAccountRequest(genesis=wire_link(other.genesis), token=issued)
        await created(service, request)
    async with serving(tmp_path) as service:
        assert (await not_created(service, request)).reason == "PROOF_REQUIRED"


async def test_only_a_genesis_link_makes_an_account(service: Service) -> None:
    """Another link, a forged one and none are refused."""
    world = World.create("genesis")
    added = world.add()
    good = service.proof(world)
    for signed, reason in (
        (added.link, "LINK_INVALID"),
        (SignedLink(world.genesis.raw, bytes(64)), "LINK_INVALID"),
        (SignedLink(world.genesis.raw, world.genesis.sig, bytes(64)), "LINK_INVALID"),
        (SignedLink(world.genesis.raw[:-1], world.genesis.sig), "LINK_INVALID"),
        (SignedLink(bytes(20_000), b""), "LINK_INVALID"),
    ):
        request = accounts_pb2.CreateAccountRequest(genesis=wire_link(signed), proof=good.proof)
        assert (await not_created(service, request)).reason == reason
    empty = accounts_pb2.CreateAccountRequest(proof=good.proof)
    assert (await not_created(service, empty)).metadata == {"field": "link"}


# --- the chain ---


async def test_a_chain_grows_by_compare_and_set(service: Service) -> None:
    """An equal link again is fine; another one at its seq is a conflict; a later one a gap."""
    world = World.create("cas")
    rival = World.create("cas")
    rival.rng = random.Random("rival")
    await service.create(world)
    added = world.add()
    await service.append(world, added)
    await service.append(world, added)
    refused = await refusal(service.append(world, rival.add()))
    assert refused.code is grpc.StatusCode.ABORTED
    assert (refused.reason, refused.metadata) == ("CHAIN_CONFLICT", {"chain_seq": "1"})
    world.add()
    later = world.add()
    refused = await refusal(service.append(world, later))
    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert (refused.reason, refused.metadata) == ("CHAIN_GAP", {"chain_seq": "1"})


async def test_a_link_by_another_device_may_be_uploaded_again(service: Service) -> None:
    """Healing: who uploads a link need not have signed it."""
    world = World.create("heal")
    world.add()
    await service.create(world)
    by_first = world.rotate()
    await service.append(world, by_first, by=1)
    assert len((await service.chain(world, by=1)).links) == 3


async def test_broken_links_name_the_rule(service: Service) -> None:
    """LINK_INVALID says which rule; GRANTS_INVALID when it is the grants."""
    world = World.create("rules")
    await service.create(world)
    added = world.add()
    forged = Upload(SignedLink(added.link.raw, bytes(64), added.link.pop), added.grants)
    unproven = Upload(SignedLink(added.link.raw, added.link.sig), added.grants)
    ungranted = Upload(added.link)
    other = World.create("other").add()
    for upload, reason in (
        (forged, "LINK_INVALID"),
        (unproven, "LINK_INVALID"),
        (ungranted, "GRANTS_INVALID"),
        (Upload(added.link, other.grants), "GRANTS_INVALID"),
        (Upload(added.link, added.grants * 2), "GRANTS_INVALID"),
        (Upload(added.link, added.grants * 256), "GRANTS_INVALID"),
    ):
        refused = await refusal(service.append(world, upload))
        assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refused.reason == reason
        assert refused.metadata["rule"]
    request = append_request(added)
    request.grants[0].sealed = b"short"
    refused = await refusal(service.signed(world, APPEND, request))
    assert refused.reason == "GRANTS_INVALID"
    refused = await refusal(service.signed(world, APPEND, b""))
    assert refused.metadata == {"field": "link"}
    await service.append(world, added)


async def test_a_cut_beyond_all_counting_breaks_nothing(service: Service) -> None:
    """A ROTATE whose cut has the largest seq there is gets a clear answer."""
    world = World.create("cut")
    world.add()
    await service.create(world)
    world.authors[1].dev_seq = (1 << 64) - 1
    await service.append(world, world.rotate([1]))
    assert len((await service.chain(world)).links) == 3


async def test_limits_of_the_chain_are_named(tmp_path: Path) -> None:
    """active_devices and chain_links are QUOTA; at the cap of devices one can be revoked."""
    async with serving(tmp_path, active_devices_max=2, chain_links_max=4) as service:
        world = World.create("caps")
        world.add()
        await service.create(world)
        refused = await refusal(service.append(world, world.fork().add()))
        assert (refused.reason, refused.metadata["limit"]) == ("QUOTA", "active_devices")
        await service.append(world, world.rotate([1]))
        await service.append(world, world.rotate())
        refused = await refusal(service.append(world, world.rotate()))
        assert (refused.reason, refused.metadata["limit"]) == ("QUOTA", "chain_links")


async def test_a_chain_is_read_after_a_seq_with_ones_own_grants(service: Service) -> None:
    """All links without gaps; only the grants of the caller, or all if asked for."""
    world = World.create("read")
    world.add()
    world.rotate()
    await service.create(world)
    answer = await service.chain(world, by=1)
    assert [row.link.link for row in answer.links] == [row.link.raw for row in world.uploads]
    mine = {grant.recipient_id for row in answer.links for grant in row.grants}
    assert mine == {bytes(world.authors[1].device_id)}
    assert (answer.more, answer.info.chain_seq, answer.lamport_max) == (False, 2, 0)
    await service.push(world, world.op(lamport=9))
    request = accounts_pb2.GetChainRequest(after_seq=1, all_grants=True)
    raw = await service.signed(world, CHAIN, request)
    answer = accounts_pb2.GetChainResponse.FromString(raw)
    assert [len(row.grants) for row in answer.links] == [2]
    assert answer.lamport_max == 9
    beyond = accounts_pb2.GetChainRequest(after_seq=(1 << 64) - 1)
    raw = await service.signed(world, CHAIN, beyond)
    answer = accounts_pb2.GetChainResponse.FromString(raw)
    assert (len(answer.links), answer.more) == (0, False)


async def test_a_long_chain_comes_in_parts(service: Service) -> None:
    """64 links an answer, and `more` until the last."""
    world = World.create("long")
    for _ in range(70):
        world.rebox()
    await service.create(world)
    seqs, after = [], -1
    while True:
        request = accounts_pb2.GetChainRequest(after_seq=after if after >= 0 else None)
        raw = await service.signed(world, CHAIN, request)
        answer = accounts_pb2.GetChainResponse.FromString(raw)
        seqs.append(len(answer.links))
        after += len(answer.links)
        if not answer.more:
            break
    assert seqs == [64, 7]


# --- receipts and deletion ---


async def test_a_receipt_is_signed_and_bound_to_the_request(service: Service) -> None:
    """Heads and chain as the service holds them, under its pinned key and our nonce."""
    world = World.create("receipt")
    world.add()
    await service.create(world)
    await service.push(world, *world.ops(2))
    once = nonce()
    value = service.auth(world.authors[0].identity, world, RECEIPT, b"", once=once)
    answer = sync_pb2.GetReceiptResponse.FromString(await service.raw(RECEIPT, b"", [value]))
    opened = receipt.open_(answer.receipt, SECRETS.server_key.public, nonce=once)
    assert (opened.account_id, opened.chain_seq) == (world.account_id, world.chain.seq)
    assert opened.chain_head == world.chain.head
    assert opened.heads_digest == heads.digest(world.heads.values())
    assert [(head.device_id, head.dev_seq) for head in answer.heads] == [
        (bytes(world.authors[0].device_id), 2)
    ]


def rows(path: Path) -> dict[str, int]:
    """Rows per table of the database, read beside the server."""
    with sqlite3.connect(f"file:{path / 'rookery.db'}?mode=ro", uri=True) as db:
        names = [
            name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type='table'")
        ]
        return {name: db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}  # noqa: S608


async def test_a_deleted_account_leaves_no_row_and_no_stream(
    service: Service, tmp_path: Path
) -> None:
    """Deletion is signed, answered with a receipt of its own kind, ends every stream, and
    leaves the tables as they were before the account was made."""
    before = rows(tmp_path)
    world = World.create("delete")
    world.add()
    await service.create(world)
    await service.push(world, *world.ops(5), world.op(0, "key/1"))
    streams = [service.subscribe(world, by=by) for by in (0, 1)]
    for stream in streams:
        await stream.caught_up()
    once = nonce()
    message = accounts_pb2.DeleteAccountRequest(account_id=world.account_id)
    payload = message.SerializeToString()
    value = service.auth(world.authors[1].identity, world, DELETE, payload, once=once)
    raw = await service.raw(DELETE, payload, [value])
    answer = accounts_pb2.DeleteAccountResponse.FromString(raw)
    public = SECRETS.server_key.public
    opened = receipt.open_(answer.receipt, public, nonce=once, deleted=True)
    assert opened.heads_digest == heads.digest(world.heads.values())
    with pytest.raises(Exception, match="signature"):
        receipt.open_(answer.receipt, public, nonce=once)
    for stream in streams:
        assert (await stream.end()).reason == "UNAUTHENTICATED"
    assert rows(tmp_path) == before
    assert (await refusal(service.signed(world, DELETE, payload))).reason == "UNAUTHENTICATED"
    assert not len(service.server.hub)


def test_secrets_hide_themselves() -> None:
    """The service's keys show their public half only."""
    secrets = Secrets(b"\x07" * 32, b"\x08" * 32)
    assert "07" * 32 not in repr(secrets)
    assert "08" * 32 not in repr(secrets)


# --- pairing ---


async def test_a_mailbox_holds_three_messages(service: Service) -> None:
    """Each number is read again as often as wanted; equal bytes may be put again."""
    for number in (1, 2, 3):
        await service.post(RENDEZVOUS, number, b"m%d" % number)
        await service.post(RENDEZVOUS, number, b"m%d" % number)
    for number in (3, 1, 2, 1):
        assert await service.fetch(RENDEZVOUS, number) == b"m%d" % number


async def test_a_reader_waits_for_the_message(service: Service) -> None:
    """A waiting call returns as soon as the message is put, for everybody who waits."""
    await service.post(RENDEZVOUS, 1, b"hello")
    waiting = [asyncio.create_task(service.fetch(RENDEZVOUS, 2, 25_000)) for _ in range(3)]
    while service.server.pairing.waiting < 3:  # noqa: ASYNC110 - nobody tells the caller
        await asyncio.sleep(0)
    await service.post(RENDEZVOUS, 2, b"answer")
    assert await asyncio.gather(*waiting) == [b"answer"] * 3


async def test_mailboxes_say_what_is_wrong(service: Service) -> None:
    """Absent, taken, too large, and not there yet have names of their own."""
    refused = await refusal(service.fetch(RENDEZVOUS, 1))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "MESSAGE_ABSENT")
    assert refused.retry_ms is not None
    refused = await refusal(service.fetch(RENDEZVOUS, 1, 1))
    assert refused.reason == "MESSAGE_ABSENT"
    refused = await refusal(service.post(RENDEZVOUS, 2, b"x"))
    assert refused.reason == "MAILBOX_ABSENT"
    await service.post(RENDEZVOUS, 1, b"x")
    refused = await refusal(service.post(RENDEZVOUS, 1, b"y"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "MAILBOX_TAKEN")
    refused = await refusal(service.post(RENDEZVOUS, 2, bytes(8_193)))
    assert refused.metadata == {"limit": "pairing_message_bytes", "value": "8192"}
    await service.post(RENDEZVOUS, 2, bytes(8_192))
    service.moment.offset_ms += 300_001
    refused = await refusal(service.fetch(RENDEZVOUS, 1))
    assert refused.reason == "MESSAGE_ABSENT"


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (pairing_pb2.FetchMessageRequest(rendezvous=b"short", number=1), "rendezvous"),
        (pairing_pb2.FetchMessageRequest(rendezvous=RENDEZVOUS, number=0), "number"),
        (pairing_pb2.FetchMessageRequest(rendezvous=RENDEZVOUS, number=4), "number"),
        (
            pairing_pb2.FetchMessageRequest(rendezvous=RENDEZVOUS, number=1, wait_ms=25_001),
            "wait_ms",
        ),
    ],
)
async def test_a_field_out_of_range_is_named(
    service: Service, message: pairing_pb2.FetchMessageRequest, name: str
) -> None:
    """MALFORMED names the field."""
    refused = await refusal(service.raw(FETCH, message.SerializeToString()))
    assert (refused.reason, refused.metadata) == ("MALFORMED", {"field": name})


async def test_a_deletion_signed_before_a_restart_is_to_be_signed_again(tmp_path: Path) -> None:
    """Nonces do not outlive the process: a deletion that was captured must not delete the
    account that was made again from the same genesis link."""
    world = World.create("again")
    message = accounts_pb2.DeleteAccountRequest(account_id=world.account_id).SerializeToString()
    async with serving(tmp_path) as service:
        await service.create(world)
        auth = service.auth(world.authors[0].identity, world, DELETE, message)
        await service.raw(DELETE, message, [auth])
    async with serving(tmp_path, moment=Moment(1_000)) as service:
        await service.create(world)
        assert (await refusal(service.raw(DELETE, message, [auth]))).reason == "CLOCK_SKEW"
        await service.pull(world)
        await service.signed(world, DELETE, message)


async def test_one_address_can_not_take_all_mailboxes(tmp_path: Path) -> None:
    """Whoever makes mailboxes in a row is slowed down before others find none."""
    async with serving(tmp_path, ip_mailboxes_per_s=0.1, ip_mailboxes_burst=2) as service:
        for number in range(2):
            await service.post(bytes([number]) * 16, 1, b"m1")
        refused = await refusal(service.post(RENDEZVOUS, 1, b"m1"))
        assert (refused.reason, refused.metadata["limit"]) == ("RATE_LIMITED", "pairing_mailboxes")
        await service.post(bytes(16), 2, b"m2")


async def test_mailboxes_are_bounded(tmp_path: Path) -> None:
    """One more than the service holds is QUOTA, with a time to try again."""
    async with serving(tmp_path, pairing_mailboxes_max=1) as service:
        await service.post(RENDEZVOUS, 1, b"x")
        refused = await refusal(service.post(b"s" * 16, 1, b"x"))
        assert (refused.reason, refused.metadata["limit"]) == ("QUOTA", "pairing_mailboxes")


def test_a_grant_travels_whole() -> None:
    """The builders of these tests keep every field of a grant."""
    upload = World.create("grant").add()
    (sent,) = append_request(upload).grants
    held = upload.grants[0]
    assert sent == common_pb2.Grant(
        recipient_id=held.recipient_id, epoch=held.epoch, sealed=held.sealed
    )
