"""What whoever oversees the demo's service and parties looks at: rows, metrics, the audit log."""

from __future__ import annotations

import http.client
import re
import sqlite3
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Final

from client.demo.stage import Program
from client.endpoint import Endpoint
from client.operator.calls import Operations
from client.transport import Signer, Transport
from mpc.keys import PublisherKey

_OVERDUE: Final = re.compile(
    r"^(?:rookery_retention_overdue\{[^}]*\}|rookery_rows_past_deletion) (\S+)$", re.MULTILINE
)
_ACCOUNT: Final = "account_n"
"""What rows of other tables call an account by in the service's database."""


def rows_naming(database: Path, marks: Collection[bytes], account_n: int | None = None) -> int:
    """Rows of all tables, beside the running program, that hold one of the marks or are of the
    account with this number."""
    found = 0
    with _reading(database) as connection:
        tables = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        for table in tables:
            rows = connection.execute(f'SELECT * FROM "{table}"')  # noqa: S608 - from the schema
            names = [column[0] for column in rows.description]
            at = names.index(_ACCOUNT) if _ACCOUNT in names and account_n is not None else None
            for row in rows:
                found += (at is not None and row[at] == account_n) or any(
                    mark in value for value in row if isinstance(value, bytes) for mark in marks
                )
    connection.close()
    return found


def account_number(database: Path, account_id: bytes) -> int | None:
    """Of an account, at the service; None: it has no such."""
    with _reading(database) as connection:
        row = connection.execute(
            "SELECT account_n FROM account WHERE account_id = ?", (account_id,)
        ).fetchone()
    connection.close()
    return None if row is None else int(row[0])


def _reading(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{database}?mode=ro", uri=True)


def overdue(program: Program) -> int:
    """What a service or party keeps longer than it may, by its own metrics. Blocks."""
    host, _, port = program.ready["metrics"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request("GET", "/metrics")
        page = connection.getresponse().read().decode()
    finally:
        connection.close()
    found = _OVERDUE.findall(page)
    if not found:
        raise ValueError("the metrics do not say what is overdue")
    return sum(int(float(count)) for count in found)


async def audited(endpoint: Endpoint, operator: PublisherKey) -> int:
    """How many entries the audit log has, each verified against the one before. LogBroken."""
    operations = Operations(Transport(replace(endpoint)), Signer(operator))
    entries = 0
    async for page in operations.whole_audit():
        entries += len(page)
    return entries
