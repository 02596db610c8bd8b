"""A governed relay, and an operator at a desk. Shared by tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from crypto.policy.access import Grant, Role
from tests import analyst_samples, governed_worlds
from tests.analyst_worlds import Desktop
from tests.governed_worlds import KEY, OPEN, to_publish
from tests.relay_worlds import STRANGER as OPERATOR, Relay, manifest, relaying, result, task
from tests.round_stored import stored

OPERATIONS = "/rookery.v1.Operations/*"


@dataclass(slots=True)
class Office:
    """A governed relay, and an operator at a desk."""

    relay: Relay
    desk: Desktop

    async def json(self, *arguments: str, code: int = 0) -> Any:
        """What a command prints for programs."""
        verb, *more = arguments
        return json.loads((await self.desk.run(verb, *more, "--json", code=code)).out)

    async def opened_round(self) -> None:
        """A round with a result, with noise, that its parties signed."""
        measured = task()
        held = manifest(measured, self.relay.now_ms - 500_000)
        store = self.relay.service.server.store
        await stored(store, held)
        told = analyst_samples.result(measured, [1, 1, 2, 5], seed="x")
        signed = result(held, told.encode(measured))
        await store.rounds.publish_result(
            held.round_id,
            signed.result,
            {row.party: row.sig for row in signed.sigs},
            now_ms=self.relay.now_ms,
        )


@asynccontextmanager
async def open_office(path: Path) -> AsyncIterator[Office]:
    """One whose policy lists the operator's key."""
    async with relaying(path, policy_keys=(KEY.public.hex(),)) as relay:
        operator = Role("operator", (), (OPERATOR.public.hex(),))
        grants = (*OPEN.grants, Grant("operator", OPERATIONS, ("*",)))
        policy = governed_worlds.bundle(access=replace(OPEN, roles=(operator,), grants=grants))
        by: Any = SimpleNamespace(identity=KEY)
        await relay.call(by, "/rookery.v1.Policy/PublishPolicy", to_publish(policy))
        desk = Desktop.of(path, relay.service, OPERATOR.seed)
        yield Office(relay, replace(desk, program="operator"))
