"""Tasks, rounds and reports as a store sees them: bytes, and who gave them. Shared by tests."""

from __future__ import annotations

import random

from services.store.base import Store
from services.store.governance import ConsentClaim
from services.store.rounds import Contribution, RoundRow, TaskRow
from tests.store_worlds import NOW_MS, Client

M = 3
OPEN_MS, CLOSE_MS, UNTIL_MS = NOW_MS, NOW_MS + 60_000, NOW_MS + 90_000


def task(name: bytes = b"task") -> TaskRow:
    """A task; to a store it is bytes."""
    return TaskRow(name, name.ljust(32, b"h"), b"p" * 32, b"cbor of " + name, b"s" * 64)


def round_(name: bytes = b"round", of: bytes = b"task", **changes: int) -> RoundRow:
    """A round of three parties; to a store it is bytes, too."""
    times = {"open_ms": OPEN_MS, "close_ms": CLOSE_MS, "until_ms": UNTIL_MS} | changes
    return RoundRow(
        round_id=name.ljust(16, b"r"),
        spec_hash=of.ljust(32, b"h"),
        manifest=b"manifest of " + name,
        sigs=tuple(bytes([party]) * 64 for party in range(M)),
        parties=tuple(bytes([65 + party]) * 32 for party in range(M)),
        **times,
    )


def rows(seed: object, size: int = 600) -> tuple[bytes, ...]:
    """What one report has for each party."""
    rng = random.Random(f"rows {seed}")
    return tuple(bytes([party]) + rng.randbytes(size) for party in range(M))


class Round:
    """A round in a store, and accounts that contribute."""

    def __init__(self, store: Store, row: RoundRow) -> None:
        self.store = store
        self.row = row

    async def give(
        self,
        client: Client,
        data: tuple[bytes, ...],
        now_ms: int = OPEN_MS,
        *,
        consent: ConsentClaim | None = None,
    ) -> bool:
        """One contribution."""
        account_id = client.world.account_id
        return await self.store.rounds.contribute(
            Contribution(self.row.round_id, account_id, data, now_ms, consent=consent)
        )

    async def boxes(self, party: int, after: int = 0, bytes_max: int = 1 << 18) -> list[bytes]:
        """Everything of a party after a position."""
        found: list[bytes] = []
        more = True
        while more:
            page = await self.store.rounds.read_boxes(
                self.row.round_id, party, after, bytes_max=bytes_max
            )
            assert page.rows or not page.more
            assert page.position >= after
            found += page.rows
            after, more = page.position, page.more
        return found


async def collected(store: Store) -> Round:
    """The same, in any store."""
    assert await store.rounds.publish_task(task())
    assert await store.rounds.collect_round(round_())
    return Round(store, round_())


async def people(store: Store, count: int) -> list[Client]:
    """Accounts."""
    return [await Client.create(store, f"person {number}") for number in range(count)]
