"""What the writer knows of an account without asking the file: it is the only one who writes."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from crypto.chain import Chain
from crypto.heads import Head
from crypto.ids import AccountId, DeviceId, OpHash
from services.store import snapshot
from services.store.account_state import POSITION_BITS, AccountState, Mark
from services.store.base import Tip

ACCOUNT_N_MAX = (1 << 31) - 1
DEVICE_BITS = 8
NAME_BYTES = 24
"""u32 account_n | u32 epoch | tag"""
WINNER = struct.Struct(">IQH")
"""position, lamport, kind << 8 | device index"""


class Entry(NamedTuple):
    """What the event loop keeps of an account.

    `awaited`: devices that stand before a checkpoint, and the position at which they pass it.
    """

    account_n: int
    tip: Tip
    awaited: Mapping[DeviceId, int]


@dataclass(slots=True, kw_only=True)
class Account(AccountState):
    """An account of the file."""

    account_n: int

    @property
    def base(self) -> int:
        """`op_id` is this plus the position; `link_id` is this plus the seq."""
        return self.account_n << POSITION_BITS

    @property
    def key(self) -> bytes:
        """What names of this account begin with."""
        return self.account_n.to_bytes(4, "big")

    def name(self, epoch: int, tag: bytes) -> bytes:
        """The key of a tag in the table `live`."""
        return self.key + epoch.to_bytes(4, "big") + tag

    def entry(self) -> Entry:
        """What the event loop is told."""
        return Entry(self.account_n, self.tip, self.awaited() if self.marks else {})


def load(connection: sqlite3.Connection, account_id: AccountId) -> Account | None:
    """Reads an account. Four to six short statements."""
    row = connection.execute(
        "SELECT account_n, chain, position, lamport_max, records, records_before"
        " FROM account JOIN tail USING (account_n) WHERE account_id = ?",
        (account_id,),
    ).fetchone()
    if row is None:
        return None
    account_n, raw_chain, position, lamport_max, records, records_before = row
    chain = snapshot.decode(raw_chain)
    heads: dict[bytes, tuple[int, bytes]] = {}
    passed: dict[DeviceId, int] = {}
    for index, dev_seq, op_hash, device_passed in _devices(connection, account_n):
        device_id = chain.devices[index].device_id
        if dev_seq:
            heads[bytes(device_id)] = (dev_seq, op_hash)
        passed[device_id] = device_passed
    return Account(
        account_n=account_n,
        chain=chain,
        position=position,
        lamport_max=lamport_max,
        records=records,
        records_before=records_before,
        ended_ms=_ended_ms(connection, account_n, chain.epoch - 1),
        heads=heads,
        passed=passed,
        marks=_marks(connection, account_n),
    )


def read_heads(
    connection: sqlite3.Connection, account_n: int, chain: Chain
) -> list[tuple[DeviceId, Head]]:
    """The newest op of every device that has written, in index order."""
    return [
        (chain.devices[index].device_id, Head(index, dev_seq, OpHash(op_hash)))
        for index, dev_seq, op_hash, _ in _devices(connection, account_n)
        if dev_seq
    ]


def _devices(connection: sqlite3.Connection, account_n: int) -> list[tuple[int, int, bytes, int]]:
    first = account_n << DEVICE_BITS
    return connection.execute(
        "SELECT device_key & 255, dev_seq, op_hash, passed FROM device"
        " WHERE device_key BETWEEN ? AND ? ORDER BY device_key",
        (first, first | 255),
    ).fetchall()


def _ended_ms(connection: sqlite3.Connection, account_n: int, epoch: int) -> int:
    row: tuple[int] | None = connection.execute(
        "SELECT ended_ms FROM epoch_end WHERE epoch_id = ?",
        (account_n << POSITION_BITS | epoch,),
    ).fetchone()
    return row[0] if row else 0


def _marks(connection: sqlite3.Connection, account_n: int) -> list[Mark]:
    return [
        Mark(*row)
        for row in connection.execute(
            "SELECT position, covers, epoch FROM checkpoint WHERE account_n = ? ORDER BY position",
            (account_n,),
        )
    ]
