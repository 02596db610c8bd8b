"""Accounts at the target of a load test: made with real keys, filled, and deleted after it."""

from __future__ import annotations

import asyncio
import copy
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from bench.accounts import Account
from client.backoff import Backoff
from client.endpoint import Endpoint
from client.remote import Remote
from client.steps import CreateAccount, Push
from client.transport import Signer, Transport
from crypto import enrol, link
from deploy.load.plan import SLACK_MS, PlanError, Scenario, Seeded, device_plan

_AT_ONCE: Final = 8
_FIRST_OPS: Final = 10
_TOKEN_MS: Final = 3_600_000
# A service that takes only so many new accounts a second from one address is waited for.
_PATIENT: Final = Backoff(tries_max=60)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to, and what makes accounts there if proof of work does not."""

    endpoint: Endpoint
    token_key: enrol.TokenKey | None = None

    def transport(self) -> Transport:
        """Connections of their own."""
        return Transport(self.endpoint, backoff=_PATIENT)


async def make_accounts(target: Target, count: int) -> list[Seeded]:
    """Enrols `count` accounts and gives each its first ops."""
    transport = target.transport()
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one() -> Seeded:
        account = Account.make(target.endpoint.audience)
        async with gate:
            remote = Remote(transport, Signer(account.identity, account.account_id))
            await remote.create_account(
                CreateAccount(account.genesis, ()), token=_token(target, account)
            )
            await remote.push(Push(tuple(account.seal(_FIRST_OPS))))
            return Seeded(account, (await remote.pull(b"")).cursor)

    try:
        return list(await asyncio.gather(*(one() for _ in range(count))))
    finally:
        await transport.close()


async def delete_accounts(target: Target, seeded: Sequence[Seeded]) -> None:
    """Leaves nothing behind."""
    transport = target.transport()
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(account: Account) -> None:
        async with gate:
            signer = Signer(account.identity, account.account_id)
            await Remote(transport, signer).delete_account(signer)

    try:
        await asyncio.gather(*(one(each.account) for each in seeded))
    finally:
        await transport.close()


def plan(
    target: Target, seeded: Sequence[Seeded], scenario: Scenario, *, lead_s: float
) -> list[dict[str, Any]]:
    """The head of the plan, then each device's, which begin `lead_s` from now; PlanError.

    Signatures are made for a moment that is guessed from the first device's plan. How far the
    guess was off is taken from the time that a signature may wait.
    """
    cores = os.cpu_count() or 1
    began_s = time.monotonic()
    _plans(seeded[:1], scenario, 0)
    guess_s = (time.monotonic() - began_s) * (len(seeded) + cores) / cores + lead_s
    guess_ms = _now_ms() + int(1000 * guess_s)
    with ProcessPoolExecutor(cores) as pool:
        parts = [seeded[number::cores] for number in range(cores) if seeded[number::cores]]
        running = [pool.submit(_plans, part, scenario, guess_ms) for part in parts]
        devices = [device for part in running for device in part.result()]
    start_ms = _now_ms() + int(1000 * lead_s)
    if abs(start_ms - guess_ms) > SLACK_MS:
        raise PlanError("signing took longer than two minutes bear: fewer devices, or less long")
    address = target.endpoint.targets[0]
    ca = target.endpoint.tls_ca
    head = {
        "target": address,
        "plaintext": target.endpoint.plaintext(address),
        "tls": {} if ca is None else {"cacerts": ca.decode("ascii")},
        "start_ms": start_ms,
        "seconds": scenario.seconds,
        "spike": _spike_ms(scenario),
    }
    return [head, *devices]


def _spike_ms(scenario: Scenario) -> list[float]:
    """From when until when calls may be late, in ms after the beginning."""
    if scenario.spike is None:
        return [0, 0]
    return [1000 * scenario.spike.begin_s, 1000 * (scenario.spike.end_s + scenario.spike.after_s)]


def _plans(seeded: Sequence[Seeded], scenario: Scenario, start_ms: int) -> list[dict[str, Any]]:
    rng = random.Random(os.urandom(8))
    copies = [Seeded(copy.deepcopy(each.account), each.cursor) for each in seeded]
    return [device_plan(each, scenario, start_ms=start_ms, rng=rng) for each in copies]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _token(target: Target, account: Account) -> bytes | None:
    if target.token_key is None:
        return None
    token = enrol.Token(
        link.parse(account.genesis.raw).link_hash,
        os.urandom(32),
        _now_ms() + _TOKEN_MS,
    )
    return target.token_key.issue(token, target.endpoint.audience)
