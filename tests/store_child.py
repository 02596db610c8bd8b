"""A process that commits until it is killed: `python -m tests.store_child FILE`.

Prints "SEED COUNT" once the store has acknowledged that account's first COUNT ops.
"""

from __future__ import annotations

import asyncio
import os
import sys

from crypto.op import SealedOp
from services.store.sqlite import SqliteStore
from tests.store_worlds import Client
from tests.worlds import World

ACCOUNTS = 12
OPS_PER_PUSH = 3
PUSHES_MAX = 400


def next_push(world: World) -> list[SealedOp]:
    """The account's next push: the same ops in every process. Some supersede older ones."""
    start = world.authors[0].dev_seq
    return [world.op(key=f"{(start + number) % 7}") for number in range(OPS_PER_PUSH)]


async def commit_for_ever(store: SqliteStore, seed: int) -> None:
    """Goes on where the file stands."""
    client = await Client.create(store, seed)
    _, heads = await store.heads(client.world.account_id)
    done = heads[0][1].seq if heads else 0
    for _ in range(PUSHES_MAX):
        ops = next_push(client.world)
        if client.world.authors[0].dev_seq > done:
            await client.push(*ops)
            os.write(1, f"{seed} {client.world.authors[0].dev_seq}\n".encode())


async def main(path: str) -> None:
    """Commits for all accounts at once."""
    store = await SqliteStore.open(path)
    await asyncio.gather(*(commit_for_ever(store, seed) for seed in range(ACCOUNTS)))
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
