"""Push and Pull over gRPC: what is committed, what is refused and with which reason."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from crypto import op
from crypto.cert import Role
from rookery.v1 import sync_pb2
from tests.served import PUSH, Service, push_request, refusal, serving
from tests.worlds import World


@pytest.fixture
async def world(service: Service) -> World:
    """An account with two devices and a recovery key, known to the server."""
    return await service.account("push", Role.RECOVERY)


async def everything(service: Service, world: World, limit: int, by: int = 0) -> list[bytes]:
    """All ops, page by page."""
    ops: list[bytes] = []
    cursor = b""
    while True:
        page = await service.pull(world, cursor, limit=limit, by=by)
        ops += page.ops
        cursor = page.cursor
        if not page.more:
            return ops


async def test_what_one_device_pushes_the_other_pulls(service: Service, world: World) -> None:
    """Ops come back byte for byte and in order, with the chain's seq and the server's clock."""
    ops = world.ops(3)
    pushed = await service.push(world, *ops)
    assert (pushed.committed, pushed.info.chain_seq) == (3, 2)
    page = await service.pull(world, by=1)
    assert list(page.ops) == [row.raw for row in ops]
    assert not page.more
    assert page.info.chain_seq == 2
    assert abs(page.info.server_ms - service.now_ms) < 60_000
    again = await service.pull(world, page.cursor, by=1)
    assert (list(again.ops), again.cursor) == ([], page.cursor)


async def test_pages_of_one_lose_nothing_and_split_no_push(service: Service, world: World) -> None:
    """With a page size of 1 every op comes once, and a page ends where a push ends."""
    first, second, third = world.ops(3), world.ops(1, 1, keys="b"), world.ops(2, keys="c")
    for by, ops in ((0, first), (1, second), (0, third)):
        await service.push(world, *ops, by=by)
    page = await service.pull(world, limit=1)
    assert list(page.ops) == [row.raw for row in first]
    assert page.more
    assert await everything(service, world, 1) == [row.raw for row in first + second + third]


async def test_a_retry_storm_commits_once(service: Service, world: World) -> None:
    """Twenty equal pushes at once get the same good answer; one of them committed."""
    ops = world.ops(5)
    answers = await asyncio.gather(*(service.push(world, *ops) for _ in range(20)))
    assert sum(answer.committed for answer in answers) == 5
    assert len((await service.pull(world)).ops) == 5


async def test_the_answer_to_a_push_moves_no_cursor(service: Service, world: World) -> None:
    """A device that pushed still pulls what another one committed before."""
    page = await service.pull(world)
    other = world.op(1, "other")
    await service.push(world, other, by=1)
    mine = world.op(0, "mine")
    await service.push(world, mine)
    assert list((await service.pull(world, page.cursor)).ops) == [other.raw, mine.raw]


async def test_ops_of_others_are_taken_if_they_signed_them(service: Service, world: World) -> None:
    """Any device uploads again what another wrote, byte for byte, payload or stub."""
    old, new = world.op(1, "same"), world.op(1, "same")
    answer = await service.push(world, old.stub, new)
    assert answer.committed == 2
    assert list((await service.pull(world)).ops) == [old.stub, new.raw]


async def test_a_recovery_key_uploads_for_others(service: Service, world: World) -> None:
    """Role 2 calls everything; what it can't have is ops of its own."""
    theirs = world.op(0)
    assert (await service.push(world, theirs, by=2)).committed == 1
    own = world.op(2)
    refused = await refusal(service.push(world, own, by=2))
    assert (refused.reason, refused.metadata) == ("OP_INVALID", {"index": "0", "rule": "role"})


def altered(raw: bytes, at: int, value: int) -> bytes:
    """An op with one byte set to another value."""
    return raw[:at] + bytes((value,)) + raw[at + 1 :]


@pytest.mark.parametrize(
    ("at", "value", "rule"),
    [
        (0, 0x51, "magic"),
        (4, 2, "suite"),
        (5, 3, "kind"),
        (6, 1, "flags"),
        (8, None, "account"),
        (43, 0, "range"),
        (44, None, "author"),
        (60, 0xFF, "range"),
        (67, 0, "range"),
        (100, 0xFF, "range"),
        (183, 1, "bucket"),
    ],
)
async def test_an_op_out_of_form_is_named(
    service: Service, world: World, at: int, value: int | None, rule: str
) -> None:
    """OP_INVALID says which op of the batch and which rule, and nothing is committed."""
    good, bad = world.op(0), world.op(0)
    byte = bad.raw[at] ^ 1 if value is None else value
    refused = await refusal(service.push(world, good, altered(bad.raw, at, byte)))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (refused.reason, refused.metadata) == ("OP_INVALID", {"index": "1", "rule": rule})
    assert refused.retry_ms is None
    assert not (await service.pull(world)).ops


