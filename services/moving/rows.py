"""What a store holds, as rows that say the same whichever backend they come from.

A row is its kind and its values. Those of an account:

    account      id, subject row, chain, position, lamport_max, records, records before
    link         id, seq, link, signature, possession, grants
    end          id, epoch, when it ended
    device       id, index, dev_seq, op hash, passed
    mark         id, position, covers, epoch
    op           id, position, end of its push, op or stub
    winner       id, epoch, tag, position
    superseded   id, end of the push that did it, position
    run          id, device index, dev_seq, position
    trimmed      id, device index, dev_seq, eight bytes of the hash
    wake         id, device index, handle, expires, due, sent, turn, claimed, again, tries
    consent      id, seq, prev, hash, tag, granted, device, entry, signature, when

of joint aggregates:

    task           position, task id, spec_hash, publisher, task, signature
    round          id, spec_hash, manifest, signatures, parties, open, close, until, sealed,
                   over, position, held
    contribution   round, account, digest, position
    box            round, party, position, data
    result         round, result, signatures
    abandonment    round, party, statement, signature

and of governance:

    policy         sequence, previous, hash, bundle, signature, publisher, when
    anchor         seq, hash and time of the last entry that was trimmed from the audit log
    audit          seq, when, prev, body, hash

Not moved: pairing mailboxes and nonces, which live for five minutes and are not missed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from hashlib import blake2b
from typing import Any, Protocol

import cbor2

Row = tuple[Any, ...]
Rows = AsyncIterator[Row]
_SIZE = 32


class Digest:
    """Counts rows and hashes them, kind by kind, in whatever order they come."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()

    def add(self, row: Row) -> None:
        """One more."""
        hashed = blake2b(cbor2.dumps(row), digest_size=_SIZE).digest()
        self._counts[row[0]] += 1
        self._sums[row[0]] += int.from_bytes(hashed, "big")

    def table(self) -> dict[str, tuple[int, str]]:
        """Of each kind: how many, and a hash over all."""
        return {
            kind: (count, (self._sums[kind] % (1 << 8 * _SIZE)).to_bytes(_SIZE, "big").hex())
            for kind, count in sorted(self._counts.items())
        }


class Side(Protocol):
    """A store to move from, or one that is filled."""

    name: str
    """As people are told of it."""
    generation: bytes
    secret: bytes

    async def count(self) -> int:
        """How many accounts, about."""
        ...

    def accounts(self) -> AsyncIterator[bytes]:
        """Their ids, each once."""
        ...

    def account(self, account_id: bytes) -> Rows:
        """All of an account, `account` first, ops and what else has positions by these."""
        ...

    def shared(self) -> Rows:
        """Tasks by position, then rounds; bundles, the anchor of the audit log, the log."""
        ...

    def content(self, round_id: bytes) -> Rows:
        """Of a round: contributions and boxes by position, its result."""
        ...

    async def mark(self) -> bytes:
        """Of the move that it is part of, or was; empty if of none."""
        ...

    async def seize(self, mark: bytes) -> bytes:
        """Takes it for the move alone; the mark of the move that has it. StoreUnavailable."""
        ...

    async def check_kept(self) -> None:
        """StoreUnavailable if the generation is another one than when it was opened: what was
        read or written since may be gone."""
        ...

    async def retire(self, mark: bytes) -> None:
        """Nobody serves it any more."""
        ...

    async def close(self) -> None:
        """Lets go."""
        ...


class Target(Side, Protocol):
    """A store that is filled. Whatever is written twice is there once."""

    async def check_free(self, mark: bytes) -> None:
        """StoreUnavailable if it holds anything but what the move of this mark has copied."""
        ...

    async def put_shared(self, rows: Rows) -> None:
        """Tasks, rounds, and what there is of governance that belongs to no account."""
        ...

    async def has_account(self, account_id: bytes) -> bool:
        """Whether all of it is there."""
        ...

    async def put_account(self, rows: Rows) -> None:
        """One account, whole or not at all."""
        ...

    async def put_content(self, round_id: bytes, rows: Rows) -> None:
        """One round's, whole or not at all."""
        ...

    async def finish(self, mark: bytes, generation: bytes, secret: bytes) -> None:
        """It is the store from now on."""
        ...
