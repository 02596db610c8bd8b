"""What a replica remembers of accounts, and how it learns that others changed them.

Whatever is asked of Redis for an account brings the version along that is known here; if the
account has another one, the answer brings its state. So what is known is as of the last call.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from weakref import WeakValueDictionary

from crypto.ids import AccountId
from services.store.errors import AccountAbsent, CallsExceeded
from services.store.redis_keys import AccountKeys
from services.store.redis_link import Link
from services.store.redis_ops import EXCEEDED, USED
from services.store.redis_read import ADMIT, STATE
from services.store.redis_state import Account, decode

ACCOUNTS_MAX = 4096


class Known:
    """The accounts that were used last."""

    def __init__(self, link: Link, nonces_account_max: int) -> None:
        self._link = link
        self._nonces_max = nonces_account_max
        self._accounts: OrderedDict[AccountId, Account] = OrderedDict()
        self._locks: WeakValueDictionary[AccountId, asyncio.Lock] = WeakValueDictionary()

    def get(self, account_id: AccountId) -> Account | None:
        """As of the last call."""
        account = self._accounts.get(account_id)
        if account is not None:
            self._accounts.move_to_end(account_id)
        return account

    def lock(self, account_id: AccountId) -> asyncio.Lock:
        """Who writes to an account holds it: writes that compare one version would spoil each
        other's."""
        lock = self._locks.get(account_id)
        if lock is None:
            lock = self._locks[account_id] = asyncio.Lock()
        return lock

    def keys(self, account_id: AccountId) -> AccountKeys:
        """The account's keys, whether it is known or not."""
        account = self._accounts.get(account_id)
        return AccountKeys(account_id) if account is None else account.keys

    def keep(self, account: Account) -> None:
        """Takes it, unless a later version came meanwhile."""
        account_id = account.chain.account
        known = self._accounts.get(account_id)
        if (
            known is None
            or known.incarnation != account.incarnation
            or known.revision <= account.revision
        ):
            self._accounts[account_id] = account
            self._accounts.move_to_end(account_id)
            if len(self._accounts) > ACCOUNTS_MAX:
                self._accounts.popitem(last=False)

    def drop(self, account_id: AccountId) -> None:
        """There is no such account."""
        self._accounts.pop(account_id, None)

    def clear(self) -> None:
        """Redis may have lost what was known of it."""
        self._accounts.clear()

    def told(
        self,
        account_id: AccountId,
        state: Sequence[bytes],
        raw_chain: bytes | None,
        known: Account | None,
    ) -> Account | None:
        """Takes the state that an answer brought. `known`: what the question was based on."""
        if not state:
            self.drop(account_id)
            return None
        keys = AccountKeys(account_id) if known is None else known.keys
        account = decode(state, raw_chain, known, keys)
        self.keep(account)
        return account

    async def load(self, account_id: AccountId) -> Account | None:
        """The account as of now."""
        known = self.get(account_id)
        keys = self.keys(account_id)
        _, state, raw_chain = await self._link.run(
            STATE, (keys.state, keys.chain), (head_of(known),)
        )
        return self.told(account_id, state, raw_chain, known)

    async def find(self, account_id: AccountId) -> Account:
        """As of the last call, or of now. AccountAbsent."""
        account = self.get(account_id) or await self.load(account_id)
        if account is None:
            raise AccountAbsent("no such account")
        return account

    async def admit(
        self, account_id: AccountId, known: Account | None, nonce: bytes | None, now_ms: int
    ) -> tuple[Account | None, bool]:
        """The account as of now, and whether the nonce is good: it is used from then on.
        CallsExceeded."""
        keys = self.keys(account_id)
        status, state, raw_chain = await self._link.run(
            ADMIT,
            (keys.state, keys.chain, *keys.nonces(now_ms)),
            (version_of(known), head_of(known), nonce or b"", self._nonces_max),
        )
        account = known
        if state is not None:
            account = self.told(account_id, state, raw_chain, known)
        return account, self.check_nonce(status)

    def check_nonce(self, status: int) -> bool:
        """What a script said of a nonce. CallsExceeded."""
        if status == EXCEEDED:
            raise CallsExceeded("calls_in_five_minutes", self._nonces_max)
        return status != USED


def version_of(account: Account | None) -> bytes:
    """Its version; of none: empty."""
    return b"" if account is None else account.version


def head_of(account: Account | None) -> bytes:
    """Which chain is known; of none: empty."""
    return b"" if account is None else account.chain.head
