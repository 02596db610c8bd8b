"""A real store in the place of the model of the service, for phones of `client_worlds`.

Pushes go through the service's own check of a batch, cursors through its own tokens, and
refusals through its own table, so that what the phones meet is the service without its wire.
"""

from __future__ import annotations

import asyncio
import pickle
import shutil
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from client.steps import ChainItem, Pull, Push, Step
from crypto import heads, link
from crypto.chain import EMPTY, Chain
from crypto.errors import CryptoError
from crypto.ids import AccountId, DeviceId
from crypto.receipt import Receipt, ServerKey
from services.call import Clock, SignedCall
from services.cursor import Cursors
from services.errors import GenerationChanged, _text, failure, row_of
from services.store.base import Batch, Limits, Store, Tip
from services.store.errors import AccountAbsent
from services.store.redis import RedisStore
from services.store.redis_link import Link
from services.store.sqlite import SqliteStore
from services.sync.push import check, check_mark, first_forged
from tests.client_worlds import Phone, Refused, Service
from tests.judge_worlds import NOW_MS, seeded
from tests.redis_process import RedisServer

T = TypeVar("T")
_PAGE_BYTES = 1 << 20


@dataclass
class RealService:
    """What `client_worlds.Service` offers to phones, kept by a real store."""

    folder: Path
    limits: Limits

    def __post_init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.key = ServerKey(seeded("service"))
        self.now_ms = NOW_MS
        self.account: AccountId | None = None
        self._path = self.folder / "store.db"
        self._backups = 0
        self.open()

    # -- the process --------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs to its end."""
        return self.loop.run_until_complete(work)

    def open(self) -> None:
        """Starts; says to nobody whether the file is the one it was."""
        self.store = self.run(self._open())
        self.cursors = Cursors(self.store.secret, lambda: self.store.generation)

    async def _open(self) -> Store:
        return await SqliteStore.open(self._path, limits=self.limits)

    def stop(self) -> None:
        """Ends as at a restart."""
        self.run(self.store.close())

    def close(self) -> None:
        """Ends for good."""
        self.stop()
        self.loop.close()

    def backup(self) -> Path:
        """A copy of the file as it is now."""
        self._backups += 1
        copy = self.folder / f"backup{self._backups}"
        self.stop()
        shutil.copy(self._path, copy)
        self.open()
        return copy

    def restore(self, copy: Path) -> None:
        """The file is replaced by an older copy; nobody says so to the service."""
        self.stop()
        shutil.copy(copy, self._path)
        self.open()

    # -- what phones look at ------------------------------------------------------------

    @property
    def tip(self) -> Tip | None:
        return None if self.account is None else self.run(self.store.tip(self.account))

    @property
    def chain(self) -> Chain:
        tip = self.tip
        return EMPTY if tip is None else tip.chain

    @property
    def position(self) -> int:
        tip = self.tip
        return 0 if tip is None else tip.position

    @property
    def lamport_max(self) -> int:
        tip = self.tip
        return 0 if tip is None else tip.lamport_max

    @property
    def items(self) -> list[ChainItem]:
        rows = self.run(
            self.store.read_links(self._known(), -1, links_max=10_000, bytes_max=1 << 30)
        )
        return [ChainItem(row.link, row.grants) for row in rows]

    def _known(self) -> AccountId:
        if self.account is None:
            raise AccountAbsent("no such account")
        return self.account

    # -- calls --------------------------------------------------------------------------

    def append(self, item: ChainItem) -> None:
        parsed = link.parse(item.link.raw)
        try:
            if parsed.seq == 0:
                made = self.store.create_account(item.link, subject_row=None, now_ms=self.now_ms)
                self.run(made)
                self.account = link.account_id(item.link.raw)
            else:
                self.run(
                    self.store.append_link(
                        self._known(), item.link, item.grants, now_ms=self.now_ms
                    )
                )
        except CryptoError as error:
            raise Refused("LINK_INVALID", rule=error.rule) from None
        except Exception as error:  # noqa: BLE001 - the table says what each is
            raise _refused(error) from None

    def check(self, caller: DeviceId) -> None:
        """Unknown and revoked devices get one answer."""
        device = self.chain.find(caller)
        if device is None or not device.active:
            raise Refused("UNAUTHENTICATED")

    def _call(self, caller: DeviceId) -> SignedCall:
        tip = self.tip
        assert tip is not None
        clock = Clock(lambda: self.now_ms, lambda: 0.0)
        return SignedCall(
            "", "", self.now_ms, clock, None, self._known(), caller, bytes(16), tip, self.now_ms
        )  # fmt: skip

    def push(self, push: Push, caller: DeviceId) -> None:
        call = self._call(caller)
        mark, covers = None, 0
        try:
            rows, foreign = check(list(push.ops), call)
            if push.mark is not None:
                mark = push.mark.op_index
                check_mark(rows, mark, caller)
                covers = self._position(call, push.mark.covers)
            assert first_forged(foreign) is None
            batch = Batch(call.account, caller, rows, self.now_ms, mark, covers)
            self.run(self.store.commit_ops(batch))
        except Exception as error:  # noqa: BLE001 - the table says what each is
            raise _refused(error) from None

    def _position(self, call: SignedCall, token: bytes) -> int:
        position = self.cursors.open(call.account, token)
        if position > call.tip.position:
            raise GenerationChanged
        return position

    def pull(
        self, cursor: bytes, limit: int, caller: DeviceId | None = None
    ) -> tuple[list[bytes], bytes, bool]:
        account = self._known()
        try:
            after = self._position(self._call(caller), cursor) if caller else 0
            page = self.run(
                self.store.read_ops(account, after, ops_max=limit, bytes_max=_PAGE_BYTES)
            )
            if after and caller:
                self.run(self.store.passed(account, caller, after))
        except Exception as error:  # noqa: BLE001 - the table says what each is
            raise _refused(error) from None
        return list(page.ops), self.cursors.seal(account, page.position), page.more

    def receipt(self, nonce: bytes) -> tuple[bytes, list[tuple[DeviceId, int, bytes]]]:
        chain, rows = self.run(self.store.heads(self._known()))
        digest = heads.digest(head for _, head in rows)
        told = Receipt(chain.account, chain.seq, chain.head, digest, self.now_ms, nonce)
        held = [(device, head.seq, bytes(head.op_hash)) for device, head in rows]
        return self.key.sign(told), held

    def sweep(self) -> None:
        """The hourly housekeeping, and the trimming that follows it."""
        self.run(self.store.sweep(now_ms=self.now_ms))
        self.stop()
        self.open()


