"""The relay of joint aggregates, called as by those it serves: tasks, roles, rounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from crypto.field import FIELD61
from crypto.ids import AccountId
from crypto.request import NO_ACCOUNT, CallKind
from mpc.kinds import Vector
from mpc.noise import Law, Mechanism
from rookery.v1 import rounds_pb2
from tests.relay_worlds import (
    ANALYST,
    COLLECT,
    CONTRIBUTE,
    FINISH,
    GRACE_MS,
    LIST,
    PARTIES,
    PUBLISH,
    PUBLISHER,
    RESULT,
    RIVAL,
    ROUND,
    STRANGER,
    UNARY,
    WINDOW_MS,
    Actor,
    Relay,
    manifest,
    people,
    refused,
    relaying,
    report,
    result,
    signed_round,
    signed_task,
    task,
)
from tests.served import PULL
from tests.worlds import World

DAY_MS = 86_400_000


# --- tasks ---


async def test_a_task_is_published_once_and_never_changes(relay: Relay) -> None:
    """Equal bytes again are fine; other bytes under its id are refused, whoever signs them."""
    made = task()
    assert await relay.publish(made) == made.spec_hash
    assert await relay.publish(made) == made.spec_hash
    changed = task(title="Another title")
    for by, other in ((PUBLISHER, changed), (RIVAL, changed), (RIVAL, made)):
        failed = await refused(relay.call(by, PUBLISH, signed_task(other, by)))
        assert failed == ("ABORTED", "TASK_CONFLICT", {})
    answer = await relay.call(ANALYST, LIST, rounds_pb2.ListTasksRequest())
    [listed] = rounds_pb2.ListTasksResponse.FromString(answer).tasks
    assert listed.task.task == made.encoded
    assert listed.task.sig == signed_task(made).sig
    assert listed.task.publisher == PUBLISHER.public


async def test_a_task_must_be_sound_and_signed_by_its_caller(relay: Relay) -> None:
    """Each way in which it may not be has its rule; nothing of it is stored."""
    good = signed_task(task())
    for message, rule in (
        (signed_task(task(), RIVAL), "signature"),
        (rounds_pb2.PublishTaskRequest(task=good.task, sig=good.sig[:-1]), "signature"),
        (rounds_pb2.PublishTaskRequest(task=good.task[:-1], sig=good.sig), "signature"),
        (rounds_pb2.PublishTaskRequest(sig=good.sig), "length"),
        (signed_task(task(noise=None)), "noise-none"),
        (signed_task(_Raw(b"\xa0")), "task-fields"),  # type: ignore[arg-type]
        (signed_task(_Raw(b"\xff" * 50)), "cbor"),  # type: ignore[arg-type]
        (signed_task(_Raw(b"\x81" * 60_000)), "cbor"),  # type: ignore[arg-type]
        (signed_task(_Raw(good.task.replace(b"gversion\x01", b"gversion\xf5"))), "cbor-form"),  # type: ignore[arg-type]
    ):
        failed = await refused(relay.call(PUBLISHER, PUBLISH, message))
        assert failed == ("INVALID_ARGUMENT", "TASK_INVALID", {"rule": rule})
    failed = await refused(
        relay.call(PUBLISHER, PUBLISH, signed_task(_Raw(bytes((1 << 18) + 1))))  # type: ignore[arg-type]
    )
    assert failed == (
        "RESOURCE_EXHAUSTED", "QUOTA", {"limit": "task_bytes", "value": str(1 << 18)},
    )  # fmt: skip
    answer = await relay.call(ANALYST, LIST, rounds_pb2.ListTasksRequest())
    assert not rounds_pb2.ListTasksResponse.FromString(answer).tasks


class _Raw:
    """Bytes in the place of a task."""

    def __init__(self, encoded: bytes) -> None:
        self.encoded = encoded


async def test_a_task_that_nobody_could_answer_is_refused(tmp_path: Path) -> None:
    """One whose reports are larger than the service reads."""
    async with relaying(tmp_path, receive_bytes_max=(1 << 20) + (64 << 10)) as relay:
        wide: dict[str, Any] = {
            "kind": Vector(FIELD61, 4_000, 16, 1 << 30),
            "kappa": 1,
            "noise": Law(Mechanism.GAUSSIAN, 1_000_000_000),
        }
        await relay.publish(task("three-parties", **wide))
        five = task("five-parties", m=5, **wide)
        failed = await refused(relay.call(PUBLISHER, PUBLISH, signed_task(five)))
        assert failed == ("INVALID_ARGUMENT", "TASK_INVALID", {"rule": "report-bytes"})


async def test_tasks_are_listed_page_by_page_with_their_rounds(relay: Relay) -> None:
    """Any caller reads them; a task shows rounds that are open or announced."""
    [person] = await people(relay, 1)
    tasks = [task(f"task-{number:03}") for number in range(70)]
    for made in tasks:
        await relay.publish(made)
    now_ms = relay.now_ms
    rounds = [manifest(tasks[1], now_ms + ms, ms) for ms in (-1_000, WINDOW_MS, 3 * WINDOW_MS)]
    for one in rounds:
        await relay.collect(one)
    for by in (person, PUBLISHER, ANALYST, PARTIES[2]):
        found: list[rounds_pb2.ListedTask] = []
        page = rounds_pb2.ListTasksResponse(more=True)
        while page.more:
            page = rounds_pb2.ListTasksResponse.FromString(
                await relay.call(by, LIST, rounds_pb2.ListTasksRequest(after=page.next))
            )
            found += page.tasks
        assert [row.task.task for row in found] == [made.encoded for made in tasks]
        assert [(row.round_id, row.state) for row in found[1].rounds] == [
            (rounds[0].round_id, rounds_pb2.ROUND_STATE_OPEN),
            (rounds[1].round_id, rounds_pb2.ROUND_STATE_ANNOUNCED),
            (rounds[2].round_id, rounds_pb2.ROUND_STATE_ANNOUNCED),
        ]
        assert not found[0].rounds
        assert not any(row.result_round_id for row in found)
    said = b"what the parties signed"
    with relay.later(WINDOW_MS + GRACE_MS):
        await relay.call(PARTIES[0], FINISH, result(rounds[0], said))
        page = rounds_pb2.ListTasksResponse.FromString(
            await relay.call(person, LIST, rounds_pb2.ListTasksRequest())
        )
    assert [row.result_round_id for row in page.tasks[:3]] == [b"", rounds[0].round_id, b""]


# --- who may what ---


async def test_only_known_keys_are_answered_and_each_in_its_role(relay: Relay) -> None:
    """A key that nobody knows gets the answer of all strangers; a known one is told the role."""
    [person] = await people(relay, 1)
    opened = await relay.opened()
    get = rounds_pb2.GetRoundRequest(round_id=opened.round_id)
    messages: dict[str, Message | bytes] = {
        PUBLISH: signed_task(task("other")), COLLECT: signed_round(opened), LIST: b"", ROUND: get,
        RESULT: get, CONTRIBUTE: report(opened, 1), FINISH: result(opened, b"x"),
    }  # fmt: skip
    may_not: dict[str, tuple[str, list[Actor | World]]] = {
        PUBLISH: ("publisher", [ANALYST, PARTIES[0], person]),
        COLLECT: ("publisher", [RIVAL, ANALYST, PARTIES[0], person]),
        CONTRIBUTE: ("device", [PUBLISHER, ANALYST, PARTIES[0]]),
        FINISH: ("party", [PUBLISHER, ANALYST, person]),
    }
    for method, (role, callers) in may_not.items():
        for by in callers:
            failed = await refused(relay.call(by, method, messages[method]))
            assert failed == ("PERMISSION_DENIED", "ROLE_MISSING", {"role": role})
    for method in UNARY:
        failed = await refused(relay.call(STRANGER, method, messages[method]))
        assert failed == ("UNAUTHENTICATED", "UNAUTHENTICATED", {})
    readers: list[Actor | World] = [person, PUBLISHER, ANALYST, *PARTIES]
    for by in readers:
        assert (await relay.round(by, opened.round_id)).manifest == opened.encoded
    # The sync half is for devices alone.
    for key in (PUBLISHER, PARTIES[0]):
        failed = await refused(relay.call(key, PULL, b""))
        assert failed == ("PERMISSION_DENIED", "ROLE_MISSING", {"role": "device"})


async def test_a_signature_of_a_key_is_good_once_and_for_one_thing(relay: Relay) -> None:
    """Not sent again, not for other bytes, another method, kind of call or account."""
    payload = rounds_pb2.ListTasksRequest().SerializeToString()
    value = relay.auth(ANALYST, LIST, payload)
    await relay.service.raw(LIST, payload, [value])
    [person] = await people(relay, 1)
    for method, sent, auth in (
        (LIST, payload, value),
        (LIST, b"\x08\x01", relay.auth(ANALYST, LIST, payload)),
        (ROUND, payload, relay.auth(ANALYST, LIST, payload)),
        (LIST, payload, relay.auth(ANALYST, LIST, payload, kind=CallKind.STREAM)),
        (LIST, payload, relay.auth(ANALYST, LIST, payload, account=person.account_id)),
        (LIST, payload, relay.auth(ANALYST, LIST, payload, account=AccountId(b"\1" * 32))),
    ):
        failed = await refused(relay.service.raw(method, sent, [auth]))
        assert failed == ("UNAUTHENTICATED", "UNAUTHENTICATED", {})
    # A device can't pass for a key by leaving its account out.
    identity = person.authors[0].identity
    actor = Actor("device")
    actor.identity = identity
    failed = await refused(relay.call(actor, LIST, b""))
    assert failed == ("UNAUTHENTICATED", "UNAUTHENTICATED", {})
    assert bytes(NO_ACCOUNT) == bytes(32)


# --- rounds ---


async def test_a_round_needs_every_signature_and_its_task(relay: Relay) -> None:
    """Each way in which a manifest may be wrong has its rule or its reason."""
    made, now_ms = task(), relay.now_ms
    await relay.publish(made)
    good = manifest(made, now_ms)
    message = signed_round(good)
    forged = signed_round(good, [PARTIES[0], PARTIES[1], STRANGER])
    swapped = signed_round(good, [PARTIES[1], PARTIES[0], PARTIES[2]])
    two = rounds_pb2.CollectRoundRequest(manifest=message.manifest, sigs=message.sigs[:2])
    four = rounds_pb2.CollectRoundRequest(
        manifest=message.manifest, sigs=[*message.sigs, message.sigs[0]]
    )
    short = rounds_pb2.CollectRoundRequest(manifest=message.manifest, sigs=[b"", b"", b""])
    cut = rounds_pb2.CollectRoundRequest(manifest=message.manifest[:-1], sigs=message.sigs)
    invalid = (
        (forged, "signature"), (swapped, "signature"), (two, "signatures"), (four, "signatures"),
        (short, "signature"), (cut, "length"), (rounds_pb2.CollectRoundRequest(), "length"),
        (signed_round(replace(good, k_min=3)), "round-k-min"),
        (signed_round(replace(good, close_ms=good.close_ms + 1)), "round-window"),
    )  # fmt: skip
    for sent, rule in invalid:
        failed = await refused(relay.call(PUBLISHER, COLLECT, sent))
        assert failed == ("INVALID_ARGUMENT", "MANIFEST_INVALID", {"rule": rule})
    over = manifest(made, now_ms - WINDOW_MS - GRACE_MS - 1_000)
    dying = task("dying", expires_ms=now_ms + WINDOW_MS - 1)
    await relay.publish(dying)
    for wrong, failure in (
        (manifest(task("unknown"), now_ms), ("NOT_FOUND", "TASK_UNKNOWN", {})),
        (manifest(dying, now_ms), ("FAILED_PRECONDITION", "TASK_EXPIRED", {})),
        (over, ("FAILED_PRECONDITION", "ROUND_CLOSED",
                {"close_ms": str(over.close_ms + GRACE_MS)})),
    ):  # fmt: skip
        assert await refused(relay.call(PUBLISHER, COLLECT, signed_round(wrong))) == failure
    failed = await refused(relay.round(ANALYST, good.round_id))
    assert failed == ("NOT_FOUND", "ROUND_UNKNOWN", {})


async def test_a_round_stands_as_it_was_signed(relay: Relay) -> None:
    """Equal bytes again are fine, also when it is over; a second one of its window is refused;
    what was signed comes out byte for byte."""
    made = task()
    await relay.publish(made)
    good = manifest(made, relay.now_ms)
    assert await relay.collect(good) == good.digest
    assert await relay.collect(good) == good.digest
    same_id = replace(good, open_ms=good.close_ms, close_ms=good.close_ms + WINDOW_MS)
    for other in (
        manifest(made, good.open_ms, "window"),
        manifest(made, good.close_ms - 1, "late"),
        same_id,
    ):
        failed = await refused(relay.call(PUBLISHER, COLLECT, signed_round(other)))
        assert failed == ("ABORTED", "ROUND_CONFLICT", {})
    await relay.collect(manifest(made, good.close_ms, "next"))
    found = await relay.round(ANALYST, good.round_id)
    assert found.manifest == good.encoded
    assert list(found.sigs) == list(signed_round(good).sigs)
    assert found.task.task == made.encoded
    assert found.summary.close_ms == good.close_ms + GRACE_MS
    with relay.later(10 * WINDOW_MS):
        assert await relay.collect(good) == good.digest