@pytest.mark.parametrize("size", [0, 183, 184, 279, 281, 519, 521])
async def test_an_op_of_no_possible_length_is_refused(
    service: Service, world: World, size: int
) -> None:
    """Only whole ops and stubs of 280 bytes pass."""
    raw = world.op(0).raw.ljust(600, b"\0")[:size]
    refused = await refusal(service.push(world, raw))
    assert (refused.reason, refused.metadata["rule"]) == ("OP_INVALID", "length")


async def test_a_foreign_op_with_a_forged_signature_is_refused(
    service: Service, world: World
) -> None:
    """The signature of an op that the caller did not write is verified, and its index named."""
    good, bad = world.op(1), world.op(1)
    refused = await refusal(
        service.push(world, good, altered(bad.raw, len(bad.raw) - 1, bad.raw[-1] ^ 1))
    )
    assert refused.metadata == {"index": "1", "rule": "signature"}


async def test_a_batch_out_of_order_is_refused(service: Service, world: World) -> None:
    """Inside a batch a device's ops follow one another."""
    first, second = world.ops(2)
    refused = await refusal(service.push(world, second, first))
    assert refused.metadata == {"index": "1", "rule": "continuity"}
    refused = await refusal(service.push(world, first, first))
    assert refused.metadata == {"index": "1", "rule": "continuity"}


async def test_a_gap_names_the_head(service: Service, world: World) -> None:
    """CHAIN_GAP says where the device's ops end at the service."""
    first, _, third = world.ops(3)
    await service.push(world, first)
    refused = await refusal(service.push(world, third))
    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.reason == "CHAIN_GAP"
    assert refused.metadata == {"dev_seq": "1", "op_hash": first.op_hash.hex()}


async def test_a_clone_is_told(service: Service, world: World) -> None:
    """Other bytes at a dev_seq are DEVICE_FORKED, and what stood there stays."""
    clone = world.fork()
    await service.push(world, world.op(0, "a"))
    refused = await refusal(service.push(clone, clone.op(0, "b")))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "DEVICE_FORKED")
    assert len((await service.pull(world)).ops) == 1


async def test_an_old_epoch_is_stale_and_a_new_one_unknown(
    service: Service, tmp_path: Path
) -> None:
    """EPOCH_STALE names the epoch to encrypt for; EPOCH_UNKNOWN asks for the chain first."""
    world = World.create("epochs")
    await service.create(world)
    world.rotate()
    refused = await refusal(service.push(world, world.op(0)))
    assert (refused.reason, refused.metadata) == ("EPOCH_UNKNOWN", {"epoch": "1"})
    for upload in (world.uploads[-1], world.rotate()):
        await service.append(world, upload)
    stale = World.create("epochs")
    refused = await refusal(service.push(world, stale.op(0)))
    assert (refused.reason, refused.metadata) == ("EPOCH_STALE", {"epoch": "3"})


async def test_a_lamport_far_ahead_is_refused(service: Service, world: World) -> None:
    """LAMPORT_AHEAD: one op can't run away with the order."""
    refused = await refusal(service.push(world, world.op(0, lamport=4_097)))
    assert refused.reason == "LAMPORT_AHEAD"


async def test_a_stub_without_its_winner_is_taken(service: Service, world: World) -> None:
    """Whether something is hidden behind a stub is for clients to judge: a restored service
    has no winner to show."""
    stub = world.op(0).stub
    assert (await service.push(world, stub)).committed == 1
    assert await everything(service, world, 1) == [stub]


async def test_beyond_the_cut_is_refused(service: Service, world: World) -> None:
    """DEVICE_CUT: what a revoked device wrote after its cut is taken from nobody."""
    late = world.fork(1).op(1)
    await service.append(world, world.rotate([1]))
    refused = await refusal(service.push(world, late))
    assert refused.reason == "DEVICE_CUT"


