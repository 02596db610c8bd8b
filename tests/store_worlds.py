"""What tests of the store share: a world whose uploads and ops go to a store."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from crypto import op
from crypto.cert import Role
from crypto.op import SealedOp
from services.store.base import Batch, Committed, Limits, OpRow, Page, Store, StoredLink
from services.store.redis import RedisStore
from services.store.redis_link import Link
from services.store.sqlite import SqliteStore
from tests.redis_process import RedisCluster, RedisServer
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
        self,
        *ops: SealedOp,
        by: int = 0,
        checkpoint: int | None = None,
        covers: int = 0,
        nonce: bytes | None = None,
    ) -> Batch:
        """A push by the device with index `by`."""
        return Batch(
            self.world.account_id,
            self.world.authors[by].device_id,
            [row_of(sealed) for sealed in ops],
            self.now_ms,
            checkpoint,
            covers,
            nonce,
        )

    async def push(
        self,
        *ops: SealedOp,
        by: int = 0,
        checkpoint: int | None = None,
        covers: int = 0,
        nonce: bytes | None = None,
    ) -> Committed:
        """Commits ops in one batch."""
        return await self.store.commit_ops(
            self.batch(*ops, by=by, checkpoint=checkpoint, covers=covers, nonce=nonce)
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
    """Opens stores of one backend, and closes what a test left open."""

    def __init__(self) -> None:
        self._stack = contextlib.AsyncExitStack()

    async def __call__(self, name: str = "store", limits: Limits | None = None) -> Store:
        """The store with this name: the same one again after it was closed."""
        store = await self._open(name, limits)
        self._stack.push_async_callback(store.close)
        return store

    async def _open(self, name: str, limits: Limits | None) -> Store:
        raise NotImplementedError

    async def close(self) -> None:
        """Closes them all."""
        await self._stack.aclose()


class SqliteStores(Stores):
    """Files below a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    async def _open(self, name: str, limits: Limits | None) -> Store:
        return await SqliteStore.open(self._folder / f"{name}.db", limits=limits)


class RedisHouse:
    """Redis servers that many tests share: started when the first one wants them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()

    @cached_property
    def server(self) -> RedisServer:
        """One server that syncs each write."""
        return self._stack.enter_context(RedisServer(self._folder / "server"))

    @cached_property
    def cluster(self) -> RedisCluster:
        """Three masters."""
        cluster: RedisCluster = self._stack.enter_context(RedisCluster(self._folder / "cluster"))
        return cluster

    def close(self) -> None:
        """Ends them."""
        self._stack.close()


class RedisStores(Stores):
    """Databases of one server; empty at first."""

    def __init__(self, house: RedisHouse) -> None:
        super().__init__()
        self.server = house.server
        self.server.flush()
        self._names: list[str] = []

    async def _open(self, name: str, limits: Limits | None) -> Store:
        if name not in self._names:
            self._names.append(name)
        link = await Link.open(f"{self.server.url}?db={self._names.index(name)}")
        return await RedisStore.open(link, limits=limits)


class ClusterStores(RedisStores):
    """A cluster, which has no databases: a second store is on the one server."""

    def __init__(self, house: RedisHouse) -> None:
        super().__init__(house)
        self._cluster = house.cluster
        self._cluster.flush()

    async def _open(self, name: str, limits: Limits | None) -> Store:
        if self._names and self._names[0] != name:
            return await super()._open(name, limits)
        self._names = self._names or [name]
        return await RedisStore.open(await Link.open(self._cluster.url), limits=limits)


BACKENDS: dict[str, Callable[[Path, RedisHouse], Stores]] = {
    "sqlite": lambda folder, house: SqliteStores(folder),
    "redis": lambda folder, house: RedisStores(house),
    "cluster": lambda folder, house: ClusterStores(house),
}
EVERY_BACKEND = [
    "sqlite",
    "redis",
    # What it adds to one server, `test_services_store_cluster` shows at every run.
    pytest.param("cluster", marks=pytest.mark.soak),
]
