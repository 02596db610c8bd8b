"""Workloads behind the real Envoy: whose certificate was shown decides, not what callers write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crypto import request
from crypto.policy import Bundle
from crypto.policy.access import Access, Grant, Role
from crypto.request import NO_ACCOUNT, CallKind
from deploy.proxies import DOMAIN
from rookery.v1 import operations_pb2, rounds_pb2
from services.access.hop import Claim
from services.access.xfcc import HEADER
from services.audit.record import Record, of_key, of_workload
from tests import governed_worlds
from tests.governed_worlds import KEY, OPEN, to_publish
from tests.mesh_processes import EDGE, Mesh, Proxy, channel
from tests.relay_worlds import LIST, PUBLISHER, STRANGER as OPERATOR, Relay, relaying
from tests.served import AUDIENCE, Refusal, nonce, refusal

AUDIT = "/rookery.v1.Operations/ListAudit"
CONSOLE, OTHER = f"{DOMAIN}/console", f"{DOMAIN}/other"
FORGED = ((HEADER, f"By={EDGE};Hash=00;URI={CONSOLE}"),)
LISTED = OPERATOR.public.hex()


@dataclass(slots=True)
class Meshed:
    """A governed relay behind its sidecar."""

    relay: Relay
    mesh: Mesh
    proxy: Proxy
    policy: Bundle | None = None

    async def allow(self, *roles: Role) -> None:
        """Puts a policy with these roles in force: operators may read the audit log, publishers
        list tasks."""
        kept = tuple(grant for grant in OPEN.grants if "Rounds" not in grant.method)
        grants = (Grant("operator", AUDIT, ("*",)), Grant("publisher", LIST, ("*",)))
        access = Access(roles, (*kept, *grants))
        self.policy = governed_worlds.bundle(self.policy, access=access)
        by: Any = SimpleNamespace(identity=KEY)
        await self.relay.call(by, "/rookery.v1.Policy/PublishPolicy", to_publish(self.policy))

    async def call(self, workload: str, method: str, by: Any = None, extra: Any = ()) -> bytes:
        """A call that a workload makes of the proxy, signed or not; Refusal."""
        payload = rounds_pb2.ListTasksRequest().SerializeToString()
        metadata = list(extra)
        if by is not None:
            auth = request.sign(
                by.identity, kind=CallKind.UNARY, method=method, audience=AUDIENCE,
                account_id=NO_ACCOUNT, ts_ms=self.relay.now_ms, nonce=nonce(), payload=payload,
            )  # fmt: skip
            metadata.append((request.METADATA_KEY, auth))
        async with channel(self.proxy, self.mesh, self.mesh.workload(workload)) as dialled:
            service = replace(self.relay.service, channel=dialled)
            values = [value for key, value in metadata if key == request.METADATA_KEY]
            return await service.raw(method, payload, values, extra=extra)


@pytest.fixture
async def meshed(mesh: Mesh, tmp_path: Path) -> AsyncIterator[Meshed]:
    """One whose sidecar dials over loopback, and is trusted for it."""
    settings: dict[str, Any] = {"policy_keys": (KEY.public.hex(),), "trusted_hop": "loopback"}
    async with relaying(tmp_path, **settings) as relay:
        proxy = await mesh.sidecar(
            relay.service.server.address, OPERATOR_IDENTITIES=f"{CONSOLE},{OTHER}"
        )
        yield Meshed(relay, mesh, proxy)


async def test_a_workload_that_the_policy_names_is_an_operator(meshed: Meshed) -> None:
    """Without any key, by its certificate; another one is not, whatever it says of itself."""
    await meshed.allow(Role("operator", (CONSOLE,), ()))
    answer = await meshed.call("console", AUDIT)
    entries = operations_pb2.ListAuditResponse.FromString(answer).entries
    assert entries
    for extra in ((), FORGED):
        denied = await refusal(meshed.call("other", AUDIT, extra=extra))
        assert denied.reason == "UNAUTHENTICATED"
    # The last entry is of the call before: nothing of those that were denied.
    rows = operations_pb2.ListAuditResponse.FromString(await meshed.call("console", AUDIT)).entries
    last = Record.decode(rows[-1].body)
    assert last.who == f"workload:{of_workload(CONSOLE)}"
    assert len(rows) == len(entries) + 1


async def test_a_role_with_keys_and_workloads_wants_both(meshed: Meshed) -> None:
    """The key by another workload is denied, and the workload without the key."""
    await meshed.allow(Role("operator", (f"{DOMAIN}/console/*",), (LISTED,)))
    denied = await refusal(meshed.call("console", AUDIT))
    assert denied.reason == "UNAUTHENTICATED"
    for extra in ((), FORGED):
        denied = await refusal(meshed.call("other", AUDIT, OPERATOR, extra))
        assert denied.reason == "ACCESS_DENIED"
    await meshed.allow(Role("operator", (CONSOLE,), (LISTED,)))
    rows = operations_pb2.ListAuditResponse.FromString(
        await meshed.call("console", AUDIT, OPERATOR)
    ).entries
    assert rows
    again = await meshed.call("console", AUDIT, OPERATOR)
    last = Record.decode(operations_pb2.ListAuditResponse.FromString(again).entries[-1].body)
    assert (last.who, last.workload) == (of_key(OPERATOR.public), of_workload(CONSOLE))


async def test_a_publisher_is_bound_to_its_workload(meshed: Meshed) -> None:
    """Its key through the edge is allowed; the same key past the sidecar is not."""
    await meshed.allow(Role("publisher", (EDGE,), ()))
    await meshed.call("edge", LIST, PUBLISHER)
    denied = await refusal(meshed.relay.call(PUBLISHER, LIST, rounds_pb2.ListTasksRequest()))
    assert denied.reason == "ACCESS_DENIED"


@pytest.mark.parametrize(("hop", "claim"), [("", Claim.STRANGER), ("10.9.9.9", Claim.STRANGER)])
async def test_from_anybody_but_the_hop_a_claim_is_ignored_and_counted(
    tmp_path: Path, hop: str, claim: Claim
) -> None:
    """Who dials the service itself is no workload, whatever header it sends."""
    settings: dict[str, Any] = {"policy_keys": (KEY.public.hex(),), "trusted_hop": hop}
    async with relaying(tmp_path, **settings) as relay:
        metrics = relay.service.server.metrics
        policy = governed_worlds.bundle(
            access=replace(
                OPEN,
                roles=(Role("operator", (CONSOLE,), ()),),
                grants=(*OPEN.grants, Grant("operator", AUDIT, ("*",))),
            )
        )
        by: Any = SimpleNamespace(identity=KEY)
        await relay.call(by, "/rookery.v1.Policy/PublishPolicy", to_publish(policy))
        with pytest.raises(Refusal) as refused:
            await relay.service.raw(AUDIT, b"", extra=FORGED)
        assert refused.value.reason == "UNAUTHENTICATED"
        counted = metrics.registry.get_sample_value(
            "rookery_workload_claims_total", {"outcome": claim.value}
        )
        assert counted == 1
