"""Which accounts have streams in this process, and so subscriptions to their channels."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from crypto.ids import AccountId
from services.store.base import Poke
from services.store.redis_keys import AccountKeys
from services.store.redis_link import Link


@dataclass(slots=True)
class _Watch:
    subscribing: asyncio.Task[None]
    count: int = 0


class Watches:
    """One subscription for all streams of an account."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._poke: Poke | None = None
        self._watches: dict[AccountId, _Watch] = {}
        self._ending: dict[AccountId, asyncio.Task[None]] = {}

    def on_commit(self, poke: Poke) -> None:
        """See `Store.on_commit`."""
        self._poke = poke

    def committed(self, account_id: AccountId) -> None:
        """This process changed the account. If it is watched, its channel says so."""
        watch = self._watches.get(account_id)
        if self._poke is not None and (watch is None or not _is_up(watch.subscribing)):
            self._loop.call_soon(self._poke, account_id)

    def _call(self, account_id: AccountId) -> None:
        if self._poke is not None:
            self._poke(account_id)

    async def watch(self, account_id: AccountId) -> None:
        """See `Store.watch`."""
        watch = self._watches.get(account_id)
        if watch is None:
            watch = self._watches[account_id] = _Watch(
                self._loop.create_task(self._subscribe(account_id))
            )
        watch.count += 1
        try:
            await asyncio.shield(watch.subscribing)
        except BaseException:
            self._release(account_id, watch)
            raise

    async def _subscribe(self, account_id: AccountId) -> None:
        ending = self._ending.get(account_id)
        if ending is not None:
            await asyncio.wait([ending])
        await self._link.subscribe(AccountKeys(account_id).channel, lambda: self._call(account_id))

    def unwatch(self, account_id: AccountId) -> None:
        """See `Store.unwatch`."""
        self._release(account_id, self._watches[account_id])

    def _release(self, account_id: AccountId, watch: _Watch) -> None:
        watch.count -= 1
        if watch.count:
            return
        if self._watches.get(account_id) is watch:
            del self._watches[account_id]
        ending = self._loop.create_task(self._unsubscribe(account_id, watch))
        self._ending[account_id] = ending
        ending.add_done_callback(lambda done: self._ended(account_id, done))

    async def _unsubscribe(self, account_id: AccountId, watch: _Watch) -> None:
        await asyncio.wait([watch.subscribing])
        await self._link.unsubscribe(AccountKeys(account_id).channel)

    def _ended(self, account_id: AccountId, done: asyncio.Task[None]) -> None:
        if self._ending.get(account_id) is done:
            del self._ending[account_id]
        if not done.cancelled():
            done.exception()  # What could not be ended ends with the connection.

    async def close(self) -> None:
        """Ends what is under way."""
        tasks = [*self._ending.values(), *(watch.subscribing for watch in self._watches.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _is_up(subscribing: asyncio.Task[None]) -> bool:
    return subscribing.done() and not subscribing.cancelled() and subscribing.exception() is None