async def test_quotas_name_the_limit_and_its_value(service: Service, world: World) -> None:
    """More ops or bytes than a push may hold: QUOTA with limit and value."""
    one = world.op(0).raw
    refused = await refusal(service.push(world, *[one] * 257))
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (refused.reason, refused.metadata) == (
        "QUOTA",
        {"limit": "ops_per_push", "value": "256"},
    )
    refused = await refusal(service.push(world, *[bytes(33_032)] * 32))
    assert refused.metadata == {"limit": "push_bytes", "value": str(1 << 20)}


async def test_a_full_account_says_so_and_can_still_change(tmp_path: Path) -> None:
    """records_per_account stops new records, not changes of those that are there."""
    async with serving(tmp_path, records_max=2) as service:
        world = World.create("full")
        await service.create(world)
        await service.push(world, *world.ops(2))
        clone = world.fork()
        refused = await refusal(service.push(clone, clone.op(0, "third")))
        assert refused.metadata == {"limit": "records_per_account", "value": "2"}
        assert (await service.push(world, world.op(0, "key/0"))).committed == 1


async def test_a_cursor_beyond_the_end_says_that_the_service_was_restored(
    service: Service, world: World
) -> None:
    """GENERATION_CHANGED for Pull, Subscribe and a checkpoint's mark: what stood there is gone,
    and what is written next must not be taken for it."""
    before = await service.position(world)
    beyond = service.server.cursors.seal(world.account_id, before + 1)
    assert (await refusal(service.pull(world, beyond))).reason == "GENERATION_CHANGED"
    assert (await service.subscribe(world, beyond).end()).reason == "GENERATION_CHANGED"
    request = push_request(world.fork().cover(0))
    request.checkpoint.covers = beyond
    refused = await refusal(service.signed(world, PUSH, request))
    assert refused.reason == "GENERATION_CHANGED"
    at_end = service.server.cursors.seal(world.account_id, before)
    assert not (await service.pull(world, at_end)).ops


async def test_a_push_without_ops_is_malformed(service: Service, world: World) -> None:
    """An empty batch has no meaning."""
    refused = await refusal(service.push(world))
    assert (refused.reason, refused.metadata) == ("MALFORMED", {"field": "ops"})


async def test_a_page_larger_than_allowed_is_malformed(service: Service, world: World) -> None:
    """A limit above 1,000 is refused, not clipped in silence."""
    refused = await refusal(service.pull(world, limit=1_001))
    assert (refused.reason, refused.metadata) == ("MALFORMED", {"field": "limit"})


@pytest.mark.parametrize("by", [0, 1])
async def test_a_checkpoint_mark_is_for_own_control_ops(
    service: Service, world: World, by: int
) -> None:
    """Marked may be a control op of the caller's own, with a cursor of the account."""
    page = await service.pull(world)
    record, cover = world.op(by), world.cover(by)
    request = push_request(record, cover)
    request.checkpoint.covers = page.cursor
    for index, metadata in ((0, "checkpoint"), (1, "checkpoint" if by else "")):
        request.checkpoint.op_index = index
        if metadata:
            refused = await refusal(service.signed(world, PUSH, request))
            assert refused.metadata == {"index": str(index), "rule": metadata}
        else:
            await service.signed(world, PUSH, request)
    request.checkpoint.op_index = 2
    refused = await refusal(service.signed(world, PUSH, request))
    assert refused.metadata == {"field": "checkpoint.op_index"}
    request.checkpoint.op_index, request.checkpoint.covers = 1, b"x" * 32
    refused = await refusal(service.signed(world, PUSH, request, by=by))
    assert refused.reason == "CURSOR_INVALID"


async def test_large_ops_fill_pages_by_bytes(service: Service, world: World) -> None:
    """A page stops at about 1 MiB; what is left comes with the next one."""
    value = bytes(30_000)
    ops = [world.op(0, f"big/{number}", value) for number in range(60)]
    for start in range(0, 60, 30):
        await service.push(world, *ops[start : start + 30])
    page = await service.pull(world)
    assert (len(page.ops), page.more) == (60, False)
    page = await service.pull(world, limit=30)
    assert (len(page.ops), page.more) == (30, True)
    assert {len(raw) for raw in page.ops} == {op.OP_BYTES_MAX}
    assert await everything(service, world, 0) == [row.raw for row in ops]


def test_a_request_message_reads_as_the_api_says() -> None:
    """The builders of these tests make what proto/ documents."""
    assert sync_pb2.PushRequest.FromString(push_request(b"x").SerializeToString()).ops == [b"x"]