@dataclass
class RedisService(RealService):
    """The same, on a Redis server of this test's own."""

    server: RedisServer

    def __post_init__(self) -> None:
        self.server.flush()
        super().__post_init__()

    async def _open(self) -> Store:
        return await RedisStore.open(await Link.open(self.server.url), limits=self.limits)

    def backup(self) -> Path:
        """A copy of every key as it is now."""
        self._backups += 1
        copy = self.folder / f"backup{self._backups}"
        with self.server.client() as client:
            kept = [(key, max(0, client.pttl(key)), client.dump(key)) for key in client.scan_iter()]
        copy.write_bytes(pickle.dumps(kept))
        return copy

    def restore(self, copy: Path) -> None:
        """The keys of an older copy, as its operator puts them there: service ended, and a new
        generation at the end."""
        self.stop()
        self.server.flush()
        with self.server.client() as client:
            for key, ttl_ms, value in pickle.loads(copy.read_bytes()):  # noqa: S301 - ours
                client.restore(key, ttl_ms, value)
        self.open()
        self.run(self.store.new_generation())


def _refused(error: Exception) -> Refused:
    answer, row = failure(error), row_of(error)
    if answer.reason == "INTERNAL":
        raise error
    fields = {key: _text(getattr(error, name)) for key, name in row.fields.items()}
    return Refused(answer.reason, **fields)


class RealPhone(Phone):
    """A phone that the service knows by its calls."""

    @property
    def real(self) -> RealService:
        return cast(RealService, self.service)

    def _call(self, step: Step) -> None:
        device, service, now = self.device, self.real, self.now_ms
        caller = device.identity.device_id
        match step:
            case Push():
                service.push(step, caller)
                self.pushes.append(step)
                self._danger()
                device.on_pushed(step, now_ms=now)
                device.on_chain_seq(service.chain.seq)
            case Pull():
                ops, cursor, more = service.pull(step.cursor, self.page_limit, caller)
                device.on_chain_seq(service.chain.seq)
                device.on_page(ops, cursor, more=more, now_ms=now)
            case _:
                super()._call(step)


def as_service(real: RealService) -> Service:
    """For what is typed for the model and calls only what both have."""
    return cast(Service, real)
