"""The shipped access matrix against a real server: every role, every method that is served.

What is expected is read from the bundle's own words (`Access.allows`), not from what the service
compiles out of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from client.policykit import folder
from crypto import request
from crypto.policy import FIRST, Bundle
from crypto.policy.access import Access, Grant, Role
from crypto.request import NO_ACCOUNT, CallKind
from rookery.v1 import operations_pb2, policy_pb2, rounds_pb2
from services import listed
from services.call import KeyStream, KeyUnary, OpenUnary, Route, SignedStream, SignedUnary
from services.listed import Listed
from tests.governed_worlds import KEY, to_publish
from tests.relay_worlds import (
    ANALYST,
    COLLECT,
    LIST,
    PARTIES,
    PUBLISH,
    PUBLISHER,
    RESULT,
    STRANGER,
    Actor,
    Relay,
    manifest,
    relaying,
    result,
    signed_round,
    signed_task,
    task,
)
from tests.round_stored import stored
from tests.served import AUDIENCE, Refusal, nonce, refusal
from tests.service_process import ROOT

PUBLISH_POLICY = "/rookery.v1.Policy/PublishPolicy"
AUDIT = "/rookery.v1.Operations/ListAudit"
OPERATOR = STRANGER
ROLES = {
    "publisher": PUBLISHER, "analyst": ANALYST, "party": PARTIES[0], "operator": OPERATOR,
}  # fmt: skip
DENIED = ("ACCESS_DENIED", "ROLE_MISSING", "UNAUTHENTICATED")


def shipped(**changes: Any) -> Bundle:
    """The shipped policy, with an operator's key in it; `changes` are fields of it."""
    draft = folder.read(ROOT / "deploy" / "policy")
    made = draft.bundle(sequence=1, previous=FIRST, issued_ms=1)
    operator = Role("operator", (), (OPERATOR.public.hex(),))
    others = tuple(role for role in made.access.roles if role.name != "operator")
    access = replace(made.access, roles=(*others, operator))
    return replace(made, **{"access": access} | changes)


@dataclass(slots=True)
class Asked:
    """A governed relay, as one role after another calls it."""

    relay: Relay

    async def publish(self, made: Bundle) -> None:
        """Puts a bundle in force."""
        await self.key(KEY, PUBLISH_POLICY, to_publish(made).SerializeToString())

    async def key(self, by: Any, method: str, payload: bytes = b"") -> bytes:
        """A call by a key without an account; Refusal."""
        return await self.relay.service.raw(method, payload, [self._auth(by, method, payload)])

    def _auth(self, by: Any, method: str, payload: bytes, kind: Any = CallKind.UNARY) -> bytes:
        return request.sign(
            by, kind=kind, method=method, audience=AUDIENCE, account_id=NO_ACCOUNT,
            ts_ms=self.relay.now_ms, nonce=nonce(), payload=payload,
        )  # fmt: skip

    async def outcome(self, role: str, route: Route) -> str:
        """What an empty request of the role comes to: a reason, or OK."""
        service, method = self.relay.service, route.method
        streams = isinstance(route, SignedStream | KeyStream)
        kind = CallKind.STREAM if streams else CallKind.UNARY
        if role == "anyone":
            values = []
        elif role == "device":
            # Of its own each time: one of the calls deletes the account.
            world = await service.account(method)
            identity = world.authors[0].identity
            values = [service.auth(identity, world, method, b"", kind=kind)]
        else:
            by = KEY if role == "policy" else ROLES[role].identity
            values = [self._auth(by, method, b"", kind)]
        metadata = tuple((request.METADATA_KEY, value) for value in values)
        try:
            if streams:
                stub: Any = service.channel.unary_stream(method)
                call = stub(b"", metadata=metadata, timeout=20)
                try:
                    await call.read()
                finally:
                    call.cancel()
            else:
                unary: Any = service.channel.unary_unary(method)
                await unary(b"", metadata=metadata, timeout=20)
        except grpc.aio.AioRpcError as error:
            return Refusal.of(error).reason
        return "OK"


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Asked]:
    """A relay under the shipped policy, with a round of three parties in its store."""
    async with relaying(tmp_path, policy_keys=(KEY.public.hex(),)) as relay:
        made = Asked(relay)
        await stored(relay.service.server.store, manifest(task(), relay.now_ms - 1_000))
        await made.publish(shipped())
        yield made


