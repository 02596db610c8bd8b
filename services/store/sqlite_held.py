"""Finding an op again by (device, dev_seq), for those that are sent once more."""

from __future__ import annotations

import sqlite3

from crypto import op
from crypto.op import HEADER_BYTES
from services.store.base import OpRow
from services.store.sqlite_state import Account

HASH_START_BYTES = 8


def is_held(
    connection: sqlite3.Connection, account: Account, device_index: int, row: OpRow
) -> bool:
    """Whether the op that stands at the row's dev_seq is the row's. It is at most the head."""
    run = connection.execute(
        "SELECT dev_seq, position FROM run WHERE account_n = ? AND device_index = ?"
        " AND dev_seq <= ? ORDER BY dev_seq DESC LIMIT 1",
        (account.account_n, device_index, row.dev_seq),
    ).fetchone()
    position = run[1] + row.dev_seq - run[0]
    stored = connection.execute(
        "SELECT ct_hash, raw FROM op WHERE op_id = ?", (account.base + position,)
    ).fetchone()
    if stored is not None:
        return hash_of(*stored) == row.op_hash
    gone: tuple[bytes] = connection.execute(
        "SELECT hash_start FROM gone WHERE account_n = ? AND device_index = ? AND dev_seq = ?",
        (account.account_n, device_index, row.dev_seq),
    ).fetchone()
    return gone[0] == row.op_hash[:HASH_START_BYTES]


def hash_of(ct_hash: bytes | None, raw: bytes) -> bytes:
    """`op_hash` of a row of the table `op`."""
    return op.op_hash(raw[:HEADER_BYTES], ct_hash or raw[HEADER_BYTES : HEADER_BYTES + 32])
