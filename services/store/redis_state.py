"""An account as a replica knows it: as of some version, which every script compares.

A version is `u64 revision | 8 bytes that nobody draws twice`: two states are never taken for
one another, even where Redis lost the newer of them, and of two answers the later one is told.
"""

from __future__ import annotations

import itertools
import os
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from crypto.chain import Chain
from crypto.heads import Head
from crypto.ids import DeviceId, OpHash
from services.store import snapshot
from services.store.account_state import AccountState, Mark
from services.store.redis_keys import AccountKeys

TAIL = struct.Struct(">IQIIH")
"""position, lamport_max, records, records_before, author's index + 1"""
HEAD = struct.Struct(">Q32s")
_VERSION = struct.Struct(">Q8s")
_MARK = struct.Struct(">III")
_END = struct.Struct(">IQ")
INCARNATION_BYTES = 8
_own = struct.Struct(">4sI")
_writer = os.urandom(4)
_count = itertools.count()


def first_version() -> bytes:
    """Of a new account. Later than those of one that was deleted before."""
    return _next(time.time_ns() // 1_000)


def version_after(version: bytes) -> bytes:
    """Of what is about to be written upon this version."""
    return _next(_VERSION.unpack(version)[0] + 1)


def _next(revision: int) -> bytes:
    return _VERSION.pack(revision, _own.pack(_writer, next(_count) & 0xFFFFFFFF))


@dataclass(slots=True, kw_only=True)
class Account(AccountState):
    """An account of the store. Its fields in the hash: v version, i incarnation, h hash of the
    newest link, t tail, m marks, e ends, u subject row, d<index> heads, p<index> passed."""

    version: bytes
    incarnation: bytes
    """Eight bytes of this account alone; made again, it has others."""
    ends: dict[int, int]
    """Epochs that ended and of which ops are held, and when."""
    subject_row: bytes
    keys: AccountKeys = field(repr=False)

    @property
    def revision(self) -> bytes:
        """Grows with every change."""
        return self.version[:8]

    @property
    def tail(self) -> bytes:
        """As it is stored."""
        author = self.index[self.author] + 1 if self.author else 0
        return TAIL.pack(self.position, self.lamport_max, self.records, self.records_before, author)

    def continued(self, chain: Chain) -> Account:
        """The same with a longer chain, of a version of its own."""
        return replace(
            self,
            chain=chain,
            heads=dict(self.heads),
            passed=dict(self.passed),
            ends=dict(self.ends),
            version=version_after(self.version),
        )

    def end_epoch(self, epoch: int, now_ms: int) -> None:
        """A link ended it."""
        self.ends[epoch] = self.ended_ms = now_ms
        self.records, self.records_before = 0, self.records

    def read_heads(self) -> list[tuple[DeviceId, Head]]:
        """The newest op of every device that has written, in index order."""
        rows = []
        for device in self.chain.devices:
            head = self.heads.get(bytes(device.device_id))
            if head is not None:
                rows.append((device.device_id, Head(device.index, head[0], OpHash(head[1]))))
        return rows


def pack_marks(marks: Iterable[Mark]) -> bytes:
    """As they are stored."""
    return b"".join(_MARK.pack(*mark) for mark in marks)


def pack_ends(ends: dict[int, int]) -> bytes:
    """As they are stored."""
    return b"".join(_END.pack(*end) for end in sorted(ends.items()))


def new_account(chain: Chain, keys: AccountKeys, subject_row: bytes) -> Account:
    """One that nobody has written to."""
    return Account(
        chain=chain,
        position=0,
        lamport_max=0,
        records=0,
        records_before=0,
        ended_ms=0,
        heads={},
        passed={},
        marks=[],
        version=first_version(),
        incarnation=os.urandom(INCARNATION_BYTES),
        ends={},
        subject_row=subject_row,
        keys=keys,
    )


def head_field(index: int) -> bytes:
    """Where the head of a device is."""
    return b"d%d" % index


def passed_field(index: int) -> bytes:
    """Where it is said what a device has passed."""
    return b"p%d" % index


def decode(
    flat: Sequence[bytes], raw_chain: bytes | None, known: Account | None, keys: AccountKeys
) -> Account:
    """What HGETALL answered. `raw_chain`: None if it is the known account's."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    if raw_chain is not None:
        chain = snapshot.decode(raw_chain)
    else:
        assert known is not None
        chain = known.chain
    heads: dict[bytes, tuple[int, bytes]] = {}
    passed: dict[DeviceId, int] = {}
    for name, value in fields.items():
        if len(name) > 1:
            device_id = chain.devices[int(name[1:])].device_id
            if name.startswith(b"d"):
                heads[bytes(device_id)] = HEAD.unpack(value)
            else:
                passed[device_id] = int(value)
    position, lamport_max, records, records_before, author = TAIL.unpack(fields[b"t"])
    ends = dict(_END.iter_unpack(fields[b"e"]))
    return Account(
        chain=chain,
        position=position,
        lamport_max=lamport_max,
        records=records,
        records_before=records_before,
        ended_ms=ends.get(chain.epoch - 1, 0),
        heads=heads,
        passed=passed,
        marks=[Mark(*row) for row in _MARK.iter_unpack(fields[b"m"])],
        author=bytes(chain.devices[author - 1].device_id) if author else b"",
        version=fields[b"v"],
        incarnation=fields[b"i"],
        ends=ends,
        subject_row=fields[b"u"],
        keys=keys,
    )
