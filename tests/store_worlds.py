"""What tests of the store share: a world whose uploads and ops go to a store."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from crypto import op
from crypto.cert import Role
from crypto.op import SealedOp
from services.store.base import Batch, Committed, Limits, OpRow, Page, Store, StoredLink
from services.store.sqlite import SqliteStore
from tests.worlds import World

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
PAGE_BYTES = 1 << 20

Factory = Callable[..., Awaitable[Store]]


def row_of(sealed: SealedOp) -> OpRow:
    """The row that the push handler makes of an op."""
    header = sealed.header
    return OpRow(
        raw=sealed.raw,
        epoch=header.epoch,
        device_id=header.device_id,
        dev_seq=header.dev_seq,
        prev=header.prev,
        lamport=header.lamport,
        tag=header.tag,
        op_hash=sealed.op_hash,
        kind=header.kind,
        ct_hash=sealed.ct_hash,
    )


def stub_of(sealed: SealedOp) -> SealedOp:
    """The op as others hand it on once it is superseded."""
    return op.parse_stub(sealed.stub)


@dataclass(slots=True)
class Client:
    """Pushes and pulls for one world, as any of its devices."""

    store: Store
    world: World
    now_ms: int = NOW_MS

    @classmethod
    async def create(cls, store: Store, seed: int | str = 0, *, devices: int = 1) -> Client:
        """A world whose account and devices the store knows."""
        client = cls(store, World.create(seed))
        await store.create_account(client.world.genesis, subject_row=None, now_ms=NOW_MS)
        for _ in range(devices - 1):
            await client.add()
        return client

    async def add(self, role: Role = Role.FULL) -> None:
        """One more device."""
        self.world.add(role)
        await self.send_link()

    async def rotate(self, revoke: Sequence[int] = (), *, by: int = 0) -> None:
        """A new epoch."""
        self.world.rotate(revoke, by=by)
        await self.send_link()

    async def send_link(self) -> bool:
        """Uploads the newest link of the world."""
        upload = self.world.uploads[-1]
        return await self.store.append_link(
            self.world.account_id, upload.link, upload.grants, now_ms=self.now_ms
        )

    async def make_again(self, later: Sequence[StoredLink]) -> bool:
        """Makes the account of which the store knows nothing."""
        return await self.store.create_account(
            self.world.genesis, later=later, subject_row=None, now_ms=self.now_ms
        )

    def batch(
        self, *ops: SealedOp, by: int = 0, checkpoint: int | None = None, covers: int = 0
    ) -> Batch:
        """A push by the device with index `by`."""
        return Batch(
            self.world.account_id,
            self.world.authors[by].device_id,
            [row_of(sealed) for sealed in ops],
            self.now_ms,
            checkpoint,
            covers,
        )

    async def push(
        self, *ops: SealedOp, by: int = 0, checkpoint: int | None = None, covers: int = 0
    ) -> Committed:
        """Commits ops in one batch."""
        return await self.store.commit_ops(
            self.batch(*ops, by=by, checkpoint=checkpoint, covers=covers)
        )

    async def page(self, after: int = 0, ops_max: int = 1000) -> Page:
        """One page."""
        return await self.store.read_ops(
            self.world.account_id, after, ops_max=ops_max, bytes_max=PAGE_BYTES
        )

    async def pull(self, after: int = 0, ops_max: int = 1000) -> list[bytes]:
        """Everything after a position, page by page."""
        result: list[bytes] = []
        more = True
        while more:
            page = await self.page(after, ops_max)
            result += page.ops
            after, more = page.position, page.more
        return result

    async def position(self) -> int:
        """The account's newest position."""
        tip = await self.store.tip(self.world.account_id)
        assert tip is not None
        return tip.position

    async def passed(self, position: int, *by: int) -> None:
        """These devices asked for what comes after a position."""
        for index in by:
            await self.store.passed(
                self.world.account_id, self.world.authors[index].device_id, position
            )


class Stores:
    """Opens stores of one backend below a folder, and closes what a test left open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.AsyncExitStack()

    async def __call__(self, name: str = "store", limits: Limits | None = None) -> Store:
        """The store with this name: the same one again after it was closed."""
        store = await SqliteStore.open(self._folder / f"{name}.db", limits=limits)
        self._stack.push_async_callback(store.close)
        return store

    async def close(self) -> None:
        """Closes them all."""
        await self._stack.aclose()


BACKENDS: dict[str, Callable[[Path], Stores]] = {"sqlite": Stores}
