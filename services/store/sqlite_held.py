"""Finding an op again by (device, dev_seq), for those that are sent once more."""

from __future__ import annotations

import sqlite3

from crypto import op
from services.store.account_state import HASH_START_BYTES
from services.store.base import OpRow
from services.store.sqlite_segments import read_op
from services.store.sqlite_state import Account


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
    stored = read_op(connection, account.base + position)
    if stored is not None:
        return op.parse_any(stored).op_hash == row.op_hash
    gone: tuple[bytes] = connection.execute(
        "SELECT hash_start FROM gone WHERE account_n = ? AND device_index = ? AND dev_seq = ?",
        (account.account_n, device_index, row.dev_seq),
    ).fetchone()
    return gone[0] == row.op_hash[:HASH_START_BYTES]