def takes(route: Route, role: str) -> bool:
    """Whether the route itself takes the role."""
    if isinstance(route, SignedUnary | SignedStream):
        return role == "device"
    return role == route.role.value if isinstance(route, KeyUnary | KeyStream) else True


@pytest.mark.parametrize("role", ["anyone", "device", "policy", *ROLES])
async def test_a_role_may_call_what_the_matrix_says_and_nothing_else(
    asked: Asked, role: str
) -> None:
    """Every method of every service; where it is allowed, an empty request gets to the handler."""
    access = shipped().access
    allowed = set()
    for method, route in asked.relay.service.server.edge.routes.items():
        # Nobody looks at a signature where none is wanted.
        as_role = "anyone" if isinstance(route, OpenUnary) else role
        granted = access.allows(as_role, method) or access.allows("anyone", method)
        got = await asked.outcome(role, route)
        if as_role == "anyone" and not isinstance(route, OpenUnary):
            assert got == "UNAUTHENTICATED", method
        elif not granted:
            assert got == "ACCESS_DENIED", method
        elif not takes(route, as_role):
            assert got == "ROLE_MISSING", method
        else:
            assert got not in DENIED, (method, got)
            allowed.add(method)
    named = {
        method
        for grant in access.grants
        for method in asked.relay.service.server.edge.routes
        if grant.role in (role, "anyone") and grant.method == method
    }
    assert allowed == named


async def test_before_the_first_bundle_only_it_can_be_published(tmp_path: Path) -> None:
    """All else is denied, to whoever asks."""
    open_ = {PUBLISH_POLICY, "/rookery.v1.Policy/GetPolicy", "/rookery.v1.Accounts/GetServerKeys"}
    async with relaying(tmp_path, policy_keys=(KEY.public.hex(),)) as relay:
        asked = Asked(relay)
        for method, route in relay.service.server.edge.routes.items():
            got = await asked.outcome("policy", route)
            assert (got not in DENIED) == (method in open_), (method, got)
        denied = await refusal(relay.call(PUBLISHER, PUBLISH, signed_task(task())))
        assert denied.code is grpc.StatusCode.PERMISSION_DENIED
        assert denied.metadata == {"role": "publisher", "method": PUBLISH}
        await asked.publish(shipped())
        assert (await refusal(relay.call(PUBLISHER, PUBLISH, b"\xff"))).reason == "MALFORMED"


async def test_a_grant_for_a_purpose_is_for_tasks_of_that_purpose(asked: Asked) -> None:
    """Publishing, opening rounds and reading results are checked against the task's purpose."""
    relay = asked.relay
    base = shipped().access
    kept = tuple(
        grant for grant in base.grants
        if (grant.role, grant.method)
        not in (("publisher", PUBLISH), ("publisher", COLLECT), ("analyst", RESULT))
    )  # fmt: skip
    made = manifest(task(), relay.now_ms - 1_000)
    store = relay.service.server.store
    with relay.later(10_000_000):
        said = result(made, b"result")
        sigs = {row.party: row.sig for row in said.sigs}
        await store.rounds.seal_round(made.round_id)
        await store.rounds.publish_result(made.round_id, b"result", sigs, now_ms=relay.now_ms)
    calls = (
        (PUBLISHER, PUBLISH, signed_task(task())),
        (PUBLISHER, COLLECT, signed_round(made)),
        (ANALYST, RESULT, rounds_pb2.GetResultRequest(round_id=made.round_id)),
    )
    for purposes, is_denied in ((("statistics",), True), (("statistics", "product"), False)):
        # The purpose of the tests' task is none of the shipped policy's.
        grants = tuple(
            Grant("analyst" if by is ANALYST else "publisher", method, purposes)
            for by, method, _ in calls
        )
        relay.service.server.guard.take(replace(base, grants=(*kept, *grants)), 1)
        for by, method, message in calls:
            try:
                await relay.call(by, method, message)
                got = "OK"
            except Refusal as refused:
                got = refused.reason
            assert (got == "ACCESS_DENIED") is is_denied, (method, got)
    assert got == "OK"


