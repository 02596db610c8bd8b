"""Pull and Subscribe at a slow, even pace, to see which of them a service refuses. A helper."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from bench import load
from bench.accounts import PULL, SUBSCRIBE, Account
from bench.crowd import outcome
from crypto.request import METADATA_KEY, CallKind

PACE_S = 0.05
_DEADLINE_S = 20
Outcomes = dict[str, Counter[str]]
"""By method, how calls ended: OK, or as `bench.crowd.outcome` says."""


async def read(
    address: str, accounts: Sequence[Account], seconds: float, *, dial: load.Dial | None = None
) -> Outcomes:
    """One of each every `PACE_S`, with the accounts in turn; a stream is closed once it is
    open. `dial`: another way than straight to the address."""
    outcomes: Outcomes = {PULL: Counter(), SUBSCRIBE: Counter()}
    one = dial() if dial else load.channel(address)
    pull = load.unary(one, PULL)
    subscribe: Any = one.unary_stream(SUBSCRIBE)

    async def pulled(account: Account) -> None:
        await pull(b"", metadata=((METADATA_KEY, account.sign(PULL, b"")),), timeout=_DEADLINE_S)

    async def subscribed(account: Account) -> None:
        auth = account.sign(SUBSCRIBE, b"", CallKind.STREAM)
        stream = subscribe(b"", metadata=((METADATA_KEY, auth),), timeout=_DEADLINE_S)
        await anext(aiter(stream))
        stream.cancel()

    async def both(account: Account) -> None:
        for method, call in ((PULL, pulled), (SUBSCRIBE, subscribed)):
            try:
                await call(account)
            except grpc.aio.AioRpcError as error:
                outcomes[method][outcome(error)] += 1
            else:
                outcomes[method]["OK"] += 1

    end = time.perf_counter() + seconds
    async with asyncio.TaskGroup() as group:
        for account in itertools.cycle(accounts):
            group.create_task(both(account))
            await asyncio.sleep(PACE_S)
            if time.perf_counter() >= end:
                break
    await one.close()
    return outcomes


def refused(ended: Counter[str]) -> float:
    """The share that did not end well."""
    return 1 - ended["OK"] / ended.total()
