"""One push after another to an account: judged against what is known, written, told."""

from __future__ import annotations

import time

from services.store.base import Batch, Committed, Limits, OpRow
from services.store.errors import (
    AccountAbsent,
    NonceUsed,
    QuotaExceeded,
    StoreError,
    StoreUnavailable,
)
from services.store.judge import Held, Judged, judge
from services.store.observer import Retry
from services.store.redis_known import Known
from services.store.redis_link import Link
from services.store.redis_ops import COMMIT, adopt, prepare
from services.store.redis_read import HELD, held_hash
from services.store.redis_state import Account

ATTEMPTS_MAX = 64
Fact = tuple[bytes, int, int]
"""An account's incarnation, a device's index, a dev_seq."""


class _FactMissing(Exception):
    """Judging needs to know which op stands there."""

    def __init__(self, fact: Fact) -> None:
        super().__init__("a fact is missing")
        self.fact = fact


class Pusher:
    """Commits batches."""

    def __init__(self, link: Link, known: Known, limits: Limits, nonces_max: int) -> None:
        self._link = link
        self._known = known
        self._limits = limits
        self._nonces_max = nonces_max

    async def commit(self, batch: Batch) -> tuple[Account, Committed]:
        """See `Store.commit_ops`. The caller holds the account's lock."""
        known = self._known
        account: Account | None = await known.find(batch.account_id)
        nonce = batch.nonce
        facts: dict[Fact, bytes] = {}
        generation = self._link.generation
        for _ in range(ATTEMPTS_MAX):
            if self._link.generation != generation:
                raise StoreUnavailable("Redis may have lost writes: ask again")
            if account is None:
                raise AccountAbsent("no such account")
            refusal: StoreError | None = None
            judged: Judged | None = None
            try:
                judged = judge(account, batch, self._limits, _held(account, facts))
            except _FactMissing as missing:
                facts[missing.fact] = await self._fetch(account, missing.fact)
                continue
            except StoreError as refused:
                refusal = refused
            if judged is None or not judged.fresh:
                # Nothing to write: what it was judged by may be no longer so.
                now, good = await known.admit(batch.account_id, account, nonce, batch.now_ms)
                if not good:
                    raise NonceUsed("the request was made before")
                nonce = None
                if now is account:
                    if refusal is not None:
                        raise refusal
                    return account, Committed(0, account.position)
                account = now
                continue
            push = prepare(
                account, batch, judged, nonce, self._limits.records_max, self._nonces_max,
                self._link.publish_command,
            )  # fmt: skip
            began_s = time.perf_counter()
            answer = await self._link.run(COMMIT, push.keys, push.args)
            match answer[0]:
                case 0:
                    self._link.observer.retried(Retry.CONFLICT)
                    account = known.told(batch.account_id, answer[1], answer[2], account)
                case 1:
                    adopt(account, push, answer[1], answer[2])
                    known.keep(account)
                    self._link.observer.committed(
                        requests=1, ops=len(batch.rows), seconds=time.perf_counter() - began_s
                    )
                    return account, Committed(len(judged.fresh), account.position)
                case 2:
                    raise QuotaExceeded("records_per_account", self._limits.records_max)
                case status:
                    known.check_nonce(status)
                    raise NonceUsed("the request was made before")
        raise StoreUnavailable("too many write to this account at once")

    async def _fetch(self, account: Account, fact: Fact) -> bytes:
        _, index, dev_seq = fact
        keys = account.keys
        device_id = account.chain.devices[index].device_id
        return held_hash(
            await self._link.run(
                HELD, (keys.runs, keys.ops, keys.trimmed), (index, dev_seq, device_id)
            )
        )


def _held(account: Account, facts: dict[Fact, bytes]) -> Held:
    def held(device_index: int, row: OpRow) -> bool:
        fact = (account.incarnation, device_index, row.dev_seq)
        found = facts.get(fact)
        if found is None:
            raise _FactMissing(fact)
        return row.op_hash.startswith(found)

    return held