async def test_a_new_bundle_ends_streams_that_it_does_not_allow(asked: Asked) -> None:
    """Not only new calls: who no longer may subscribe is told so at once."""
    service = asked.relay.service
    world = await service.account("streaming")
    stream = service.subscribe(world)
    assert await stream.caught_up() == []
    first = shipped()
    without = replace(
        first.access,
        grants=tuple(g for g in first.access.grants if not g.method.startswith("/rookery.v1.Sync")),
    )
    await asked.publish(replace(first, sequence=2, previous=first.hash, access=without))
    ended = await stream.end()
    assert (ended.reason, ended.metadata["role"]) == ("ACCESS_DENIED", "device")
    denied = await refusal(service.pull(world))
    assert denied.reason == "ACCESS_DENIED"


async def test_who_is_no_operator_any_more_is_nobody(asked: Asked) -> None:
    """Keys that a bundle gives are known while it lists them."""
    answer = operations_pb2.ListAuditResponse.FromString(await asked.key(OPERATOR.identity, AUDIT))
    assert answer.entries
    first = shipped()
    access = replace(first.access, roles=())
    await asked.publish(replace(first, sequence=2, previous=first.hash, access=access))
    gone = await refusal(asked.key(OPERATOR.identity, AUDIT))
    assert gone.reason == "UNAUTHENTICATED"
    assert policy_pb2.GetPolicyResponse.FromString(
        await asked.relay.service.raw("/rookery.v1.Policy/GetPolicy", b"")
    ).sequence == 2  # fmt: skip


async def test_a_role_of_the_policy_s_own_reads_what_it_is_granted(asked: Asked) -> None:
    """A key that only the policy knows may make calls that any known key may; no other."""
    first = shipped()
    outsider = Actor("outsider")
    role = Role("auditor", (), (outsider.public.hex(),))
    grants = Grant("auditor", LIST, ("*",)), Grant("auditor", PUBLISH, ("*",))
    access = replace(
        first.access,
        roles=(*first.access.roles, role),
        grants=(*first.access.grants, *grants),
    )
    await asked.publish(replace(first, sequence=2, previous=first.hash, access=access))
    assert await asked.key(outsider.identity, LIST)
    for method, reason in ((RESULT, "ACCESS_DENIED"), (PUBLISH, "ROLE_MISSING")):
        denied = await refusal(asked.key(outsider.identity, method))
        assert denied.reason == reason


async def test_a_service_is_governed_as_soon_as_its_settings_say_so(tmp_path: Path) -> None:
    """Lists of keys are taken up while it runs: until then everybody may, then nobody."""
    async with relaying(tmp_path) as relay:
        server = relay.service.server
        await relay.call(PUBLISHER, PUBLISH, signed_task(task()))
        server.keys.trusted = replace(server.keys.trusted, policy=(Listed(KEY.public),))
        denied = await refusal(relay.call(PUBLISHER, PUBLISH, signed_task(task())))
        assert denied.reason == "ACCESS_DENIED"
        await Asked(relay).publish(shipped())
        assert await Asked(relay).key(OPERATOR.identity, AUDIT)


@pytest.mark.parametrize("first", ["keys", "bundle"])
async def test_streams_of_before_the_first_policy_are_ended_by_it(
    tmp_path: Path, first: str
) -> None:
    """Opened while nothing was governed: the first keys end them, or the first bundle that does
    not allow them."""
    async with relaying(tmp_path) as relay:
        server, service = relay.service.server, relay.service
        world = await service.account("streaming")
        stream = service.subscribe(world)
        assert await stream.caught_up() == []
        publishers = listed.parse("policy_keys", (KEY.public.hex(),))
        server.keys.trusted = replace(server.keys.trusted, policy=publishers)
        if first == "keys":
            server.keys_taken()
        else:
            server.guard.take(Access((), (Grant("analyst", RESULT, ("*",)),)), 1)
        assert (await stream.end()).reason == "ACCESS_DENIED"
